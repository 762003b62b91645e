"""Students of placement="integer": files, copies, the engine, training and runs take them as they are."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_networks import CLASSES, SHAPE, Dense, conv, lively, pictures
from integer_networks import BUILDS, Joined, Late, Mixed, functional, linear, made, residual
from torch import nn

import hast_cuda as hc
from hast_cuda.data import InputSpec
from hast_cuda.exports import (
    export_program,
    integer_biases,
    load_packed,
    read_packed,
    save_engine,
    save_packed,
    to_float,
)
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune import finetune as tune
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.nn import activation_quantizers
from hast_cuda.reconstruction import ReconstructionConfig, reconstruct
from hast_cuda.report import write_report
from hast_cuda.report.layers import layer_rows
from hast_cuda.run import Bits, load_student, zero_shot_quantize
from hast_cuda.run.results import hold_biases

pytestmark = pytest.mark.filterwarnings("ignore:no image reached")  # of units that leave their modules unused


@pytest.mark.parametrize("build", BUILDS)
def test_files_and_copies_are_the_student_bit_by_bit(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    teacher, student = made(build, act_bits=3)
    x = pictures(8, 3)
    with torch.no_grad():
        expected = student(x)
        assert not torch.equal(expected, to_float(student)(x))
        save_packed(student, tmp_path / "a")
        again = load_packed(tmp_path / "a", teacher)
        others = [again, copy.deepcopy(student), pickle.loads(pickle.dumps(student))]
        fresh = hc.quantize(teacher, 4, 3, placement="integer")
        fresh.load_state_dict(student.state_dict())
        for other in [*others, fresh.eval()]:
            assert torch.equal(other(x), expected)
            assert {n: q.bits for n, q in activation_quantizers(other).items()} == {
                n: q.bits for n, q in activation_quantizers(student).items()
            }
    save_packed(again, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert to_float(student).state_dict().keys() == teacher.state_dict().keys()
    if build is linear:
        program = export_program(student, SHAPE, own_ops=False)
        assert torch.equal(program.module()(x), expected)


@pytest.mark.parametrize("build", [residual, linear, functional, Dense, Joined, Late])
def test_the_engine_computes_the_student_in_integers(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    """No float map but the images and the logits; the same class but for ties."""
    pytest.importorskip("onnxscript")
    from hast_cuda.deploy import load, read_file
    from hast_cuda.deploy.reference import run

    _, student = made(build)
    done = save_engine(student, tmp_path / "a", SHAPE)
    file, x = read_file(tmp_path / "a"), pictures(32, 3)
    values = file.content["values"]
    assert [i for i, value in enumerate(values) if "bits" not in value] == [0, file.content["output"]]
    assert "its input is not quantized" not in done.float_layers.values()
    expected = student(x).detach()
    for found in (torch.from_numpy(run(file, x.numpy())), torch.from_numpy(load(tmp_path / "a").run(x.numpy()))):
        assert int((found.argmax(1) == expected.argmax(1)).sum()) >= 31
        assert int(((found - expected).abs().amax(1) < 1e-5 * expected.abs().max()).sum()) >= 28


@pytest.mark.parametrize("groups", [1, 6])
def test_codes_meet_weights_far_from_zero(groups: int, tmp_path: Path) -> None:
    """8-bit weights whose integers are too large are floats: the layer says so, and is still right."""
    pytest.importorskip("onnxscript")
    from hast_cuda.deploy import load

    network: Any = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 6, groups=groups), nn.ReLU(), conv(6, 6), nn.Flatten())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = lively(nn.Sequential(*network, nn.Linear(6 * 256, CLASSES)))
    network[2][0].weight.data[2] = torch.linspace(1.0, 1.1, 54 // groups).reshape(6 // groups, 3, 3)
    student = hc.calibrate(hc.quantize(network, 8, 8, placement="integer"), [pictures(16, 2)]).eval()
    done = save_engine(student, tmp_path / "a", SHAPE)
    assert done.float_layers == {"2.0": "its weights are not integers of the engine"}
    x = pictures(16, 3)
    found, expected = torch.from_numpy(load(tmp_path / "a").run(x.numpy())), student(x).detach()
    assert int(((found - expected).abs().amax(1) < 1e-5 * expected.abs().max()).sum()) >= 14


@pytest.mark.parametrize("build", [residual, linear, functional, Dense])
def test_reconstruction_and_fine_tuning(build: Callable[[], nn.Module]) -> None:
    teacher, student = made(build, ste="clipped")
    images, before = pictures(16, 6), copy.deepcopy(student.state_dict())
    config = ReconstructionConfig(iterations=2, batch_size=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as blocks that are not the teacher's
        errors = reconstruct(teacher, student, images, config)
        assert len(errors) >= 3
        assert all(error.after <= error.before for error in errors)
        hc.shrink_ranges(student, images)
        tuning = FinetuneConfig(iterations=2, batch_size=8)
        tune(teacher, student, images, tuning, labels=torch.arange(16) % CLASSES)
    after = student.state_dict()
    assert after.keys() >= before.keys()
    assert all(bool(torch.isfinite(value).all()) for value in after.values())
    assert any(not torch.equal(after[name], value) for name, value in before.items() if name.endswith("weight"))
    assert all(q.frozen for q in activation_quantizers(student).values())


def test_ranges_from_batch_norm_reach_every_quantizer() -> None:
    for build in (residual, Joined, Mixed):
        teacher, _ = made(build)
        student = batch_norm_ranges(hc.quantize(teacher, placement="integer"))
        unused = {"acts.1"} if build is Mixed else set()
        found = {n for n, q in activation_quantizers(student).items() if not float(q.upper) > float(q.lower)}
        assert found == unused


def test_a_run_is_resumed_loaded_and_reported(tmp_path: Path) -> None:
    teacher, _ = made(linear)
    recipe = hc.methods.change(
        hc.methods.recipe("hast", "default", "cifar10"),
        {
            "synthesis.num_images": 8,
            "synthesis.batch_size": 8,
            "synthesis.iterations": 2,
            "reconstruction.iterations": 2,
            "finetune.iterations": 2,
            "finetune.batch_size": 4,
            "finetune.calibration_updates": 2,
        },
    )
    shape, bits = InputSpec(*SHAPE, CLASSES), Bits(4, 4, "integer", sums=7)
    done = zero_shot_quantize(teacher, shape, bits, recipe=recipe, out=tmp_path)
    assert done.result["bits"] == {"weights": 4, "activations": 4, "placement": "integer", "overrides": {}, "sums": 7}
    again = zero_shot_quantize(teacher, shape, bits, recipe=recipe, out=tmp_path)
    x = pictures(4, 3)
    loaded = load_student(teacher, tmp_path)
    biases = done.result["integer_biases"]
    assert biases["reason"] is None
    assert biases["moved"]
    assert max(biases["moved"].values()) < 0.5
    assert not integer_biases(loaded, SHAPE)[1]  # its integer files are the student of the run
    assert loaded.units[0].output_quantizer.bits == 7  # type: ignore[union-attr, operator, index]
    with torch.no_grad():
        for student in (again.student.eval(), loaded):
            assert torch.equal(student(x), done.student.eval()(x))
    page = write_report(tmp_path).read_text()
    assert "all that is stored" in page
    assert "units.0.output_quantizer" in page  # of a network without a name: the tensors of its file
    rows = {f"{row.name}: {row.note}": row for row in layer_rows(loaded, teacher)}
    low, high = rows["units.0.second.1: quantized output"].act_range or (0.0, 0.0)
    assert low < 0 < high
    assert rows["units.0.first.0: quantized weight"].error is not None


def test_biases_that_no_integers_hold_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    student = hc.calibrate(hc.quantize(made(linear)[0], 4, 4), [pictures(8, 2)])
    before = copy.deepcopy(student.state_dict())
    with pytest.warns(UserWarning, match="biases stay as they were trained"):
        found = hold_biases(student, SHAPE)
    assert not found["moved"]
    assert "placement integer" in found["reason"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.warns(UserWarning, match="pip install"):
        hold_biases(student, SHAPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"around": {"stem.0.1.elsewhere": {}}}, "stands in front of a module or behind it"),
        ({"shared": {"acts.1": "acts.7"}}, "of which there is none like it"),
        (
            {
                "around": {
                    "nowhere.output_quantizer": {"bits": 8, "activation": None, "ema": "corrected", "ste": "identity"}
                }
            },
            "no module of its own named 'nowhere'",
        ),
    ],
)
def test_files_that_cannot_be(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    from hast_cuda.exports.rebuild import rebuild

    teacher, student = made(Joined)
    save_packed(student, tmp_path / "a")
    tensors, content = read_packed(tmp_path / "a")
    content = json.loads(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        rebuild(teacher, tensors, content | change)
