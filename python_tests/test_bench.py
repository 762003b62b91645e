"""The benchmarks run, write what their schema says, and render. Nothing here looks at a time."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCH = Path(__file__).parents[1] / "bench"
TIMING = {"p20_ms", "p50_ms", "p80_ms", "loop_ms", "eager_ms", "copy_percent", "peak_bytes", "launches"}
NAMES = {"eager", "hast_cuda", "native", "compile", "Model-Optimizer", "Brevitas", "copy"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The harness, imported as the scripts do."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("harness")


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("bench_quantize_activation", "activation 7x33x13x5"),
        ("bench_fake_quantize_weights", "weights 33x17x5x3"),
        ("bench_batch_norm_match", "statistics 7x33x13x5"),
        ("bench_batch_norm_match", "match 7x33x13x5"),
        ("bench_match_loss", "resnet20_cifar10"),
        ("bench_soft_round_weights", "MobileNetV2, 32 channels"),
        ("bench_channel_attention", "vector 7x33x13x5"),
        ("bench_losses", "distillation 16x1000 both"),
        ("bench_losses", "hard-sample 256x10"),
    ],
)
def test_every_candidate_runs(script: str, name: str, bench: ModuleType) -> None:
    options = bench.Options(
        torch.device("cpu"), (1,), rounds=2, seconds=0.01, large=False, compile=False, only="", out=Path()
    )
    makers = dict(importlib.import_module(script).cases(options))
    case = makers[name]()
    # The quantization libraries are optional, so only what is always there is called here.
    for own in ("eager", "hast_cuda", "native"):
        candidate = case.candidates[own]
        if not isinstance(candidate, bench.Absent):
            assert candidate() is not None
    assert set(case.candidates) | {"copy"} >= NAMES
    assert case.bytes_moved > 0


def test_calls_beside_torchs_own_run_and_render(bench: ModuleType) -> None:
    options = bench.Options(
        torch.device("cpu"), (1,), rounds=2, seconds=0.01, large=False, compile=False, only="", out=Path()
    )
    timing = {"p20_ms": 0.01, "p50_ms": 0.02, "p80_ms": 0.03, "copy_percent": None, "peak_bytes": 0}
    rows = []
    for _, make in importlib.import_module("bench_host").cases(options):
        case = make()
        assert all(candidate() is not None for candidate in case.candidates.values())
        rows.append({"op": case.op, "case": case.case, "threads": 1, "clock": "thread time"})
        rows[-1]["results"] = dict.fromkeys(case.candidates, timing)
    assert len(rows) == 6
    text = "\n".join(importlib.import_module("render")._ops({"rows": rows}))
    assert "| batch_norm_match | 0.020 ms | 0.010 to 0.030 |  | 1.0x | 1.0x | 0.0 |" in text


def test_a_run_writes_its_schema_and_renders(bench: ModuleType, tmp_path: Path) -> None:
    # In a process of its own: it starts itself again with other settings of malloc.
    flags = ["--device", "cpu", "--threads", "1", "--rounds", "2", "--seconds", "0.01"]
    flags += ["--no-compile", "--only", "forward 7x33x13x5", "--out", str(tmp_path)]
    script = str(BENCH / "bench_fake_quantize.py")
    environment = {**os.environ, "HAST_BENCH_COMMIT": "0000000"}
    subprocess.run([sys.executable, script, *flags], check=True, capture_output=True, env=environment)
    path = tmp_path / "fake_quantize-cpu.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert document["schema"] == bench.SCHEMA
    assert document["commit"] == "0000000"
    assert document["command"].startswith("python bench/bench_fake_quantize.py --device cpu")
    assert document["malloc"]["MALLOC_MMAP_MAX_"] == "0"
    assert {"python", "torch", "hast_cuda"} <= set(document["versions"])
    assert document["build"]["kind"] == "compiled"
    (row,) = document["rows"]
    assert (row["threads"], row["clock"]) == (1, "thread time")
    assert set(row["results"]) >= NAMES
    for name in ("eager", "hast_cuda", "copy"):
        assert set(row["results"][name]) == TIMING
    size = 4 * 7 * 33 * 13 * 5
    assert size <= row["results"]["hast_cuda"]["peak_bytes"] < 2 * size  # its output and little more
    assert row["results"]["compile"] == {"absent": "left out with --no-compile"}

    render = importlib.import_module("render")
    start, end = render.markers("results")
    page = render.render(f"before\n{start}old\n{end}after\n", render.all_tables({"one": document}))
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert row["op"] in page
    assert row["case"] in page
    assert "compile: left out with --no-compile" in page
    with pytest.raises(ValueError, match="markers"):
        render.render("no markers", [])


def test_the_pages_have_the_committed_results(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = importlib.import_module("render")
    committed = {name: (render.ROOT / "docs" / name).read_text(encoding="utf-8") for name, _ in render.PARTS.values()}
    for name, text in committed.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["render.py", "--docs", str(tmp_path)])
    render.main()
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in committed} == committed


def test_the_pictures_show_the_committed_results(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    pictures = importlib.import_module("pictures")
    monkeypatch.setattr("sys.argv", ["pictures.py", "--out", str(tmp_path)])
    pictures.main()
    for name in pictures.PICTURES:
        drawn, committed = (folder / f"{name}.svg" for folder in (tmp_path, pictures.ROOT / "docs" / "images"))
        texts = [
            re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text(encoding="utf-8")) for path in (drawn, committed)
        ]
        assert texts[0] == texts[1]
        assert len(texts[0]) > 10
