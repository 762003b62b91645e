"""Images that no step sees, the student that is kept by them, and terms balanced at the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import pictures, same_state, snapshot, tiny
from torch import nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig, FinetuneResult, agreement, finetune
from hast_cuda.finetune.agreement import HeldOutImages, parts
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.finetune.objective import SMALLEST_UNIT, loss_weights
from hast_cuda.finetune.watch import kept_iteration

pytestmark = pytest.mark.usefixtures("exact")
CONFIG = FinetuneConfig(
    iterations=12, batch_size=8, optimizer="adamw", learning_rate=1e-3, evaluations=4, held_out=0.25, keep="best"
)
WILD = replace(CONFIG, learning_rate=0.5)  # every step moves every weight by about that
Records = list[dict[str, Any]]


def calibrated() -> nn.Module:
    return hc.calibrate(hc.quantize(tiny(), 3, 3), [pictures(20)])


def tuned(config: FinetuneConfig, student: nn.Module | None = None, **options: Any) -> FinetuneResult:
    images = pictures(32)
    given: dict[str, Any] = {"held_out": images[20:], **options}
    return finetune(tiny(), student or calibrated(), images[:20], config, **given)


def broken_off(after: int) -> Callable[[nn.Module], float]:
    calls = iter(range(after))

    def evaluate(_: nn.Module) -> float:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return 1.0

    return evaluate


def test_the_rate_rises_and_then_follows_its_schedule() -> None:
    plain = FinetuneConfig(iterations=100, learning_rate=1.0, schedule="cosine")
    warm = replace(plain, warmup=0.1)
    found = [warm.rate(i) / plain.rate(i) for i in range(100)]
    assert found == pytest.approx([(i + 1) / 10 for i in range(10)] + [1.0] * 90)
    steps = replace(warm, schedule="step", decay_at=(0.5,))
    assert [steps.rate(i) for i in (0, 4, 9, 49, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.1])
    records: Records = []
    tuned(replace(CONFIG, warmup=0.5), log=records.append)
    first = next(record for record in records if record["phase"] == "finetune")
    assert first["learning_rate"] == pytest.approx(1e-3 / 6)


def test_an_agreement_is_that_of_the_class_probabilities() -> None:
    teacher, student, images = tiny(), calibrated().train(), pictures(70)
    found = agreement(teacher, student, images)
    assert student.training
    with torch.no_grad():
        p, q = (network.eval()(images).double().softmax(1) for network in (teacher, student))
    assert found.divergence == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-6)
    assert found.same_class == pytest.approx(100 * float((p.argmax(1) == q.argmax(1)).double().mean()))
    assert 0 < found.same_class < 100
    assert agreement(teacher, teacher, images) == hc.finetune.Agreement(0.0, 100.0, 0.0)


def test_a_student_that_only_became_worse_is_the_one_that_came() -> None:
    student = calibrated()
    start = snapshot(student)
    done = tuned(WILD, student)
    assert done.kept_iteration == 0
    assert same_state(student, start)
    assert [iteration for iteration, *_ in done.agreements] == [0, 3, 6, 9, 12]
    last = calibrated()
    assert tuned(replace(WILD, keep="last"), last).agreements == done.agreements
    assert not same_state(last, start)


def test_the_closest_student_is_kept() -> None:
    records: Records = []
    done = tuned(CONFIG, log=records.append)
    assert done.kept_iteration
    looks = {iteration: seen for iteration, *seen in done.agreements}
    assert list(vars(agreement(tiny(), done.student, pictures(32)[20:])).values()) == looks[done.kept_iteration]
    assert looks[done.kept_iteration][2] < looks[0][2]
    logged = [r for r in records if r["phase"] == "held out"]
    assert [(r["iteration"], r["divergence"], r["same_class"], r["cropped"]) for r in logged] == done.agreements


def test_cropped_is_the_divergence_on_three_parts_of_each_image() -> None:
    teacher, student, images = tiny(), calibrated().eval(), pictures(9)
    cut = parts(images)
    assert cut.shape == (27, *images.shape[1:])
    assert torch.equal(cut, parts(images))  # the same in every look
    assert not any(torch.equal(part, image) for part, image in zip(cut, images.repeat(3, 1, 1, 1), strict=True))
    level = torch.arange(9.0).reshape(9, 1, 1, 1).expand_as(images)
    torch.testing.assert_close(parts(level), level.repeat(3, 1, 1, 1))  # each of its own image
    found = HeldOutImages(teacher, images).agreement(student)
    assert found.cropped == pytest.approx(agreement(teacher, student, cut).divergence, rel=1e-6)


def test_the_last_student_counts_where_it_is_closer_than_the_start() -> None:
    start, middle = (0, 0.2, 90.0, 0.9), (10, 0.1, 98.0, 0.5)
    assert kept_iteration([start]) == 0
    assert kept_iteration([start, middle, (20, 0.4, 97.0, 0.8)]) == 20  # its parts alone count
    assert kept_iteration([start, middle, (20, 0.1, 97.0, 0.95)]) == 10
    assert kept_iteration([start, (10, 0.2, 99.0, 0.95), (20, 0.2, 99.0, 0.92)]) == 0
    assert kept_iteration([start, middle, (20, float("nan"), 0.0, float("nan"))]) == 10


@pytest.mark.parametrize("config", [CONFIG, WILD], ids=["good", "wild"])
def test_resumed_keeps_the_same_student(tmp_path: Path, config: FinetuneConfig) -> None:
    config = replace(config, balance="start", feature_weight=10.0)
    whole = tuned(config)
    file = CheckpointFile(tmp_path / "last.safetensors")
    with pytest.raises(KeyboardInterrupt):
        tuned(config, evaluate=broken_off(2), checkpoint=file)
    units = file.load(calibrated().requires_grad_(True), torch.optim.AdamW(calibrated().parameters())).units
    resumed = tuned(config, checkpoint=file)
    assert same_state(resumed.student, snapshot(whole.student))
    assert resumed.agreements == whole.agreements
    assert resumed.kept_iteration == whole.kept_iteration
    assert file.load(calibrated(), torch.optim.AdamW(calibrated().parameters())).units == units
    finished = tuned(config, checkpoint=file)  # nothing is left to do
    assert same_state(finished.student, snapshot(whole.student))


def test_the_best_needs_images_to_be_found_by() -> None:
    with pytest.raises(ValueError, match='keep is "best", which is judged on images held out'):
        replace(CONFIG, held_out=0.0)
    with pytest.raises(ValueError, match=r"held_out is .*; expected normalised images"):
        tuned(CONFIG, held_out=pictures(0))
    with pytest.raises(ValueError, match="held_out"):
        tuned(CONFIG, held_out=torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match="held_out is on the meta device"):
        tuned(CONFIG, held_out=torch.zeros(4, 3, 8, 8, device="meta"))


def test_balanced_terms_count_what_they_weigh_at_the_start() -> None:
    """One batch of all images as they are: the first terms are their weights."""
    config = replace(CONFIG, batch_size=20, crop_scale=(1.0, 1.0), flip_probability=0.0, balance="start")
    config = replace(config, distillation_weight=2.0, feature_weight=10.0, label_weight=0.5)
    records: Records = []
    tuned(config, labels=torch.arange(20) % 5, log=records.append)
    first = next(record for record in records if record["phase"] == "finetune")
    assert [first[n] for n in ("distillation", "alignment", "label")] == pytest.approx([2.0, 10.0, 0.5], rel=1e-4)


def test_weights_of_terms_in_units() -> None:
    config = FinetuneConfig(distillation_weight=2.0, temperature=4.0, feature_weight=10.0)
    assert loss_weights(config) == (32.0, 10.0)
    assert loss_weights(config, [0.5, 5.0]) == (4.0, 2.0)
    assert loss_weights(config, [0.5, 0.0]) == (4.0, 10.0 / SMALLEST_UNIT)
    assert loss_weights(replace(config, label_weight=3.0), [0.5, 5.0, 6.0]) == (4.0, 2.0, 0.5)


def test_a_rate_that_is_too_high_is_found_at_the_first_look(tmp_path: Path) -> None:
    """What comes of it is what the lower rate gives, and a run that was broken off at any look goes on to the same."""
    config, records = replace(WILD, restarts=3), list[dict[str, Any]]()
    found = tuned(config, student := calibrated(), log=records.append)
    notes = [record["note"] for record in records if "note" in record]
    assert len(notes) == 3
    assert "0.0156" in notes[-1]
    plain = tuned(replace(WILD, learning_rate=WILD.learning_rate / 4**3), by_hand := calibrated())
    assert same_state(student, snapshot(by_hand))
    assert found.agreements == plain.agreements
    assert found.kept_iteration == plain.kept_iteration
    for looks in range(1, 6):
        again, file = calibrated(), CheckpointFile(tmp_path / f"{looks}.safetensors")
        with pytest.raises(KeyboardInterrupt):
            tuned(config, again, checkpoint=file, evaluate=broken_off(looks))
        resumed = tuned(config, again := calibrated(), checkpoint=file)
        assert same_state(again, snapshot(student)), looks
        assert resumed.agreements == found.agreements


def test_a_rate_that_fits_stays() -> None:
    records: Records = []
    found = tuned(replace(CONFIG, restarts=3), student := calibrated(), log=records.append)
    assert not [record for record in records if "note" in record]
    assert same_state(student, snapshot(tuned(CONFIG).student))
    assert found.kept_iteration is not None


def test_where_the_last_student_counts_training_never_begins_again() -> None:
    records: Records = []
    tuned(replace(WILD, keep="last", restarts=3), log=records.append)
    assert not [record for record in records if "note" in record]
