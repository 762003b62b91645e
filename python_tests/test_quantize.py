"""quantize(): which modules are swapped, with which bits, what the table says, what is refused."""

from __future__ import annotations

import copy
import pickle
import types
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from cases import refused
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.nn import Override, activation_quantizers
from hast_cuda.nn.table import QuantizationTable, Row


def small() -> nn.Module:
    """Conv-BN-ReLU twice and a classifier for [N, 2, 8, 8]."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU6()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def row(model: nn.Module, name: str) -> Row:
    """The table row of the module called ``name``."""
    (found,) = (r for r in hc.quantization_table(model).rows if r.name == name)
    return found


def test_the_argument_is_never_edited(device: torch.device) -> None:
    model = small().to(device)
    modules, state = dict(model.named_modules()), copy.deepcopy(model.state_dict())
    student = hc.quantize(model, 3, 3)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    student(torch.randn(2, 2, 8, 8, device=device))  # in training mode: moves BatchNorm statistics
    assert dict(model.named_modules()) == modules
    assert "quantization_table" not in vars(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_swaps_by_type_and_says_so(device: torch.device) -> None:
    student = hc.quantize(small().to(device), 3, 5)
    rows = [(r.name, r.kind, r.weight_bits, r.act_bits) for r in hc.quantization_table(student).rows]
    assert rows == [
        ("0.0", "Conv2d", 3, None),
        ("0.2", "ReLU", None, 5),
        ("1.0", "Conv2d", 3, None),
        ("1.2", "ReLU6", None, 5),
        ("4", "Linear", 3, None),
    ]
    kinds = [type(m) for m in student.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert kinds == [hc.FakeQuantConv2d, hc.FakeQuantConv2d, hc.FakeQuantLinear]
    fused = {name: q.activation for name, q in activation_quantizers(student).items()}
    assert fused == {"0.2": "relu", "1.2": "relu6"}
    assert {t.device.type for t in student.state_dict().values()} == {device.type}
    assert student(torch.randn(2, 2, 8, 8, device=device)).shape == (2, 3)


def test_float_weights_load_into_the_student() -> None:
    model = small()
    student = hc.quantize(model)
    missing, unexpected = student.load_state_dict(model.state_dict(), strict=False)
    assert unexpected == []
    assert {name.rsplit(".", 1)[1] for name in missing} == {"range_state", "frozen"}


def test_printed_table() -> None:
    lines = str(hc.quantization_table(hc.quantize(small(), 3, None))).splitlines()
    assert lines[0].split() == ["layer", "type", "weight", "activation", "note"]
    assert lines[1].split() == ["0.0", "Conv2d", "3", "bit", "-", "quantized", "weight"]
    assert lines[2].split() == ["0.2", "ReLU", "-", "-", "kept", "in", "full", "precision"]
    assert lines[-1].startswith("3 weights")
    assert "(root)" in str(QuantizationTable((Row("", "Conv2d", 4, None, ""),)))


@pytest.mark.parametrize(
    ("name", "weights", "activations", "inputs"),
    [("resnet20_cifar10", 22, 19, 22), ("resnet18", 21, 17, 21), ("mobilenetv2_w1", 54, 36, 54)],
)
def test_counts_of_known_networks(name: str, weights: int, activations: int, inputs: int) -> None:
    with torch.device("meta"):  # counting needs no weights
        model = get_model(name, pretrained=False)
    table = hc.quantization_table(hc.quantize(model))
    assert (table.quantized_weights, table.quantized_activations) == (weights, activations)
    table = hc.quantization_table(hc.quantize(model, placement="all"))
    assert (table.quantized_weights, table.quantized_activations) == (weights, inputs)


def test_placement_all_quantizes_every_input(device: torch.device) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    student = hc.quantize(model.to(device), 4, 3, placement="all", ema="released", ste="clipped")
    quantizers = activation_quantizers(student)
    assert list(quantizers) == ["0.input_quantizer", "2.input_quantizer", "5.input_quantizer"]
    assert {(q.activation, q.ema, q.ste) for q in quantizers.values()} == {(None, "released", "clipped")}
    assert [q.bits for q in quantizers.values()] == [8, 3, 3]  # an image has 256 levels
    assert type(student[3]) is nn.ReLU
    student(torch.randn(2, 2, 8, 8, device=device))
    assert float(quantizers["2.input_quantizer"].lower) < 0  # SiLU's negative part is kept


def test_options_reach_the_layers() -> None:
    student = hc.quantize(small(), ema="released", ste="clipped", zero_point="real")
    assert {(q.ema, q.ste) for q in activation_quantizers(student).values()} == {("released", "clipped")}
    assert student[0][0].zero_point == student[4].zero_point == "real"


class OwnForward(nn.Conv2d):
    """A convolution that scales its output."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Renamed(nn.Conv2d):
    """A convolution under another name only."""


