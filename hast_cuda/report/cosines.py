"""Whether two losses agree on where to go (Figure 6a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, pyplot, require, require_numbers, save

LABELS = {
    "cross_entropy_distillation": "cross entropy and distillation (CE, KL)",
    "alignment_distillation": "feature alignment and distillation (FA, KL)",
}


@closing
@typed
def draw_cosines(
    cosines: Mapping[str, Sequence[float]], path: Path, iterations: Sequence[int] | None = None
) -> None:
    """Cosine of the gradients of two losses, batch by batch, one curve per pair, as PNG.

    Args:
        cosines: from :func:`hast_cuda.analysis.gradient_cosines`; any other name labels itself.
        path: of the PNG file.
        iterations: of fine-tuning that the values belong to, instead of batches.

    Raises:
        ValueError: no cosines, or not one per iteration. ImportError: no matplotlib.
    """
    require("cosines", cosines)
    for name, values in cosines.items():
        require(f"cosines[{name!r}]", values)
        require_numbers(f"cosines[{name!r}]", values)
    if iterations is not None and any(len(v) != len(iterations) for v in cosines.values()):
        message = f"there are {len(iterations)} iterations; expected one per cosine"
        raise ValueError(message)
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, values in cosines.items():
        mean = sum(values) / len(values)
        places = range(len(values)) if iterations is None else iterations
        axis.plot(places, values, marker="o", label=f"{LABELS.get(name, name)}: mean {mean:+.2f}")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_ylim(-1, 1)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("batch" if iterations is None else "iterations of fine-tuning")
    axis.set_ylabel("cosine of the gradients")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
    save(figure, path)
