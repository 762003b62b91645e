"""``metrics.jsonl``: one JSON record per line, whatever cuts the process off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hast_cuda.files.json_values import LONGEST, parse
from hast_cuda.files.whole import explained

_COUNTS = ("iteration", "batch")


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line in one write; what a full disk cuts short is taken back."""
    try:
        line = (json.dumps(record) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise TypeError(f"a record of {path.name} cannot hold what it was given: {error}") from error
    with explained(path):
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            before = os.fstat(number).st_size
            try:
                rest = line
                while rest:
                    rest = rest[os.write(number, rest) :]
            except OSError:
                os.ftruncate(number, before)
                raise
        finally:
            os.close(number)


def cut_last_line(path: Path) -> None:
    """Drop a last line that a kill cut short; its figures will be logged again."""
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)


def read(path: Path) -> list[dict[str, Any]]:
    """All records but a line cut short by a kill; ValueError: what no run has logged."""
    if not path.exists():
        return []
    if (size := path.stat().st_size) > LONGEST:
        raise ValueError(f"{path} has {size} bytes, more than the {LONGEST} that a log may have; delete it")
    found = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            try:
                record = parse(line, finite=False)  # a loss that diverged is logged as it is
            except json.JSONDecodeError:
                continue  # a line that the process did not live to finish
            found.append(_checked(record, number))
    except ValueError as error:
        raise ValueError(f"{path} is not the log of a run ({error}); delete it, or make it anew") from error
    return found


def _checked(record: Any, number: int) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise ValueError(f"line {number} holds a {type(record).__name__}")
    for name, value in record.items():
        count = name in _COUNTS
        if count and (type(value) is not int or not 0 <= value < 2**53):
            raise ValueError(f"line {number}: {name} is {str(value)[:40]!r}, no count")
        if not (value is None or isinstance(value, (str, int, float))):
            raise ValueError(f"line {number}: {name[:40]!r} is a {type(value).__name__}")
    if not isinstance(record.get("phase", ""), str):
        raise ValueError(f"line {number}: phase is {record['phase']!r}")
    return record
