"""Pictures of a run: the synthetic images, and the curves of both loops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, check_range
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.report.canvas import closing, pyplot, save


@closing
@typed
def draw_images(
    images: Tensor, labels: Tensor, spec: InputSpec, path: Path, *, rows: int = 4, columns: int = 10
) -> None:
    """A grid of synthetic images [N, C, H, W] (normalised), labels below, as PNG.

    Raises:
        ValueError: images that are not those of ``spec``, fewer labels, a grid of another size than
            1 to 100 rows and columns. ImportError: no matplotlib.
    """
    check_images("images", images)
    check_range("rows", rows, 1, 100)
    check_range("columns", columns, 1, 100)
    if images.dim() != 4 or images.shape[1] != spec.channels:
        message = (
            f"images is {list(images.shape)}; expected [N, {spec.channels}, H, W], as spec has"
        )
        raise ValueError(message)
    if labels.dim() != 1 or labels.is_meta or len(labels) < len(images):
        message = (
            f"labels is {list(labels.shape)}; expected a label for each of {len(images)} images"
        )
        raise ValueError(message)
    plt = pyplot()
    mean, std = (images.new_tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    height = images.shape[2] / images.shape[3]  # of a column's width; one axis draws in no time
    step = height + 0.3
    figure, axis = plt.subplots(figsize=(columns, rows * step), layout="constrained")
    axis.axis("off")
    for index in range(min(len(images), rows * columns)):
        top, left = step * (index // columns), index % columns
        pixels = (images[index] * std + mean).clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
        place = (left + 0.05, left + 0.95, top + 0.95 * height, top + 0.05 * height)
        axis.imshow(pixels.numpy(), extent=place, interpolation="nearest")
        below = (left + 0.5, top + 0.98 * height)
        axis.text(*below, str(int(labels[index])), fontsize=9, ha="center", va="top")
    axis.set_xlim(0, columns)  # imshow has moved them
    axis.set_ylim(rows * step, 0)
    save(figure, path)


@closing
@typed
def draw_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses of synthesis (mean over batches) and of fine-tuning, and test accuracy, as PNG.

    Raises:
        ValueError: a figure that is no number. ImportError: no matplotlib.
    """
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    for axis, phase, keys, title in (
        (axes[0], "synthesis", ("match", "label"), "synthesis (Eq. 9)"),
        (axes[1], "finetune", ("distillation", "alignment"), "fine-tuning (Eq. 12)"),
        (axes[2], "test", ("top1",), "test accuracy"),
    ):
        for key in keys:
            values: dict[int, list[float]] = defaultdict(list)
            for record in records:
                if record.get("phase") == phase and key in record:
                    at, value = record.get("iteration"), record[key]
                    if type(at) is not int or type(value) not in (int, float):
                        message = (
                            f"records has {key}={value!r} at iteration {at!r}; expected numbers"
                        )
                        raise ValueError(message)
                    values[at].append(float(value))
            if values:
                xs = sorted(values)
                ys = [sum(values[x]) / len(values[x]) for x in xs]
                axis.plot(xs, ys, label=key, marker="o" if len(xs) < 20 else None)
                axis.legend()
        axis.set_title(title)
        axis.set_xlabel("iteration")
        axis.grid(alpha=0.3)
        axis.set_yscale("linear" if phase == "test" else "symlog", **({} if phase == "test" else
        {"linthresh": 1e-4}))  # fmt: skip
    axes[2].set_ylabel("top-1, %")
    save(figure, path)
