"""How the accuracy depends on the hyper-parameters (Figure 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hast_cuda.checks.typed import typed
from hast_cuda.report.canvas import closing, pyplot, require, require_numbers, save

SYMBOLS = {
    "difficulty_exponent": "$\\gamma$ of Eq. 8", "perturbation": "$\\epsilon$ of Eq. 10",
    "feature_weight": "$\\lambda$ of Eq. 12",
}  # fmt: skip
Sweep = Mapping[float, Sequence[float]]


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, the latter 0 for a single value.

    Raises:
        ValueError: no values.
    """
    require("values", values)
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, 0.0
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


@closing
@typed
def draw_sensitivity(sweeps: Mapping[str, Sweep], path: Path) -> None:
    """Accuracy against each hyper-parameter, mean and standard deviation over seeds, as PNG.

    Args:
        sweeps: by the name of the hyper-parameter ("difficulty_exponent", "perturbation",
            "feature_weight"; any other name labels itself), its values and for each the top-1
            accuracies in percent of all seeds.
        path: of the PNG file.

    Raises:
        ValueError: no sweep, or a value without an accuracy. ImportError: no matplotlib.
    """
    require("sweeps", sweeps)
    for name, sweep in sweeps.items():
        require_numbers(f"sweeps[{name!r}]", (v for x, found in sweep.items() for v in (x, *found)))
    points = {
        name: [(x, *mean_and_deviation(sweep[x])) for x in sorted(sweep)]
        for name, sweep in sweeps.items()
    }
    plt = pyplot()
    figure, axes = plt.subplots(
        1, len(points), figsize=(4.5 * len(points), 3.6), layout="constrained", squeeze=False,
        sharey=True,
    )  # fmt: skip
    for axis, (name, found) in zip(axes.flat, points.items(), strict=True):
        require(name, found)
        xs, means, deviations = zip(*found, strict=True)
        seeds = max(len(accuracies) for accuracies in sweeps[name].values())
        axis.errorbar(
            xs, means, yerr=deviations, marker="o", capsize=3,
            label=f"mean and deviation, {seeds} seeds" if seeds > 1 else "one seed",
        )  # fmt: skip
        axis.set_xlabel(SYMBOLS.get(name, name))
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0, 0].set_ylabel("top-1 accuracy, %")
    save(figure, path)
