"""placement="integer": where quantizers stand, that everything behind quantize() takes them, and the engine."""

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
from engine_networks import CLASSES, SHAPE, Dense, Flattened, OptionA, Shuffled, conv, lively, pictures
from torch import Tensor, nn
from torch.nn import functional as F

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
from hast_cuda.nn import activation_quantizers, quantization_table
from hast_cuda.nn.around import around
from hast_cuda.reconstruction import ReconstructionConfig, reconstruct
from hast_cuda.report import write_report
from hast_cuda.report.layers import layer_rows
from hast_cuda.run import Bits, load_student, zero_shot_quantize
from hast_cuda.run.results import hold_biases

pytestmark = pytest.mark.filterwarnings("ignore:no image reached")  # of units that leave their modules unused


class Unit(nn.Module):
    """A residual unit; without ReLU behind the sum if ``linear``, functional if ``functional``."""

    def __init__(self, inp: int, out: int, stride: int = 1, *, linear: bool = False, functional: bool = False) -> None:
        super().__init__()
        self.first, self.second = conv(inp, out, 3, stride), conv(out, out)
        self.short = conv(inp, out, 1, stride) if stride > 1 else None
        self.inner, self.outer = nn.ReLU6() if linear else nn.ReLU(inplace=True), nn.ReLU()
        self.linear, self.functional = linear, functional

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = self.second(F.relu(y) if self.functional else self.inner(y))
        y += x if self.short is None else self.short(x)
        if self.linear:
            return y
        return F.relu(y) if self.functional else self.outer(y)


class Net(nn.Module):
    """A stem, units and a classifier."""

    def __init__(self, **kind: bool) -> None:
        super().__init__()
        stem: list[nn.Module] = [conv(3, 8), *([] if kind else [nn.ReLU()])]
        self.stem, self.kind = nn.Sequential(*stem), kind
        self.units = nn.Sequential(Unit(8, 8, **kind), Unit(8, 12, 2, **kind), Unit(12, 12, **kind))
        self.pool, self.output = nn.AdaptiveAvgPool2d(1), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x) if self.kind.get("functional") else x
        result: Tensor = self.output(self.pool(self.units(x)).flatten(1))
        return result


class Joined(nn.Module):
    """Two branches of modules joined, one of them pooled on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Sequential(conv(3, 6), nn.ReLU()), conv(6, 6), conv(6, 6, 1)
        self.acts, self.pool = nn.ModuleList([nn.ReLU(), nn.ReLU()]), nn.MaxPool2d(3, 1, 1)
        self.last, self.output = conv(12, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.acts[0](self.a(x)), self.pool(self.acts[1](self.b(x)))], 1)
        return self.output(self.last(x).mean((2, 3)))


class Mixed(Joined):
    """The same with a branch that ends in BatchNorm."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.acts[0](self.a(x)), self.b(x)], 1)
        return self.output(self.last(x).mean((2, 3)))


class Late(Joined):
    """The same with functional ReLU, so that the quantizer stands behind the concatenation."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([F.relu(self.a(x)), F.relu(self.b(x))], 1)
        return self.output(self.last(x).mean((2, 3)))


class Growing(nn.ModuleDict):
    """A block that calls what is registered in it, whatever that is."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x * 0.5


class Listed(nn.Sequential):
    """Containers with a forward of their own."""

    def __init__(self) -> None:
        blocks = Growing({"a": conv(6, 4), "b": conv(10, 4)})
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
        super().__init__(conv(3, 6), nn.ReLU(), blocks, conv(14, 8), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def residual() -> Net:
    return Net()


def linear() -> Net:
    return Net(linear=True)


def functional() -> Net:
    return Net(functional=True)


BUILDS = [residual, linear, functional, Dense, Joined, Mixed, Late, Flattened, Listed]


def made(build: Callable[[], nn.Module], **options: Any) -> tuple[nn.Module, Any]:
    """A network, and its calibrated student."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        teacher = lively(build())
    student = hc.quantize(teacher, **{"placement": "integer", **options})
    return teacher, hc.calibrate(student, [pictures(16, 2), pictures(16, 5)]).eval()


def places(student: nn.Module) -> dict[str, int]:
    """Rows of the table that have a quantizer: "module: what", and bits."""
    return {f"{row.name}: {row.note}": row.act_bits for row in quantization_table(student).rows if row.act_bits}


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
