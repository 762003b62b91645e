"""What loops say of their progress where stderr is no terminal, and that it can be switched off."""

from __future__ import annotations

import io
import sys

import pytest
import torch
from networks import tiny
from test_run import RECIPE, SPEC, run

from hast_cuda.loops import progress
from hast_cuda.loops.progress import Lines, Progress, duration, progress_shown
from hast_cuda.synthesis import synthesize


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_of(total: int, step: float, done: int = 0) -> Lines:
    """A loop of ``total`` steps of ``step`` seconds, run to its end."""
    clock = Clock()
    lines = Lines("synthesis", total, done, clock)
    for _ in range(total - done):
        clock.now += step
        lines.update()
    return lines


def test_a_slow_loop_has_a_line_a_minute_with_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines_of(200, 18.0)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "synthesis: 2 % (4 of 200), 58.8 min left"
    assert said[-2:] == ["synthesis: 98 % (196 of 200), 72.0 s left", "synthesis: 100 % (200 of 200), done"]
    assert len(said) == 50  # every fourth step


def test_a_loop_of_minutes_has_a_line_per_minute(capsys: pytest.CaptureFixture[str]) -> None:
    lines_of(100, 1.5)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in said] == ["synthesis: 40 %", "synthesis: 80 %", "synthesis: 100 %"]


def test_a_short_loop_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    lines_of(10_000, 0.005)
    assert capsys.readouterr().err == ""


def test_what_an_earlier_attempt_made_does_not_count_for_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines_of(100, 10.0, done=50)
    assert capsys.readouterr().err.splitlines()[0] == "synthesis: 56 % (56 of 100), 7.3 min left"


def test_no_terminal_gives_lines_and_a_terminal_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with Progress("synthesis", 10) as shown:
        shown.update(10)
    assert capsys.readouterr().err == "synthesis: 100 % (10 of 10), done\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("synthesis", 10) as shown:
        shown.update(10)
    assert "synthesis: 100%|" in capsys.readouterr().err


class Cell(io.StringIO):
    """As the stderr of a notebook's cell: no terminal, and what follows a carriage return replaces the line."""


Cell.__module__ = "ipykernel.iostream"


def test_a_notebook_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", cell := Cell())
    with Progress("synthesis", 10) as shown:
        shown.update(10)
    assert "synthesis: 100%|" in cell.getvalue()


def test_every_loop_uses_it_and_all_of_them_can_be_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    loud = run(None)
    said = {line.partition(":")[0] for line in capsys.readouterr().err.splitlines()}
    assert said == {"synthesis", "evaluate", "fine-tuning"}
    quiet = run(None, progress=False)
    assert capsys.readouterr().err == ""
    assert quiet.result["quantized"] == loud.result["quantized"]


def test_other_processes_are_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with Progress("synthesis", 1, quiet=True) as shown:
        shown.update()
    assert capsys.readouterr().err == ""


def test_a_watch_sees_every_step_even_of_a_silent_run() -> None:
    seen: list[str] = []
    with progress_shown(False), progress_shown(seen.append):
        synthesize(tiny(), SPEC, RECIPE.synthesis, device=torch.device("cpu"))
    assert seen == ["synthesis"] * 2 * RECIPE.synthesis.iterations


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (48.4, "48.4 s"), (150, "2.5 min"), (43 * 3600, "43.0 h")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
