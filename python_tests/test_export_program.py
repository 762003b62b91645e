"""Programs run in another process and give the student's bits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exporting import SHAPE, student_of
from networks import same_state, snapshot, tiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.exports import export_program, save_program

_RUN = """
import sys
import torch
from safetensors.torch import load_file, save_file

def answer(kind):
    module = torch.export.load(f"{folder}/{kind}.pt2").module()
    with torch.no_grad():
        save_file({k: module(x) for k, x in load_file(f"{folder}/x").items()}, f"{folder}/{kind}")

folder = sys.argv[1]
sys.modules["hast_cuda"] = None  # importing it fails
answer("plain")
del sys.modules["hast_cuda"]
import hast_cuda.ops
answer("own")
"""


@torch.no_grad()
def test_programs_in_another_process(tmp_path: Path) -> None:
    student = student_of(tiny(), 3, 4, overrides={"features.0": hc.Override(8)}).train()
    before = snapshot(student)
    for kind in ("plain", "own"):
        save_program(student, tmp_path / f"{kind}.pt2", SHAPE, own_ops=kind == "own")
    assert same_state(student, before)
    assert student.training
    student.eval()
    inputs = {str(count): torch.randn(count, *SHAPE) for count in (1, 2, 7)}
    save_file(inputs, tmp_path / "x")
    subprocess.run([sys.executable, "-c", _RUN, str(tmp_path)], check=True, cwd=Path(__file__).parents[1])
    for kind in ("plain", "own"):
        outputs = load_file(tmp_path / kind)
        for count, x in inputs.items():
            assert torch.equal(outputs[count], student(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("own_ops", [True, False])
@torch.no_grad()
def test_input_quantizers_and_dtypes(own_ops: bool, dtype: torch.dtype) -> None:
    student = student_of(tiny().to(dtype), 4, 4, placement="all")
    program = export_program(student, SHAPE, own_ops=own_ops).module()
    x = torch.randn(5, *SHAPE).to(dtype)
    assert torch.equal(program(x), student(x))


@torch.no_grad()
def test_values_at_and_beyond_the_ends_of_ranges() -> None:
    student = nn.Sequential(
        hc.FakeQuantActivation(3),
        hc.FakeQuantActivation(4, activation="relu6"),
        hc.FakeQuantConv2d(3, 2, 1, weight_bits=2),
        hc.FakeQuantActivation(5, activation="relu"),
    )
    for index, (low, high) in {0: (-3.0, 5.1), 1: (0.0, 6.0), 3: (0.0, 1e-9)}.items():
        student[index].set_range(low, high)
        student[index].freeze()
    x = torch.cat([torch.linspace(-9, 9, 192).reshape(1, *SHAPE), torch.zeros(1, *SHAPE)])
    program = export_program(student, SHAPE, own_ops=False).module()
    assert torch.equal(program(x), student(x))


def test_which_ops_a_program_has() -> None:
    student = student_of(tiny(), 4, 4)
    own, plain = (
        {
            str(node.target)
            for node in export_program(student, SHAPE, own_ops=own_ops).graph.nodes
            if node.op == "call_function"
        }
        for own_ops in (True, False)
    )
    expected = {"hast_cuda.fake_quantize.default", "hast_cuda.fake_quantize_weights.default"}
    assert {t for t in own if t.startswith("hast_cuda")} == expected
    assert all(t.startswith("aten.") for t in plain)
    assert "aten.round.default" in plain


def test_a_fixed_batch() -> None:
    student = student_of(tiny(), 4, None)
    program = export_program(student, SHAPE, own_ops=False, batch=3).module()
    x = torch.randn(3, *SHAPE)
    assert torch.equal(program(x), student(x))
    with pytest.raises((AssertionError, RuntimeError), match=r"size|shape"):
        program(x[:2])


class Odd(nn.Module):
    """A convolution, and then what only Python can do."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv2d(3, 2, 1), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.conv(x))


def branching(y: Tensor) -> Tensor:
    return y if y.sum() > 0 else -y


def bound_to_two_images(y: Tensor) -> Tensor:
    assert len(y) == 2
    return y


def own_op(y: Tensor) -> Tensor:
    return hc.fake_quantize(y, -1.0, 1.0, 4)


class MixedDtypes(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self[1](self[0](x).double())
        return result


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"

    def refused(message: str, network: nn.Module, **options: Any) -> None:
        given: dict[str, Any] = {"path": path, "shape": SHAPE, "own_ops": False, **options}
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            save_program(network, given.pop("path"), given.pop("shape"), **given)

    student = student_of(tiny(), 4, 4)
    for own_ops in (True, False):
        refused(r"'features\.2' is not frozen", hc.quantize(tiny(), 4, 4), own_ops=own_ops)
        odd = hc.quantize(Odd(branching), 4, None)
        refused(r"cannot follow this Odd \(\w+: .*control flow", odd, own_ops=own_ops)
    bound = hc.quantize(Odd(bound_to_two_images), 4, None)
    refused("cannot follow this Odd", bound)
    save_program(bound, path, SHAPE, own_ops=False, batch=2)
    path.unlink()
    refused("calls hast_cuda.fake_quantize.default", hc.quantize(Odd(own_op), 4, None))
    mixed = student_of(MixedDtypes(nn.Conv2d(3, 2, 1), nn.ReLU()), 4, 4)
    refused("activations are torch.float64", mixed)
    refused(r"ends in \.pt2", student, path=tmp_path / "p.pt")
    refused("nowhere is not a directory", student, path=tmp_path / "nowhere" / "p.pt2")
    refused(r"shape is \(3, 0\)", student, shape=(3, 0))
    refused("batch is 0", student, batch=0)
    refused("batch is 'any'", student, batch="any")
    assert not list(tmp_path.iterdir())
