"""Figures that a run keeps in files, of the types that their readers count on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hast_cuda.files.json_values import read_object

_FIX = "delete it and run again to make it anew"
_PERCENT = (
    "full_precision", "rounded", "start_of_finetuning", "quantized", "quantized_best_epoch",
)  # fmt: skip
_COUNTS = ("num_test_images", "num_images", "synthesis_iterations", "finetune_iterations")


def read_progress(path: Path) -> dict[str, Any]:
    """``progress.json``; ValueError if it is corrupt."""
    return _checked(read_object(path, _FIX), path)


def read_result(path: Path) -> dict[str, Any]:
    """``result.json``; ValueError if it is corrupt."""
    found = _checked(read_object(path, _FIX), path)
    for name in _PERCENT:
        if not (found.get(name) is None or _is_number(found[name], 100)):
            raise _other(path, name, found[name], "from 0 to 100, or null")
    for name in _COUNTS:
        value = found.get(name)
        if not (value is None or (type(value) is int and 0 <= value < 2**53)):
            raise _other(path, name, value, "a count, or null")
    if not isinstance(found.get("finetune_iterations"), int):
        raise _other(path, "finetune_iterations", None, "a count")
    return found


def _checked(found: dict[str, Any], path: Path) -> dict[str, Any]:
    seconds = found.get("seconds", {})
    if not isinstance(seconds, dict) or not all(_is_number(v, 1e12) for v in seconds.values()):
        raise _other(path, "seconds", seconds, "numbers of at least 0 by phase")
    return found


def _is_number(value: Any, highest: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= highest


def _other(path: Path, name: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{path}: {name} is {str(value)[:80]!r}; expected {allowed}; {_FIX}")
