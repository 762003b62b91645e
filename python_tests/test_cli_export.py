"""``hast-cuda export``: from a run directory to files that were compared with the network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hast_cuda.cli import main
from hast_cuda.cli.options import Network
from hast_cuda.exports import KINDS, Check

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with test images, rounded to 4 bits without images."""
    folder = tmp_path_factory.mktemp("cli")
    images = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "test.npz", images=images, labels=np.arange(600) % 5)
    network = "--model networks:tiny --normalization cifar10 --image-size 8 --num-classes 5"
    arguments = ["--data", str(folder / "test.npz"), "--device", "cpu", "--out", str(folder / "run")]
    bits = ["--weight-bits", "4", "--act-bits", "4"]
    assert main(["quantize", "--method", "rtn", *network.split(), *bits, *arguments]) == 0
    return folder / "run"


def export(run: Path, *arguments: str) -> int:
    """What ``hast-cuda export RUN --to ARGUMENTS`` ends with."""
    return main(["export", str(run), "--model", "networks:tiny", "--to", *arguments])


def test_a_run_becomes_files_with_proof(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads, load = [], Network.load
    monkeypatch.setattr(Network, "load", lambda network: loads.append(network) or load(network))
    assert export(run, "onnx-ort", "packed") == 0
    assert len(loads) == 1  # the page takes the one of the files
    record = json.loads((run / "exports" / "onnx-ort.json").read_text())
    top1 = json.loads((run / "result.json").read_text())["quantized"]
    assert record["file"] == "student.ort.onnx"
    assert record["checks"]["images"] == 600
    assert record["checks"]["source"] == "given"
    assert record["checks"]["top1"] == pytest.approx(top1)
    assert record["checks"]["top1_agreement"] == 100
    assert record["integer_layers"] == 1
    assert record["latency"]["milliseconds"] > 0
    assert record["environment"]["device"] == "cpu"
    packed = json.loads((run / "exports" / "packed.json").read_text())
    assert packed["checks"]["largest_difference"] == 0
    assert packed["weight_bits"] < record["weight_bits"]
    assert packed["latency"] is None
    text = capsys.readouterr().out
    assert "600 given images: same class as the quantized network on 100.00 %" in text
    assert f"top-1 {top1:.2f} %" in text
    assert "2 in float, its input is not quantized: features.0, output" in text
    assert "student.ort.onnx" in (run / "report.html").read_text(encoding="utf-8")
    assert sorted(p.name for p in (run / "exports").iterdir()) == [
        "onnx-ort.json",
        "packed.json",
        "student.ort.onnx",
        "student.packed.safetensors",
    ]


def test_without_verification_nothing_is_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", _without_onnxruntime)
    assert export(run, "onnx-portable") == 1
    assert "pip install 'hast_cuda[export]'" in capsys.readouterr().err
    assert export(run, "onnx-portable", "--no-verify", "--no-latency", "--no-report") == 0
    record = json.loads((run / "exports" / "onnx-portable.json").read_text())
    assert record["checks"] is None
    assert record["latency"] is None


def _without_onnxruntime(name: str) -> object:
    return None if name == "onnxruntime" else object()


def test_what_differs_is_an_error(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*arguments: object, **options: object) -> Check:
        return Check(600, "given", 98.0, 90.0, 92.0, 0.97, 3.0)

    monkeypatch.setattr("hast_cuda.exports.formats.check", wrong)
    assert export(run, "float") == 1
    error = capsys.readouterr().err
    assert "another class than the quantized network on 2.00 % of 600 images" in error
    assert "do not use it" in error
    assert not (run / "exports" / "float.json").exists()


def test_one_image_in_a_thousand_may_differ() -> None:
    def passed(images: int, differing: int) -> bool:
        agreement = 100 * (images - differing) / images
        return Check(images, "given", agreement, None, None, 1.0, 0.0).passed()

    assert [passed(600, n) for n in (0, 1, 2)] == [True, True, False]
    assert [passed(4000, n) for n in (4, 5)] == [True, False]


def test_every_kind_has_a_name_on_the_command_line() -> None:
    from typing import get_args

    from hast_cuda.cli.export import Kind

    assert get_args(Kind) == KINDS
