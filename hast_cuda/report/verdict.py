"""The first screen of a page, what a run without labels tells of quality, and what is missing."""

from __future__ import annotations

from typing import Any

from hast_cuda.finetune.agreement import verdict
from hast_cuda.loops.progress import duration
from hast_cuda.report.document import Block, Numbers, Section, Table, Text, Warn
from hast_cuda.report.exports import fastest
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.words import amount, bits_name, number, with_error
from hast_cuda.run.summary import standard_error

NOISIEST = 5  # layers that are named
FEW = 32  # images that say little by agreeing or not


def headline(facts: RunFacts) -> list[Block]:
    """What a reader came for, above everything else: how good, how small, how fast."""
    result = facts.result or {}
    sentence = _sentence(result)
    cards = [("bits", bits_name(facts), "")] if facts.recipe is not None else []
    cards += _quality(result)
    cards += _size(result) or fastest(facts)[:1]
    cards += fastest(facts)[1:]
    if facts.seconds:
        cards.append(("made in", duration(sum(facts.seconds.values())), ""))
    blocks: list[Block] = [Text(sentence)] if sentence else []
    blocks += [Numbers([(what, value) for what, value, _ in cards], [note for *_, note in cards])] if cards else []
    if lacking := missing(facts):
        blocks.append(Warn(f"This run is not finished. {' '.join(lacking)}"))
    return blocks


def drop_of(facts: RunFacts) -> float | None:
    """Points that the network lost against full precision."""
    result = facts.result or {}
    full, kept = result.get("full_precision"), result.get("quantized")
    return None if full is None or kept is None else float(full) - float(kept)


def _sentence(result: dict[str, Any]) -> str:
    """The verdict in words."""
    full, kept, count = (result.get(key) for key in ("full_precision", "quantized", "num_test_images"))
    if full is not None and kept is not None:
        lost = full - kept
        gained = f"gains {-lost:.2f}" if lost < 0 else f"loses {lost:.2f}"
        sure = "" if not count else f", on {count} test images: one standard error is {standard_error(kept, count):.2f}"
        return f"The quantized network {gained} points of top-1 accuracy against the original{sure}."
    agreement = result.get("agreement")
    if result.get("output_noise"):
        return ""
    if agreement is None:
        return "How good the network is was not measured: give labelled images with --data." if result else ""
    held_out = result.get("num_held_out") or 0
    said = verdict(agreement["same_class"])
    link = "" if said.startswith("loses") else "is "
    text = f"By images alone, without labels, the quantized network {link}{said}."
    return text + (f" But {held_out} images are few to judge by." if held_out < FEW else "")


def _quality(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    count = result.get("num_test_images")
    full, kept = result.get("full_precision"), result.get("quantized")
    if full is not None and kept is not None:
        spread = "" if not count else f"± {standard_error(kept, count):.2f}"
        return [("full precision", f"{full:.2f} %", ""), ("kept", f"{kept:.2f} %", spread)]
    if noise := result.get("output_noise"):  # the network classifies nothing
        return [("noise in the outputs, at most", f"{100 * max(noise.values()):.2f} %", "of their squares")]
    agreement = result.get("agreement")
    if agreement is None:
        return []
    return [("same class as the original", f"{agreement['same_class']:.1f} %", "of synthetic images held out")]


def _size(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    packed, whole = result.get("bytes"), result.get("float_bytes")
    return [("size, packed", amount(packed), f"{100 * packed / whole:.1f} % of float")] if packed and whole else []


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


def agreement_section(facts: RunFacts) -> Section | None:
    """How the student compares with the original where there are no labels; None where nothing was held out."""
    result = facts.result or {}
    found, count = result.get("agreement"), result.get("num_held_out") or 0
    if found is None:
        return None
    rows = [
        ("same class", with_error(found["same_class"], count) + " %"),
        ("divergence of the class probabilities, nats", number(found["divergence"], ".3f")),
        ("the same on parts of the images, enlarged, nats", number(found.get("cropped"), ".3f")),
    ]
    blocks: list[Block] = [
        Text(
            f"On {count} synthetic images that no step has seen. It tells a good student from a broken one; it "
            "does not order two good ones."
        ),
        Table(("against the original", "found"), rows),
    ]
    noise = result.get("signal_to_noise")
    if isinstance(noise, dict) and noise:
        lowest = sorted(noise.items(), key=lambda layer: layer[1])[:NOISIEST]
        named = ", ".join(f"{name} {ratio:.1f} dB" for name, ratio in lowest)
        blocks.append(Text(f"Layers with the lowest signal-to-noise ratio, first to be given more bits: {named}."))
    return Section("Without labels", blocks)
