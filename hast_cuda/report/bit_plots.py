"""Pictures of which layer needs which bits, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hast_cuda.analysis import Allocation, LayerSensitivity
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_choice
from hast_cuda.report.canvas import drawing, label, plain_log_labels, require

LINE = 0.17  # inches of a layer
NAN = float("nan")  # 0 has no place on a log scale
COSTS = {
    "size": ("weights, kB", 1e3),
    "bit_operations": ("multiplications times bits of the weight, millions", 1e6),
    "seconds": ("layers in the engine, one image on one thread, ms", 1e-3),
}


@typed
def draw_layers(layers: Mapping[str, LayerSensitivity], path: Path) -> None:
    """What every layer loses alone, a line per module, a colour per width: weights and activations.

    Args:
        layers: from :func:`hast_cuda.sensitivity`.
        path: of the SVG or PNG file.

    Raises:
        ValueError: no layers. ImportError: no matplotlib.
    """
    require("layers", layers)
    kinds = {
        "weights": {name: layer.weights for name, layer in layers.items() if layer.weights},
        "activations": {name: layer.activations for name, layer in layers.items() if layer.activations},
    }
    shown = {kind: losses for kind, losses in kinds.items() if losses}
    require("layers", shown)
    height = 2 + LINE * max(map(len, shown.values()))
    with drawing(path, 1, len(shown), (5.5 * len(shown), height)) as (axes,):
        for axis, (kind, losses) in zip(axes, shown.items(), strict=True):
            places = range(len(losses))
            for index, width in enumerate(sorted(set().union(*losses.values()))):
                values = [found.get(width) or NAN for found in losses.values()]
                axis.plot(values, places, "o", color=f"C{index}", markersize=4, label=f"{width}")
            axis.set_yticks(places, [label(name) for name in losses], fontsize=7)
            axis.set_ylim(len(losses) - 0.5, -0.5)
            axis.set(xscale="log", title=kind, xlabel="loss with this layer alone quantized")
            axis.grid(alpha=0.3)
            axis.legend(title="bits", fontsize=8)


@typed
def draw_bit_curve(curves: Mapping[str, Sequence[Allocation]], path: Path, *, cost: str = "size") -> None:
    """Estimated divergence against what the weights cost, a curve per way of choosing widths.

    Args:
        curves: from :func:`hast_cuda.analysis.bit_curve`, by name.
        path: of the SVG or PNG file.
        cost: "size", "bit_operations" or "seconds", which were measured then.

    Raises:
        ValueError: no curve, or another cost. ImportError: no matplotlib.
    """
    require("curves", curves)
    check_choice("cost", cost, tuple(COSTS))
    axis_label, unit = COSTS[cost]
    with drawing(path) as ((axis,),):
        for name, points in curves.items():
            heights = [point.divergence or NAN for point in points]
            axis.plot([getattr(point, cost) / unit for point in points], heights, marker="o", label=label(name))
        axis.set(yscale="log", xlabel=axis_label, ylabel="sum of what the layers lose")
        plain_log_labels(axis.yaxis)
        axis.grid(alpha=0.3, which="both")
        axis.legend()
