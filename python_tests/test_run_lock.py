"""Two processes cannot work in one run directory; readers need no lock."""

from __future__ import annotations

import errno
import importlib.util
import json
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
from hast_cuda.run.lock import RunLock

CPU = torch.device("cpu")
# Holds the lock until it is killed.
HOLDER = """
import fcntl, json, os, sys, time
number = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(number, fcntl.LOCK_EX)
os.ftruncate(number, 0)
os.write(number, sys.argv[2].replace("PID", str(os.getpid())).encode())
print("held", flush=True)
time.sleep(60)
"""


def holder(directory: Path, note: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory / lock.NAME), note],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


@pytest.mark.parametrize(
    ("note", "message"),
    [
        ('{"pid": PID, "host": "elsewhere"}', r"in use by process \d+ on 'elsewhere'"),
        ("", "in use by another process"),
        ("[" * 5000, "in use by another process"),
        ('{"pid": "x"}', "in use by another process"),
    ],
)
def test_the_second_process_is_told_at_once_and_the_kernel_frees(
    tmp_path: Path, note: str, message: str
) -> None:
    state = snapshot(run(tmp_path, test=None).student)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != lock.NAME}
    process = holder(tmp_path, note)
    try:
        with pytest.raises(BlockingIOError, match=rf"run directory .* is {message}: wait .*--out"):
            run(tmp_path, test=None)
        assert all(path.read_bytes() == content for path, content in before.items())
        assert read_recipe(tmp_path) == RECIPE  # reading needs no lock
        assert len(read_images(tmp_path)) == 12
        assert RunDirectory.open(tmp_path).read_log()
        assert same_state(load_student(tiny(), tmp_path), state)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    run(tmp_path, test=None)


def test_the_note_and_what_frees_the_lock(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, {"a": 1}, CPU):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()} on"):
            RunDirectory(tmp_path, {"a": 1}, CPU)
    with pytest.raises(ValueError, match="another configuration"):
        RunDirectory(tmp_path, {"a": 2}, CPU)  # an error frees it, too
    forgotten = RunDirectory(tmp_path, {"a": 1}, CPU)
    del forgotten
    RunDirectory(tmp_path, {"a": 1}, CPU).close()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def flock(_: int, __: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.warns(RuntimeWarning, match=r"is not locked: its file system has no locks"):
        RunDirectory(tmp_path, {}, CPU).close()


def test_a_lock_that_fails_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(_: int, __: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"):
        RunLock(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.NAME).symlink_to(precious)
    with pytest.raises(OSError, match=r"\.lock"):
        RunDirectory(tmp_path / "run", {}, CPU)
    assert precious.read_text() == "mine"


def test_import_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none; the package is not supported there, but it can be imported."""
    spec = importlib.util.spec_from_file_location("lock_elsewhere", lock.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "fcntl", None)
        patched.setattr(sys, "platform", "win32")
        spec.loader.exec_module(module)
        with pytest.warns(RuntimeWarning, match=r"is not locked: this system has no flock"):
            module.RunLock(tmp_path).release()
