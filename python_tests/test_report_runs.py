from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from networks import CLASSES, tiny
from pages import RECIPE, Page, make, self_contained, stopped
from test_run import SHAPE, SPEC

from hast_cuda import methods
from hast_cuda.data import Images
from hast_cuda.nn import Override
from hast_cuda.report import Context, draw_cosines, write_report
from hast_cuda.run import Bits, RunDirectory
from hast_cuda.synthesis import ImageStore

pytest.importorskip("matplotlib")


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
    images = Images(torch.randn(8, *SHAPE), torch.arange(8) % CLASSES)
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
    assert page.row("kept (the result)")[2][0] in "+-"
    assert not [row for row in page.rows if row[0].startswith("best seen")]
    assert "Synthetic images" not in page.headings
    assert "no loop has run" in page.text
    assert "after its BatchNorm layers were folded and its channels equalized" in page.text
    assert 0 < float(page.row("features.0")[5].split()[0]) < 60  # of the folded weights


def test_images_alone(tmp_path: Path) -> None:
    config = {"network": {"model": "tiny"}, "seed": 0, "synthesis": RECIPE.synthesis}
    run = RunDirectory(tmp_path, config, torch.device("cpu"))
    store = ImageStore(run.images)
    store.save(0, Images(torch.randn(8, *SHAPE), torch.arange(8) % CLASSES))
    write_report(tmp_path, Context(tiny(), "", SPEC))
    assert "1 of 2 batches of images are made" in Page(tmp_path / "report.html").text
    store.save(1, Images(torch.randn(4, *SHAPE), torch.arange(4) % CLASSES))
    write_report(tmp_path, Context(tiny(), "", SPEC))
    page = Page(tmp_path / "report.html")
    assert "<h1>tiny, synthetic images</h1>" in page.source
    assert "not finished" not in page.text
    assert "no network was quantized" in page.text
    assert "Layers" not in page.headings
    assert page.tags.count("img") == 12


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


def test_pictures_of_analyses(tmp_path: Path) -> None:
    RunDirectory(tmp_path, {"bits": Bits(), "recipe": RECIPE}, torch.device("cpu"))
    (tmp_path / "analysis").mkdir()
    draw_cosines({"a": [0.5, 0.25]}, tmp_path / "analysis" / "gradients.png")
    write_report(tmp_path)
    page = Page(tmp_path / "report.html")
    self_contained(page)
    assert "Analyses" in page.headings
    assert "](analysis/gradients.png)" in (tmp_path / "report.md").read_text()
    (source,) = (value for key, value in page.attributes if key == "src")
    assert base64.b64decode(source.partition(",")[2]) == (tmp_path / "analysis" / "gradients.png").read_bytes()


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
