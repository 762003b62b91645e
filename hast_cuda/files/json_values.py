"""JSON files that others may have written: an object, of sane size, with finite numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

LONGEST = 64 * 2**20  # bytes; what this package writes has kilobytes
LARGEST = 2**64  # of whole numbers: seeds have 64 bits


def read_object(path: Path, fix: str) -> dict[str, Any]:
    """The JSON object of a file; ValueError, with how to ``fix`` it: none, too long or deep, NaN or absurd numbers."""
    size = path.stat().st_size
    if size > LONGEST:
        message = f"{path} has {size} bytes, more than the {LONGEST} that such a file may have"
        raise ValueError(f"{message}; {fix}")
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no UTF-8 is one, too
        raise ValueError(f"{path} is not valid JSON ({error}); {fix}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not an object; {fix}")
    return found


def parse(text: str, *, finite: bool = True) -> Any:
    """The value of a JSON text, with NaN and infinities where not ``finite``; ValueError: too deep, absurd numbers."""
    constants = _finite if finite else float
    try:
        return json.loads(text, parse_constant=constants, parse_float=_finite, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("too many brackets inside each other") from error


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Values of nested objects by dotted name; an empty object inside is a value."""
    if prefix and (not isinstance(value, dict) or not value):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _whole(text: str) -> int:
    value = int(text) if len(text) < 40 else LARGEST
    if abs(value) >= LARGEST:
        raise ValueError(f"the number {text[:40]} is too large")
    return value
