"""How a time becomes numbers; the costs are given, no clock is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hast_cuda import methods
from hast_cuda.data import InputSpec
from hast_cuda.methods import change
from hast_cuda.methods.budget import apply_budget, seconds_of
from hast_cuda.run.fitted import (
    BLOCKS,
    IMAGES,
    ITERATIONS,
    LEAST,
    SHARES,
    STEPS,
    Costs,
    Fit,
    Sizes,
    free_numbers,
    rounded_up,
    value_of,
    with_small_batches,
)

CIFAR = InputSpec(3, 32, 32, 10)
RESNET20 = Costs(
    synthesis=4e-3,
    original=1.5e-3,
    student=1.7e-3,
    calibration=1.7e-3,
    range_search=1.3e-2,
    blocks=(0.025,) * 11,
    finetune=1.5e-2,
    setup={"synthesis": 0.5, "reconstruction": 1.0, "finetuning": 0.6},
)
NAMES = (IMAGES, ITERATIONS, BLOCKS, STEPS)


ALONE = Sizes()


def fit(method: str, costs: Costs, sizes: Sizes = ALONE, **fixed: Any) -> Fit:
    """The rule for a preset; ``fixed`` by dotted name, with __ for the dot."""
    given_ = {name.replace("__", "."): value for name, value in fixed.items()}
    full = change(methods.recipe(method), given_)
    return Fit(full, with_small_batches(full, CIFAR, given_), costs, sizes, set(given_))


times = st.floats(1e-6, 10.0)
all_costs = st.builds(
    Costs,
    synthesis=times,
    original=times,
    student=times,
    calibration=times,
    range_search=times,
    generator=times,
    blocks=st.lists(times, min_size=1, max_size=4).map(tuple),
    finetune=times,
    setup=st.fixed_dictionaries({"synthesis": times, "finetuning": times}),
)
all_sizes = st.builds(Sizes, test=st.integers(0, 10_000), ranks=st.integers(1, 8))
trained = st.sampled_from(["hast", "genie", "synq", "zeroq_il", "intraq", "gdfq", "zeroq"])


@given(trained, all_costs, all_sizes, st.floats(1, 1e4), st.floats(1, 1e4))
def test_more_time_never_makes_a_number_smaller(
    method: str, costs: Costs, sizes: Sizes, first: float, second: float
) -> None:
    rule = fit(method, costs, sizes)
    less, more = (rule.within(rule.least() * share) for share in sorted((first, second)))
    for name in NAMES:
        assert value_of(less, name) <= value_of(more, name)


@given(trained, all_costs, all_sizes, st.floats(1, 1e4))
def test_the_numbers_fill_the_time_and_no_more(method: str, costs: Costs, sizes: Sizes, share: float) -> None:
    rule = fit(method, costs, sizes)
    seconds = rule.least() * share
    found = rule.within(seconds)
    assert sum(costs.seconds(found, sizes, bound=True).values()) <= seconds
    assert sum(costs.seconds(found, sizes).values()) <= seconds * (1 + 1e-9)
    free = free_numbers(rule.recipe, sizes)
    for name in free:
        assert value_of(found, name) >= min(LEAST[name], value_of(rule.full, name))
    assume(any(value_of(found, name) < value_of(rule.full, name) for name in free))
    one_more = change(found, {name: value_of(found, name) + 1 for name in free})
    assert sum(costs.seconds(one_more, sizes, bound=True).values()) > seconds


@given(all_costs, st.integers(1, 6000), st.floats(1, 1e3))
def test_given_numbers_stay(costs: Costs, images: int, share: float) -> None:
    rule = fit("hast", costs, synthesis__num_images=images, finetune__iterations=7, finetune__batch_size=256)
    found = rule.within(rule.least() * share)
    assert value_of(found, IMAGES) == images
    assert value_of(found, STEPS) == 7
    assert found.finetune.batch_size == 256


@pytest.mark.parametrize("seconds", [300, 600, 3600, 10_000])
@pytest.mark.parametrize("fixed", [{}, {"synthesis__num_images": 100}, {"synthesis__iterations": 100}])
def test_the_chosen_time_is_divided_by_the_shares(seconds: float, fixed: dict[str, int]) -> None:
    found = fit("hast", RESNET20, **fixed).within(seconds)
    taken = RESNET20.seconds(found, ALONE, bound=True)
    assert 0.99 * seconds < sum(taken.values()) <= seconds
    steps = {
        "synthesis": found.synthesis.num_images * found.synthesis.iterations * RESNET20.synthesis,
        "reconstruction": found.reconstruction.iterations * sum(RESNET20.blocks),
        "finetune": found.finetune.iterations * 64 * RESNET20.finetune,
    }
    most = {IMAGES: 5120, ITERATIONS: 1000, BLOCKS: 1000}
    if all(value_of(found, name) < limit for name, limit in most.items()):
        for part, share in SHARES.items():
            assert steps[part] / sum(steps.values()) == pytest.approx(share, abs=0.02), part
    if not fixed:
        ratio = found.synthesis.num_images / found.synthesis.iterations
        assert ratio == pytest.approx(512 / 150, rel=0.03) or found.synthesis.iterations == 1000


def test_shares_follow_those_of_the_small_budget() -> None:
    """On costs like those of ResNet-20: the time of "small" gives about the numbers of "small"."""
    small = apply_budget(methods.recipe("hast"), "small")
    seconds = sum(RESNET20.seconds(small, Sizes(test=1000)).values())
    found = fit("hast", RESNET20, Sizes(test=1000)).within(seconds)
    for name in NAMES:
        assert value_of(found, name) == pytest.approx(value_of(small, name), rel=0.35), name
    assert found.finetune.batch_size == 64
    assert found.finetune.evaluations == 5


def test_all_that_fits_is_the_recipe_itself() -> None:
    rule = fit("hast", RESNET20)
    whole = sum(RESNET20.seconds(rule.full, Sizes(), bound=True).values())
    assert rule.within(whole) is rule.full
    assert rule.within(whole * 0.9) != rule.full


def test_batches_of_images_have_one_size() -> None:
    found = fit("hast", RESNET20, synthesis__num_images=300).within(900).synthesis
    assert (found.num_images, found.batch_size) == (300, 150)
    own = fit("hast", RESNET20, synthesis__num_images=300, synthesis__batch_size=256).within(900).synthesis
    assert own.batch_size == 256


@pytest.mark.parametrize(("side", "made", "student"), [(32, 256, 64), (64, 256, 64), (224, 32, 16), (512, 16, 16)])
def test_large_images_come_in_smaller_batches(side: int, made: int, student: int) -> None:
    found = with_small_batches(methods.recipe("hast"), InputSpec(3, side, side, 1000), ())
    assert found.synthesis.batch_size == made
    assert found.finetune.batch_size == found.finetune.calibration_batch_size == student
    assert found.reconstruction.batch_size == min(student, 32)


def test_small_is_smaller_for_photographs() -> None:
    full = methods.recipe("hast", "default", "imagenet")
    found = apply_budget(full, "small", "imagenet")
    assert (found.synthesis.num_images, found.synthesis.batch_size) == (128, 32)
    assert (found.reconstruction.batch_size, found.finetune.batch_size) == (16, 16)
    assert apply_budget(full, "small").synthesis.num_images == 512


def test_a_time_below_the_floors_is_refused_and_the_next_one_works() -> None:
    rule = fit("hast", RESNET20)
    with pytest.raises(ValueError, match="the smallest run takes"):
        rule.within(rule.least() * 0.999)
    enough = seconds_of(rounded_up(rule.least()))
    assert enough is not None
    assert value_of(rule.within(enough), STEPS) >= LEAST[STEPS]


@given(st.floats(0.01, 1e7))
def test_rounded_up_is_at_least_a_tenth_more(seconds: float) -> None:
    found = seconds_of(rounded_up(seconds))
    assert found is not None
    assert seconds * 1.1 <= found <= seconds * 1.1 + max(1, 0.7 * seconds)


def test_processes_share_the_work() -> None:
    alone, four = (fit("hast", RESNET20, Sizes(ranks=ranks)).within(300) for ranks in (1, 4))
    for name in NAMES:
        assert value_of(alone, name) < value_of(four, name)


def test_only_what_a_recipe_has_is_free() -> None:
    assert free_numbers(methods.recipe("hast"), Sizes()) == list(NAMES)
    assert free_numbers(methods.recipe("hast"), Sizes(given=10)) == [BLOCKS, STEPS]
    assert free_numbers(methods.recipe("hast"), Sizes(student=False)) == [IMAGES, ITERATIONS]
    assert free_numbers(methods.recipe("hast"), Sizes(), {IMAGES}) == [ITERATIONS, BLOCKS, STEPS]
    assert free_numbers(methods.recipe("gdfq"), Sizes()) == [STEPS]
    assert free_numbers(methods.recipe("squant"), Sizes()) == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), ("1d", 86_400), ("full", None)]
)
def test_times(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "0m", "-5m", "5 m", "m", "1e3s", "10min", "nanh", "9" * 12 + "d", "200%"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match=r'allowed: "full", "small", a share such as "10%", or a time'):
        seconds_of(text)
