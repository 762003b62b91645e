"""Pictures of what an analysis has found, as SVG or PNG (Figures 2, 4, 5 and 6)."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from hast_cuda.analysis import ErrorRates, Histogram, Spectrum, StatisticGap
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_range
from hast_cuda.report.canvas import drawing, label, plain_log_labels, require, require_numbers

POINTS = 200  # of a curve that is a formula
HIGHEST = 0.99  # -log(1 - d) has no end at 1
TAIL = 1e-6  # of a spectrum's peak; what is lower is the tail of a Gaussian
WIDTH = 0.38  # of a bar; two beside each other per network
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}  # a legend over the axis
NAN = float("nan")  # a gap in a curve
PAIRS = {
    "cross_entropy_distillation": "cross entropy and distillation (CE, KL)",
    "alignment_distillation": "feature alignment and distillation (FA, KL)",
}
SYMBOLS = {
    "difficulty_exponent": "$\\gamma$ of Eq. 8",
    "perturbation": "$\\epsilon$ of Eq. 10",
    "feature_weight": "$\\lambda$ of Eq. 12",
}
Sweep = Mapping[float, Sequence[float]]


@typed
def draw_gaps(top1: Mapping[str, tuple[float, float]], path: Path) -> None:
    """Two bars per network: top-1 on its training images and on test images (Figure 2a).

    Args:
        top1: (training, test) in percent, by the name of the network.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no network. ImportError: no matplotlib.
    """
    require("top1", top1)
    require_numbers("top1", (value for pair in top1.values() for value in pair))
    with drawing(path, size=(1.5 + 1.6 * len(top1), 4)) as ((axis,),):
        for shift, (index, kind) in zip((-0.5, 0.5), enumerate(("training", "test")), strict=True):
            places = [i + shift * WIDTH for i in range(len(top1))]
            heights = [pair[index] for pair in top1.values()]
            bars = axis.bar(places, heights, WIDTH, label=f"{kind} images")
            axis.bar_label(bars, fmt="%.1f", padding=2)
        axis.set_xticks(range(len(top1)), [label(name) for name in top1])
        lowest = min(min(pair) for pair in top1.values())
        axis.set(ylim=(max(0.0, lowest - 15), 104), ylabel="top-1 accuracy, %")
        axis.legend(ncols=2, **ABOVE)


@typed
def draw_error_by_difficulty(rates: Mapping[str, ErrorRates], path: Path) -> None:
    """Error rate per difficulty bin, one curve per network (Figure 2b).

    The bars behind are the numbers of images of the first network's bins.

    Args:
        rates: by the name of their network, usually on the same test images; bins without images
            are gaps.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no rates. ImportError: no matplotlib.
    """
    require("rates", rates)
    first = next(iter(rates.values()))
    with drawing(path) as ((axis,),):
        behind = axis.twinx()
        behind.stairs(first.counts, first.edges, fill=True, alpha=0.15, color="gray")
        behind.set(yscale="symlog", ylabel="images (bars)")
        for name, rate in rates.items():
            heights = [NAN if r is None else r for r in rate.rates]
            axis.plot(_centres(rate.edges), heights, marker="o", label=label(name))
        axis.set_zorder(behind.get_zorder() + 1)
        axis.patch.set_visible(False)
        axis.set(
            xlim=(0, 1),
            xlabel="difficulty under the full-precision network, 1 - p(label)",
            ylim=(-3, 103),
            ylabel="error rate, %",
        )
        axis.grid(alpha=0.3)
        axis.legend()


@typed
def draw_difficulty(
    histograms: Mapping[str, Histogram], path: Path, network: str = "the full-precision network"
) -> None:
    """Fraction of images per difficulty bin, on a log scale, one curve per set (Figure 2c).

    Args:
        histograms: by the name of their images; empty bins are gaps.
        path: of the SVG or PNG file.
        network: whose probabilities make the difficulty, for the axis.

    Raises:
        ValueError: no histogram. ImportError: no matplotlib.
    """
    require("histograms", histograms)
    with drawing(path) as ((axis,),):
        for name, histogram in histograms.items():
            heights = [f or NAN for f in histogram.fractions]  # log(0) has no place
            text = f"{label(name)} ({sum(histogram.counts)})"
            axis.plot(_centres(histogram.edges), heights, marker="o", label=text)
        axis.set(
            xlim=(0, 1), xlabel=f"difficulty under {network}, 1 - p(label)", yscale="log", ylabel="fraction of images"
        )
        plain_log_labels(axis.yaxis)
        axis.grid(alpha=0.3, which="both")
        axis.legend(title="images (number)")


def _centres(edges: Sequence[float]) -> list[float]:
    return [(a + b) / 2 for a, b in itertools.pairwise(edges)]


@typed
def inception_loss(difficulty: float, exponent: float) -> float:
    """``-d^gamma log(1 - d)`` (Eq. 8) of an image of difficulty ``d = 1 - p_y`` in [0, 1).

    Raises:
        ValueError: a difficulty outside of [0, 1), an exponent below 0 or not finite.
    """
    check_range("exponent", exponent, 0)
    if not 0 <= difficulty < 1:
        raise ValueError(f"difficulty is {difficulty}; expected [0, 1): at 1 the loss is infinite")
    weight: float = difficulty**exponent
    return -weight * math.log1p(-difficulty)


@typed
def draw_inception(exponents: Mapping[str, float], marks: Mapping[str, float], path: Path) -> None:
    """Loss against difficulty, one curve per exponent, and mean difficulties (Figure 4).

    Args:
        exponents: gamma of Eq. 8 by name; 0 is the inception loss without a weight.
        marks: difficulties in [0, 1] by the name of their images, each with the colour of the
            curve of its name.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no exponent. ImportError: no matplotlib.
    """
    require("exponents", exponents)
    for name, exponent in exponents.items():
        check_range(f"exponents[{name!r}]", exponent, 0)
    for name, difficulty in marks.items():
        check_range(f"marks[{name!r}]", difficulty, 0, 1)
    places = [HIGHEST * i / (POINTS - 1) for i in range(POINTS)]
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys([*exponents, *marks]))}
    with drawing(path) as ((axis,),):
        for name, exponent in exponents.items():
            text = rf"{label(name)}: $\gamma$ = {exponent:g}"
            losses = [inception_loss(d, exponent) for d in places]
            axis.plot(places, losses, color=colors[name], label=text)
        for name, difficulty in marks.items():
            text = f"{label(name)}: mean {difficulty:.2f}"
            axis.axvline(difficulty, color=colors[name], linestyle="--", label=text)
        axis.invert_xaxis()  # the optimisation goes to the right, as in the paper's figure
        axis.set(xlabel="difficulty, 1 - p(label)", ylabel="loss")
        axis.grid(alpha=0.3)
        axis.legend()


@typed
def draw_sensitivity(sweeps: Mapping[str, Sweep], path: Path) -> None:
    """Accuracy against each hyper-parameter, mean and deviation over seeds (Figure 5).

    Args:
        sweeps: by the name of the hyper-parameter ("difficulty_exponent", "perturbation",
            "feature_weight"; any other name labels itself), its values and for each the top-1
            accuracies in percent of all seeds.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no sweep, or a value without an accuracy. ImportError: no matplotlib.
    """
    require("sweeps", sweeps)
    for name, sweep in sweeps.items():
        require(f"sweeps[{name!r}]", sweep)
        require_numbers(f"sweeps[{name!r}]", (v for x, found in sweep.items() for v in (x, *found)))
        for value, accuracies in sweep.items():
            require(f"sweeps[{name!r}][{value}]", accuracies)
    with drawing(path, 1, len(sweeps), (4.5 * len(sweeps), 3.6), sharey=True) as (axes,):
        for axis, (name, sweep) in zip(axes, sweeps.items(), strict=True):
            xs, seeds = sorted(sweep), max(map(len, sweep.values()))
            axis.errorbar(
                xs,
                [statistics.fmean(sweep[x]) for x in xs],
                yerr=[statistics.stdev(sweep[x]) if len(sweep[x]) > 1 else 0.0 for x in xs],
                marker="o",
                capsize=3,
                label=f"mean and deviation, {seeds} seeds" if seeds > 1 else "one seed",
            )
            axis.set_xlabel(SYMBOLS.get(name, name))
            axis.grid(alpha=0.3)
            axis.legend()
        axes[0].set_ylabel("top-1 accuracy, %")


@typed
def draw_cosines(cosines: Mapping[str, Sequence[float]], path: Path, iterations: Sequence[int] | None = None) -> None:
    """Cosine of the gradients of two losses, one curve per pair, batch by batch (Figure 6a).

    Args:
        cosines: from :func:`hast_cuda.analysis.gradient_cosines`; any other name labels itself.
        path: of the SVG or PNG file.
        iterations: of fine-tuning that the values belong to, instead of batches.

    Raises:
        ValueError: no cosines, or not one per iteration. ImportError: no matplotlib.
    """
    require("cosines", cosines)
    for name, values in cosines.items():
        require(f"cosines[{name!r}]", values)
        require_numbers(f"cosines[{name!r}]", values)
    if iterations is not None and any(len(v) != len(iterations) for v in cosines.values()):
        raise ValueError(f"there are {len(iterations)} iterations; expected one per cosine")
    with drawing(path) as ((axis,),):
        for name, values in cosines.items():
            text = f"{PAIRS.get(name, label(name))}: mean {statistics.fmean(values):+.2f}"
            places = range(len(values)) if iterations is None else iterations
            axis.plot(places, values, marker="o", label=text)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(ylim=(-1, 1), ylabel="cosine of the gradients")
        axis.set_xlabel("batch" if iterations is None else "iterations of fine-tuning")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9, **ABOVE)


@typed
def draw_spectrum(spectra: Mapping[str, Spectrum], path: Path) -> None:
    """Density of the Hessian's eigenvalues on a log scale, one panel per loss (Figure 6b).

    Args:
        spectra: by the name of their loss; each panel has its own range of eigenvalues, since the
            losses differ by orders of magnitude.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no spectrum. ImportError: no matplotlib.
    """
    require("spectra", spectra)
    with drawing(path, 1, len(spectra), (4.5 * len(spectra), 3.8)) as (axes,):
        for axis, (name, spectrum) in zip(axes, spectra.items(), strict=True):
            grid, density = spectrum.density()
            low = TAIL * float(density.max())
            axis.semilogy(grid.numpy(), density.clamp(min=low).numpy())
            top = spectrum.largest()[0].value
            axis.axvline(top, color="gray", linestyle="--", label=f"largest: {top:.3g}")
            axis.set_ylim(bottom=low)
            axis.set(title=label(name), xlabel="eigenvalue of the Hessian")
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
            axis.grid(alpha=0.3)
            axis.legend()
        axes[0].set_ylabel("density")


@typed
def draw_statistics(gaps: Mapping[str, StatisticGap], path: Path) -> None:
    """Gaps of means and of variances by layer, on a log scale, two curves; 0 is a hole in one.

    Args:
        gaps: from :func:`hast_cuda.analysis.statistic_gaps`.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no layers, or gaps that are no numbers. ImportError: no matplotlib.
    """
    require("gaps", gaps)
    curves = {
        "means, in standard deviations": [gap.mean for gap in gaps.values()],
        "variances, relative": [gap.variance for gap in gaps.values()],
    }
    for values in curves.values():
        require_numbers("gaps", values)
    with drawing(path) as ((axis,),):
        for name, values in curves.items():
            axis.plot(range(len(values)), [v or NAN for v in values], marker="o", label=name)
        axis.set(yscale="log", xlabel="BatchNorm layer", ylabel="mean gap over channels")
        plain_log_labels(axis.yaxis)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize=9, **ABOVE)
