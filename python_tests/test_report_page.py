from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CLASSES, tiny
from pages import RECIPE, Page, make, self_contained
from test_run import SPEC, real_images
from torch import nn

from hast_cuda.nn import Override, quantize
from hast_cuda.report import ACCURACIES, Context, write_report
from hast_cuda.report.canvas import INK, PAPER
from hast_cuda.report.classes import counted
from hast_cuda.report.distributions import clipped, inputs_of, noisiest
from hast_cuda.report.layers import layer_rows, relative_error
from hast_cuda.report.markdown import escape
from hast_cuda.run import Bits, RunDirectory, load_student
from hast_cuda.run.summary import standard_error

pytest.importorskip("matplotlib")

HEADINGS = [
    *("Accuracy", "Classes", "Exports", "What was done", "Synthetic images", "Curves", "Layers"),
    *("Distributions", "Difficulty"),
]
EXPORT = {
    "kind": "onnx-ort",
    "file": "student.ort.onnx",
    "bytes": 274000,
    "float_bytes": 1090000,
    "weight_bits": 3.02,
    "nodes": {"QLinearConv": 20, "Conv": 1},
    "checks": {
        "images": 600,
        "source": "given",
        "top1_agreement": 99.5,
        "top1": 95.5,
        "student_top1": 95.25,
        "cosine": 0.9999,
        "largest_difference": 1e-5,
    },
    "latency": {"batch": 1, "threads": 2, "milliseconds": 1.2, "float_milliseconds": 2.3},
    "environment": {},
}


NAMES = ("ant", "bee", "cat", "dog", "eel")
CONTEXT = Context(tiny(), "", SPEC, "hast-cuda quantize --model tiny", ["Mind this."], real_images(), NAMES[:CLASSES])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody edits, with an export and a page."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    make(out)
    (out / "exports").mkdir()
    (out / "exports" / "onnx-ort.json").write_text(json.dumps(EXPORT))
    write_report(out, CONTEXT)
    return out


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(finished / "report.html")


def test_a_finished_run(finished: Path, page: Page) -> None:
    self_contained(page)
    assert page.headings == [*HEADINGS, "Time", "Run it again"]
    assert "<h1>tiny, hast, W3A4</h1>" in page.source
    found = (set(re.findall(f'<{x}="#?([^"]+)"', page.source)) for x in ("section id", "a href"))
    assert len(set(map(frozenset, found))) == 1
    result = json.loads((finished / "result.json").read_text())
    for label, key in (
        ("full precision", "full_precision"),
        ("rounded (ranges from the images)", "rounded"),
        ("start (ranges shrunk)", "start_of_finetuning"),
        ("kept (the result)", "quantized"),
        ("last (after the last step)", "quantized_last"),
        ("best seen (chosen by test accuracy)", "quantized_best_epoch"),
    ):
        drop = result[key] - result["full_precision"]
        error = standard_error(result[key], 40)
        assert page.row(label) == [label, f"{result[key]:.2f} ± {error:.2f}", f"{drop:+.2f}"]
    lost = result["full_precision"] - result["quantized"]
    words = f"gains {-lost:.2f}" if lost < 0 else f"loses {lost:.2f}"
    assert f"The quantized network {words} points of top-1 accuracy against the original, on 40 test" in page.text
    assert page.facts("Fine-tuning") == "4 steps of 8 images, learning rate 1e-05 (step)"
    assert page.facts("Images") == "12 made from the network, 8 at a time, 3 iterations each"
    assert page.facts("Weights").startswith("3 bits")
    assert page.facts("Seed") == "4"
    environment = json.loads((finished / "environment.json").read_text())
    assert f"torch {environment['torch']}" in page.facts("Versions")
    assert f"{environment['threads']} CPU threads" in page.facts("Device")
    assert page.row("synthesis")[1].endswith(" s")
    assert "hast-cuda quantize --model tiny" in page.text
    assert "Mind this." in page.text
    assert "not finished" not in page.text
    assert "cat" in page.texts  # below an image
    assert not list(finished.rglob("*.part"))


def test_classes(finished: Path, page: Page) -> None:
    rows = page.rows[[row[0] for row in page.rows].index("class") + 1 :][:CLASSES]
    assert {row[0] for row in rows} <= set(NAMES)
    assert sum(int(row[1]) for row in rows) == 40
    changes = [float(row[4]) for row in rows]
    assert changes == sorted(changes)
    result = json.loads((finished / "result.json").read_text())
    for column, key in ((2, "full_precision"), (3, "quantized")):
        right = sum(int(row[1]) * float(row[column]) for row in rows) / 40
        assert right == pytest.approx(result[key], abs=0.06)


def test_images_that_changed_sides() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    before, after = torch.tensor([0, 0, 1, 0, 1, 1]), torch.tensor([1, 0, 0, 1, 0, 1])
    assert counted(before, after, labels) == (
        "The quantized network gives another class than the original for 4 images: 2 were right and are wrong, 1 the "
        "other way round, 1 wrong in both."
    )


