"""Images, difficulties and curves of a run, drawn into the folder of its page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
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


def images_section(facts: RunFacts, spec: InputSpec | None, names: Sequence[str], folder: Path) -> Section | None:
    """The first synthetic images with their classes; None for a run that has none of its own."""
    if facts.images is None:
        if not facts.wanted_batches:
            return None
        return Section("Synthetic images", [Text("None are made yet.")])
    images, labels = facts.images.images[:SHOWN], facts.images.labels[:SHOWN]
    labelled = classifies(facts)
    note = f"The first {len(images)}, " + (
        "each with the class that it was made for." if labelled else "made without labels."
    )
    if spec is None or spec.channels != images.shape[1]:
        spec = _stretched(images)
        note += (
            " The normalisation of the network is not known, so they are stretched from the "
            "darkest to the brightest pixel of all."
        )
    captions = [called(names, int(label)) if labelled else "" for label in labels]
    return Section(
        "Synthetic images", [Text(note), sheet(images, captions, spec, folder / "images.png", "Synthetic images")]
    )


def called(names: Sequence[str], label: int) -> str:
    """The name of a class, its number where it has none."""
    return names[label] if label < len(names) else str(label)


def sheet(images: Tensor, captions: Sequence[str], spec: InputSpec, path: Path, alt: str) -> Sheet:
    """Images [N, C, H, W] (normalised) with captions, drawn to ``path`` for the Markdown twin."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    draw_images(images, labels, spec, path, rows=-(-len(images) // 10), columns=10, captions=captions)
    return Sheet([(_png(image, spec), caption) for image, caption in zip(images, captions, strict=True)], path, alt)


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
    """How many images are how hard; None where neither a file nor a network tells."""
    found, note = facts.histograms, "From analysis/difficulty.json."
    if not found and teacher is not None and facts.images is not None and classifies(facts):
        judged = judge(teacher, facts.images.batches(BATCH))
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


def analyses_section(facts: RunFacts) -> Section | None:
    """The pictures that ``hast-cuda analyze`` has drawn; None where there are none."""
    found = sorted((facts.path / "analysis").glob("*.png"))
    if not found:
        return None
    pictures = [Picture(path, f"analysis of {path.stem}", path.stem) for path in found]
    return Section("Analyses", [Text("By hast-cuda analyze; their figures are beside them."), Pictures(pictures)])


def curves_section(runs: Mapping[str, RunFacts], folder: Path) -> Section:
    """Losses, test accuracy and learning rate over the iterations, of one run or several."""
    curves = {name: loss_curves(facts.records) for name, facts in runs.items()}
    results = [facts.result or {} for facts in runs.values()]
    full = {float(result["full_precision"]) for result in results if result.get("full_precision") is not None}
    levels = {"full precision": full.pop()} if len(full) == 1 else None
    pictures = []
    for index, (phase, name) in enumerate(panels(curves.values())):
        path = folder / f"curve-{index}.svg"
        chosen = {run: {phase: {name: phases.get(phase, {}).get(name, [])}} for run, phases in curves.items()}
        draw_loss_curves(chosen, path, levels if name == "top1" else None)
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