@pytest.mark.parametrize(
    ("module", "placement", "note"),
    [
        (nn.Conv1d(2, 2, 3), "relu", "only Conv2d and Linear are"),
        (nn.ConvTranspose2d(2, 2, 3), "relu", "only Conv2d and Linear are"),
        (nn.GRU(2, 2), "all", "only Conv2d and Linear are"),
        (OwnForward(2, 2, 3), "all", "it has a forward of its own"),
        (nn.SiLU(), "relu", 'placement="all" covers it'),
        (nn.MultiheadAttention(4, 2), "relu", "it reads its weights without its layers"),
        (hc.FakeQuantConv2d(2, 2, 3), "relu", "already quantized, left as it is"),
    ],
)
def test_modules_left_alone_are_noted(module: nn.Module, placement: str, note: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), module)
    told = "" if "already" in note else f"1 layers stay in full precision: .*{note}"
    with pytest.warns(UserWarning, match=told) if told else nullcontext():
        student = hc.quantize(model, placement=placement)
    assert note in row(student, "2").note
    assert row(student, "2").kind == type(module).__name__
    assert [type(m) for m in student[2].modules()] == [type(m) for m in module.modules()]


@pytest.mark.parametrize("name", ["0", "1"])
def test_objects_with_a_forward_of_their_own_are_left_alone_and_noted(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU()).eval()
    module = model.get_submodule(name)
    plain = type(module).forward
    module.forward = types.MethodType(lambda self, x: 2 * plain(self, x), module)
    with pytest.warns(UserWarning, match=f"{name!r} .*it has a forward of its own"):
        student = hc.calibrate(hc.quantize(model, 8, 8, placement="relu"), [x := torch.randn(4, 2, 8, 8)]).eval()
    assert "it has a forward of its own" in row(student, name).note
    torch.testing.assert_close(student(x), model(x), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("name", ["0", "1"])
def test_hooks_are_called_in_the_student(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU()).eval()
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: (3 * args[0],))
    model.get_submodule(name).register_forward_hook(lambda _, __, output: 2 * output)
    student = hc.calibrate(hc.quantize(model, 8, 8), [x := torch.randn(4, 2, 8, 8)]).eval()
    assert type(student.get_submodule(name)) is not type(model.get_submodule(name))
    torch.testing.assert_close(student(x), model(x), rtol=0.05, atol=0.05)


class Listed(nn.Module):
    """Calls its layers by other references than their registration."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.end = nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Linear(2, 2)
        self.stem, self.table, self.pair = [self.conv], {"act": self.relu}, (1, self.end)
        self.deep = {"a": [(self.conv, deque([self.relu]))], "b": {self.end}}

    def forward(self, x: Tensor) -> Tensor:
        x = self.table["act"](self.stem[0](x))
        return self.pair[1](x.mean((2, 3)))


def test_layers_that_are_called_from_a_list_are_the_quantized_ones() -> None:
    model = Listed()
    student = hc.quantize(model, 2, 2)
    assert student.stem == [student.conv]
    assert student.table == {"act": student.relu}
    assert student.pair == (1, student.end)
    assert student.deep == {"a": [(student.conv, deque([student.relu]))], "b": {student.end}}
    assert model.deep["b"] == {model.end}
    assert isinstance(student.conv, hc.FakeQuantConv2d)
    assert type(model.stem[0]) is nn.Conv2d


def test_subclass_with_the_ordinary_forward_is_swapped() -> None:
    student = hc.quantize(nn.Sequential(Renamed(2, 2, 3), nn.ReLU()))
    assert isinstance(student[0], hc.FakeQuantConv2d)


class Functional(nn.Module):
    """A network whose activation no module swap can see."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


