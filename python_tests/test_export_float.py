"""The plain network computes what the student computes with quantized weights only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exporting import student_of
from networks import same_state, snapshot, tiny
from safetensors import safe_open
from torch import nn

import hast_cuda as hc
from hast_cuda.exports import save_float, to_float
from hast_cuda.merged import MatchedBatchNorm2d
from hast_cuda.posttraining import PostTrainingConfig, prepare
from hast_cuda.teachers.digits import load_digits_network
from hast_cuda.teachers.weights import load_weights


def own_modules(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if type(m).__module__.startswith("hast_cuda.nn")]


@pytest.mark.parametrize(("bits", "placement"), [(2, "relu"), (4, "all")])
@torch.no_grad()
def test_same_as_a_student_with_quantized_weights_only(bits: int, placement: str) -> None:
    network = load_digits_network()
    student = student_of(network, bits, 4, placement=placement, shape=(1, 8, 8))
    before = snapshot(student)
    plain = to_float(student)
    assert same_state(student, before)
    assert own_modules(student)
    assert not own_modules(plain)
    assert not hasattr(plain, "quantization_table")
    assert plain.state_dict().keys() == network.state_dict().keys()
    x = torch.randn(7, 1, 8, 8)
    assert torch.equal(plain(x), hc.quantize(network, bits, None)(x))
    assert not torch.equal(plain(x), student(x))
    assert all(type(plain.get_submodule(n)) is type(m) for n, m in network.named_modules())


@torch.no_grad()
def test_activations_become_what_they_hold() -> None:
    student = nn.Sequential(
        nn.Linear(4, 4),
        hc.FakeQuantActivation(4, activation="relu6"),
        nn.Linear(4, 4),
        hc.FakeQuantActivation(4),
        hc.FakeQuantLinear(4, 4, act_bits=4),
    )
    plain = to_float(student.train())
    assert [type(m) for m in plain] == [nn.Linear, nn.ReLU6, nn.Linear, nn.Identity, nn.Linear]
    assert plain[1].training
    root = to_float(hc.FakeQuantLinear(4, 2, weight_bits=2))
    assert type(root) is nn.Linear
    assert len(root.weight[0].unique()) <= 4


@torch.no_grad()
def test_shared_modules_stay_shared() -> None:
    network = nn.Module()
    network.a = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    network.b = network.a
    plain = to_float(hc.quantize(network, 4, 4))
    assert plain.a is plain.b
    assert type(plain.a[0]) is nn.Linear


def test_what_the_loops_put_in_has_no_plain_counterpart() -> None:
    student = hc.quantize(tiny(), 4, 4)
    student.features[1] = MatchedBatchNorm2d(6)
    with pytest.raises(ValueError, match=r"'features\.1' is a MatchedBatchNorm2d"):
        to_float(student)


@pytest.mark.parametrize("fold", [False, True])
@torch.no_grad()
def test_the_file_fits_the_float_network(fold: bool, tmp_path: Path) -> None:
    prepared = prepare(tiny(), PostTrainingConfig(fold=fold))
    student = student_of(prepared, 4, 4)
    path = tmp_path / "float.safetensors"
    save_float(student, path, {"seed": 3})
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "seed": "3"}
    network = prepare(tiny(), PostTrainingConfig(fold=fold))
    for parameter in network.parameters():
        parameter.fill_(1)
    load_weights(network, path)
    x = torch.randn(3, 3, 8, 8)
    assert torch.equal(network(x), hc.quantize(prepared, 4, None)(x))


def test_nothing_is_written_on_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere is not a directory"):
        save_float(hc.quantize(tiny(), 4, 4), tmp_path / "nowhere" / "f")
    student = hc.quantize(tiny(), 4, 4)
    state = {"get_extra_state": lambda self: {"a": 1}}
    student.__class__ = type("Extra", (type(student),), state)
    with pytest.raises(TypeError, match=r"'_extra_state' is a dict, not a tensor"):
        save_float(student, tmp_path / "f")
    assert not list(tmp_path.iterdir())
