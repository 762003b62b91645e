"""What ``result.json`` says of a run, and its figures read back, of the types that their readers count on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from hast_cuda.exports import integer_biases
from hast_cuda.files.json_values import read_object
from hast_cuda.finetune import FinetuneConfig, FinetuneResult, agreement, output_noise
from hast_cuda.finetune.agreement import layer_signal_to_noise
from hast_cuda.loops.modes import frozen_copy
from hast_cuda.loops.warn import warn_caller

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


def student_figures(
    before: Mapping[str, float | None], tuned: FinetuneResult, config: FinetuneConfig
) -> dict[str, Any]:
    """Top-1 of the student that is kept, of the last one and of the best one, and which is kept."""
    start = before.get("reconstructed", before["start_of_finetuning"])
    seen: dict[int, float | None] = {0: start, **dict(tuned.accuracies)}
    kept = config.iterations if tuned.kept_iteration is None else tuned.kept_iteration
    trained = [top1 for _, top1 in tuned.accuracies]
    return {
        "quantized": seen.get(kept),
        "quantized_last": seen.get(config.iterations),
        "quantized_best_epoch": max(trained) if trained else start,
        "kept_iteration": kept,
    }


def unlabelled_figures(
    teacher: nn.Module, prepared: nn.Module, student: nn.Module, held_out: Tensor | None, classes: int
) -> dict[str, Any]:
    """Entries of ``result.json``, of images [N, C, H, W] held out; None where nothing was held out.

    A network without ``classes`` (0) is compared by its outputs.
    """
    if held_out is None:
        return {"agreement": None, "signal_to_noise": None}
    device = next(student.parameters()).device
    images, original = held_out.to(device), frozen_copy(teacher, device)
    return {
        "agreement": agreement(original, student, images) if classes else None,
        **({} if classes else {"output_noise": output_noise(original, student, images)}),
        "signal_to_noise": layer_signal_to_noise(prepared.to(device), student, images),
    }


def hold_biases(student: nn.Module, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Move the biases of ``student`` in place; by layer how far, in steps of its codes, or why none moved.

    A network that integers alone cannot compute, or a machine without the packages of ONNX, keeps its biases: that
    is said, and only files of integers alone differ.
    """
    try:
        moved, steps = integer_biases(student, shape)
    except (ImportError, ValueError) as error:
        warn_caller(f"biases stay as they were trained, not as integers hold them: {error}", UserWarning)
        return {"moved": {}, "reason": str(error)}
    student.load_state_dict(moved.state_dict())
    return {"moved": steps, "reason": None}
