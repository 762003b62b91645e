"""Accuracy before and after, and what is missing of a run that is not finished."""

from __future__ import annotations

from pathlib import Path

from hast_cuda.loops.progress import duration
from hast_cuda.report.document import Block, Numbers, Picture, Pictures, Section, Table, Text, Warn
from hast_cuda.report.exports import fastest
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.plots import draw_accuracies
from hast_cuda.report.words import bits_name, number

CHOSEN = "chosen by test accuracy"
ACCURACIES = (
    ("full precision", "full_precision", ""),
    ("rounded, ranges calibrated", "rounded", ""),
    ("ranges searched", "start_of_finetuning", ""),
    ("blocks reconstructed", "reconstructed", ""),
    ("quantized network", "quantized", ""),
    ("last iteration", "quantized_last", ""),
    ("best seen", "quantized_best_epoch", CHOSEN),
)
"""Label, key in ``result.json`` and note of every accuracy of a run."""


def accuracies_of(facts: RunFacts) -> dict[str, float]:
    """The accuracies of a finished run with test images, by label; empty for any other.

    Without fine-tuning there is no last iteration and no best one.
    """
    result = facts.result or {}
    found = {label: float(result[key]) for label, key, _ in ACCURACIES if isinstance(result.get(key), (int, float))}
    tuned = facts.recipe is not None and facts.recipe.finetune.iterations > 0
    if found and not tuned:
        shown = ("full precision", ACCURACIES[1][0], "blocks reconstructed", "quantized network")
        found = {k: v for k, v in found.items() if k in shown}
    return found


def drop_of(facts: RunFacts) -> float | None:
    """Points that the network lost against full precision."""
    result = facts.result or {}
    full, last = result.get("full_precision"), result.get("quantized")
    return None if full is None or last is None else float(full) - float(last)


def headline(facts: RunFacts) -> list[Block]:
    """What a reader came for, above everything else."""
    pairs = [("bits", bits_name(facts))] if facts.recipe is not None else []
    result = facts.result or {}
    if (drop := drop_of(facts)) is not None:
        pairs += [
            ("full precision", number(result["full_precision"], unit=" %")),
            ("quantized", number(result["quantized"], unit=" %")),
            ("drop, points", number(drop)),
        ]
    elif (same := (result.get("agreement") or {}).get("same_class")) is not None:
        pairs.append(("same class as the original", number(same, unit=" %")))
    elif noise := result.get("output_noise"):
        pairs.append(("noise in the outputs, at most", number(100 * max(noise.values()), unit=" %")))
    pairs += fastest(facts)
    if facts.seconds:
        pairs.append(("made in", duration(sum(facts.seconds.values()))))
    blocks: list[Block] = [Numbers(pairs)] if pairs else []
    lacking = missing(facts)
    if lacking:
        blocks.append(Warn(f"This run is not finished. {' '.join(lacking)}"))
    return blocks


def missing(facts: RunFacts) -> list[str]:
    """What a finished run has and this one has not, as sentences."""
    if facts.finished:
        return []
    found = []
    if facts.batches < facts.wanted_batches:
        found.append(f"{facts.batches} of {facts.wanted_batches} batches of images are made.")
    elif facts.config.get("images") and not facts.batches:
        found.append("The images that it was given are not there.")
    if facts.recipe is None:
        return found
    steps = facts.recipe.finetune.iterations
    if steps:
        found.append(f"Fine-tuning has logged {facts.iteration} of {steps} steps.")
    absent = [n for n in ("student.safetensors", "result.json") if not (facts.path / n).exists()]
    return [*found, f"Missing: {' and '.join(absent)}, so there are no final accuracies and no layers yet."]


def accuracy_section(facts: RunFacts, folder: Path) -> Section:
    """A table and a picture; or why there is neither."""
    found = accuracies_of(facts)
    if not found:
        return Section("Accuracy", _without(facts))
    full = found.get("full precision")
    notes = {label: f" ({note})" if note else "" for label, _, note in ACCURACIES}
    rows = [
        (label + notes.get(label, ""), number(value), "-" if full is None else number(value - full, "+.2f"))
        for label, value in found.items()
    ]
    path = folder / "accuracy.svg"
    draw_accuracies(found, path)
    spoken = ", ".join(f"{label} {value:.2f} %" for label, value in found.items())
    count = (facts.result or {}).get("num_test_images")
    blocks: list[Block] = [
        Text(f"Top-1 accuracy on {number(count, 'd')} test images, in percent."),
        Table(("network", "top-1, %", "against full precision"), rows),
        Pictures([Picture(path, f"Top-1 accuracy: {spoken}")]),
    ]
    if "best seen" in found:
        blocks.append(
            Text(
                f"{_kept(facts)} Nothing about it was chosen by test accuracy. The best seen was {CHOSEN}, and is "
                "here because published figures often are."
            )
        )
    return Section("Accuracy", blocks)


def _kept(facts: RunFacts) -> str:
    """Which student the result is, in a sentence."""
    result = facts.result or {}
    if facts.recipe is None or facts.recipe.finetune.keep == "last":
        return "The last iteration is the result."
    return (
        f"The result is the student after {number(result.get('kept_iteration'), 'd')} iterations, chosen by "
        f"its distance from the original on {number(result.get('num_held_out'), 'd')} images held out."
    )


def _without(facts: RunFacts) -> list[Block]:
    if facts.recipe is None:
        return [Text("This run made images only; no network was quantized.")]
    if facts.result is not None:
        return [
            Text(
                "Not measured: the run was given no test images. Give some with --data, or measure "
                "the finished network with hast-cuda evaluate --run."
            )
        ]
    seen = [r for r in facts.records if r.get("phase") == "test" and "top1" in r]
    if not seen:
        return [Text("Nothing was measured yet.")]
    last = seen[-1]
    return [Text(f"So far: {number(last['top1'])} % top-1 after {number(last.get('iteration'), 'd')} steps.")]
