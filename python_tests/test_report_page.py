from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, tiny
from torch import Tensor

from hast_cuda import methods
from hast_cuda.data import ImageSet
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.input_spec import InputSpec
from hast_cuda.methods import Recipe
from hast_cuda.nn import Override, quantize
from hast_cuda.report import (
    Context,
    draw_accuracies,
    draw_learning_rate,
    write_comparison,
    write_report,
)
from hast_cuda.report.canvas import INK, PAPER
from hast_cuda.report.layers import layer_rows, relative_error
from hast_cuda.report.markdown import escape
from hast_cuda.run import Bits, RunDirectory, zero_shot_quantize
from hast_cuda.synthesis import ImageStore, SynthesisConfig, SyntheticImages

pytest.importorskip("matplotlib")

SHAPE = (CHANNELS, SIZE, SIZE)
SPEC = InputSpec(*SHAPE, (0.5,) * 3, (0.25,) * 3, CLASSES)
RECIPE = Recipe(
    SynthesisConfig(num_images=12, batch_size=8, iterations=3, learning_rate=0.1),
    FinetuneConfig(
        iterations=4, batch_size=8, calibration_updates=2, calibration_batch_size=8,
        shrink_ranges=True, evaluations=2,
    ),
)  # fmt: skip
HEADINGS = ["Accuracy", "What was done", "Curves", "Synthetic images", "Difficulty", "Layers"]
EXPORT = {
    "kind": "onnx-ort", "file": "student.ort.onnx", "bytes": 274000, "float_bytes": 1090000,
    "weight_bits": 3.02, "nodes": {"QLinearConv": 20, "Conv": 1},
    "checks": {
        "images": 600, "source": "given", "top1_agreement": 99.5, "top1": 95.5,
        "student_top1": 95.25, "cosine": 0.9999, "largest_difference": 1e-5,
    },
    "latency": {"batch": 1, "threads": 2, "milliseconds": 1.2, "float_milliseconds": 2.3},
    "environment": {},
}  # fmt: skip


