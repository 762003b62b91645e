"""``hast-cuda compare``: one network, several methods, one table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from networks import CLASSES

from hast_cuda.cli import compare as module
from hast_cuda.cli.compare import Row

SMALL = (
    *("synthesis.num_images=20", "synthesis.iterations=2", "synthesis.batch_size=20", "finetune.iterations=2"),
    *("reconstruction.iterations=2", "finetune.calibration_updates=1", "finetune.evaluations=1"),
)
TINY = ("--model", "networks:tiny", "--normalization", "cifar10", "--image-size", "8", "--device", "cpu")


def test_methods_are_compared_on_the_same_images(hast: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: list[list[Path]] = []
    monkeypatch.setattr(module, "write_comparison", lambda runs, page: pages.append(runs) or page)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "test.npz", images=pixels, labels=np.arange(30) % CLASSES)
    out = tmp_path / "out"
    command = ("compare", *TINY, "--weight-bits", "3", "--methods", "rtn", "hast", "--out", out)
    command = (*command, "--set", *SMALL, "--data", tmp_path / "test.npz")
    head, *rows = (line.split("  ") for line in hast(*command).splitlines() if not line.startswith("page: "))
    assert head[0] == "method"
    assert [row[0].strip() for row in rows] == ["rtn", "hast"]
    found = json.loads((out / "compare.json").read_text())
    assert [row["method"] for row in found] == ["rtn", "hast"]
    for row in found:
        result = json.loads((out / row["method"] / "result.json").read_text())
        assert row["top1"] == result["quantized"]
        assert 0 <= row["same_class"] <= 100
        assert row["divergence"] >= 0
    assert found[1]["same_class"] == result["agreement"]["same_class"]  # the images held out are hast's
    assert json.loads(hast(*command, "--json")) == found  # nothing is left to do
    assert set(map(tuple, pages)) <= {(out / "rtn", out / "hast")}


def test_without_images_and_data_there_are_only_seconds(hast: Cli, tmp_path: Path) -> None:
    printed = hast("compare", *TINY, "--methods", "rtn", "--out", tmp_path)
    assert printed.splitlines()[1].split()[:4] == ["rtn", "-", "-", "-"]


def test_refusals(refused: Cli, tmp_path: Path) -> None:
    message = refused("compare", "--model", "digits", "--methods", "real_data", "--out", tmp_path / "x")
    assert "hast-cuda quantize --method real_data --train-data" in message
    assert not (tmp_path / "x").exists()


def test_a_method_whose_loss_is_not_finite_has_a_row_without_figures() -> None:
    assert Row("zeroq", None).cells() == ["zeroq", "diverged", "-", "-", "-"]
    assert Row("hast", 3.0, 90.0, 1.5, 98.4, 0.0213).cells() == ["hast", "90.00 +- 1.50", "98.4", "0.021", "3.0 s"]
