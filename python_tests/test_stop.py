"""Ctrl-C and SIGTERM: what is done is kept, and where it goes on is said."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CLASSES, tiny
from test_run import RECIPE, SHAPE

import hast_cuda as hc
from hast_cuda.cli import main
from hast_cuda.data import Images
from hast_cuda.finetune import loop
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.loops.stop import stop_noticed
from hast_cuda.methods import change
from hast_cuda.run.directory import goes_on

LONG = change(RECIPE, {"finetune.iterations": 9, "finetune.evaluations": 1, "finetune.average": 0.9})


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """As in a terminal: a job in the background ignores SIGINT. Every test leaves them as they were."""
    own = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    signal.signal(signal.SIGINT, own)


def signalled(monkeypatch: pytest.MonkeyPatch, number: int, at: int) -> None:
    """The process gets a signal in the ``at``-th step of fine-tuning."""
    call, seen = loop.ReplayedStep.__call__, iter(range(1000))

    def step(self: Any, *args: Any) -> None:
        if next(seen) == at:
            os.kill(os.getpid(), number)
        call(self, *args)

    monkeypatch.setattr(loop.ReplayedStep, "__call__", step)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["ctrl-c", "sigterm"]
)
def test_fine_tuning_is_saved_at_the_step_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, error: type[BaseException]
) -> None:
    whole = hc.zero_shot_quantize(tiny(), SHAPE, recipe=LONG, seed=2)
    with monkeypatch.context() as patch:
        signalled(patch, number, at=4)
        with pytest.raises(error):
            hc.zero_shot_quantize(tiny(), SHAPE, recipe=LONG, seed=2, out=tmp_path)
    assert goes_on(tmp_path) == "the same command goes on at step 5 of fine-tuning"
    again = hc.zero_shot_quantize(tiny(), SHAPE, recipe=LONG, seed=2, out=tmp_path)
    for name, tensor in whole.student.state_dict().items():
        assert torch.equal(tensor, again.student.state_dict()[name]), name
    assert "is finished" in goes_on(tmp_path)


def interrupted(told: list[BaseException | None], *, saves: bool, times: int) -> None:
    """Adds to ``told`` what a loop would be told after each of so many signals."""
    with stop_noticed(saves=saves) as stop:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)  # to this thread: another one would pass it on later
            told.append(stop.now())


def test_what_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told: list[BaseException | None] = []
    interrupted(told, saves=True, times=3)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert told == [None, None, None]


def test_a_second_signal_acts_at_once_and_so_does_one_where_nothing_can_be_saved() -> None:
    for saves, times in ((True, 2), (False, 1)):
        told: list[BaseException | None] = []
        with pytest.raises(KeyboardInterrupt):
            interrupted(told, saves=saves, times=times)
        assert len(told) == times - 1, "it was told to end, and did not at once"


def test_a_signal_after_the_last_step_is_not_lost() -> None:
    with pytest.raises(SystemExit) as end, stop_noticed(saves=True):
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 143


def test_another_thread_sets_no_handlers() -> None:
    seen: list[object] = []

    def look() -> None:
        with stop_noticed(saves=True):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_where_a_run_goes_on(tmp_path: Path) -> None:
    assert goes_on(tmp_path) == "nothing was kept yet, the same command begins anew"
    (tmp_path / "config.json").write_text('{"recipe": {}}')
    assert goes_on(tmp_path).endswith("with batch 0 of images, those before it are kept")
    hc.synthesis.ImageStore(tmp_path / "images").save(0, Images(torch.zeros(2, 3, 8, 8), torch.arange(2) % CLASSES))
    assert goes_on(tmp_path).endswith("with batch 1 of images, those before it are kept")
    student = hc.calibrate(hc.quantize(tiny(), 4, 4), torch.randn(2, *SHAPE))
    hc.reconstruction.ReconstructionFile(tmp_path / "checkpoints/reconstruction.safetensors").save(
        student, [hc.reconstruction.BlockError("features.0", 0.2, 0.1)]
    )
    assert goes_on(tmp_path) == "the same command goes on after block 1 of reconstruction"
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    CheckpointFile(tmp_path / "checkpoints/last.safetensors").save(loop.Checkpoint(3, []), student, optimizer)
    assert goes_on(tmp_path) == "the same command goes on at step 3 of fine-tuning"


def test_the_command_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hast_cuda.run.work.synthesize", stopped)
    numbers = ["--num-images", "8", "--synthesis-iterations", "2", "--batch-size", "8", "--finetune-iterations", "2"]
    command = ["quantize", "--model", "digits", "--device", "cpu", *numbers, "--reconstruction-iterations", "2"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "hast-cuda: stopped; the same command goes on with batch 0 of images, those before it are kept"
