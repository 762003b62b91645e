"""Whole runs on real images: the demo always, CIFAR-10 where $HAST_CUDA_DATA has it. Minutes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hast_cuda.cli import main

DATA = Path(os.environ.get("HAST_CUDA_DATA", ""))
WEIGHTS = "weights/resnet20_cifar10.safetensors"
NETWORK = f"--model resnet20_cifar10 --weights {WEIGHTS} --normalization cifar10"
QUANTIZE = f"quantize {NETWORK} --data cifar10_test.npz --device cpu".split()

pytestmark = pytest.mark.slow
with_data = pytest.mark.skipif(
    not os.environ.get("HAST_CUDA_DATA") or not (DATA / WEIGHTS).exists(),
    reason="HAST_CUDA_DATA does not name a folder with CIFAR-10 images and weights",
)


def test_demo_wins_back_most_of_what_rounding_loses(tmp_path: Path) -> None:
    assert main(["demo", "--out", str(tmp_path / "demo"), "--device", "cpu"]) == 0
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    lost = result["full_precision"] - result["rounded"]
    assert lost >= 10
    assert result["quantized"] - result["rounded"] > lost / 2
    for picture in ("images.png", "curves.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")


@with_data
def test_resnet20_gains_from_a_short_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    budget = "--num-images 128 --batch-size 64 --synthesis-iterations 100 --finetune-iterations 40"
    bits = "--reconstruction-iterations 100 --test-limit 1000 --weight-bits 3 --act-bits 3"
    assert main([*QUANTIZE, *budget.split(), *bits.split(), "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["full_precision"] > 90
    assert result["rounded"] < result["start_of_finetuning"] < result["quantized"]


@with_data
@pytest.mark.parametrize("bits", ["3", "4"])
def test_resnet20_is_exported_with_the_same_classes(tmp_path: Path, bits: str) -> None:
    chosen = f"--method squant --weight-bits {bits} --act-bits {bits}"
    assert main([*QUANTIZE, *chosen.split(), "--out", str(tmp_path)]) == 0
    kinds = ["onnx-ort", "onnx-portable", "onnx-uint4", "packed", "pt2"]
    assert main(["export", str(tmp_path), "--to", *kinds, "--no-latency"]) == 0
    for kind in kinds:
        checks = json.loads((tmp_path / "exports" / f"{kind}.json").read_text())["checks"]
        assert checks["images"] == 4000
        assert checks["top1_agreement"] >= 99.9
        assert checks["cosine"] >= 0.9995
