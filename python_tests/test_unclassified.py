"""Networks that classify nothing: what they give, and all that is done with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.cli import main
from hast_cuda.data import Images
from hast_cuda.exports.verify import check
from hast_cuda.networks.compare import apart
from hast_cuda.networks.outputs import noise_shares, output_tensors
from hast_cuda.networks.shape import infer_shape
from hast_cuda.reconstruction.rounding import search_weight_range

SIZE = (3, 16, 16)
SPEC = hc.InputSpec(*SIZE, 0, mean=(0.5,) * 3, std=(0.25,) * 3)


def block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Segmenter(nn.Module):
    """Gives a map per class."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.head = block(3, 8, 2), block(8, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.middle(self.down(x)))


class Detector(Segmenter):
    """Gives boxes and scores of two maps in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        first = self.down(x)
        second = self.middle(first)
        return {"boxes": [self.boxes(first), self.boxes(second)], "scores": self.head(second), "strides": (2, 2)[:0]}


class Pair(Segmenter):
    def forward(self, x: Tensor) -> Any:
        x = self.down(x)
        return self.head(x), self.head(self.middle(x))


def made(kind: type[nn.Module]) -> nn.Module:
    """With random weights whose statistics are those of noise."""
    torch.manual_seed(0)
    network = kind().train()
    for _ in range(20):
        network(torch.randn(8, *SIZE))
    return network.eval()


def build() -> nn.Module:
    """For ``file.py:callable``."""
    return made(Detector)


KINDS = (Segmenter, Pair, Detector)


def test_tensors_of_an_output_by_place() -> None:
    found = output_tensors({"a": [torch.zeros(1), None], "b": {"c": torch.zeros(2)}, "n": torch.tensor([1])})
    assert {place: len(x) for place, x in found.items()} == {"a.0": 1, "b.c": 2}
    for wrong, message in (("text", "gives a str"), ([1.0], "a float at '0'"), ((None,), "without a tensor")):
        with pytest.raises(ValueError, match=message):
            output_tensors(wrong)


def test_outputs_are_apart_by_their_farthest_tensor() -> None:
    exact = {"a": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([[4.0]])}
    assert apart(exact, exact) == 0
    assert apart(exact, {"a": exact["a"] + 0.5, "b": exact["b"]}) == 0.25
    assert apart(exact, {"a": exact["a"]}) == float("inf")
    assert noise_shares(exact, {"a": exact["a"] * 1.1, "b": exact["b"] * 2}) == pytest.approx({"a": 0.01, "b": 1.0})
    with pytest.raises(ValueError, match="same shapes"):
        noise_shares(exact, {"a": exact["a"]})


@pytest.mark.parametrize("kind", KINDS)
def test_they_have_no_classes(kind: type[nn.Module]) -> None:
    assert infer_shape(made(kind), SIZE).num_classes == 0


@pytest.mark.parametrize(
    ("kind", "method"),
    [*((kind, "zeroq") for kind in KINDS[1:]), *((Detector, name) for name in ("dsg", "rtn", "squant", "dfq"))],
)
def test_quantized_by_statistics_alone(kind: type[nn.Module], method: str, tmp_path: Path) -> None:
    teacher, changes = made(kind), {"synthesis.num_images": 16, "synthesis.batch_size": 16, "synthesis.iterations": 3}
    noise = {}
    for bits in (8, 3):
        given = {"method": method, "changes": changes, "budget": "full", "out": tmp_path / str(bits)}
        done = hc.zero_shot_quantize(teacher, SIZE, hc.Bits(bits, 8), **given)
        x = torch.randn(4, *SIZE)
        noise[bits] = max(hc.finetune.output_noise(teacher, done.student, x).values())
        if method == "zeroq":
            assert done.images is not None
            assert not done.images.labels.any()
            assert done.result["agreement"] is None
            assert done.result["output_noise"].keys() == output_tensors(teacher(x)).keys()
            assert hc.load(tmp_path / str(bits), teacher)(x) is not None
    assert noise[8] < 0.02 < noise[3]


@pytest.mark.slow
def test_blocks_are_reconstructed() -> None:
    teacher = made(Segmenter)
    changes = {"synthesis.num_images": 16, "synthesis.batch_size": 16, "synthesis.iterations": 10}
    changes |= {"reconstruction.iterations": 30}
    given = {"method": "genie", "recipe": "paper", "changes": changes, "budget": "full"}
    done = hc.zero_shot_quantize(teacher, SIZE, hc.Bits(3, 8), **given)
    plain = hc.zero_shot_quantize(
        teacher, SIZE, hc.Bits(3, 8), **{**given, "changes": {**changes, "reconstruction.iterations": 0}}
    )
    noise = [hc.finetune.output_noise(teacher, x.student, torch.randn(32, *SIZE))[""] for x in (done, plain)]
    assert noise[0] < noise[1]


@pytest.mark.parametrize("method", ["hast", "intraq", "synq", "gdfq", "qimera", "zeroq_il", "dsg_il"])
def test_methods_of_classes_refuse(method: str) -> None:
    with pytest.raises(ValueError, match=r"classifies nothing .* needs classes: .*zeroq, dsg, genie"):
        hc.zero_shot_quantize(made(Pair), SIZE, method=method, budget="full")


def test_labels_and_top1_refuse(tmp_path: Path) -> None:
    teacher = made(Segmenter)
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 16, 16, 3), np.uint8), labels=np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="classifies nothing, so labels"):
        hc.load_images(tmp_path / "x.npz", spec=SPEC)
    test = hc.load_images(tmp_path / "x.npz", spec=replace(SPEC, num_classes=5))
    with pytest.raises(ValueError, match="test has labels, and the network classifies nothing"):
        hc.zero_shot_quantize(teacher, SIZE, method="rtn", test=test)
    with pytest.raises(ValueError, match=r"logits"):
        hc.evaluate(teacher, test)
    found = {"down.0": hc.analysis.LayerSensitivity({8: 0.0}, parameters=1)}
    with pytest.raises(ValueError, match="it classifies nothing"):
        hc.analysis.allocate_within_drop(found, teacher, torch.randn(2, *SIZE), 1.0)
    with pytest.raises(ValueError, match="label_weight is 10"):
        hc.synthesis.synthesize(teacher, SPEC, hc.synthesis.SynthesisConfig(num_images=2, batch_size=2))
    for judged in (made(Detector), teacher):
        with pytest.raises((ValueError, TypeError), match="logits"):
            hc.analysis.judge(judged, Images(torch.randn(2, *SIZE), torch.zeros(2, dtype=torch.int64)).batches(2))


def test_another_function_is_found() -> None:
    class Looks(Pair):
        def forward(self, x: Tensor) -> Any:
            first, second = super().forward(x)
            return first, second if type(self.head) is nn.Conv2d else 2 * second

    with pytest.raises(ValueError, match=r"another function than the network that was given: outputs differ by 1 of"):
        hc.zero_shot_quantize(made(Looks), SIZE, method="rtn")


def test_what_is_chosen_among_boxes_has_no_shape() -> None:
    class Chosen(Detector):
        def forward(self, x: Tensor) -> Any:
            return [{"boxes": maps[0].flatten(1).T} for maps in super().forward(x)["boxes"]]

    with pytest.raises(ValueError, match=r"before boxes are chosen"):
        infer_shape(made(Chosen), SIZE)


@pytest.mark.parametrize("kind", KINDS)
def test_sensitivity_is_the_noise_of_the_outputs(kind: type[nn.Module]) -> None:
    teacher, x = made(kind), torch.randn(32, *SIZE)
    found = hc.sensitivity(teacher, x, bits=(2, 4, 8))
    assert all(layer.weights[2] > layer.weights[4] > layer.weights[8] for layer in found.values() if layer.weights)
    student = hc.quantize(teacher, 4, None, overrides={name: hc.Override() for name in found if name != "down.0"})
    layer = student.get_submodule("down.0")
    layer.fix_weight_range(search_weight_range(layer.weight, 4))
    shares = hc.finetune.output_noise(teacher, student, x)
    assert found["down.0"].weights[4] == pytest.approx(sum(shares.values()) / len(shares), rel=1e-3)
    assert set(hc.allocate_bits(found, average_bits=4.0)) == {name for name, layer in found.items() if layer.weights}


def test_calibration_sets_have_no_labels(tmp_path: Path) -> None:
    teacher = made(Detector)
    for to, files in (("png", "images/000003.png"), ("npz", "images.npz"), ("npy", "images.npy")):
        found = hc.calibration_set(teacher, SPEC, tmp_path / to, to=to, num_images=4, iterations=3)
        assert (tmp_path / to / files).is_file()
        assert not (tmp_path / to / "labels.npy").exists()
        assert found.manifest["images_per_class"] == []
        assert found.manifest["synthesis"]["label_weight"] == 0
    with np.load(tmp_path / "npz/images.npz") as arrays:
        assert list(arrays) == ["images"]


def _program(student: nn.Module, folder: Path) -> Callable[[Tensor], Any]:
    hc.export(student, folder, "pt2", SIZE)
    return torch.export.load(folder / "student.pt2").module()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_exported(kind: type[nn.Module], tmp_path: Path) -> None:
    teacher, x = made(kind), torch.randn(6, *SIZE)
    student = hc.calibrate(hc.quantize(teacher, 4, 8), [x])
    for form in ("packed", "float", "pt2"):
        assert hc.export(student, tmp_path, form, SIZE, network=teacher, images=x).checks.passed()
    assert check(teacher, student, x).cosine < check(_program(student, tmp_path), student, x).cosine


@pytest.mark.parametrize("kind", [Detector, *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[:2])])
def test_exported_as_onnx(kind: type[nn.Module], tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    teacher, x = made(kind), torch.randn(6, *SIZE)
    student = hc.calibrate(hc.quantize(teacher, 4, 8), [x])
    for form in ("onnx-ort", "onnx-portable"):
        found = hc.export(student, tmp_path, form, SIZE, images=x).checks
        assert found.passed()
        assert found.largest_difference < 1e-4
    with pytest.raises(ValueError, match="the engine gives"):
        hc.export(student, tmp_path, "engine", SIZE)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    named = ["--model", f"{__file__}:build", "--image-size", "16", "--normalization", "half"]
    main(["calibration-set", *named, "--num-images", "4", "--iterations", "2", "--out", "set"])
    assert len(list(Path("set/images").iterdir())) == 4
    small = ["--method", "zeroq", "--num-images", "16", "--synthesis-iterations", "2", "--batch-size", "16"]
    main(["quantize", *named, *small, "--weight-bits", "4", "--act-bits", "8", "--out", "run"])
    assert "of its squares in output boxes." in capsys.readouterr().out
    assert json.loads(Path("run/config.json").read_text())["network"]["num_classes"] == 0
    main(["analyze", "sensitivity", *named[:2], "--run", "run", "--limit", "8"])
    main(["report", "run", *named[:2]])
    page = Path("run/report.html").read_text()
    assert "noise in the outputs" in page
    assert "made without labels" in page
    assert "keep weights of" in page
    assert main(["quantize", *named, "--out", "other"]) == 1
    assert "needs classes" in capsys.readouterr().err
