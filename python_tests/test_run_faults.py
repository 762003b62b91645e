"""Runs that are killed at any moment and continued end as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from killed_runs import RECIPES, Nursery

from hast_cuda.files.whole import sweep
from hast_cuda.run import RunDirectory
from hast_cuda.run import phases as module

Kill = tuple[str, int] | None


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    found = Nursery()
    yield found
    found.close()


class Undisturbed:
    """A run that nobody killed: what it left, how long it took, how many files it touched."""

    def __init__(self, nursery: Nursery, recipe: str, out: Path) -> None:
        nursery.start(out, recipe)
        begun = time.monotonic()
        done = nursery.wait()
        assert done["status"] == 0
        self.seconds = time.monotonic() - begun
        self.files: int = done["files"]
        self.left = left(out)


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Undisturbed]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {name: Undisturbed(nursery, name, folder / name) for name in RECIPES}


def left(out: Path) -> dict[str, Any]:
    """All files by name: tensors bit for bit, figures as numbers; only times may differ."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if path.suffix == ".safetensors":
            found[name] = path.read_bytes()
        elif name == "metrics.jsonl":  # of what was done twice the last record counts
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = {(r["phase"], r.get("batch", r.get("block")), r.get("iteration")): r for r in records}
        elif name == "result.json":
            result = json.loads(path.read_text())
            assert all(0 <= s < 600 for s in result.pop("seconds").values())
            found[name] = result
        else:
            found[name] = None  # .lock, progress.json and what describes the attempt
    return found


def fault(nursery: Nursery, out: Path, recipe: str, kill: Kill, moment: float) -> str:
    """Kill a run by ``kill``, or from outside after ``moment`` seconds; how far it was."""
    pid = nursery.start(out, recipe, kill)
    if kill is None:
        time.sleep(moment)
        with suppress(ProcessLookupError):  # it was faster
            os.kill(pid, signal.SIGKILL)
    status = nursery.wait()["status"]
    assert status in (-signal.SIGKILL, 0 if kill is None else -signal.SIGKILL)
    if status == 0 or (out / "result.json").exists():
        return "the end"
    if (out / "checkpoints" / "last.safetensors").exists():
        return "fine-tuning"
    if (out / "checkpoints" / "reconstruction.safetensors").exists():
        return "reconstruction"
    shards = len(list((out / "images").glob("batch_*"))) if (out / "images").exists() else 0
    if not (out / "config.json").exists():
        return "the start"
    return "calibration or first steps" if shards == 6 or recipe == "generated" else "synthesis"


def check(nursery: Nursery, known: Undisturbed, out: Path, recipe: str) -> None:
    """Continue, and compare with the run that nobody killed."""
    assert nursery.run(out, recipe)["status"] == 0
    now = left(out)
    assert now.keys() == known.left.keys()
    for name, content in known.left.items():
        assert now[name] == content, name


@pytest.mark.parametrize(
    ("recipe", "kill"),
    [
        ("stored", None),
        pytest.param("generated", None, marks=pytest.mark.slow),
        pytest.param("stored", ("file", 0.25), marks=pytest.mark.slow),
        ("stored", ("file", 0.7)),
        ("generated", ("file", 0.5)),
        ("stored", ("write", 9)),
    ],
)
def test_a_killed_run_ends_like_an_undisturbed_one(
    nursery: Nursery, undisturbed: dict[str, Undisturbed], tmp_path: Path, recipe: str, kill: tuple[str, float] | None
) -> None:
    known, out = undisturbed[recipe], tmp_path / "run"
    when: Kill = None
    if kill is not None:
        kind, place = kill
        when = (kind, int(place * known.files) if kind == "file" else int(place))
    fault(nursery, out, recipe, when, 0.5 * known.seconds)
    check(nursery, known, out, recipe)


def test_a_run_killed_between_blocks(nursery: Nursery, undisturbed: dict[str, Undisturbed], tmp_path: Path) -> None:
    known = undisturbed["stored"]
    lines = [(phase, number) for phase, number, _ in known.left["metrics.jsonl"]]
    kill = "write", 1 + lines.index(("reconstruction", 1))
    assert fault(nursery, tmp_path, "stored", kill, 0.0) == "reconstruction"
    check(nursery, known, tmp_path, "stored")


def test_a_second_process_is_refused_while_the_first_goes_on(
    nursery: Nursery, undisturbed: dict[str, Undisturbed], tmp_path: Path
) -> None:
    nursery.start(tmp_path, "stored")
    try:
        while not (tmp_path / "metrics.jsonl").exists():
            time.sleep(0.001)
        with pytest.raises(BlockingIOError, match="is in use by another process"):
            RunDirectory(tmp_path, {}, torch.device("cpu"))
    finally:
        assert nursery.wait()["status"] == 0
    assert left(tmp_path) == undisturbed["stored"].left


@pytest.mark.slow
def test_kills_at_50_random_moments(nursery: Nursery, undisturbed: dict[str, Undisturbed], tmp_path: Path) -> None:
    draw, reached = random.Random(5), dict[str, int]()
    for number in range(50):
        recipe = ("stored", "generated")[number % 2]
        known, out = undisturbed[recipe], tmp_path / str(number)
        place = fault(nursery, out, recipe, None, draw.uniform(0, known.seconds))
        reached[place] = reached.get(place, 0) + 1
        check(nursery, known, out, recipe)
    print("killed in", reached)
    assert len(reached) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_kills_at_every_third_touch_of_a_file(
    nursery: Nursery, undisturbed: dict[str, Undisturbed], tmp_path: Path, recipe: str
) -> None:
    known = undisturbed[recipe]
    for touch in range(1, known.files + 1, 3):
        out = tmp_path / str(touch)
        fault(nursery, out, recipe, ("file", touch), 0.0)
        check(nursery, known, out, recipe)


@pytest.mark.slow
def test_one_run_killed_again_and_again(nursery: Nursery, undisturbed: dict[str, Undisturbed], tmp_path: Path) -> None:
    known, draw = undisturbed["stored"], random.Random(6)
    for _ in range(12):
        fault(nursery, tmp_path, "stored", None, draw.uniform(0, 0.4 * known.seconds))
    check(nursery, known, tmp_path, "stored")


def test_what_living_processes_write_stays(tmp_path: Path) -> None:
    (dead := tmp_path / ".a.json.4194399.part").write_text("half")  # above the largest process id
    (mine := tmp_path / f".b.json.{os.getpid()}.part").write_text("of another with my number")
    (absurd := tmp_path / f".c.json.{10**30}.part").write_text("")
    kept = [tmp_path / f".a.json.{os.getppid()}.part", tmp_path / ".notes.part", tmp_path / "x.part"]
    for path in kept:
        path.write_text("mine")
    sweep(tmp_path)
    assert not dead.exists()
    assert not mine.exists()
    assert not absurd.exists()
    assert all(path.exists() for path in kept)


def test_seconds_do_not_follow_the_wall_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDirectory(tmp_path, {}, torch.device("cpu")) as run:
        phases = module.Phases(run)
        days = iter(range(0, 10**9, 86_400))
        monkeypatch.setattr(time, "time", lambda: -next(days))
        monkeypatch.setattr(module, "KEEP_EVERY", 0.0)
        with phases("synthesis"):
            time.sleep(0.05)
            phases.keep()  # a process that was killed now has counted so far
            assert 0.05 <= run.recall()["seconds"]["synthesis"] < 5
        assert 0.05 <= run.recall()["seconds"]["synthesis"] < 5
    with RunDirectory(tmp_path, {}, torch.device("cpu")) as run:
        assert module.Phases(run).seconds["synthesis"] >= 0.05
