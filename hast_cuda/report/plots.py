"""Pictures of a run, as SVG or PNG: accuracies, images, curves, learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from hast_cuda.analysis.curves import Curve
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, check_range
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.report.canvas import colours, drawing, label, plain_log_labels, pyplot, require, require_numbers

Curves = Mapping[str, Mapping[str, Curve]]
COLUMNS = 3
POINTS = 300  # enough for a curve; a step of the schedule is at most 1/300 out of place
_PHASES = {"synthesis": "synthesis", "finetune": "fine-tuning", "test": "test", "held out": "images held out"}
_AXES = {  # linear, others log
    "top1": "top-1 accuracy, %",
    "difficulty": "mean difficulty",
    "same_class": "same class as the original, %",
}


@typed
def draw_accuracies(accuracies: Mapping[str, float], path: Path, errors: Mapping[str, float] | None = None) -> None:
    """Top-1 accuracy in percent as dots, the first at the top, on an axis as long as their differences.

    Args:
        accuracies: by what they belong to.
        path: of the SVG or PNG file.
        errors: standard errors in points, by the same names.

    Raises:
        ValueError: no accuracies. ImportError: no matplotlib.
    """
    require("accuracies", accuracies)
    require_numbers("accuracies", accuracies.values())
    values, found = list(accuracies.values()), errors or {}
    require_numbers("errors", found.values())
    spread = [found.get(name, 0.0) for name in accuracies]
    with drawing(path, size=(5.5, 0.8 + 0.36 * len(accuracies))) as ((axis,),):
        colors = pyplot().rcParams["axes.prop_cycle"].by_key()["color"]
        axis.axvline(values[0], color=colors[1 % len(colors)], linewidth=1)  # what the others are measured against
        for place, (value, error) in enumerate(zip(values, spread, strict=True)):
            color = colors[0 if place else 1 % len(colors)]
            axis.errorbar(value, place, xerr=error or None, fmt="o", color=color, capsize=3)
            axis.annotate(f"{value:.2f}", (value, place), (0, 5), textcoords="offset points", ha="center", fontsize=9)
        axis.set_yticks(range(len(accuracies)), [label(name) for name in accuracies])
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(len(accuracies) - 0.4, -0.8)
        room = max(0.12 * (max(values) - min(values)), *spread, 1.0)
        axis.set(xlim=(min(values) - room, max(values) + room), xlabel="top-1 accuracy, %")
        axis.grid(alpha=0.3, axis="x")


@typed
def draw_images(
    images: Tensor,
    labels: Tensor,
    spec: InputSpec,
    path: Path,
    *,
    rows: int = 4,
    columns: int = 10,
    captions: Sequence[str] | None = None,
) -> None:
    """A grid of synthetic images [N, C, H, W] (normalised), labels or ``captions`` below.

    Raises:
        ValueError: images that are not those of ``spec``, fewer labels, a grid of another size than
            1 to 100 rows and columns. ImportError: no matplotlib.
    """
    check_images("images", images)
    check_range("rows", rows, 1, 100)
    check_range("columns", columns, 1, 100)
    if images.dim() != 4 or images.shape[1] != spec.channels:
        raise ValueError(f"images is {list(images.shape)}; expected [N, {spec.channels}, H, W], as spec has")
    if labels.dim() != 1 or labels.is_meta or len(labels) < len(images):
        raise ValueError(f"labels is {list(labels.shape)}; expected a label for each of {len(images)} images")
    if captions is not None and len(captions) < len(images):
        raise ValueError(f"captions has {len(captions)} texts; expected one for each of {len(images)} images")
    mean, std = (images.new_tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    height = images.shape[2] / images.shape[3]  # of a column's width; one axis draws in no time
    step = height + 0.3
    with drawing(path, size=(columns, rows * step)) as ((axis,),):
        axis.axis("off")
        for index in range(min(len(images), rows * columns)):
            top, left = step * (index // columns), index % columns
            pixels = colours((images[index] * std + mean).clamp(0, 1)).permute(1, 2, 0)
            place = (left + 0.05, left + 0.95, top + 0.95 * height, top + 0.05 * height)
            axis.imshow(pixels.numpy(), extent=place, interpolation="nearest")
            below = (left + 0.5, top + 0.98 * height)
            text = str(int(labels[index])) if captions is None else label(captions[index])
            axis.text(*below, text, fontsize=9 if len(text) < 12 else 6, ha="center", va="top")
        axis.set(xlim=(0, columns), ylim=(rows * step, 0))  # imshow has moved them


@typed
def draw_loss_curves(runs: Mapping[str, Curves], path: Path, levels: Mapping[str, float] | None = None) -> None:
    """One panel per quantity that the runs logged, one curve per run, over iterations (Figure 4).

    Args:
        runs: by name, each from :func:`hast_cuda.analysis.loss_curves`.
        path: of the SVG or PNG file.
        levels: lines to compare all curves with, by name, such as the accuracy of full precision.

    Raises:
        ValueError: no run, or runs that logged nothing. ImportError: no matplotlib.
    """
    found = panels(runs.values())
    require("runs", found)
    rows, columns = -(-len(found) // COLUMNS), min(COLUMNS, len(found))
    with drawing(path, rows, columns, (5 * columns, 3.6 * rows)) as axes:
        for axis in axes.flat[len(found) :]:
            axis.axis("off")
        for axis, (phase, name) in zip(axes.flat, found, strict=False):
            lowest = float("inf")
            for index, (run, phases) in enumerate(runs.items()):
                if not (curve := phases.get(phase, {}).get(name)):
                    continue
                xs, ys = zip(*curve, strict=True)
                marker = "o" if len(xs) < 20 else None
                axis.plot(xs, ys, color=f"C{index}", label=label(run), marker=marker)
                lowest = min([lowest, *ys])
            axis.set(title=f"{_PHASES.get(phase, phase)}: {name}", xlabel="iteration")
            axis.set_ylabel(_AXES.get(name, "loss"))
            if lowest > 0 and name not in _AXES:
                axis.set_yscale("log")
                plain_log_labels(axis.yaxis)
            axis.grid(alpha=0.3)
            for index, (text, level) in enumerate((levels or {}).items(), len(runs)):
                axis.axhline(level, color=f"C{index}", linewidth=1, label=label(text))
            if len(runs) > 1 or levels:
                axis.legend()


def panels(runs: Iterable[Curves]) -> list[tuple[str, str]]:
    """(phase, name) of every curve, in the order of the phases of a run."""
    found = {(p, name) for phases in runs for p, names in phases.items() for name in names}
    order = list(_PHASES)
    return sorted(found, key=lambda pair: (order.index(pair[0]) if pair[0] in order else 9, pair))


@typed
def draw_learning_rate(configs: Mapping[str, FinetuneConfig], path: Path) -> None:
    """Learning rate of fine-tuning over the iterations, one curve per run.

    Args:
        configs: by the name of the run; those without iterations have no curve.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no iterations at all. ImportError: no matplotlib.
    """
    require("configs", [config for config in configs.values() if config.iterations])
    with drawing(path, size=(5, 3.6)) as ((axis,),):
        for index, (name, config) in enumerate(configs.items()):
            if config.iterations:
                at = range(0, config.iterations, max(1, config.iterations // POINTS))
                axis.plot(at, [config.rate(i) for i in at], color=f"C{index}", label=label(name))
        axis.set(title="fine-tuning: learning rate", xlabel="iteration", ylabel="learning rate")
        axis.set_ylim(bottom=0)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axis.grid(alpha=0.3)
        if len(configs) > 1:
            axis.legend()
