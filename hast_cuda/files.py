"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PART = re.compile(r"\..+\.(\d+)\.part")


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` on success and vanishes on failure."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)  # a link of this name would lead the write elsewhere
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


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
