"""How the losses and the test accuracy of several runs went (Figure 4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hast_cuda.analysis.curves import Curve
from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, label, plain_log_labels, pyplot, require, save

COLUMNS = 3
_PHASES = {"synthesis": "synthesis", "finetune": "fine-tuning", "test": "test"}
_PERCENT = {"top1": "top-1 accuracy, %"}
_LINEAR = ("difficulty", "top1")


@closing
@typed
def draw_loss_curves(runs: Mapping[str, Mapping[str, Mapping[str, Curve]]], path: Path) -> None:
    """One panel per figure that the runs logged, one curve per run, over iterations.

    Args:
        runs: by name, each from :func:`hast_cuda.analysis.loss_curves`.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no run, or runs that logged nothing. ImportError: no matplotlib.
    """
    panels = _panels(runs)
    require("runs", panels)
    plt = pyplot()
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    figure, axes = plt.subplots(
        rows, columns, figsize=(5 * columns, 3.6 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (phase, name) in zip(axes.flat, panels, strict=False):
        lowest = float("inf")
        for index, (run, phases) in enumerate(runs.items()):
            curve = phases.get(phase, {}).get(name, [])
            if not curve:
                continue
            xs, ys = [x for x, _ in curve], [y for _, y in curve]
            marker = "o" if len(xs) < 20 else None
            axis.plot(xs, ys, color=f"C{index}", label=label(run), marker=marker)
            lowest = min([lowest, *ys])
        axis.set_title(f"{_PHASES.get(phase, phase)}: {name}")
        axis.set_xlabel("iteration")
        axis.set_ylabel(_PERCENT.get(name, "mean difficulty" if name == "difficulty" else "loss"))
        if lowest > 0 and name not in _LINEAR:
            axis.set_yscale("log")
            plain_log_labels(axis.yaxis)
        axis.grid(alpha=0.3)
        if len(runs) > 1:
            axis.legend()
    save(figure, path)


def _panels(runs: Mapping[str, Mapping[str, Mapping[str, Curve]]]) -> list[tuple[str, str]]:
    """(phase, name) of every figure, in the order of the phases of a run."""
    found = {(p, name) for phases in runs.values() for p, names in phases.items() for name in names}
    order = list(_PHASES)
    return sorted(found, key=lambda pair: (order.index(pair[0]) if pair[0] in order else 9, pair))
