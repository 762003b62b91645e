"""The configured steps together, on whole networks; and folded students from run directories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from foldable import build, kinds
from networks import same_state, snapshot, tiny
from torch import nn

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.loops.execution import Execution
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.nn import FakeQuantConv2d, FakeQuantLinear
from hast_cuda.posttraining import PostTrainingConfig, finish, prepare
from hast_cuda.run import load_student, save_student

DFQ = PostTrainingConfig(fold=True, equalize=True, absorb_biases=True, correct_biases=True, keep_relu6=False)
SQUANT = PostTrainingConfig(rounding="squant")
BOTH = PostTrainingConfig(fold=True, equalize=True, correct_biases=True, rounding="squant")


@pytest.mark.parametrize("config", [DFQ, SQUANT, BOTH], ids=["dfq", "squant", "both"])
@pytest.mark.parametrize("name", ["resnet20", "inverted"])
def test_whole_networks(name: str, config: PostTrainingConfig) -> None:
    teacher, x = build(name, torch.float32)
    before = snapshot(teacher)
    prepared = prepare(teacher, config)
    assert bool(kinds(prepared, nn.BatchNorm2d)) is not config.fold
    if config.keep_relu6 and not config.absorb_biases:
        torch.testing.assert_close(prepared(x), teacher(x), rtol=1e-3, atol=1e-3)
    student = hc.quantize(prepared, 8, None)
    kept, keys = snapshot(prepared), set(student.state_dict())
    assert finish(student, prepared, config) is student
    assert same_state(teacher, before)
    assert same_state(prepared, kept)
    # what a run directory holds fits a student of prepare(teacher, config)
    added = set(student.state_dict()) - keys
    assert all(key.endswith("weight_range") for key in added)
    error = (student(x) - prepared(x)).square().mean() / prepared(x).var()
    assert float(error.detach()) < 0.01
    layers = [m for m in student.modules() if isinstance(m, (FakeQuantConv2d, FakeQuantLinear))]
    assert all((m.weight_range is None) is (config.rounding == "nearest") for m in layers)
    assert not config.correct_biases or all(m.bias is not None for m in layers)


def test_nothing_is_the_default() -> None:
    teacher, _ = build("resnet20", torch.float32)
    config = PostTrainingConfig()
    prepared = prepare(teacher, config)
    assert prepared is not teacher
    assert same_state(prepared, snapshot(teacher))
    student = hc.quantize(prepared, 3, None)
    before = snapshot(student)
    assert same_state(finish(student, prepared, config), before)


def test_biases_are_corrected_for_the_weights_as_rounded() -> None:
    teacher, _ = build("resnet20", torch.float32)
    prepared = prepare(teacher, BOTH)
    student = finish(hc.quantize(prepared, 3, None), prepared, BOTH)
    again = hc.quantize(prepared, 3, None)
    hc.posttraining.squant(again)
    hc.posttraining.correct_biases(again, prepared)
    assert same_state(student, snapshot(again))


def test_folded_student_is_finetuned_against_its_teacher() -> None:
    teacher, config = tiny(), FinetuneConfig(learning_rate=1e-5, perturbation=0.01)
    prepared = prepare(teacher, BOTH)
    student = batch_norm_ranges(hc.quantize(prepared, 3, 3)).eval()
    finish(student, prepared, BOTH)
    ranges = {k: v for k, v in snapshot(student).items() if k.endswith("weight_range")}
    step = FinetuneStep(teacher.requires_grad_(False), student, feature_layers(teacher), config, Execution())
    before = snapshot(student)
    for _ in range(2):
        terms = step(torch.randn(4, 3, 8, 8))
    step.close()
    assert all(torch.isfinite(t) and t > 0 for t in terms)
    assert not same_state(student, before)
    assert len(ranges) == 3
    assert all(torch.equal(v, snapshot(student)[k]) for k, v in ranges.items())


def saved(path: Path, student: nn.Module, recipe: dict[str, Any] | None) -> Path:
    """A finished run directory, as far as load_student reads one."""
    bits = {"weights": 3, "activations": 3, "placement": "relu", "overrides": {}}
    config = {"bits": bits} | ({} if recipe is None else {"recipe": recipe})
    (path / "config.json").write_text(json.dumps(config))
    save_student(student, path / "student.safetensors", {})
    return path


@pytest.mark.parametrize("config", [DFQ, SQUANT, BOTH], ids=["dfq", "squant", "both"])
def test_student_of_a_run(tmp_path: Path, config: PostTrainingConfig) -> None:
    teacher = tiny()
    prepared = prepare(teacher, config)
    student = batch_norm_ranges(hc.quantize(prepared, 3, 3))
    finish(student, prepared, config)
    run = saved(tmp_path, student, {"posttraining": vars(config)})
    before = snapshot(teacher)
    loaded = load_student(teacher, run)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), student.eval()(x))
    assert same_state(loaded, snapshot(student))
    assert same_state(teacher, before)
    if config.fold:
        saved(tmp_path, student, {"posttraining": None})
        with pytest.raises(ValueError, match="is corrupt or belongs to another network"):
            load_student(teacher, run)


@pytest.mark.parametrize(
    ("ste", "message"), [("straight", "ste is 'straight'; allowed"), (5, "ste must be a str, got int 5")]
)
def test_student_of_a_run_with_a_gradient_that_cannot_be(tmp_path: Path, ste: object, message: str) -> None:
    student = batch_norm_ranges(hc.quantize(tiny(), 3, 3))
    with pytest.raises(ValueError, match=message):
        load_student(tiny(), saved(tmp_path, student, {"finetune": {"ste": ste}}))


@pytest.mark.parametrize("recipe", [None, {}, {"posttraining": None}])
def test_student_of_a_run_without_these_steps(tmp_path: Path, recipe: dict[str, Any]) -> None:
    student = batch_norm_ranges(hc.quantize(tiny(), 3, 3))
    loaded = load_student(tiny(), saved(tmp_path, student, recipe))
    assert same_state(loaded, snapshot(student))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"unknown": 1}, r"settings that this version does not know: \['unknown'\]"),
        (3, "config.json is not the configuration of a run"),
        ([1], "config.json is not the configuration of a run"),
    ],
)
def test_broken_configuration_of_a_run(tmp_path: Path, content: Any, message: str) -> None:
    run = saved(tmp_path, hc.quantize(tiny(), 3, 3), {"posttraining": content})
    with pytest.raises(ValueError, match=message):
        load_student(tiny(), run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "up"}, "rounding is 'up'; allowed: 'nearest', 'squant'"),
        ({"range_width": -1.0}, "range_width is -1.0; allowed: at least 0"),
        ({"range_width": float("nan")}, "range_width is nan"),
        ({"equalize": True}, "equalize=True works on folded networks: set fold=True as well"),
        ({"absorb_biases": True}, "absorb_biases=True works on folded networks"),
    ],
)
def test_refused_configurations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PostTrainingConfig(**options)
