from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import tiny
from test_run import RECIPE, SHAPE, read_json, real_images, run

from hast_cuda.cli import main
from hast_cuda.data import InputSpec
from hast_cuda.run import TensorBoardLog
from hast_cuda.synthesis import synthesize

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Points = list[tuple[str, str, int, float]]


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events


def points(out: Path) -> Points:
    """(folder, name, iteration, value) of every figure under a run's tensorboard folder."""
    found: Points = []
    for folder in sorted({p.parent for p in (out / "tensorboard").rglob("events.*")}):
        events, name = read(folder), folder.relative_to(out).as_posix()
        for tag in events.Tags()["scalars"]:
            found += [(name, tag, e.step, e.value) for e in events.Scalars(tag)]
        for tag in events.Tags()["images"]:
            found += [(name, tag, e.step, 0.0) for e in events.Images(tag)]
    return found


def record_of(iteration: int, **figures: Any) -> dict[str, Any]:
    return {"phase": "finetune", "iteration": iteration, **figures}


def test_event_files_hold_what_the_metrics_hold(tmp_path: Path) -> None:
    done = run(tmp_path, tensorboard=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    title = {"synthesis": "synthesis", "finetune": "finetune", "test": "accuracy"}
    expected: dict[tuple[str, str, int], float] = {}
    for record in map(json.loads, lines):
        batch = f"/batch-{record['batch']:03d}" if "batch" in record else ""
        for name, value in record.items():
            if name not in ("phase", "batch", "iteration"):
                tag = f"{title[record['phase']]}/{name}"
                expected["tensorboard" + batch, tag, record["iteration"]] = value
    for name in ("full_precision", "rounded", "start_of_finetuning", "quantized"):
        expected["tensorboard", f"result/{name}", 6] = done.result[name]
    expected["tensorboard", "images", 0] = 0.0
    found = {point[:3]: point[3] for point in points(tmp_path)}
    assert found == pytest.approx(expected)
    names = {tag for _, tag, _ in found}
    assert names >= {"synthesis/match", "synthesis/learning_rate", "finetune/distillation"}
    assert names >= {"finetune/alignment", "finetune/learning_rate", "accuracy/top1"}
    assert {folder for folder, *_ in found if "batch" in folder} == {"tensorboard/batch-000", "tensorboard/batch-001"}


def test_the_sheet_shows_the_images(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    images = torch.zeros(3, *SHAPE)
    images[1] = 2.0
    images[2, 0] = 1.0
    with TensorBoardLog(tmp_path / "log") as log:
        log.sheet(images)
    (event,) = read(tmp_path / "log").Images("images")
    assert (event.height, event.width) == (8 + 2 * 2, 3 * (8 + 2) + 2)
    from PIL import Image

    (tmp_path / "sheet.png").write_bytes(event.encoded_image_string)
    with Image.open(tmp_path / "sheet.png") as sheet:
        centres = [sheet.getpixel((2 + 4 + 10 * i, 6)) for i in range(3)]
    assert centres[:2] == [(0, 0, 0), (255, 255, 255)]
    assert centres[2][1:] == (0, 0)
    assert abs(centres[2][0] - 128) <= 1


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_channels_has_a_sheet(tmp_path: Path, channels: int) -> None:
    with TensorBoardLog(tmp_path) as log:
        log.sheet(torch.rand(70, channels, 5, 4))
    (event,) = read(tmp_path).Images("images")
    assert (event.height, event.width) == (8 * (5 + 2) + 2, 8 * (4 + 2) + 2)  # 64 of 70


@pytest.mark.parametrize("killed_at", [0, 2, 3, 4])
@pytest.mark.parametrize("first", [True, False])
def test_a_continued_run_writes_nothing_twice(tmp_path: Path, killed_at: int, first: bool) -> None:
    """``first``: whether the attempt that was killed wrote event files, too."""
    run(tmp_path / "whole", tensorboard=True)
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(out, test=real_images(killed_at), tensorboard=first)
    assert (out / "tensorboard").exists() == first
    run(out, tensorboard=True)
    found = points(out)
    assert max(Counter(point[:3] for point in found).values()) == 1
    assert sorted(found) == sorted(points(tmp_path / "whole"))


def test_iterations_done_again_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hast_cuda.finetune.loop.LOG_EVERY", 1)
    run(tmp_path / "whole", tensorboard=True)
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):  # in the second half, after figures of it were logged
        run(out, test=real_images(4), tensorboard=True)
    run(out, tensorboard=True)
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    repeated = Counter(r["iteration"] for r in records if r["phase"] == "finetune")
    assert set(repeated.values()) == {1, 2}  # the log tells of both attempts
    assert sorted(points(out)) == sorted(points(tmp_path / "whole"))


def test_it_may_be_switched_off_and_on_again(tmp_path: Path) -> None:
    run(tmp_path, tensorboard=True)
    before = points(tmp_path)
    config = (tmp_path / "config.json").read_text()
    assert "tensorboard" not in config
    run(tmp_path)
    run(tmp_path, tensorboard=True)
    assert points(tmp_path) == before
    assert (tmp_path / "config.json").read_text() == config


def test_a_finished_run_gets_event_files_afterwards(tmp_path: Path) -> None:
    run(tmp_path / "with", tensorboard=True)
    run(tmp_path / "without")
    assert not (tmp_path / "without" / "tensorboard").exists()
    run(tmp_path / "without", tensorboard=True)
    assert sorted(points(tmp_path / "without")) == sorted(points(tmp_path / "with"))


def test_every_record_is_on_disk_at_once(tmp_path: Path) -> None:
    log = TensorBoardLog(tmp_path)
    for iteration in range(5):
        log(record_of(iteration, loss=1.5))
        found = [(e.step, e.value) for e in read(tmp_path).Scalars("finetune/loss")]
        assert found == [(done, 1.5) for done in range(iteration + 1)]
    log.close()


def test_event_files_of_before_are_removed(tmp_path: Path) -> None:
    for steps in (3, 2):
        with TensorBoardLog(tmp_path) as log:
            for step in range(steps):
                log(record_of(step, loss=float(step), batch=7))
            log.close()  # what follows is beside it
            log(record_of(0, loss=1.0))
    assert [e.step for e in read(tmp_path / "batch-007").Scalars("finetune/loss")] == [0, 1]
    assert [e.value for e in read(tmp_path).Scalars("finetune/loss")] == [1.0]


def test_it_is_a_log_of_the_loops(tmp_path: Path) -> None:
    config = RECIPE.synthesis
    with TensorBoardLog(tmp_path / "tensorboard") as log:
        synthesize(tiny(), InputSpec(*SHAPE, 5), config, log=log)
    found = points(tmp_path)
    assert {step for *_, step, _ in found} == set(range(config.iterations))
    assert {tag for _, tag, *_ in found} >= {f"synthesis/{name}" for name in ("match", "label")}


def test_notes_are_not_figures(tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path / "log") as log:
        log({"phase": "finetune", "note": 1.0})
        log({"iteration": 3, "loss": 1.0})
        log(record_of(3, why="text", done=True))
    assert not (tmp_path / "log").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    flags = ["--model", "digits", "--num-images", "8", "--synthesis-iterations", "2"]
    flags += ["--batch-size", "4", "--device", "cpu", "--out", str(tmp_path)]
    assert main(["synthesize", *flags]) == 0, capsys.readouterr().err
    assert not (tmp_path / "tensorboard").exists()
    assert main(["synthesize", *flags, "--tensorboard"]) == 0, capsys.readouterr().err
    names = {(folder, tag) for folder, tag, *_ in points(tmp_path)}
    assert names >= {("tensorboard/batch-001", "synthesis/match"), ("tensorboard", "images")}


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if tensorboard was not installed."""
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.mark.usefixtures("absent")
def test_a_missing_package_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("hast_cuda.run.work.prepare", None)  # the first that takes time
        with pytest.raises(ImportError, match=r"pip install 'hast_cuda\[tensorboard\]'"):
            run(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run")  # and is not missed where nobody asked
    assert read_json(tmp_path / "run" / "result.json")["num_images"] == 12


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("verb", ["demo", "quantize", "synthesize", "finetune"])
def test_the_command_line_tells_too(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = [] if verb == "demo" else ["--model", "no_such_network"]
    images = ["--images", "absent"] if verb == "finetune" else []
    command = [verb, *network, *images, "--out", str(tmp_path / "run"), "--tensorboard"]
    assert main(command) == 1
    assert "pip install 'hast_cuda[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_there_must_be_a_directory() -> None:
    with pytest.raises(ValueError, match="tensorboard=True writes to the run directory: give out"):
        run(None, tensorboard=True)
