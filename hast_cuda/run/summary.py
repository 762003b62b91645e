"""A finished run in six lines: how good, how small, how fast, where, and what comes next."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hast_cuda.finetune.agreement import verdict
from hast_cuda.loops.progress import duration


def standard_error(top1: float, count: int) -> float:
    """Of an accuracy in percent, measured on ``count`` images; with one more right and one more wrong, so never 0."""
    right = (top1 / 100 * count + 1) / (count + 2)
    return 100 * math.sqrt(right * (1 - right) / count)


def quality(result: Mapping[str, Any]) -> str:
    """How good the network is, by what was measured."""
    top1, full, count = (result.get(key) for key in ("quantized", "full_precision", "num_test_images"))
    if top1 is not None and count:
        before = "" if full is None else f"; the original {full:.2f} %"
        return f"{top1:.2f} +- {standard_error(top1, count):.2f} % top-1 on {count} test images{before}"
    found = result.get("agreement")
    if noise := result.get("output_noise"):  # the network classifies nothing
        place, share = max(noise.items(), key=lambda output: output[1])
        where = f"output {place}" if place else "the output"
        return f"noise of {100 * share:.2f} % of its squares in {where}, on {result['num_held_out']} images held out"
    if found is None:
        return "not measured: this method keeps no images to compare on, and no test images were given"
    noisiest = min((result.get("signal_to_noise") or {}).items(), key=lambda layer: layer[1], default=None)
    lowest = "" if noisiest is None else f", lowest signal-to-noise {noisiest[1]:.1f} dB at {noisiest[0]}"
    return (
        f"{found['same_class']:.1f} % same class as the original on {result['num_held_out']} images held out, "
        f"KL {found['divergence']:.3f} nats{lowest}: {verdict(found['same_class'])}"
    )


def size(result: Mapping[str, Any]) -> str:
    """What the network takes, packed, and took."""
    packed, whole = result.get("bytes"), result.get("float_bytes")
    if not packed or not whole:
        return "not recorded"
    return f"{packed / 1e6:.3g} MB packed, {100 * packed / whole:.1f} % of {whole / 1e6:.3g} MB in float32"


def lines_of(result: Mapping[str, Any], run: Path | None) -> list[tuple[str, str]]:
    """What each line is about, and what it says; two less where there is no directory to go on with."""
    made = duration(sum(result.get("seconds", {}).values()))
    lines = [
        ("quality", quality(result)),
        ("size", size(result)),
        ("time", f"made in {made}; export --to engine times an image beside full precision"),
        ("where", "in memory alone: save it, or give out" if run is None else f"run directory: {run}"),
    ]
    if run is not None:
        tested = result.get("num_test_images") is not None
        look = f"hast-cuda report {run}" if tested else f"hast-cuda evaluate --run {run} --data IMAGES"
        lines += [("next", look), ("", f"hast-cuda export {run} --to engine")]
    return lines


def summary(result: Mapping[str, Any], run: Path | None) -> str:
    """The lines as text."""
    return "\n".join(f"{name:<8} {text}" for name, text in lines_of(result, run))