def test_without_labels(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    result = json.loads((out / "result.json").read_text())
    result |= dict.fromkeys([key for _, key, _ in ACCURACIES])
    result |= {
        "num_test_images": None,
        "num_held_out": 16,
        "agreement": {"divergence": 0.25, "same_class": 75.0, "cropped": 0.5},
        "signal_to_noise": {"features.0": 20.0, "output": 4.5},
    }
    (out / "result.json").write_text(json.dumps(result))
    write_report(out, Context(tiny(), "", SPEC))
    page = Page(out / "report.html")
    assert "the quantized network is far from the original" in page.text
    assert "But 16 images are few to judge by." in page.text
    assert "same class as the original 75.0 %" in page.text
    assert page.row("same class") == ["same class", f"75.00 ± {standard_error(75, 16):.2f} %"]
    assert "to be given more bits: output 4.5 dB, features.0 20.0 dB." in page.text
    assert page.row("output")[6] == "4.5 dB"
    assert "lowest signal to noise first" in page.text


def test_rows_can_be_ordered(page: Page) -> None:
    styles = [v for k, v in page.attributes if k == "style" and v.startswith("--o1")]
    places = [[int(x) for x in re.findall(r"--o\d:(\d+)", style)] for style in styles]
    (start,) = (i for i, row in enumerate(page.rows) if row[0] == "layer")
    rows = page.rows[start + 1 :][: len(places)]
    errors = [float(row[5].split()[0]) if "%" in row[5] else 0.0 for row in rows]
    assert len(places) > 3
    by_error = sorted(range(len(places)), key=lambda row: places[row][0])
    assert [errors[row] for row in by_error] == sorted(errors, reverse=True)
    assert page.source.count('type="radio"') == 1 + len(places[0])


def test_histograms_are_on_the_grid(finished: Path) -> None:
    student = load_student(tiny(), finished)
    assert noisiest(student, {"output": 3.0, "features.3": 5.0})[:2] == ["output", "features.3"]
    images = torch.randn(8, *SPEC.size)
    ((name, (quantizer, values)),) = inputs_of(student, images, 1).items()
    assert next(iter(inputs_of(student, images, 9))) == name  # the one that clips most
    assert float(values.min()) >= 0  # behind ReLU
    assert clipped(quantizer, values) == pytest.approx(float((values > quantizer.upper).double().mean()))
    drawn = (finished / "report" / "weights-0.svg").read_text()
    assert drawn.count("stroke: #dd7423; stroke-width: 0.8") == 2**3  # a line per code


def test_layers(finished: Path, page: Page) -> None:
    rows = [page.row(name) for name in ("features.0", "features.2", "features.3", "output")]
    assert [row[1] for row in rows] == ["Conv2d", "ReLU", "Conv2d", "Linear"]
    assert [row[2:4] for row in rows] == [["3", "-"], ["-", "4"], ["3", "-"], ["3", "-"]]
    assert re.fullmatch(r"0 to [\d.]+", rows[1][4])
    assert all(re.fullmatch(r"\d+\.\d\d %", row[5]) for row in (rows[0], rows[2], rows[3]))


@pytest.mark.filterwarnings("ignore:no activation is quantized")
@pytest.mark.filterwarnings("ignore:.*stay in full precision", "ignore:no activation is quantized")
def test_layers_in_full_precision_are_named(tmp_path: Path) -> None:
    teacher = tiny()
    teacher.features[2], teacher.features[5] = nn.LeakyReLU(), nn.LeakyReLU()
    make(tmp_path, teacher=teacher, bits=Bits(3, 4, "relu", {"output": Override(None, None)}))
    write_report(tmp_path, Context(teacher, "", SPEC, "", []))
    page = Page(tmp_path / "report.html")
    assert "No activation is quantized: the network has no ReLU" in page.text
    assert 'features.2, features.5: not quantized: placement="all" covers it.' in page.text
    assert "output: kept in full precision." in page.text


def test_weight_error_is_that_of_the_weights() -> None:
    teacher = tiny()
    (row, *_) = layer_rows(quantize(teacher, 2, 4), teacher)
    weight = teacher.features[0].weight.detach().double()
    low, high = (v[:, None, None, None] for v in weight.flatten(1).aminmax(dim=1))
    scale = 3 / (high - low)  # 2 bits
    zero = (scale * low).round()
    rounded = ((scale * weight - zero).round() + zero) / scale  # Eq. 1 and 2
    assert row.error == pytest.approx(float((rounded - weight).norm() / weight.norm()), rel=1e-4)
    assert relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])) == pytest.approx(0.5**0.5)
    assert relative_error(torch.zeros(2), torch.zeros(2)) is None


