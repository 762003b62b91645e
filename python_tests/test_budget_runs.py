"""Runs at a budget: what is measured, what is written down, and that it never changes again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_networks import EVERY, labelled, small_recipe
from networks import CHANNELS, CLASSES, SIZE, snapshot, tiny
from test_run import RECIPE, real_images

from hast_cuda import methods
from hast_cuda.cli import main
from hast_cuda.data import InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import change
from hast_cuda.ranks import World
from hast_cuda.reconstruction import ReconstructionConfig
from hast_cuda.run import Bits, estimate, plan, read_config, read_recipe, trial, zero_shot_quantize
from hast_cuda.run.fitted import Costs, value_of
from hast_cuda.run.inputs import Asked
from hast_cuda.run.trial import Measured

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
# room between the floors and what is asked for, in milliseconds
ROOMY = replace(
    RECIPE,
    synthesis=replace(RECIPE.synthesis, num_images=100, batch_size=40, iterations=60),
    finetune=replace(RECIPE.finetune, iterations=60, batch_size=16),
    reconstruction=ReconstructionConfig(iterations=60, batch_size=8),
)
COSTS = Costs(1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, (0.01, 0.02), 1e-3)
TINY = ("--model", "networks:tiny", "--normalization", "cifar10", "--image-size", "8", "--num-classes", "5")
NUMBERS = (
    *("--num-images", "8", "--synthesis-iterations", "2", "--batch-size", "8", "--reconstruction-iterations", "2"),
    *("--finetune-iterations", "2"),
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Costs], list[Any]]:
    """Costs instead of a clock; the list of recipes that were measured."""

    def use(costs: Costs) -> list[Any]:
        seen: list[Any] = []

        def measure(asked: Asked, recipe: Any, _: Any) -> Measured:
            assert asked.teacher is not None
            seen.append(recipe)
            return Measured(costs, 2**30, 768, 1024)

        monkeypatch.setattr(plan, "measure", measure)
        return seen

    return use


def run(out: Path | None, **changed: Any) -> Any:
    arguments: dict[str, Any] = {"recipe": ROOMY, "out": out, "test": real_images(), "seed": 4}
    return zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), **arguments | changed)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    one, other = snapshot(first), snapshot(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_config_json_repeats_a_run_bit_for_bit(measured: Callable[[Costs], list[Any]], tmp_path: Path) -> None:
    seen = measured(replace(COSTS, finetune=3e-3))
    timed = run(tmp_path / "timed", budget="8s")
    assert len(seen) == 1
    recipe = read_recipe(tmp_path / "timed")
    assert 64 < recipe.synthesis.num_images < 100
    assert 25 < recipe.finetune.iterations < 60
    assert read_config(tmp_path / "timed")["budget"] == "8s"
    by_hand = run(tmp_path / "by hand", recipe=recipe)
    assert len(seen) == 1
    assert "budget" not in read_config(tmp_path / "by hand")
    assert same(timed.student, by_hand.student)
    changed = ("synthesis.num_images", "synthesis.iterations", "synthesis.batch_size", "reconstruction.iterations")
    changed = (*changed, "finetune.iterations", "finetune.evaluations", "finetune.batch_size")
    numbers = {name: value_of(recipe, name) for name in changed}
    assert same(timed.student, run(None, changes=numbers).student)


def test_a_resumed_run_does_not_measure_again(measured: Callable[[Costs], list[Any]], tmp_path: Path) -> None:
    seen = measured(COSTS)
    whole = run(tmp_path / "whole", budget="7s")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", budget="7s", test=real_images(killed_at=5))
    config = (tmp_path / "cut" / "config.json").read_bytes()
    assert len(seen) == 2
    slower = measured(replace(COSTS, synthesis=1e-1, finetune=1e-1))
    resumed = run(tmp_path / "cut", budget="7s")
    assert not slower
    assert (tmp_path / "cut" / "config.json").read_bytes() == config
    assert same(resumed.student, whole.student)


def test_a_run_goes_on_without_its_budget_too(measured: Callable[[Costs], list[Any]], tmp_path: Path) -> None:
    measured(replace(COSTS, synthesis=2e-2, finetune=2e-2))
    asked = {"recipe": "default", "changes": {"reconstruction.iterations": 2}, "test": None}
    first = run(tmp_path, budget="98s", **asked)
    assert first.result["budget"] == "98s"
    other = measured(COSTS)
    assert run(tmp_path, **asked).result == first.result
    assert not other
    with pytest.raises(ValueError, match="budget: there '98s', now '2h'"):
        run(tmp_path, budget="2h", **asked)
    with pytest.raises(ValueError, match=r"recipe.synthesis.iterations: there \d+, now 999"):
        run(tmp_path, **asked | {"changes": {"reconstruction.iterations": 2, "synthesis.iterations": 999}})


def test_a_directory_without_budget_keeps_the_numbers_that_were_given(
    measured: Callable[[Costs], list[Any]], tmp_path: Path
) -> None:
    seen = measured(COSTS)
    numbers = {
        "synthesis.num_images": 8,
        "synthesis.iterations": 2,
        "reconstruction.iterations": 2,
        "finetune.iterations": 2,
        "finetune.calibration_updates": 2,
    }
    run(tmp_path, recipe="default", changes=numbers)
    with pytest.raises(ValueError, match=r"recipe.synthesis.num_images: there 8, now 5120"):
        run(tmp_path, recipe="default")
    with pytest.raises(ValueError, match="budget: there None, now '10m'"):
        run(tmp_path, recipe="default", changes=numbers, budget="10m")
    assert not seen


def test_given_numbers_win(measured: Callable[[Costs], list[Any]]) -> None:
    measured(COSTS)
    given = {"synthesis.num_images": 48, "finetune.iterations": 3, "finetune.batch_size": 24}
    for budget in ("full", "small", "50%", "11s"):
        asked = Asked(tiny(), SHAPE, change(ROOMY, given), World(), Execution())
        found = plan.make_plan(asked, budget, given).recipe
        assert (found.synthesis.num_images, found.finetune.iterations, found.finetune.batch_size) == (48, 3, 24)
        assert found.synthesis.iterations <= 60


def test_a_preset_on_a_cpu_says_what_it_does(
    measured: Callable[[Costs], list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    measured(COSTS)
    asked = Asked(tiny(), SHAPE, methods.recipe("hast"), World(), Execution())
    found = plan.told(plan.make_plan(asked, None, {}), asked.world)
    said = capsys.readouterr().err.splitlines()
    assert found.budget == "10m"
    assert found.estimate is not None
    assert 500 < found.estimate.total < 600
    assert said[0].startswith(
        "no budget was given: on a CPU what fits about 10m is done, the full one would take about "
    )
    assert "--budget" in said[0]
    assert said[1] == "budget 10m, on cpu:"
    assert [line.split("  ")[1] for line in said[2:-1]] == list(found.estimate.seconds)
    assert said[-1].startswith(f"  about {found.estimate.total / 60:.1f} min in all, 1.0 GiB of memory")
    slow = measured(replace(COSTS, synthesis=1.0))
    asked = replace(asked, recipe=methods.recipe("hast"))
    smallest = plan.make_plan(asked, None, {})
    assert len(slow) == 1
    assert smallest.budget not in (None, "10m")
    assert smallest.recipe.synthesis.num_images == 64


def test_too_little_time_is_refused_with_what_would_do(measured: Callable[[Costs], list[Any]], tmp_path: Path) -> None:
    measured(COSTS)
    with pytest.raises(ValueError, match="budget is '1s', and the smallest run that makes sense here takes") as refused:
        run(tmp_path / "run", budget="1s")
    assert not (tmp_path / "run").exists()
    enough = str(refused.value).partition("give '")[2].partition("'")[0]
    assert run(None, budget=enough).result["budget"] == enough


def test_nothing_is_measured_where_nothing_is_left_open(measured: Callable[[Costs], list[Any]]) -> None:
    seen = measured(COSTS)
    run(None)  # a recipe of one's own
    run(None, recipe="default", method="rtn")
    assert not seen


@pytest.mark.parametrize("name", EVERY)
def test_a_trial_knows_every_phase_of_a_run(name: str) -> None:
    recipe = small_recipe(name)
    images = labelled(10, CLASSES) if recipe.images == "real" else None
    given: dict[str, Any] = {"recipe": recipe, "test": real_images(), "images": images}
    said = estimate(tiny(), SHAPE, Bits(3, 3), **given)
    done = zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), **given)
    phases = {name for name, taken in done.result["seconds"].items() if taken > 0.002}
    assert phases <= said.seconds.keys() | {"calibration"}
    assert said.seconds.keys() <= done.result["seconds"].keys()
    assert all(taken > 0 for taken in said.seconds.values())
    assert said.memory > 2**20
    assert said.recipe == recipe


def test_a_dry_run_leaves_no_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (("quantize",), ("synthesize",)):
        out = tmp_path / verb[0]
        assert main([*verb, *TINY, *NUMBERS, "--device", "cpu", "--out", str(out), "--dry-run"]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        assert said.out.startswith("the numbers given, on cpu:\n  synthesis ")
        assert "8 images x 2 iterations, batches of 8" in said.out
        assert ("finetuning" in said.out) == (verb == ("quantize",))
        assert not out.exists()
    assert not list(tmp_path.iterdir())


def test_the_demo_takes_a_budget(
    measured: Callable[[Costs], list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = measured(COSTS)
    pytest.importorskip("sklearn")
    for given, images in ((), 512), (("--budget", "full"), 5120), (("--budget", "10m"), None):
        out = tmp_path / "demo"
        assert main(["demo", "--device", "cpu", "--out", str(out), "--dry-run", *given]) == 0
        said = capsys.readouterr().out
        assert not out.exists()
        assert images is None or f"{images} images x " in said
        assert f"budget {given[-1]}, on cpu:" in said if given else "the numbers given, on cpu:" in said
    assert len(seen) == 3


def test_verbs_take_a_budget(
    measured: Callable[[Costs], list[Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured(COSTS)
    common = (*TINY, "--device", "cpu")
    made = tmp_path / "made"
    assert main(["synthesize", *common, "--synthesis-iterations", "2", "--budget", "1s", "--out", str(made)]) == 0
    config = json.loads((made / "config.json").read_text())
    assert config["budget"] == "1s"
    assert config["synthesis"]["iterations"] == 2
    assert 400 < config["synthesis"]["num_images"] <= 500  # times two iterations of a millisecond
    assert "budget 1s, on cpu:" in capsys.readouterr().err
    line = ("finetune", *common, "--images", str(made / "images"), "--reconstruction-iterations", "2")
    assert main([*line, "--budget", "10s", "--out", str(tmp_path / "tuned")]) == 0
    recipe = read_recipe(tmp_path / "tuned")
    assert recipe.reconstruction.iterations == 2
    assert 25 <= recipe.finetune.iterations < 60
    assert main([*line, "--budget", "soon", "--out", str(tmp_path / "no")]) == 1
    assert "budget is 'soon'; allowed" in capsys.readouterr().err


def test_the_stopwatch_counts_the_last_steps_of_every_block(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 50.0, 51.0, 53.0, 100.0, 110.0, 120.0, 150.0])
    monkeypatch.setattr(trial.time, "perf_counter", lambda: next(times))
    watch = trial.Stopwatch(torch.device("cpu"), {"reconstruction": (2, 4)})
    for _ in range(8):
        watch("evaluate")
        watch("reconstruction")
    assert watch.steps("reconstruction") == [(53 - 50) / 2, (150 - 110) / 2]
