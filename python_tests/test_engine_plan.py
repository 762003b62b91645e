"""Networks as the engine's files: the same logits, the steps that were meant, refusals by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_networks import (
    CLASSES,
    SHAPE,
    Bottlenecks,
    Dense,
    Flattened,
    Gates,
    OptionA,
    Residual,
    Shuffled,
    conv,
    lively,
    pictures,
)
from torch import Tensor, nn
from torch.nn import functional as F

import hast_cuda as hc
from hast_cuda.deploy import EngineFile, read_file
from hast_cuda.deploy.reference import run, trace, weights_of
from hast_cuda.exports import Exported, save_engine

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


def student(build: Callable[[], nn.Module], placement: str = "relu", *bits: int) -> nn.Module:
    """Quantized and calibrated."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(1)
        warnings.simplefilter("ignore")  # functional activations are not quantized: it is meant so
        found = hc.quantize(lively(build()), *(bits or (4, 4)), placement=placement)
    return hc.calibrate(found, [pictures(16, 2)]).eval()


def small() -> nn.Module:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(conv(3, 6), nn.ReLU(), pooled, nn.Linear(6, CLASSES))


def written(network: nn.Module, folder: Path, **options: Any) -> tuple[Exported, EngineFile]:
    done = save_engine(network, folder / "student.hast", SHAPE, **options)
    return done, read_file(done.file)


@torch.no_grad()
def assert_same(file: EngineFile, network: nn.Module, count: int = 24) -> None:
    """Sums in float32 can put a number on the border of two codes on the other side: in few images."""
    images = pictures(count, 3)
    expected, found = network(images), torch.from_numpy(run(file, images.numpy()))
    assert float(expected.std(0).max()) > 0.05 * float(expected.abs().max())
    assert found.shape == (count, CLASSES)
    near = (found - expected).abs().amax(1) < 1e-5 * expected.abs().max()
    assert int(near.sum()) >= count - 2
    assert int((found.argmax(1) == expected.argmax(1)).sum()) >= count - 1


def steps(file: EngineFile, op: str) -> list[dict[str, Any]]:
    return [step for step in file.content["steps"] if step["op"] == op]


def value(file: EngineFile, index: int) -> dict[str, Any]:
    found: dict[str, Any] = file.content["values"][index]
    return found


def test_sums_activations_and_quantizers_go_into_convolutions(tmp_path: Path) -> None:
    network = student(Residual)
    done, file = written(network, tmp_path)
    assert done.nodes == {"convolution": 7, "max_pool": 1, "average_pool": 1}
    assert done.float_layers == dict.fromkeys(("stem.0.0", "output"), "its input is not quantized")
    assert done.integer_layers == 5
    assert [s["name"] for s in file.content["steps"] if s.get("residual")] == ["short.0", "d.0"]
    (pool,) = steps(file, "max_pool")
    grids = [{k: v for k, v in value(file, i).items() if k in ("bits", "step", "zero_point")} for i in (1, 2)]
    assert (pool["inputs"], pool["output"]) == ([1], 2)
    assert grids[0] == grids[1]
    assert grids[0]["bits"] == 4
    kinds = {s["name"]: s["activation"] for s in steps(file, "convolution")}
    assert kinds["stem.0.0"] == {"kind": "clip", "a": 0.0, "b": None}
    assert kinds["output"] is None
    assert all(bool((file.tensors[f"{name}.scale"] >= 0).all()) for name in kinds)
    assert_same(file, network)


@pytest.mark.parametrize(
    ("build", "placement", "nodes"),
    [
        (Bottlenecks, "relu", {"convolution": 6, "average_pool": 1}),
        (OptionA, "all", {"convert": 2, "convolution": 4, "gather": 1, "average_pool": 1}),
        (Gates, "all", {"convert": 1, "convolution": 8, "average_pool": 3, "multiply": 2}),
        (Dense, "relu", {"convolution": 7, "concatenate": 2, "average_pool": 2}),
        (Shuffled, "all", {"convert": 3, "convolution": 7, "gather": 3, "concatenate": 2, "average_pool": 1}),
        (Flattened, "all", {"convolution": 5, "max_pool": 1}),
    ],
)
def test_logits_are_those_of_the_student(
    build: Callable[[], nn.Module], placement: str, nodes: dict[str, int], tmp_path: Path
) -> None:
    network = student(build, placement)
    done, file = written(network, tmp_path)
    assert_same(file, network)
    assert done.nodes == nodes
    if placement == "all":
        constants = "a factor and a shift per channel, with no convolution before them"
        assert done.float_layers == ({"sub": constants} if build is Flattened else {})