def test_exports(page: Page) -> None:
    files, checks = [row for row in page.rows if row[0] == "onnx-ort"]
    assert files[1:] == [
        "student.ort.onnx",
        "274.0 kB",
        "25.1 %",
        "3.02",
        "1.20 ms",
        "2.30 ms",
        "52.2 %",
        "batch 1, threads 2",
    ]
    assert page.facts("onnx-ort") == "QLinearConv 20, Conv 1"
    assert checks[1:] == ["600 images, given", "99.50", "95.50", "95.25", "0.999900", "1e-05"]


def test_the_first_screen_has_size_and_speed_of_the_fastest_export(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "exports").mkdir()
    slow = {**EXPORT, "latency": {"batch": 4, "threads": 1, "milliseconds": 4.0, "float_milliseconds": 2.0}}
    fast = {**slow, "bytes": 109000, "latency": {**slow["latency"], "milliseconds": 0.5}}
    for name, record in (("a", slow), ("b", fast), ("c", {"kind": "packed"})):
        (tmp_path / "exports" / f"{name}.json").write_text(json.dumps(record))
    write_report(tmp_path)
    top = Page(tmp_path / "report.html").text.split("Accuracy")[0]
    assert "size, packed 802 B" in top
    assert "0.125 ms 25 % of float" in top  # of one of four images


def test_exports_of_other_versions(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {},
        {"kind": "trt", "checks": None, "latency": None, "future": [1, {"a": None}]},
        {"kind": 3, "bytes": "many", "nodes": ["Conv"], "checks": [1], "latency": {"batch": 2}},
        {"kind": "x", "checks": {"top1": None}, "latency": {"milliseconds": 2}, "float_bytes": 0},
    ]
    RunDirectory(tmp_path, {"bits": Bits(), "recipe": RECIPE}, torch.device("cpu"))
    (tmp_path / "exports").mkdir()
    for index, record in enumerate(records):
        (tmp_path / "exports" / f"{index}.json").write_text(json.dumps(record))
    write_report(tmp_path)
    rows = Page(tmp_path / "report.html").rows
    files, checks = rows[1:5], rows[6:10]
    assert files == [
        ["-"] * 9,
        ["trt", *["-"] * 8],
        ["3", *["-"] * 7, "batch 2"],
        ["x", *["-"] * 4, "2.00 ms", "-", "-", "-"],
    ]
    assert [row[1] for row in checks] == [*["not checked"] * 3, "- images, -"]
    assert all(row[2:] == ["-"] * 5 for row in checks)


def test_markdown_twin(finished: Path, page: Page) -> None:
    text = (finished / "report.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == page.headings
    pictures = re.findall(r"^!\[[^\]]*\]\((.+)\)$", text, re.M)
    assert len(pictures) >= 8
    assert all((finished / name).is_file() for name in pictures)
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(set(widths)) > 1
    assert "| best seen (chosen by test accuracy) |" in text
    assert "```\nhast-cuda quantize --model tiny\n```" in text


def test_markdown_escape() -> None:
    assert escape("a|b\n<i>*x* features.stage_1 _y_ `z` [l](u)") == (
        r"a\|b &lt;i&gt;\*x\* features.stage_1 \_y\_ \`z\` \[l\](u)"
    )


def test_pictures_follow_the_page(finished: Path, page: Page) -> None:
    drawn = (finished / "report" / "accuracy.svg").read_text()
    assert INK in drawn
    assert PAPER in drawn
    inside = "".join(re.findall(r"<svg.*?</svg>", page.source, re.S))
    assert INK not in inside
    assert PAPER not in inside
    assert inside.count("<svg") == page.tags.count("svg") >= 8
    assert "var(--ink)" in inside
    assert "<style" not in inside
    assert 'name="viewport"' in page.source
    for rule in ("prefers-color-scheme:dark", "@media print", "overflow-x:auto"):
        assert rule in page.source


def test_same_run_same_page(finished: Path, page: Page) -> None:
    write_report(finished, CONTEXT)
    assert Page(finished / "report.html").source == page.source


def test_without_the_network(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "mine.html"
    assert write_report(finished, Context(problem="it is <gone>"), out) == out
    page = Page(out)
    assert "could not be loaded (it is <gone>)" in page.text
    assert "weight error" not in {cell for row in page.rows for cell in row}
    assert page.row("features.2")[1:4] == ["activation", "-", "4"]
    assert page.row("output")[1:4] == ["2-d weight", "3", "-"]
    assert not {"Difficulty", "Classes", "Distributions"} & set(page.headings)
    assert "stretched from the darkest" in page.text
    assert (out.with_name("mine.md")).is_file()
    assert (out.with_name("mine") / "accuracy.svg").is_file()


def test_another_network_is_refused(finished: Path) -> None:
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU())
    with pytest.raises(ValueError, match="corrupt or belongs to another network"):
        write_report(finished, Context(other, "", SPEC))
