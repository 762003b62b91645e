"""Images, difficulties and curves of a run, drawn into the folder of its page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from hast_cuda.analysis import difficulty_histogram, judge, loss_curves
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.report.analysis_plots import draw_difficulty
from hast_cuda.report.canvas import colours, pyplot
from hast_cuda.report.document import Block, Picture, Pictures, Section, Sheet, Text
from hast_cuda.report.facts import IMAGES, RunFacts
from hast_cuda.report.plots import draw_images, draw_learning_rate, draw_loss_curves, panels

SHOWN = 40
SIDE = 96  # larger images are shown smaller: noise takes a lot of bytes
BATCH = 64


def images_section(facts: RunFacts, spec: InputSpec | None, folder: Path) -> Section | None:
    """The first synthetic images with their labels; None for a run that has none of its own."""
    if facts.images is None:
        if not facts.wanted_batches:
            return None
        return Section("Synthetic images", [Text("None are made yet.")])
    images, labels = facts.images.images[:SHOWN], facts.images.labels[:SHOWN]
    labelled = classifies(facts)
    note = f"The first {len(images)}, " + (
        "each with the label that it was made for." if labelled else "made without labels."
    )
    if spec is None or spec.channels != images.shape[1]:
        spec = _stretched(images)
        note += (
            " The normalisation of the network is not known, so they are stretched from the "
            "darkest to the brightest pixel of all."
        )
    path = folder / "images.png"
    draw_images(images, labels, spec, path, rows=-(-len(images) // 10), columns=10)
    names = [str(int(label)) if labelled else "" for label in labels]
    cells = [(_png(image, spec), name) for image, name in zip(images, names, strict=True)]
    return Section("Synthetic images", [Text(note), Sheet(cells, path, "Synthetic images")])


def classifies(facts: RunFacts) -> bool:
    """Whether the run's network has classes, as most have."""
    shape = facts.config.get("shape")
    return not isinstance(shape, dict) or shape.get("num_classes") != 0


def _stretched(images: Tensor) -> InputSpec:
    """A normalisation that puts the smallest value at black and the largest at white."""
    channels, height, width = images.shape[1:]
    low, span = float(images.min()), max(float(images.max() - images.min()), 1e-6)
    return InputSpec(channels, height, width, 1, (-low / span,) * channels, (1 / span,) * channels)


def _png(image: Tensor, spec: InputSpec) -> bytes:
    """One image [C, H, W] (normalised) as a PNG file."""
    mean, std = (image.new_tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
    pixels = (image * std + mean).clamp(0, 1)
    if max(pixels.shape[1:]) > SIDE:
        pixels = nn.functional.interpolate(pixels[None], size=(SIDE, SIDE), mode="area")[0]
    buffer = io.BytesIO()
    array = colours(pixels).permute(1, 2, 0).contiguous().numpy()
    pyplot().imsave(buffer, array, format="png")
    return buffer.getvalue()


def difficulty_section(facts: RunFacts, teacher: nn.Module | None, folder: Path) -> Section | None:
    """How many images are how hard; None where neither a file nor a network tells.

    Raises:
        ValueError: the images are not those of the network.
    """
    found, note = facts.histograms, "From analysis/difficulty.json."
    if not found and teacher is not None and facts.images is not None and classifies(facts):
        batches = zip(facts.images.images.split(BATCH), facts.images.labels.split(BATCH), strict=True)
        judged = judge(teacher, batches)
        found = {"synthetic": difficulty_histogram(judged.difficulty)}
        note = f"Of the first {len(judged.difficulty)} images (at most {IMAGES} are judged)."
    filled = {name: h for name, h in found.items() if sum(h.counts)}
    if not filled:
        return None
    path = folder / "difficulty.svg"
    draw_difficulty(filled, path)
    spoken = "; ".join(f"{k}: {sum(h.counts)} images, {h.counts}" for k, h in filled.items())
    return Section(
        "Difficulty",
        [
            Text(f"1 minus the full-precision network's probability of the label. {note}"),
            Pictures([Picture(path, f"Histogram of difficulty; {spoken}")]),
        ],
    )


def curves_section(runs: Mapping[str, RunFacts], folder: Path) -> Section:
    """Losses, test accuracy and learning rate over the iterations, of one run or several."""
    curves = {name: loss_curves(facts.records) for name, facts in runs.items()}
    pictures = []
    for index, (phase, name) in enumerate(panels(curves.values())):
        path = folder / f"curve-{index}.svg"
        chosen = {run: {phase: {name: phases.get(phase, {}).get(name, [])}} for run, phases in curves.items()}
        draw_loss_curves(chosen, path)
        pictures.append(Picture(path, f"{phase}: {name} over the iterations"))
    logged = bool(pictures)
    configs = {name: f.recipe.finetune for name, f in runs.items() if f.recipe is not None}
    if any(config.iterations for config in configs.values()):
        path = folder / "learning-rate.svg"
        draw_learning_rate(configs, path)
        pictures.append(Picture(path, "Learning rate of fine-tuning over the iterations"))
    blocks: list[Block] = [Text("Nothing was logged: no loop has run.")]
    if logged:
        blocks = [
            Text("Losses carry the weights of the objective; those of synthesis are means over the batches of images.")
        ]
    return Section("Curves", [*blocks, Pictures(pictures)] if pictures else blocks)
