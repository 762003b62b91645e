"""``reproduce figure2``, ``figure4``, ``figure5``, ``figure6`` on a tiny network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_networks import few_steps
from networks import CHANNELS, CLASSES, SIZE
from pages import Page, self_contained
from test_method_runs import setting as tiny_setting
from test_run import SPEC
from torch import nn

from hast_cuda import methods
from hast_cuda.analysis import gradient_cosines
from hast_cuda.cli import main
from hast_cuda.data import Images, ImageSet
from hast_cuda.report import inception_loss
from hast_cuda.reproduce import (
    Drawing,
    Outcome,
    Row,
    Setting,
    draw_figure5,
    measure_figure2,
    measure_figure4,
    measure_figure6,
    recipe_of,
    rows_of,
    run_row,
    write_figure,
)
from hast_cuda.reproduce.figure6 import CE_KL, FA_KL, pair_of
from hast_cuda.synthesis import difficulty

pytest.importorskip("matplotlib")

FEW: dict[str, Any] = {
    "synthesis.num_images": 12,
    "synthesis.iterations": 3,
    "finetune.iterations": 4,
    "finetune.batch_size": 6,
    "finetune.calibration_updates": 1,
    "finetune.calibration_batch_size": 6,
}


def few(method: str) -> dict[str, Any]:
    """Changes that make every part of ``method`` take a few steps."""
    return few_steps(methods.recipe(method, "default", "cifar10")) | FEW


HAST, INTRAQ, REAL = (Row(name, name, few(name)) for name in ("hast", "intraq", "real_data"))

LAUNCHED = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def real_images(count: int = 30) -> ImageSet:
    pixels = torch.randint(256, (count, CHANNELS, SIZE, SIZE), generator=torch.Generator().manual_seed(3)).to(
        torch.uint8
    )
    return ImageSet(SPEC, torch.arange(count) % CLASSES, lambda i: pixels[torch.as_tensor(i)], 255, "noise")


def setting(out: Path, *, train: bool = True) -> Setting:
    images, labels = next(iter(real_images(18).batches(18)))
    given = Images(images, labels) if train else None
    return tiny_setting(out, budget="small", test=real_images(), train=given, describe={})


def quiet(_: str) -> None:
    """Says nothing."""


def test_figure2(tmp_path: Path) -> None:
    rows = (REAL, INTRAQ, HAST, Row("gdfq", "gdfq"))
    given = setting(tmp_path)
    drawing = measure_figure2(rows, given, (0, 1), quiet)
    runs = {row.name: run_row(row, given, (0, 1), quiet).results for row in rows[:3]}
    for name, results in runs.items():
        found = drawing.data[name]
        assert found["top1_test_images"] == pytest.approx([r["quantized"] for r in results])
        count = (18 if name == "real_data" else 12) * 2
        assert sum(found["difficulty"]["counts"]) == count
        assert sum(found["difficulty_student"]["counts"]) == count
        assert sum(found["errors"]["counts"]) == 60
        wrong = sum(
            n * rate / 100 for n, rate in zip(found["errors"]["counts"], found["errors"]["rates"], strict=True) if n
        )
        assert 100 - wrong / 60 * 100 == pytest.approx(sum(found["top1_test_images"]) / 2)
    assert drawing.data["real_data"]["difficulty"] != drawing.data["hast"]["difficulty"]
    assert drawing.lines[-1][:2] == ["gdfq", 'keeps no images (those of its recipe are "generated")']
    assert {len(line) for line in drawing.lines} == {len(drawing.header)}
    for name, draw in drawing.pictures.items():
        draw(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 2000


def test_figure2_without_training_images(tmp_path: Path) -> None:
    drawing = measure_figure2((REAL,), setting(tmp_path, train=False), (0,), quiet)
    assert drawing.lines[-1][1] == "no training images given (--train-data)"
    assert "figure2a.png" not in drawing.pictures


def test_figure4(tmp_path: Path) -> None:
    given = setting(tmp_path)
    rows = [Row(r.name, r.method, few(r.method) | r.changes) for r in rows_of("figure4")]
    drawing = measure_figure4(rows, given, (0,), quiet)
    assert not (tmp_path / "runs").exists()  # nothing is fine-tuned
    plain, hard = drawing.data["IL"], drawing.data["HIL"]
    assert (plain["gamma"], hard["gamma"]) == (0, 2)
    assert plain["loss"] == pytest.approx(plain["cross_entropy"])
    assert hard["loss"] < hard["cross_entropy"]
    images = run_row(rows[1], given, (0,), quiet)  # the same images, by their hash
    assert images.results[0]["num_images"] == 12
    assert len(list((tmp_path / "images").iterdir())) == 2
    drawing.pictures["figure4.png"](tmp_path / "figure4.png")
    assert (tmp_path / "figure4.png").stat().st_size > 2000
    with pytest.raises(ValueError, match='those of gdfq are "generated"'):
        measure_figure4((Row("gdfq", "gdfq"),), given, (0,), quiet)


def test_the_curve_is_the_loss() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0]], dtype=torch.float64)
    d = difficulty(logits, torch.tensor([1]))
    expected = d**2 * nn.functional.cross_entropy(logits, torch.tensor([1]))
    assert inception_loss(float(d), 2.0) == pytest.approx(expected.item(), rel=1e-6)
    with pytest.raises(ValueError, match="at 1 the loss is infinite"):
        inception_loss(1.0, 2.0)


def test_figure6_measures_along_the_fine_tuning(tmp_path: Path) -> None:
    given = setting(tmp_path)
    drawing = measure_figure6((INTRAQ, HAST), given, (0,), quiet)
    assert drawing.data["intraq"]["losses"] == CE_KL
    assert drawing.data["hast"]["losses"] == FA_KL
    for name in ("intraq", "hast"):
        assert drawing.data[name]["iterations"] == [0, 1, 2, 3, 4]
        (cosines,) = drawing.data[name]["cosines"]
        assert len(set(cosines)) == 5
        assert all(-1 <= value <= 1 for value in cosines)
    assert drawing.data["hessian"].keys() == {"CE", "KL", "FA"}
    for name, draw in drawing.pictures.items():
        draw(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 2000
    # the student of the figure is that of the run
    done = run_row(HAST, given, (0,), quiet)
    assert done.results[0]["quantized"] is not None


def test_figure6_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_figure6((HAST,), setting(tmp_path / "whole"), (0,), quiet).data
    calls = iter(range(100))

    def killed(*arguments: Any, **named: Any) -> dict[str, list[float]]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return gradient_cosines(*arguments, **named)

    monkeypatch.setattr("hast_cuda.reproduce.figure6.gradient_cosines", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_figure6((HAST,), setting(tmp_path / "killed"), (0,), quiet)
    assert measure_figure6((HAST,), setting(tmp_path / "killed"), (0,), quiet).data == whole


def test_figure6_compares_two_losses(tmp_path: Path) -> None:
    given = setting(tmp_path)
    both = Row("both", "hast", {"finetune.label_weight": 1.0})
    with pytest.raises(ValueError, match="both has the weights KL"):
        measure_figure6((both,), given, (0,), quiet)
    with pytest.raises(ValueError, match='those of gdfq are "generated"'):
        pair_of("gdfq", recipe_of(Row("gdfq", "gdfq"), given))


def test_figure5(tmp_path: Path) -> None:
    rows = rows_of("figure5")
    outcomes = [Outcome(row, [{"quantized": 50.0 + i}]) for i, row in enumerate(rows)]
    draw_figure5(outcomes, tmp_path / "figure5.png")
    assert (tmp_path / "figure5.png").stat().st_size > 2000
    swept = [next(iter(row.changes)) for row in rows]
    assert (
        swept == ["synthesis.difficulty_exponent"] * 4 + ["finetune.perturbation"] * 4 + ["finetune.feature_weight"] * 4
    )
    with pytest.raises(ValueError, match="row hast changes no value"):
        draw_figure5([Outcome(Row("hast", "hast"), [])], tmp_path / "figure5.png")


def test_formats(tmp_path: Path) -> None:
    drawing = Drawing(("row", "a | b"), [["<i>", "-"]], {"<i>": 1}, {}, ["note & more"])
    text = write_figure("figure2", drawing, setting(tmp_path), 2)
    assert text == (tmp_path / "figure2.md").read_text()
    assert "| row | a \\| b |\n| --- | ---: |\n| &lt;i&gt; | - |\n" in text
    assert "- seeds: 0, 1\n" in text
    page = Page(tmp_path / "figure2.html")
    self_contained(page)
    assert page.rows == [["row", "a | b"], ["<i>", "-"]]
    assert "note & more" in page.text
    assert (tmp_path / "figure2.csv").read_text() == "row,a | b\n<i>,\n"
    assert json.loads((tmp_path / "figure2.json").read_text())["rows"] == {"<i>": 1}


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.delenv("HAST_CUDA_DATA", raising=False)
    flags = ["reproduce", "figure4", "--dataset", "cifar10", "--bits", "4", "--budget", "0.05%"]
    flags += ["--model", "digits", "--data", "digits", "--test-limit", "20", "--device", "cpu"]
    flags += ["--out", str(tmp_path)]
    assert main(flags) == 0
    assert "| HIL | 2 |" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"figure4.{e}" for e in ("md", "csv", "html", "json", "png", "svg")} <= names
    assert (tmp_path / "figure4.html").read_text().count("<svg") == 1
    assert json.loads((tmp_path / "figure4.json").read_text())["rows"]["IL"]["gamma"] == 0
    assert main([*flags, "--bits", "9"]) == 1
    assert "bits" in capsys.readouterr().err
    assert main([*flags, "--seeds", "0"]) == 1
    assert "seeds" in capsys.readouterr().err


def test_one_process_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    flags = ["reproduce", "figure6", "--dataset", "cifar10", "--bits", "4", "--out", str(tmp_path)]
    assert main(flags) == 1
    assert "measured by one process, and 2 were started" in capsys.readouterr().err
