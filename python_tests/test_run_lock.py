"""Two processes cannot work in one run directory; readers need no lock."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from networks import same_state, snapshot, tiny
from test_run import RECIPE, run

from hast_cuda.run import RunDirectory, load_student, lock, read_images, read_recipe

CPU = torch.device("cpu")
# Holds the lock until it is killed.
HOLDER = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_process_is_told_at_once_and_the_kernel_frees(tmp_path: Path) -> None:
    state = snapshot(run(tmp_path, test=None).student)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != lock.NAME}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / lock.NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            with pytest.raises(BlockingIOError, match=r"run directory .* is in use by .*--out"):
                run(tmp_path, test=None)
            assert all(path.read_bytes() == content for path, content in before.items())
            assert read_recipe(tmp_path) == RECIPE  # reading needs no lock
            assert len(read_images(tmp_path)) == 12
            assert RunDirectory.open(tmp_path).read_log()
            assert same_state(load_student(tiny(), tmp_path), state)
        finally:
            process.send_signal(signal.SIGKILL)
    run(tmp_path, test=None)


def test_what_frees_the_lock(tmp_path: Path) -> None:
    with (
        RunDirectory(tmp_path, {"a": 1}, CPU),
        pytest.raises(BlockingIOError, match="another process, or by this one: wait"),
    ):
        RunDirectory(tmp_path, {"a": 1}, CPU)
    with pytest.raises(ValueError, match="another configuration"):
        RunDirectory(tmp_path, {"a": 2}, CPU)  # an error frees it, too
    forgotten = RunDirectory(tmp_path, {"a": 1}, CPU)
    del forgotten
    RunDirectory(tmp_path, {"a": 1}, CPU).close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def flock(_: int, __: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(RuntimeWarning, match=r"is not locked: its file system has no locks"):
        RunDirectory(tmp_path, {}, CPU).close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.NAME).symlink_to(precious)
    with pytest.raises(OSError, match=r"\.lock"):
        RunDirectory(tmp_path / "run", {}, CPU)
    assert precious.read_text() == "mine"
