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
    lines = printed.splitlines()
    gap = lines.index("", next(i for i, line in enumerate(lines) if line.startswith("|")))
    table, order = ([line for line in part if line.startswith("|")] for part in (lines[:gap], lines[gap:]))
    assert [line.split("|")[1:3] for line in table[2:]] == [[" demo ", " W3A3 "], [" demo ", " W4A4 "]]
    assert [line.split("|")[2:4] for line in order[2:]] == [
        [" W3A3 ", " 3 "],
        [" W4A4 ", " 3 "],
        [" W3A3, W4A4 ", " 6 "],
    ]  # the start and two evaluations
    document = json.loads((tmp_path / "networks-cpu.json").read_text())
    rows = document["rows"]
    assert [(row["method"], row["bits"]) for row in rows] == [(m, b) for m in ("hast", "squant") for b in (3, 4)]
    assert all(row["num_test_images"] == 200 for row in rows)
    again = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line for line in again.splitlines() if line.startswith("|")] == table + order  # finished runs are read
    assert len(rows[0]["looks"]) == 3
    images = [(tmp_path / "runs" / f"demo-w{bits}-hast-seed0" / "images").exists() for bits in (3, 4)]
    assert images == [True, False]  # both widths use the same


def test_rank_correlation_is_spearmans() -> None:
    sys.path.insert(0, str(SCRIPT.parent))
    from bench_networks import rank_correlation

    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 400.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 3.0], [5.0, 4.0, 3.0]) == pytest.approx(-1)
    assert rank_correlation([1.0, 2.0, 2.0, 3.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(0.9486833)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) != rank_correlation([1.0, 2.0], [1.0, 2.0])  # nan: no order
