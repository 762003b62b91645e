"""placement="integer": where quantizers stand, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_networks import CLASSES, SHAPE, Dense, OptionA, Shuffled, conv, lively, pictures
from integer_networks import Joined, Late, Mixed, Net, Unit, functional, linear, made, places, residual
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.nn import activation_quantizers, quantization_table
from hast_cuda.nn.around import around

pytestmark = pytest.mark.filterwarnings("ignore:no image reached")  # of units that leave their modules unused


def test_residual_units() -> None:
    _, student = made(residual)
    assert places(student) == {
        "stem.0.0: quantized weight and input": 8,
        "stem.1: quantized output": 4,
        "units.0.second.1: quantized output": 8,
        "units.1.short.1: quantized output": 8,
        "units.0.inner: quantized output": 4,
        "units.0.outer: quantized output": 4,
        **{f"units.{i}.second.1: quantized output": 8 for i in (1, 2)},
        **{f"units.{i}.inner: quantized output": 4 for i in (1, 2)},
        **{f"units.{i}.outer: quantized output": 4 for i in (1, 2)},
        "output: quantized weight and input": 8,
    }
    assert len(activation_quantizers(student)) == quantization_table(student).quantized_activations


def test_hooks_of_a_module_with_a_quantizer_behind_it_run_once() -> None:
    network, calls = lively(Net(linear=True)), list[str]()

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        calls.append("hook")
        return 1.5 * output

    network.units[0].second[1].register_forward_hook(hook)
    student = hc.calibrate(hc.quantize(network, 8, 8, placement="integer"), [pictures(16, 1)])
    assert "output_quantizer" in around(student.units[0].second[1])
    calls.clear()
    found = student(pictures(4, 2)).detach()
    assert calls == ["hook"]
    torch.testing.assert_close(found, network(pictures(4, 2)), rtol=0.1, atol=0.1 * float(found.abs().max()))


def test_linear_bottlenecks_and_sums() -> None:
    _, student = made(linear, sum_bits=6, act_bits=3)
    found = places(student)
    assert found["stem.0.1: quantized output"] == 6
    assert found["units.0.inner: quantized output"] == 3
    for i in range(3):
        assert found[f"units.{i}: quantized output"] == 6
        assert found[f"units.{i}.second.1: quantized output"] == 6
    assert found["output: quantized weight and input"] == 6


def test_functional_activations() -> None:
    _, student = made(functional)
    found = places(student)
    assert found["units.0: quantized input"] == 4  # the stem's, which a layer and the shortcut read
    for i in range(3):
        assert found[f"units.{i}: quantized output"] == 4
        assert found[f"units.{i}.second.0: quantized weight and input"] == 4
        assert found[f"units.{i}.second.1: quantized output"] == 8
    assert type(student.units[0]).__name__ == "Unit"
    assert isinstance(student.units[0], Unit)


def test_concatenations_share_one_grid() -> None:
    for build, bits, activation, names in (
        (Dense, 8, None, ("stem", "units.0.2", "units.1.2")),
        (Joined, 4, "relu", ("acts.0", "acts.1")),
        (Mixed, 8, None, ("acts.0", "b.1")),
    ):
        _, student = made(build)
        modules = [student.get_submodule(name) for name in names]
        found = {around(module).get("output_quantizer", module) for module in modules}
        (shared,) = found
        assert (shared.bits, shared.activation, shared.calls) == (bits, activation, len(names))
        rows = [row.note for row in quantization_table(student).rows if "one grid" in row.note]
        assert len(rows) == len(names)
        assert set().union(*(row.partition("with ")[2].split(", ") for row in rows)) == set(names)
    found = places(made(Late)[1])
    assert found["last.0: quantized weight and input"] == 4
    assert not any("one grid" in place for place in found)


def test_a_shared_range_is_that_of_all_its_calls() -> None:
    """One update of the average for each batch, by the smallest and largest number of all inputs."""
    quantizer, single = hc.FakeQuantActivation(8, calls=3), hc.FakeQuantActivation(8)
    random = torch.Generator().manual_seed(0)
    for _ in range(4):
        parts = [torch.randn(40, generator=random) * scale for scale in (1, 5, 0.1)]
        found = [quantizer(part) for part in parts]
        whole = single(torch.cat(parts))
        assert torch.equal(quantizer.range_state, single.range_state)
        assert torch.equal(found[2], whole[80:])
    quantizer(parts[0])
    quantizer.freeze()  # in the middle of a forward pass: the next one begins anew
    quantizer.unfreeze()
    assert quantizer._seen is None
    with pytest.raises(ValueError, match="calls is 0; allowed: at least 1"):
        hc.FakeQuantActivation(8, calls=0)


def test_overrides() -> None:
    overrides = {
        "units.1.second.1": hc.Override(act_bits=5),
        "units.2.second.1": hc.Override(),
        "output": hc.Override(),
    }
    _, student = made(residual, overrides=overrides)
    found = places(student)
    assert found["units.1.second.1: quantized output"] == 5
    assert "units.2.second.1: quantized output" not in found
    assert isinstance(student.output, nn.Linear)
    assert "output: quantized weight and input" not in found


@pytest.mark.parametrize("placement", ["relu", "all", "integer"])
def test_first_and_last(placement: str) -> None:
    _, student = made(residual, placement=placement, first_last_bits=7)
    ends = [student.stem[0][0], student.output]
    assert [layer.weight_bits for layer in ends] == [7, 7]
    assert [layer.input_quantizer.bits for layer in ends] == [7, 7]
    assert student.units[0].first[0].weight_bits == 4
    inner = student.units[0].first[0].input_quantizer
    assert (inner is not None and inner.bits == 4) == (placement == "all")


def test_the_last_layers_input_is_the_output_of_relu() -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    for placement in ("relu", "integer"):
        student: Any = hc.quantize(teacher, 3, 3, placement=placement, first_last_bits=8)
        assert [student[1].input_quantizer.bits, student[2].bits, student[3].input_quantizer] == [8, 8, None]
        assert student[3].weight_bits == 8


class Flat(nn.Module):
    """A module that the forward pass calls twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = conv(3, 3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.output = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x))
        return self.output((y + self.norm(self.b(y))).mean((2, 3)))