def test_functional_activation_warns() -> None:
    with pytest.warns(UserWarning, match='no activation is quantized.*placement="all"'):
        hc.quantize(Functional(), placement="relu")
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), Functional(), Functional())
    with pytest.warns(UserWarning, match=r"F.relu \(2 of them\) are not quantized.*placement"):
        hc.quantize(model, placement="relu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for network in (Functional(), model):
            hc.quantize(network, placement="all")
            hc.quantize(network, 4, None)
        hc.quantize(model[:2])


def test_shared_module_is_replaced_everywhere() -> None:
    conv, relu = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()
    inner = nn.Sequential(conv, relu)
    student = hc.quantize(nn.ModuleDict({"a": conv, "b": inner, "c": conv, "d": relu, "e": inner}))
    assert isinstance(student["a"], hc.FakeQuantConv2d)
    assert student["c"] is student["a"] is student["b"][0]
    assert student["d"] is student["b"][1]
    assert student["e"] is student["b"]
    table = hc.quantization_table(student)
    assert (table.quantized_weights, table.quantized_activations) == (1, 1)


def test_root_may_be_a_layer_itself(device: torch.device) -> None:
    conv = nn.Conv2d(2, 3, 3).to(device)
    student = hc.quantize(conv, 3, None)
    assert type(student) is hc.FakeQuantConv2d
    assert hc.quantization_table(student).rows[0].name == ""
    assert student.weight.data_ptr() != conv.weight.data_ptr()


@pytest.mark.parametrize("placement", ["relu", "all"])
def test_every_module_keeps_its_mode(placement: str) -> None:
    model = small().train()
    model[1].eval()  # a frozen block inside a network in training
    student = hc.quantize(model, placement=placement)
    modes = {name: module.training for name, module in student.named_modules()}
    assert all(mode is not name.startswith("1") for name, mode in modes.items()), modes


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_table_goes_with_copies(copied: Callable[[nn.Module], nn.Module]) -> None:
    student = hc.quantize(small(), 3)
    assert hc.quantization_table(copied(student)) == hc.quantization_table(student)


def test_table_of_a_foreign_network() -> None:
    with pytest.raises(ValueError, match=r"was not made by hast_cuda.quantize: it has no table"):
        hc.quantization_table(small())


def test_overrides_and_the_last_match_wins() -> None:
    overrides = {"*": Override(5, 6), "0.*": Override(8, 7), "0.2": Override(8, None), "4": Override()}
    student = hc.quantize(small(), 3, 3, overrides=overrides)
    bits = {r.name: (r.weight_bits, r.act_bits) for r in hc.quantization_table(student).rows}
    assert bits == {"0.0": (8, None), "0.2": (None, None), "1.0": (5, None), "1.2": (None, 6), "4": (None, None)}
    assert type(student[4]) is nn.Linear
    assert type(student[0][2]) is nn.ReLU
    notes = {r.name: r.note for r in hc.quantization_table(student).rows}
    assert notes["0.2"] == notes["4"] == "kept in full precision"


@pytest.mark.parametrize("pattern", ["features.*", "0", "1.1", "2"])
def test_pattern_that_matches_no_layer(pattern: str) -> None:
    # also a container, a BatchNorm or a pooling layer: an override of those would do nothing
    message = rf"overrides match no layer: \['{pattern}'\]; names look like '0.0'"
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        hc.quantize(small(), overrides={"4": Override(8), pattern: Override(8, 8)})


def test_override_of_an_activation_that_placement_all_leaves_alone() -> None:
    with pytest.raises(ValueError, match=r"overrides match no layer: \['0.2'\]"):
        hc.quantize(small(), placement="all", overrides={"0.2": Override(8, 8)})


test_refusals = refused(
    (lambda: hc.quantize(nn.Sequential(nn.ReLU())), ValueError, "no Conv2d or Linear layer to"),
    (
        lambda: hc.quantize(nn.BatchNorm2d(3), overrides={"x": Override()}),
        ValueError,
        "no Conv2d or Linear layer to quantize",
    ),
    (lambda: hc.quantize(small().forward), TypeError, "model must be an nn.Module, got method"),
    (lambda: hc.quantize(small(), 1), ValueError, "weight_bits is 1; allowed: 2 to 8"),
    (lambda: hc.quantize(small(), 4, 9), ValueError, "act_bits is 9; allowed: 2 to 8"),
    (lambda: hc.quantize(small(), 4.0), TypeError, "weight_bits must be an int"),
    (lambda: hc.quantize(small(), placement="some"), ValueError, "placement is 'some'; allowed: 'auto', 'relu', 'all'"),
    (lambda: hc.quantize(small(), ema="x"), ValueError, "ema is 'x'; allowed"),
    (lambda: hc.quantize(small(), zero_point="x"), ValueError, "zero_point is 'x'; allowed"),
    (lambda: Override(16), ValueError, "weight_bits is 16; allowed: 2 to 8"),
    (lambda: Override(None, 0), ValueError, "act_bits is 0; allowed: 2 to 8"),
)