def test_grids_without_zero_and_weights_far_from_it(tmp_path: Path) -> None:
    """Padding takes floats where no code is 0, and weights are floats where integers are too large."""
    plain = nn.Sequential(conv(3, 6), nn.Hardswish(), conv(6, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = student(lambda: nn.Sequential(plain, nn.Linear(6, CLASSES)), "all", 8, 4)
    inner = network.get_submodule("0.2.0")
    inner.input_quantizer.set_range(0.25, 2.0)
    with torch.no_grad():
        inner.weight[2] = torch.linspace(1.0, 1.1, 54).reshape(6, 3, 3)
    done, file = written(network, tmp_path)
    last = steps(file, "convolution")[1]
    assert value(file, last["inputs"][0])["name"] == "0.2.0.input_quantizer.float"
    assert "bits" not in value(file, last["inputs"][0])
    assert last["bits"] is None
    assert done.float_layers == {"0.2.0": "its weights are not integers of the engine"}
    assert_same(file, network)


def test_a_file_is_the_same_every_time_and_says_what_it_was_told(tmp_path: Path) -> None:
    network, names = student(small), ["a", "b", "c", "d", "e"]
    options: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 2.0), "classes": names}
    done, file = written(network, tmp_path, describe={"model": "small"}, **options)
    before = done.file.read_bytes()
    written(network, tmp_path, describe={"model": "small"}, **options)
    assert done.file.read_bytes() == before
    assert done.bytes == len(before)
    assert done.weight_bits == 4
    assert file.content["classes"] == names
    assert file.content["describe"]["model"] == "small"
    assert file.content["describe"]["versions"].keys() == {"hast_cuda", "torch"}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    mean, std = (torch.tensor(options[key]).view(3, 1, 1) for key in ("mean", "std"))
    normal = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    assert np.array_equal(trace(file, pixels)["images"], normal.numpy())
    weights = network.get_submodule("0.0").quantized_weight().detach()  # type: ignore[operator]
    norm = network.get_submodule("0.1")
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()  # type: ignore[union-attr, operator]
    (step,) = (s for s in steps(file, "convolution") if s["name"] == "0.0")
    found = weights_of(file, step, 3) * file.tensors["0.0.scale"].reshape(-1, 1, 1, 1)
    assert bool((factor < 0).any())
    assert np.allclose(found, weights * factor.reshape(-1, 1, 1, 1), rtol=1e-5, atol=1e-8)


class Then(nn.Module):
    """A convolution and what ``function`` makes of its output and logits."""

    def __init__(self, function: Callable[[Then, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.output, self.function = nn.Conv2d(3, 8, 3), nn.Linear(8, CLASSES), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, self.conv(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: F.softmax(m.output(x.mean((2, 3))), 1), r"cannot run node '\w+' \(Softmax\): it has no such"),
        (lambda m, x: m.output((x * x.mean(1, keepdim=True)).mean((2, 3))), r"\(ReduceMean\): it reduces other axes"),
        (lambda m, x: m.output(x.flatten(2).mT), r"layer 'output' \(MatMul\): it reads \[196, 8\] of an image"),
        (lambda m, x: m.output(x[:, :, 1::2].mean((2, 3))), "an order of elements that no gather of channels gives"),
        (lambda m, x: x, r"gives \['images', 8, 14, 14\]; the engine gives \[images, classes\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:no image reached")  # a layer that one of them leaves out
def test_what_cannot_run_is_refused_by_name(
    function: Callable[[Then, Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    network = student(lambda: Then(function), "all")
    with pytest.raises(ValueError, match=message):
        save_engine(network, tmp_path / "student.hast", SHAPE)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, r"mean is \[0.5, 0.5\]; expected a finite number for each of 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, r"std is \[1.0, 0.0, 1.0\]; each must be greater than 0"),
        ({"classes": ("a", "b")}, "classes has 2 names, the network has 5 classes"),
        ({"describe": {"loss": float("nan")}}, "describe cannot be written as JSON"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_engine(student(small), tmp_path / "student.hast", SHAPE, **options)
    assert not list(tmp_path.iterdir())


def test_ranges_must_be_frozen(tmp_path: Path) -> None:
    network = hc.quantize(lively(Residual()), 4, 4)
    with pytest.raises(ValueError, match=r"range of 'stem.1' is not frozen"):
        save_engine(network, tmp_path / "student.hast", SHAPE)
