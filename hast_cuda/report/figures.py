"""Pictures of a run: the synthetic images, and the curves of both loops."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hast_cuda.input_spec import InputSpec
from hast_cuda.report.canvas import pyplot, save


def draw_images(
    images: Tensor, labels: Tensor, spec: InputSpec, path: Path, *, rows: int = 4, columns: int = 10
) -> None:
    """A grid of synthetic images [N, C, H, W] (normalised), titled with their labels, as PNG."""
    plt = pyplot()
    mean, std = (images.new_tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    figure, axes = plt.subplots(rows, columns, figsize=(columns, rows * 1.25), squeeze=False)
    for index, axis in enumerate(axes.flat):
        axis.axis("off")
        if index < len(images):
            pixels = (images[index] * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()
            axis.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray")
            axis.set_title(str(int(labels[index])), fontsize=9)
    save(figure, path)


def draw_curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses of synthesis (mean over batches) and of fine-tuning, and test accuracy, as PNG."""
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
                    values[int(record["iteration"])].append(float(record[key]))
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
