"""The notebook's cells run in order and its figures are what they claim; no Jupyter is needed for that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

NOTEBOOK = json.loads((Path(__file__).parents[1] / "examples" / "quickstart.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_committed_without_outputs() -> None:
    assert all(not cell["outputs"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code")
    for number, cell in enumerate(CELLS):
        compile(cell, f"cell {number}", "exec")


@pytest.mark.slow  # a run at a small budget
def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for needed in ("sklearn", "matplotlib", "onnxscript"):
        pytest.importorskip(needed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for number, cell in enumerate(CELLS):
        exec(compile(cell, f"cell {number}", "exec"), names)
    names["plt"].close("all")
    text = capsys.readouterr().out
    found = {word: float(value) for word, value in re.findall(r"^(\w[\w ]*?):? +([\d.]+) %", text, re.MULTILINE)}
    assert found["full precision"] == 98.5
    assert found["SQuant"] < found["kept"] < 98.5
    assert found["engine"] == pytest.approx(found["kept"], abs=0.2)
    assert (tmp_path / "runs" / "notebook" / "report.html").exists()
