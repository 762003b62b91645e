"""The tables of calibration sets, on the embedded network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


def printed(script: str, *flags: object) -> list[list[str]]:
    """Cells of the table that a script prints, without its head."""
    command = [sys.executable, str(BENCH / script), *map(str, flags)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_projected_pixels_lose_nothing_as_bytes() -> None:
    free, projected = printed("bench_displayable.py", "--model", "digits", "--num-images", 20, "--iterations", 20)
    assert (free[0], projected[0], projected[1]) == ("free", "projected", "0.0 %")
    assert float(free[1].removesuffix(" %")) > 1
    changes = [
        [float(row[i + 2].removesuffix(" %")) - float(row[i].removesuffix(" %")) for i in (2, 3)]
        for row in (free, projected)
    ]
    assert all(abs(after) < abs(before) / 2 for before, after in zip(*changes, strict=True))


@pytest.mark.slow
def test_a_line_per_network_and_tool(tmp_path: Path) -> None:
    for package in ("onnxruntime", "onnxscript", "openvino", "nncf", "sklearn"):
        pytest.importorskip(package)
    demo = {"name": "demo", "model": "digits", "data": "digits", "real": "digits", "num_images": 20, "iterations": 5}
    listed = [demo, {**demo, "name": "other"}]
    (tmp_path / "networks.json").write_text(json.dumps(listed))
    flags = ("--only", "d*", "--test-limit", 100, "--out", tmp_path)
    found = printed("bench_calibration_sets.py", tmp_path / "networks.json", *flags)
    assert [row[:2] for row in found] == [
        ["demo", tool] for tool in ("onnxruntime", "NNCF", "hast_cuda W8A8", "hast_cuda W4A8")
    ]
    assert all(float(cell.split()[0]) > 90 for row in found for cell in row[2:5])  # full precision, made, real
    assert [row[7] == "-" for row in found] == [True, True, False, False]  # ranges without images
    document = json.loads((tmp_path / "calibration-sets-cpu.json").read_text())
    assert len(document["rows"]) == 1 + 4 * 4 + 2
