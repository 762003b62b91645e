"""Draws the three pictures of docs/benchmarks.md from bench/results/*.json."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from render import ROOT, read_results
from summary import NAMES, WITHOUT_IMAGES, Documents, by_network, minutes, times

from hast_cuda.report.canvas import drawing, themed

RUNTIMES = ("onnxruntime int8", "openvino int8", "litert int8", "engine W4A4", "engine W4A4, integer")
PHASES = ("synthesis", "calibration", "range search", "reconstruction", "finetuning")


def accuracy(documents: Documents, path: Path) -> None:
    """A line of dots per network and width: each method, and full precision."""
    found = by_network(documents)
    methods = (*WITHOUT_IMAGES, "hast")
    with drawing(path, size=(8, 0.6 + 0.42 * len(found))) as ((axis,),):
        for index, method in enumerate(methods):
            values = [rows[method]["quantized"] for rows in found.values()]
            axis.plot(values, range(len(found)), "o", color=f"C{3 - index}", label=method)
        full = [rows["hast"]["full_precision"] for rows in found.values()]
        axis.plot(full, range(len(found)), "|", markersize=14, color="gray", label="full precision")
        axis.set_yticks(range(len(found)), [f"{NAMES[name]}, W{bits}A{bits}" for name, bits in found])
        axis.invert_yaxis()
        axis.set(xlabel="top-1, %")
        axis.grid(alpha=0.3, axis="x")
        axis.legend(ncols=5, fontsize=9, loc="lower center", bbox_to_anchor=(0.3, 1.0))


def speed(documents: Documents, path: Path) -> None:
    """Bars of a runtime's time over that of onnxruntime's float, in groups of networks."""
    networks = ("resnet20_cifar10", "resnet18", "mobilenetv2b_w1")
    width = 0.8 / len(RUNTIMES)
    with drawing(path, size=(8, 3.6)) as ((axis,),):
        for index, runtime in enumerate(RUNTIMES):
            found = [times(documents["deploy"], name) for name in networks]
            heights = [100 * t[runtime] / t["onnxruntime float"] for t in found]
            places = [group + (index - (len(RUNTIMES) - 1) / 2) * width for group in range(len(networks))]
            axis.bar_label(axis.bar(places, heights, width, label=runtime), fmt="%.0f", padding=2, fontsize=8)
        axis.set_xticks(range(len(networks)), [NAMES[name] for name in networks])
        axis.set(ylabel="time of an image, % of\nonnxruntime's float")
        axis.legend(ncols=3, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def phases(documents: Documents, path: Path) -> None:
    """A bar of minutes per network whose images the run made itself, in parts."""
    found = [(key, minutes(rows["hast"])) for key, rows in by_network(documents).items()]
    found = [(key, taken) for key, taken in found if taken["synthesis"]]
    with drawing(path, size=(8, 0.8 + 0.42 * len(found))) as ((axis,),):
        left = [0.0] * len(found)
        for phase in PHASES:
            widths = [taken[phase] for _, taken in found]
            axis.barh(range(len(found)), widths, 0.6, left=left, label=phase)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axis.set_yticks(range(len(found)), [f"{NAMES[name]}, W{bits}A{bits}" for (name, bits), _ in found])
        axis.invert_yaxis()
        axis.set(xlabel="minutes on one thread of a busy machine")
        axis.legend(ncols=5, fontsize=9, loc="lower center", bbox_to_anchor=(0.3, 1.0))


PICTURES: dict[str, Callable[[Documents, Path], None]] = {
    "accuracy-by-method": accuracy,
    "time-by-runtime": speed,
    "minutes-by-phase": phases,
}


def main() -> None:
    """Write them to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    out: Path = parser.parse_args().out
    documents = read_results(ROOT / "bench" / "results")
    with themed():
        for name, draw in PICTURES.items():
            draw(documents, out / f"{name}.svg")


if __name__ == "__main__":
    main()
