"""The table of networks, on the embedded one at a budget of seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "bench" / "bench_networks.py"
TINY = {
    "synthesis.num_images": 16,
    "synthesis.iterations": 2,
    "reconstruction.iterations": 2,
    "finetune.iterations": 2,
    "finetune.calibration_updates": 1,
}


@pytest.mark.slow
def test_a_line_per_network_and_bits(tmp_path: Path) -> None:
    listed = [{"name": "demo", "model": "digits", "data": "digits", "bits": [3, 4], "changes": TINY}]
    (tmp_path / "networks.json").write_text(json.dumps(listed))
    flags = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path), "--methods", "hast", "squant", "--skip", "400"]
    command = [sys.executable, str(SCRIPT), str(tmp_path / "networks.json"), "--threads", "1", *flags]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert [line.split("|")[1:3] for line in table[2:]] == [[" demo ", " W3A3 "], [" demo ", " W4A4 "]]
    document = json.loads((tmp_path / "networks-cpu.json").read_text())
    rows = document["rows"]
    assert [(row["method"], row["bits"]) for row in rows] == [(m, b) for m in ("hast", "squant") for b in (3, 4)]
    assert all(row["num_test_images"] == 200 for row in rows)
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert again.splitlines()[-len(table) - 1 : -1] == table  # finished runs are read
    images = [(tmp_path / "runs" / f"demo-w{bits}-hast-seed0" / "images").exists() for bits in (3, 4)]
    assert images == [True, False]  # both widths use the same
