"""Figures that a run keeps in files, of the types that their readers count on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hast_cuda.files.json_values import read_object

_FIX = "delete it and run again to make it anew"
_PERCENT = (
    *("full_precision", "rounded", "start_of_finetuning", "reconstructed"),
    *("quantized", "quantized_last", "quantized_best_epoch"),
)
_COUNTS = (
    *("num_test_images", "num_images", "num_held_out"),
    *("synthesis_iterations", "finetune_iterations", "kept_iteration"),
)


def read_progress(path: Path) -> dict[str, Any]:
    """``progress.json``; ValueError if it is corrupt."""
    found = read_object(path, _FIX)
    seconds = found.get("seconds", {})
    right = isinstance(seconds, dict) and all(_is_number(v, 1e12) for v in seconds.values())
    _check(right, path, "seconds", seconds, "numbers of at least 0 by phase")
    return found


def read_result(path: Path) -> dict[str, Any]:
    """``result.json``; ValueError if it is corrupt."""
    found = read_progress(path)
    for name in (*_PERCENT, *_COUNTS):
        value, most, allowed = found.get(name), 100, "from 0 to 100, or null"
        if name in _COUNTS:
            most, allowed = 2**53 - 1, "a count, or null"
        whole = name in _PERCENT or type(value) is int
        _check(value is None or (whole and _is_number(value, most)), path, name, value, allowed)
    last = found.get("finetune_iterations")
    _check(last is not None, path, "finetune_iterations", last, "a count")
    noise = found.get("output_noise", {})
    right = isinstance(noise, dict) and all(_is_number(share, float("inf")) for share in noise.values())
    _check(right, path, "output_noise", noise, "shares by tensor")
    agreement = found.get("agreement")
    _check(_is_agreement(agreement), path, "agreement", agreement, "divergence and same_class, or null")
    return found


def _is_agreement(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    return _is_number(value.get("divergence"), float("inf")) and _is_number(value.get("same_class"), 100)


def _is_number(value: Any, highest: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= highest


def _check(right: bool, path: Path, name: str, value: Any, allowed: str) -> None:
    if not right:
        raise ValueError(f"{path}: {name} is {str(value)[:80]!r}; expected {allowed}; {_FIX}")
