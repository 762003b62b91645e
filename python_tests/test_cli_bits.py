"""Bits of single layers from the command line: by hand, and chosen within a budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from networks import tiny
from test_cli import DIGITS, OWN, SMALL, TUNING
from torch import nn

from hast_cuda import Override, quantization_table
from hast_cuda.cli.bits import LayerBits, parse_bits, parse_count, parse_size, parse_time
from hast_cuda.run import Bits, load

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with images."""
    from hast_cuda.cli import main

    out = tmp_path_factory.mktemp("bits") / "first"
    assert main(["quantize", *map(str, (*OWN, *SMALL, *TUNING, "--out", out))]) == 0
    return out


def widths(run: Path, *network: nn.Module) -> dict[str, tuple[Any, Any]]:
    return {row.name: (row.weight_bits, row.act_bits) for row in quantization_table(load(run, *network)).rows}


def test_measured_chosen_and_quantized(hast: Cli, first: Path, tmp_path: Path) -> None:
    hast("analyze", "sensitivity", *OWN, "--run", first, "--limit", 4)
    hast("analyze", "allocation", "--run", first, "--points", 3)
    assert hast("report", first)
    page = (first / "report.html").read_text()
    assert "Which layer needs which bits" in page
    assert page.count("keep weights of ") == 3
    found = json.loads((first / "analysis/sensitivity.json").read_text())["sensitivity"]
    assert found["output"]["weights"].keys() == {"2", "3", "4", "5", "6", "7", "8"}
    curve = json.loads((first / "analysis/allocation.json").read_text())["allocation"]["chosen"]
    assert [point["average"] for point in curve] == pytest.approx([2, 5, 8], abs=0.2)  # noise may spare a bit
    assert {p.name for p in (first / "analysis").iterdir()} == {
        f"{name}.{kind}" for name in ("sensitivity", "allocation") for kind in ("json", "png")
    }
    asked = ["quantize", *OWN, "--average-bits", 3.5, "--average-act-bits", 4, "--sensitivity", first]
    asked += [*SMALL[2:], *TUNING, "--images", first / "images", "--out", tmp_path / "mixed"]
    hast(*asked)
    bits = json.loads((tmp_path / "mixed/config.json").read_text())["bits"]["overrides"]
    chosen = {name: found[name]["parameters"] for name in found if found[name]["parameters"]}
    assert sum(bits[name]["weight_bits"] * n for name, n in chosen.items()) <= 3.5 * sum(chosen.values())
    for name, (weights, acts) in widths(tmp_path / "mixed", tiny()).items():
        assert (weights, acts) == (bits[name]["weight_bits"], acts and bits[name]["act_bits"])
    hast(*asked)  # the same command: the finished run