class Page(HTMLParser):
    """What a reader gets: texts, ids, tags and every attribute."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.headings: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        last = next((t for t in reversed(self.tags) if t not in ("i", "span")), "")
        if last in ("td", "th") and self.rows[-1] and data.strip():
            self.rows[-1][-1] += data
        if last == "h2" and data.strip():
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row[0] == name)

    def facts(self, name: str) -> str:
        return re.split(rf"<dt>{name}</dt><dd>", self.source)[1].split("</dd>")[0]


def test_images() -> ImageSet:
    pixels = torch.randint(
        256, (40, *SHAPE), generator=torch.Generator().manual_seed(11), dtype=torch.uint8
    )
    return ImageSet(
        SPEC, torch.arange(40) % CLASSES, lambda i: pixels[torch.as_tensor(i)], 255, "noise"
    )


test_images.__test__ = False  # type: ignore[attr-defined]  # a helper


def make(out: Path, **changed: Any) -> dict[str, Any]:
    """A run with test images; its result."""
    arguments: dict[str, Any] = {
        "teacher": tiny(), "shape": SHAPE, "bits": Bits(3, 4), "recipe": RECIPE, "out": out,
        "test": test_images(), "seed": 4, "describe": {"method": "hast", "network": "tiny"},
    }  # fmt: skip
    return zero_shot_quantize(**arguments | changed).result


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody edits, with an export and a page."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    make(out)
    (out / "exports").mkdir()
    (out / "exports" / "onnx-ort.json").write_text(json.dumps(EXPORT))
    write_report(out, Context(tiny(), "", SPEC, "hast-cuda quantize --model tiny", ["Mind this."]))
    return out


@pytest.fixture(scope="module")
def page(finished: Path) -> Page:
    return Page(finished / "report.html")


def self_contained(page: Page) -> None:
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    for key, value in page.attributes:
        if key in ("src", "href", "xlink:href", "srcset", "action"):
            assert value.startswith(("data:image/png;base64,", "#")), value
    assert "http://" not in page.source.replace("http://www.w3.org/", "")
    assert "https://" not in page.source
    assert "@import" not in page.source
    ids = [v for k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    for _, value in page.attributes:
        for wanted in re.findall(r"url\(#([^)]+)\)", value):
            assert wanted in ids
    for key, value in page.attributes:
        if key.endswith("href"):
            assert value[1:] in ids


def test_a_finished_run(finished: Path, page: Page) -> None:
    self_contained(page)
    assert page.headings == [*HEADINGS, "Exports", "Time", "Run it again"]
    assert "<h1>tiny, hast, W3A4</h1>" in page.source
    result = json.loads((finished / "result.json").read_text())
    for label, key in (
        ("full precision", "full_precision"), ("rounded, ranges calibrated", "rounded"),
        ("start of fine-tuning", "start_of_finetuning"), ("last iteration", "quantized"),
        ("best seen (chosen by test accuracy)", "quantized_best_epoch"),
    ):  # fmt: skip
        drop = result[key] - result["full_precision"]
        assert page.row(label) == [label, f"{result[key]:.2f}", f"{drop:+.2f}"]
    assert "on 40 test images" in page.text
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
    assert page.tags.count("img") == 12
    assert not list(finished.rglob("*.part"))


def test_layers(finished: Path, page: Page) -> None:
    rows = [page.row(name) for name in ("features.0", "features.2", "features.3", "output")]
    assert [row[1] for row in rows] == ["Conv2d", "ReLU", "Conv2d", "Linear"]
    assert [row[2:4] for row in rows] == [["3", "-"], ["-", "4"], ["3", "-"], ["3", "-"]]
    assert re.fullmatch(r"0 to [\d.]+", rows[1][4])
    assert all(re.fullmatch(r"\d+\.\d\d %", row[5]) for row in (rows[0], rows[2], rows[3]))


def test_weight_error_is_that_of_the_weights() -> None:
    teacher = tiny()
    (row, *_) = layer_rows(quantize(teacher, 2, 4), teacher)
    weight = teacher.features[0].weight.detach().double()
    low, high = (v[:, None, None, None] for v in weight.flatten(1).aminmax(dim=1))
    scale = 3 / (high - low)  # 2 bits
    zero = (scale * low).round()
    rounded = ((scale * weight - zero).round() + zero) / scale  # Eq. 1 and 2
    assert row.error == pytest.approx(float((rounded - weight).norm() / weight.norm()), rel=1e-4)
    assert relative_error(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0])) == pytest.approx(
        0.5**0.5
    )
    assert relative_error(torch.zeros(2), torch.zeros(2)) is None


def test_exports(page: Page) -> None:
    files, checks = [row for row in page.rows if row[0] == "onnx-ort"]
    assert files[1:] == [
        "student.ort.onnx", "QLinearConv 20, Conv 1", "274.0 kB", "25.1 %", "3.02",
        "1.20 ms (batch 1, threads 2)", "2.30 ms (batch 1, threads 2)",
    ]  # fmt: skip
    assert checks[1:] == ["600 images, given", "99.50", "95.50", "95.25", "0.999900", "1e-05"]


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
    write_report(
        finished, Context(tiny(), "", SPEC, "hast-cuda quantize --model tiny", ["Mind this."])
    )
    assert Page(finished / "report.html").source == page.source


def test_without_the_network(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "deeper" / "mine.html"
    assert write_report(finished, Context(problem="it is <gone>"), out) == out
    page = Page(out)
    assert "could not be loaded (it is <gone>)" in page.text
    assert "weight error" not in {cell for row in page.rows for cell in row}
    assert page.row("features.2")[1:4] == ["activation", "-", "4"]
    assert page.row("output")[1:4] == ["2-d weight", "3", "-"]
    assert "Difficulty" not in page.headings
    assert "stretched from the darkest" in page.text
    assert (out.with_name("mine.md")).is_file()
    assert (out.with_name("mine") / "accuracy.svg").is_file()


def test_another_network_is_refused(finished: Path) -> None:
    other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU())
    with pytest.raises(ValueError, match="corrupt or belongs to another network"):
        write_report(finished, Context(other, "", SPEC))


def stopped(out: Path) -> None:
    """As :func:`make`, killed in the last evaluation."""
    reads = iter(range(100))
    images = test_images()

    def read(indices: Any) -> Tensor:
        if next(reads) == 4:  # teacher, rounded, shrunk, half-way, end
            raise KeyboardInterrupt
        return images.read(indices)

    with pytest.raises(KeyboardInterrupt):
        make(out, test=replace(images, read=read))


def test_stopped_while_fine_tuning(tmp_path: Path) -> None:
    stopped(tmp_path)
    write_report(tmp_path, Context(tiny(), "", SPEC))
    page = Page(tmp_path / "report.html")
    self_contained(page)
    assert "This run is not finished." in page.text
    assert "Fine-tuning has logged 4 of 4 steps." in page.text
    assert "Missing: student.safetensors and result.json" in page.text
    assert re.search(r"So far: \d+\.\d\d % top-1 after 2 steps", page.text)
    assert "No student.safetensors yet" in page.text
    assert page.headings[-1] == "Go on with it"
    assert page.tags.count("img") == 12
    assert "Difficulty" in page.headings


def test_stopped_before_anything(tmp_path: Path) -> None:
    config = {"bits": Bits(3, 3), "seed": 0, "recipe": RECIPE, "network": {"model": "tiny"}}
    RunDirectory(tmp_path, config, torch.device("cpu"))
    (tmp_path / "environment.json").unlink()
    write_report(tmp_path)
    page = Page(tmp_path / "report.html")
    assert "0 of 2 batches of images are made." in page.text
    assert "Nothing was measured yet." in page.text
    assert "None are made yet." in page.text
    assert "no phase has ended" in page.text
    assert "environment.json is missing" in page.text
    assert "a recipe of its own" in page.text


def test_no_test_images_and_weights_only(tmp_path: Path) -> None:
    images = SyntheticImages(torch.randn(8, *SHAPE), torch.arange(8) % CLASSES)
    bits = Bits(4, None, overrides={"output": Override(8, None)})
    make(tmp_path, test=None, images=images, bits=bits, describe={"method": "mine"})
    write_report(tmp_path, Context(tiny(), "", SPEC))
    page = Page(tmp_path / "report.html")
    assert "<h1>unnamed network, mine, W4, weights only</h1>" in page.source
    assert "was given no test images" in page.text
    assert page.facts("Activations") == "full precision"
    assert page.facts("Exceptions") == "output: weights 8 bits, activations full precision"
    assert page.row("output")[2] == "8"
    assert "Placement" not in page.source
    assert "accuracy.svg" not in (tmp_path / "report.md").read_text()


def test_post_training(tmp_path: Path) -> None:
    make(tmp_path, recipe=methods.recipe("dfq"), describe={"method": "dfq"})
    write_report(tmp_path, Context(tiny(), "", SPEC))
    page = Page(tmp_path / "report.html")
    assert page.facts("Images") == "none"
    assert page.facts("Fine-tuning") == "none"
    assert page.row("quantized network")[2][0] in "+-"
    assert not [row for row in page.rows if row[0].startswith("best seen")]
    assert "Synthetic images" not in page.headings
    assert "no loop has run" in page.text
    assert "after its BatchNorm layers were folded and its channels equalized" in page.text
    assert 0 < float(page.row("features.0")[5].split()[0]) < 60  # of the folded weights


NASTY = '<img src=x onerror=alert(1)> | `a` "q" & $x$ __y__'


def test_everything_is_escaped(tmp_path: Path) -> None:
    run = tmp_path / "<b>$a|b`<script>"
    make(run, describe={
        "method": NASTY, "network": {"model": NASTY, "weights": NASTY}, NASTY: NASTY,
    })  # fmt: skip
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


def test_markdown_escape() -> None:
    assert escape("a|b\n<i>*x* features.stage_1 _y_ `z` [l](u)") == (
        r"a\|b &lt;i&gt;\*x\* features.stage_1 \_y\_ \`z\` \[l\](u)"
    )


def test_exports_of_other_versions(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {}, {"kind": "trt", "checks": None, "latency": None, "future": [1, {"a": None}]},
        {"kind": 3, "bytes": "many", "nodes": ["Conv"], "checks": [1], "latency": {"batch": 2}},
        {"kind": "x", "checks": {"top1": None}, "latency": {"milliseconds": 2}, "float_bytes": 0},
    ]  # fmt: skip
    RunDirectory(tmp_path, {"bits": Bits(), "recipe": RECIPE}, torch.device("cpu"))
    (tmp_path / "exports").mkdir()
    for index, record in enumerate(records):
        (tmp_path / "exports" / f"{index}.json").write_text(json.dumps(record))
    write_report(tmp_path)
    rows = Page(tmp_path / "report.html").rows
    files, checks = rows[1:5], rows[6:10]
    assert files == [
        ["-"] * 8, ["trt", *["-"] * 7], ["3", "-", "Conv", *["-"] * 5],
        ["x", *["-"] * 5, "2.00 ms", "-"],
    ]  # fmt: skip
    assert [row[1] for row in checks] == [*["not checked"] * 3, "- images, -"]
    assert all(row[2:] == ["-"] * 5 for row in checks)


def test_difficulty_from_the_file(tmp_path: Path) -> None:
    RunDirectory(tmp_path, {"bits": Bits(), "recipe": RECIPE}, torch.device("cpu"))
    (tmp_path / "analysis").mkdir()
    bins = {"edges": [0, 0.5, 1], "counts": [30, 11]}
    (tmp_path / "analysis" / "difficulty.json").write_text(
        json.dumps({"environment": {}, "difficulty": {"test": bins}})
    )
    write_report(tmp_path)
    page = Page(tmp_path / "report.html")
    assert "From analysis/difficulty.json" in page.text
    assert "test: 41 images, (30, 11)" in page.source


def test_images_alone(tmp_path: Path) -> None:
    config = {"network": {"model": "tiny"}, "seed": 0, "synthesis": RECIPE.synthesis}
    run = RunDirectory(tmp_path, config, torch.device("cpu"))
    store = ImageStore(run.images)
    store.save(0, SyntheticImages(torch.randn(8, *SHAPE), torch.arange(8) % CLASSES))
    write_report(tmp_path, Context(tiny(), "", SPEC))
    assert "1 of 2 batches of images are made" in Page(tmp_path / "report.html").text
    store.save(1, SyntheticImages(torch.randn(4, *SHAPE), torch.arange(4) % CLASSES))
    write_report(tmp_path, Context(tiny(), "", SPEC))
    page = Page(tmp_path / "report.html")
    assert "<h1>tiny, synthetic images</h1>" in page.source
    assert "not finished" not in page.text
    assert "no network was quantized" in page.text
    assert "Layers" not in page.headings
    assert page.tags.count("img") == 12


def test_comparison(finished: Path, tmp_path: Path) -> None:
    squant, half = tmp_path / "squant", tmp_path / "half"
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
        RunDirectory(
            tmp_path / name / "run", {"bits": Bits(), "seed": seed, "recipe": RECIPE},
            torch.device("cpu"),
        )  # fmt: skip
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    page = Page(write_comparison(runs, tmp_path / "c.html"))
    assert [row[0] for row in page.rows[1:3]] == [str(run) for run in runs]
    assert page.row("seed") == ["seed", "0", "1"]
    with pytest.raises(ValueError, match="a run is given twice"):
        write_comparison([runs[0], runs[0]])
    with pytest.raises(ValueError, match="needs at least 2"):
        write_comparison(runs[:1])


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[Path]:
    RunDirectory(tmp_path, {"bits": Bits(), "recipe": RECIPE}, torch.device("cpu"))
    yield tmp_path
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("environment.json", "{", "environment.json is not valid JSON"),
        ("progress.json", "[]", "progress.json holds a list, not an object"),
        ("exports/x.json", "nothing", "x.json is not valid JSON"),
        ("analysis/difficulty.json", '{"difficulty": {"a": 1}}', "holds no histograms"),
        ("config.json", '{"bits": {}}', "holds no recipe"),
        ("config.json", '{"recipe": {"synthesis": {}, "finetune": {}}}', "says nothing about bits"),
        ("student.safetensors", "not tensors", "student.safetensors is corrupt"),
        ("images/batch_00000.safetensors", "not tensors", "shard .* is corrupt"),
        ("config.json", '{"recipe": {"synthesis": {"speed": 1}, "finetune": {}}}', "'speed'"),
        ("config.json", "{}", "holds no recipe"),
    ],
)
def test_files_that_are_broken(begun: Path, name: str, text: str, message: str) -> None:
    (begun / name).parent.mkdir(exist_ok=True)
    (begun / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        write_report(begun)


def test_not_a_run_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run directory"):
        write_report(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_name_of_the_page(begun: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a name that ends with \.html"):
        write_report(begun, out=begun / "page.htm")


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is nothing to draw"):
        draw_accuracies({}, tmp_path / "a.svg")
    with pytest.raises(ValueError, match="there is nothing to draw"):
        draw_learning_rate({"a": FinetuneConfig(iterations=0)}, tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())
