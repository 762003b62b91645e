from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from pages import RECIPE, Page, make, self_contained, stopped

from hast_cuda import methods
from hast_cuda.report import write_comparison
from hast_cuda.run import Bits, RunDirectory

pytest.importorskip("matplotlib")


def test_comparison(tmp_path: Path) -> None:
    finished, squant, half = (tmp_path / name for name in ("finished", "squant", "half"))
    make(finished)
    result = make(squant, recipe=methods.recipe("squant"), describe={"method": "squant"})
    stopped(half)
    out = write_comparison([finished, squant, half])
    assert out == finished / "report" / "comparison.html"
    page = Page(out)
    self_contained(page)
    assert page.headings == ["Runs", "Curves", "Settings that differ"]
    drop = result["full_precision"] - result["quantized"]
    row = page.row("squant")
    assert row[2:4] == ["squant", "W3A4"]
    assert row[8:10] == [f"{drop:.2f}", "40"]
    assert page.row("half")[4:10] == ["-"] * 6
    assert "half is not finished. Fine-tuning has logged 4 of 4 steps." in page.text
    assert page.row("recipe.finetune.iterations") == ["recipe.finetune.iterations", "4", "0", "4"]
    assert "seed" not in [row[0] for row in page.rows]
    figure = page.source.split("test: top1 over")[1].split("</figure>")[0]
    legend = re.sub(r"<[^>]+>", " ", figure)
    assert "finished" in legend
    assert "half" in legend
    assert "squant" not in legend  # it has no curve
    assert (out.with_suffix(".md")).read_text().startswith("# 3 runs compared\n")


def test_comparison_of_equal_names(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        RunDirectory(tmp_path / name / "run", {"bits": Bits(), "seed": seed, "recipe": RECIPE}, torch.device("cpu"))
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    page = Page(write_comparison(runs, tmp_path / "c.html"))
    assert [row[0] for row in page.rows[1:3]] == [str(run) for run in runs]
    assert page.row("seed") == ["seed", "0", "1"]
    with pytest.raises(ValueError, match="a run is given twice"):
        write_comparison([runs[0], runs[0]])
    with pytest.raises(ValueError, match="needs at least 2"):
        write_comparison(runs[:1])
