from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from pages import RECIPE, Page, make, self_contained

from hast_cuda.report import Context, write_comparison, write_report
from hast_cuda.run import Bits, RunDirectory

pytest.importorskip("matplotlib")

NASTY = '<img src=x onerror=alert(1)> | `a` "q" & $x$ __y__'


def test_everything_is_escaped(tmp_path: Path) -> None:
    run = tmp_path / "<b>$a|b`<script>"
    make(run, describe={"method": NASTY, "network": {"model": NASTY, "weights": NASTY}, NASTY: NASTY})
    (run / "exports").mkdir()
    record = {"kind": NASTY, "file": NASTY, "nodes": {NASTY: 1}, "checks": {"images": NASTY}}
    (run / "exports" / "x.json").write_text(json.dumps(record))
    (run / "analysis").mkdir()
    found = {"difficulty": {NASTY: {"edges": [0, 0.5, 1], "counts": [3, 1]}}}
    (run / "analysis" / "difficulty.json").write_text(json.dumps(found))
    write_report(run, Context(problem=NASTY, command=NASTY, remarks=[NASTY]))
    other = tmp_path / "other"
    RunDirectory(other, {"method": "mine", "bits": Bits(), "recipe": RECIPE}, torch.device("cpu"))
    write_comparison([run, other])
    for path in (run / "report.html", run / "report" / "comparison.html"):
        page = Page(path)
        self_contained(page)
        assert NASTY in page.text
        assert page.tags.count("b") == 0
        twin = path.with_suffix(".md").read_text()
        assert "<img" not in twin.replace(f"```\n{NASTY}\n```", "")
        for line in twin.splitlines():
            if line.startswith("| ") and "onerror" in line:
                assert r"\|" in line
        tables = re.findall(r"(?:^\| .*\n)+", twin, re.M)
        for table in tables:
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(cells) == 1


def test_names_and_figures_that_are_hard_to_draw(tmp_path: Path) -> None:
    runs = [tmp_path / "_\x1b\x07", tmp_path / "b\udcff", tmp_path / "\u6570$"]
    for path in runs:
        config = {"bits": Bits(), "seed": path.name, "recipe": RECIPE}
        run = RunDirectory(path, config, torch.device("cpu"))
        for iteration, loss in enumerate((1.0, float("nan"), float("inf"), -1.0)):
            run.log({"phase": "finetune", "iteration": iteration, "alignment": loss})
            run.log({"phase": "synthesis", "iteration": iteration, "match": float("nan")})
    for out in (write_comparison(runs), write_report(runs[0])):
        page = Page(out)
        self_contained(page)
        assert "finetune: alignment over the iterations" in page.source
