"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PART = re.compile(r"\..+\.(\d+)\.part")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` on success and vanishes on failure."""
    if not path.name:
        raise ValueError(f"path is {str(path)!r}; expected the name of a file")
    if path.exists() and not (path.is_file() or path.is_dir()):  # of a directory the system says so itself
        raise ValueError(f"{path} is a device or a pipe, which a file would replace: give another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with explained(path):
        temporary.unlink(missing_ok=True)  # a link of this name would lead the write elsewhere
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # by the user's umask; some writers make files for their owner alone
        try:
            yield temporary
            temporary.chmod(stat.S_IMODE(mode))
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_names(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """OSErrors of writing ``path``, with its name, the free space where that is why, and a fix."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        code = _code(error)
        if code is None:
            raise
        if code in _FULL:
            why = f"{_free(path.parent)}; finished files are intact: make room, then run again"
        elif not path.parent.is_dir():
            why = f"the directory {path.parent} is not there (any more): create it, or run again"
        else:
            why = "give a place that you may write to"
        raise OSError(code, f"{path} cannot be written, {os.strerror(code)}: {why}") from error


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    try:
        text = json.dumps(value, indent=2)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{path.name} cannot hold what it was given: {error}") from error
    with replace_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def sweep(directory: Path) -> None:
    """Remove what killed processes left of :func:`replace_file` in ``directory``.

    Files of processes that live stay. Call it only where this process writes nothing meanwhile: a
    file with its own number is of an earlier one that had the same, as in a container.
    """
    for path in sorted(directory.glob(".*.part")):
        match = _PART.fullmatch(path.name)
        if match and (int(match.group(1)) == os.getpid() or not _lives(int(match.group(1)))):
            path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    return True


def _sync_names(directory: Path) -> None:
    """A name must reach the disk too, and in order: results come after what they speak of."""
    if os.name == "posix":
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _code(error: OSError | SafetensorError) -> int | None:
    """The system's number; safetensors has it in its text."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"os error (\d+)", str(error))
    return int(match.group(1)) if match else None


def _free(directory: Path) -> str:
    try:
        return f"{shutil.disk_usage(directory).free:,} bytes are free there"
    except OSError as error:
        return f"how much is free there is not known ({error})"