def test_measured_on_the_way(hast: Cli, tmp_path: Path) -> None:
    hast("synthesize", *OWN, *SMALL, "--out", tmp_path / "made")
    given = ["--images", tmp_path / "made/images", *SMALL[2:], *TUNING]
    hast("quantize", *OWN, "--size", "300B", "--placement", "all", *given, "--out", tmp_path / "mixed")
    found = json.loads((tmp_path / "mixed/config.json").read_text())["bits"]["overrides"]
    chosen = {name: override["weight_bits"] for name, override in found.items()}
    sizes = {"features.0": 162, "features.3": 432, "output": 40}
    assert chosen.keys() == sizes.keys()
    assert len(set(chosen.values())) > 1
    assert sum(-(-n * chosen[name] // 8) for name, n in sizes.items()) <= 300
    assert {name: override["act_bits"] for name, override in found.items()} == {
        "features.0": 8,
        "features.3": 4,
        "output": 8,
    }


def test_by_hand(hast: Cli, tmp_path: Path) -> None:
    out = tmp_path / "run"
    bits = ["--bits", "blocks.*=2/3", "--bits", "blocks.1.*=8", "--bits", "output=none"]
    hast("quantize", *DIGITS, "--method", "rtn", *bits, "--out", out)
    overrides = json.loads((out / "config.json").read_text())["bits"]["overrides"]
    assert [(o["weight_bits"], o["act_bits"]) for o in overrides.values()] == [(2, 3), (8, 8), (None, None)]
    found = widths(out)
    assert found["stem.0"] == (4, None)
    assert found["blocks.0.body.0"] == (2, None)
    assert found["blocks.0.body.2"] == (None, 3)
    assert found["blocks.1.body.0"] == (8, None)
    assert found["output"] == (None, None)


@pytest.mark.parametrize("text", ["", "=", "a", "a=", "=4", "a=9", "a=1", "a=4/", "a=4/4/4", "a=None", "a=/4"])
def test_bits_that_are_none(text: str, refused: Cli, tmp_path: Path) -> None:
    line = refused("quantize", *DIGITS, f"--bits={text}", "--out", tmp_path / "run")
    assert f"--bits {text}: expected PATTERN=WEIGHTS/ACTIVATIONS" in line


def test_a_pattern_that_matches_nothing(refused: Cli, tmp_path: Path) -> None:
    line = refused("quantize", *DIGITS, "--method", "rtn", "--bits", "nothing.*=4", "--out", tmp_path / "run")
    assert "overrides match no layer: ['nothing.*']" in line


def test_parsed() -> None:
    assert parse_bits("a=b=8/4") == ("a=b", Override(8, 4))
    assert parse_bits("*=none/3") == ("*", Override(None, 3))
    assert [parse_size(text) for text in ("120KB", "1.5 MB", "96KiB", "7b", "1MiB")] == [
        120_000,
        1_500_000,
        98_304,
        7,
        2**20,
    ]


@pytest.mark.parametrize("text", ["", "KB", "-1KB", "1e3KB", "4", "4GB", "4iB", "1.KB", "9" * 30 + "B"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"--size .*: expected a number with B, KB, MB, KiB or MiB"):
        parse_size(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"average_act_bits": 4.0}, "average_act_bits is for a budget, such as --average-bits"),
        ({"sensitivity": Path("x")}, "sensitivity is for a budget, such as --average-bits"),
        ({"average_bits": 4.0, "bits": ("a=4",)}, "give the one or the others"),
        ({"size": "4KB"}, "give --images of an earlier run"),
        ({"max_drop": 1.0, "sensitivity": Path("x")}, "max_drop needs to know .*give --images"),
        ({"average_bits": 4.0, "sensitivity": Path("nowhere")}, "nowhere is not there"),
    ],
)
def test_what_does_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LayerBits(**given).overrides(Bits(), None, by_hand=False)


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (parse_count, {"120M": 120 * 10**6, "1.5 g": 1_500_000_000, "7": 7, "2k": 2000}, ["", "M", "-1", "1T", "1e3"]),
        (parse_time, {"3ms": 0.003, "250us": 0.00025, "1.5 s": 1.5}, ["", "3", "ms", "-1ms", "3MS", "3min"]),
    ],
)
def test_counts_and_times(parse: Callable[[str], float], good: dict[str, float], bad: list[str]) -> None:
    assert {text: parse(text) for text in good} == pytest.approx(good)
    for text in bad:
        with pytest.raises(ValueError, match="expected a number"):
            parse(text)


def test_the_smallest_weights_that_keep_the_classes(hast: Cli, first: Path, tmp_path: Path) -> None:
    chosen = {}
    for drop in (100, 5):
        out = tmp_path / f"drop{drop}"
        images = ["--method", "zeroq", "--images", first / "images"]
        hast("quantize", *OWN, "--max-drop", drop, "--act-bits", 8, "--sensitivity", first, *images, "--out", out)
        bits = json.loads((out / "config.json").read_text())["bits"]["overrides"]
        chosen[drop] = [override["weight_bits"] for override in bits.values()]
    assert set(chosen[100]) == {2}
    assert sum(chosen[5]) > sum(chosen[100])


@pytest.mark.slow  # seven exports
def test_a_budget_of_time(hast: Cli, first: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert "keep weights of " in hast("analyze", "sensitivity", *OWN, "--run", first, "--limit", 4, "--time")
    found = json.loads((first / "analysis/sensitivity.json").read_text())["sensitivity"]
    assert found["output"]["seconds"].keys() == found["output"]["weights"].keys()
    hast("analyze", "allocation", "--run", first, "--points", 3, "--cost", "seconds")
    curve = json.loads((first / "analysis/allocation-seconds.json").read_text())["allocation-seconds"]["chosen"]
    budget = curve[0]["seconds"] * 1.01
    given = ["--method", "rtn", "--time", f"{budget * 1e6:.6f}us", "--sensitivity", first]
    hast("quantize", *OWN, *given, "--out", tmp_path / "timed")
    bits = json.loads((tmp_path / "timed/config.json").read_text())["bits"]["overrides"]
    assert sum(found[name]["seconds"][str(override["weight_bits"])] for name, override in bits.items()) <= budget


def test_bits_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "bits").write_text("# ends\nstem.*=8\n\noutput=8/none\n")
    found = LayerBits(bits=("blocks.*=2/3", f"@{tmp_path / 'bits'}")).overrides(Bits(), None, by_hand=False)
    assert found == {"blocks.*": Override(2, 3), "stem.*": Override(8, 8), "output": Override(8, None)}