class Driven(Flat):
    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.a(x if float(x.sum()) > 0 else -x).mean((2, 3)))


class ImageJoined(Flat):
    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.cat([x, self.a(x)], 1)[:, 3:].mean((2, 3)))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (OptionA, {}, r"value 'relu' \(activation\) in the forward has no place.*'a_0', 'add' read it"),
        (Shuffled, {}, r"value 'relu_2' \(activation\).*'mean' read it"),
        (Flat, {}, "module 'norm' is called 2 times"),
        (Driven, {}, 'placement="integer" has to follow the network: torch.fx cannot follow.*placement="all"'),
        (ImageJoined, {}, r"value 'x' \(image\)"),
        (residual, {"act_bits": None}, 'act_bits is None; placement="integer"'),
        (residual, {"sum_bits": 9}, "sum_bits"),
        (residual, {"first_last_bits": 1}, "first_last_bits"),
        (Driven, {"placement": "all", "first_last_bits": 8}, "the first and the last layer cannot be found"),
    ],
)
def test_refusals(build: Callable[[], nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hc.quantize(build().eval(), **{"placement": "integer", **options})


class Normalising(Net):
    """Normalises its images channel by channel, as networks with ported weights do."""

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i].unsqueeze(1) * (0.5 + i) - 0.1 for i in range(3)]
        return super().forward(torch.cat(parts, 1))


def test_images_that_are_normalised_in_parts_are_quantized_behind_that() -> None:
    network, images = lively(Normalising()), pictures(8, 1)
    student = hc.calibrate(hc.quantize(network, 8, 8, placement="integer"), [images])
    first = student.stem[0][0]
    assert first.input_quantizer is not None
    scaled = images * torch.tensor([0.5, 1.5, 2.5]).view(1, 3, 1, 1) - 0.1
    assert float(first.input_quantizer.upper) == pytest.approx(float(scaled.max()))
    assert not any(name.startswith("input") for name in activation_quantizers(student))


def test_every_range_holds_zero(tmp_path: Path) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 4, 1),
        nn.Sigmoid(),
        nn.Conv2d(4, CLASSES, 1),
    ).append(nn.Flatten())
    with torch.no_grad():
        network[0].bias.fill_(2.0)
    student = hc.calibrate(hc.quantize(network, 8, 8, placement="integer"), [pictures(8, 1)])
    quantizers = activation_quantizers(student).values()
    assert all(float(q.lower) <= 0 <= float(q.upper) for q in quantizers)
    assert all(q.holds_zero for q in quantizers)
    assert float(student[4].output_quantizer.lower) == 0  # what the sigmoid gives is greater
    pytest.importorskip("onnxruntime")
    assert hc.export(student, tmp_path, "onnx-qdq", SHAPE, images=pictures(8, 1)).checks.passed()
