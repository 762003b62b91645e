"""Writes that the system refuses: the file is named, earlier files are whole, resuming works."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from networks import same_state, snapshot
from test_run import run

from hast_cuda.files import tensors as tensor_files
from hast_cuda.files import whole as files
from hast_cuda.files.tensors import load_tensors
from hast_cuda.run import QuantizationResult, RunDirectory, metrics

CPU = torch.device("cpu")


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file can grow beyond ``size``: the kernel refuses, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole() -> QuantizationResult:
    """A run that had room."""
    return run(None)


def fill(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The first write of the file ``name`` finds no room."""
    replace_file, append, filled = files.replace_file, metrics.append, set[str]()

    @contextmanager
    def no_room(path: Path) -> Iterator[Path]:
        with replace_file(path) as temporary:
            if path.name == name and name not in filled:
                filled.add(name)
                with file_limit(20):
                    yield temporary
            else:
                yield temporary

    def no_line(path: Path, record: dict[str, object]) -> None:
        if path.name == name and name not in filled:
            filled.add(name)
            with file_limit(5):
                append(path, record)
        append(path, record)

    for module in (files, tensor_files):
        monkeypatch.setattr(module, "replace_file", no_room)
    monkeypatch.setattr(metrics, "append", no_line)


@pytest.mark.parametrize(
    "name",
    [
        "batch_00001.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "student.safetensors",
        "result.json",
        "config.json",
        "progress.json",
    ],
)
def test_no_room_for_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: QuantizationResult, name: str
) -> None:
    out = tmp_path / "run"
    fill(monkeypatch, name)
    with pytest.raises(OSError, match=rf"{name} cannot be written, .*[\d,]+ bytes are free") as caught:
        run(out)
    assert caught.value.errno == errno.EFBIG
    assert not list(out.rglob("*.part"))
    for path in out.rglob("*.safetensors"):
        load_tensors(path)  # whole: its checksum fits
    assert not (out / "result.json").exists()
    done = run(out)
    assert same_state(done.student, snapshot(whole.student))
    assert done.result.keys() == whole.result.keys()


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics.append(path, {"iteration": 1})
    before = path.read_bytes()
    with file_limit(len(before) + 7), pytest.raises(OSError, match=r"metrics.jsonl cannot be written"):
        metrics.append(path, {"iteration": 2})
    assert path.read_bytes() == before
    metrics.append(path, {"iteration": 3})
    assert metrics.read(path) == [{"iteration": 1}, {"iteration": 3}]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_other_refusals_are_explained(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, 1)
    with (
        pytest.raises(OSError, match=rf"a.json cannot be written, {os.strerror(code)}: ") as caught,
        files.replace_file(path),
    ):
        raise OSError(code, "x")
    assert caught.value.errno == code
    assert ("bytes are free" in str(caught.value)) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert path.read_text() == "1\n"


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path, linked: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(ValueError, match=r"(pipe|link) is a device or a pipe, .*: give another name"):
        files.write_json(tmp_path / ("link" if linked else "pipe"), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]
    assert (tmp_path / "link").is_fifo()


def test_a_directory_that_is_removed_meanwhile(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run", {}, CPU) as directory:
        directory.log({"iteration": 1})
        shutil.rmtree(tmp_path / "run")
        (tmp_path / "run" / "images").mkdir(parents=True)  # a shard that is saved makes it again
        for write in (directory.log, directory.finish):
            with pytest.raises(FileNotFoundError, match=r"run was removed or emptied meanwhile"):
                write({"iteration": 2})
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(FileNotFoundError, match=r"progress.json cannot be .* is not there"):
            directory.remember("seconds", {})
    assert not (tmp_path / "run").exists()


def test_a_run_whose_directory_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: QuantizationResult
) -> None:
    out = tmp_path / "run"
    log = RunDirectory.log

    def remove(self: RunDirectory, record: dict[str, object]) -> None:
        log(self, record)
        shutil.rmtree(out)

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "log", remove)
        with pytest.raises(FileNotFoundError, match=r"run was removed or emptied meanwhile"):
            run(out)
    shutil.rmtree(out, ignore_errors=True)
    assert same_state(run(out).student, snapshot(whole.student))


def test_a_directory_without_the_right_to_write() -> None:
    """Also for the superuser, who takes the rights of another for it."""
    place = Path(tempfile.mkdtemp())
    user = os.geteuid()
    place.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(65534)
        with pytest.raises(PermissionError, match=r"is not writable|cannot be created"):
            RunDirectory(place, {}, CPU)
        with pytest.raises(PermissionError, match=r"a.json cannot be written, .*may write to"):
            files.write_json(place / "a.json", 1)
        assert list(place.iterdir()) == []
    finally:
        os.seteuid(user)
        shutil.rmtree(place)
