"""``metrics.jsonl``: one JSON record per line, whatever cuts the process off."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line in one write; what a full disk cuts short is taken back."""
    line = (json.dumps(record) + "\n").encode()
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
        if whole := content.rpartition(b"\n")[0] + b"\n" if b"\n" in content else b"":
            os.truncate(path, len(whole))
        else:
            path.unlink()


def read(path: Path) -> list[dict[str, Any]]:
    """All records; a line cut short by a kill is left out."""
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # a line that the process did not live to finish
    return records
