"""Accuracy of every student of a run."""

from __future__ import annotations

from pathlib import Path

from hast_cuda.report.document import Block, Picture, Pictures, Section, Table, Text
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.plots import draw_accuracies
from hast_cuda.report.words import number, with_error
from hast_cuda.run.summary import standard_error

CHOSEN = "chosen by test accuracy"
ACCURACIES = (
    ("full precision", "full_precision", ""),
    ("rounded", "rounded", "ranges from the images"),
    ("start", "start_of_finetuning", "ranges shrunk"),
    ("reconstructed", "reconstructed", "block by block"),
    ("kept", "quantized", "the result"),
    ("last", "quantized_last", "after the last step"),
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
        shown = ("full precision", "rounded", "reconstructed", "kept")
        found = {k: v for k, v in found.items() if k in shown}
    return found


def accuracy_section(facts: RunFacts, folder: Path) -> Section:
    """A table and a picture; or why there is neither."""
    found = accuracies_of(facts)
    if not found:
        return Section("Accuracy", _without(facts))
    full = found.get("full precision")
    notes = {label: f" ({note})" if note else "" for label, _, note in ACCURACIES}
    count = (facts.result or {}).get("num_test_images")
    rows = [
        (label + notes[label], with_error(value, count), "-" if full is None else number(value - full, "+.2f"))
        for label, value in found.items()
    ]
    path = folder / "accuracy.svg"
    draw_accuracies(found, path, {label: standard_error(v, count) for label, v in found.items()} if count else None)
    spoken = ", ".join(f"{label} {value:.2f} %" for label, value in found.items())
    blocks: list[Block] = [
        Text(f"Top-1 accuracy on {number(count, 'd')} test images, in percent, with one standard error."),
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
