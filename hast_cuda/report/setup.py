"""What a run was asked to do, where it ran and how long it took."""

from __future__ import annotations

import dataclasses
from typing import Any

from hast_cuda.loops.execution import Execution
from hast_cuda.loops.progress import duration
from hast_cuda.report.document import Block, Facts, Section, Table, Text
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.words import method_name, network_name, shown

# Entries of config.json that have a line of their own.
_KNOWN = (
    "bits",
    "seed",
    "method",
    "preset",
    "network",
    "data",
    "test_limit",
    "images",
    "train_data",
    "shape",
    "recipe",
    "execution",
    "synthesis",
)


def setup_section(facts: RunFacts) -> Section:
    """Teacher, method, bits, budget, seed, versions and device."""
    config, bits = facts.config, facts.config.get("bits")
    pairs = [("Network", _network(facts)), ("Method", method_name(facts))]
    if "preset" in config:
        pairs.append(("Preset", shown(config["preset"])))
    pairs += [(key, shown(config[key])) for key in config if key not in _KNOWN]
    if isinstance(bits, dict):
        pairs += _bits(bits)
    pairs += [("Images", _images(facts)), ("Fine-tuning", _finetuning(facts))]
    if (other := _execution(config.get("execution"))) is not None:
        pairs.append(("Execution", other))
    pairs += [("Seed", shown(config.get("seed"))), *_environment(facts.environment)]
    return Section("What was done", [Facts(pairs)])


def _network(facts: RunFacts) -> str:
    network = facts.config.get("network")
    options = network if isinstance(network, dict) else {}
    given = [
        f"{key.replace('_', ' ')} {shown(value)}"
        for key, value in options.items()
        if key != "model" and value is not None
    ]
    shape = facts.config.get("shape")
    if isinstance(shape, dict):
        size = " x ".join(shown(shape.get(k)) for k in ("channels", "height", "width"))
        given.append(f"input {size}, {shown(shape.get('num_classes') or 'no')} classes")
    return "; ".join([network_name(facts), *given])


def _bits(bits: dict[str, Any]) -> list[tuple[str, str]]:
    activations, overrides = bits.get("activations"), bits.get("overrides")
    pairs = [
        ("Weights", f"{shown(bits.get('weights'))} bits, a range per output channel"),
        ("Activations", "full precision" if activations is None else f"{activations} bits"),
    ]
    if activations is not None:
        placement = shown(bits.get("placement"))
        where = {"relu": "outputs of ReLU and ReLU6", "all": "inputs of all layers", "integer": "all that is stored"}
        pairs.append(("Placement", f"{placement}: {where.get(placement, 'unknown')}"))
    if isinstance(overrides, dict) and overrides:
        pairs.append(("Exceptions", "; ".join(f"{k}: {_override(o)}" for k, o in overrides.items())))
    return pairs


def _override(override: Any) -> str:
    if not isinstance(override, dict):
        return shown(override)
    weights, activations = override.get("weight_bits"), override.get("act_bits")
    if weights is None and activations is None:
        return "full precision"
    named = (("weights", weights), ("activations", activations))
    return ", ".join(f"{k} {'full precision' if b is None else f'{b} bits'}" for k, b in named)


def _images(facts: RunFacts) -> str:
    made, given = facts.synthesis, facts.config.get("images")
    kind = "synthetic" if facts.recipe is None else facts.recipe.images
    if given:
        return f"given: {shown(given)}"
    if kind == "synthetic":
        return (
            f"{made.num_images} made from the network, {made.batch_size} at a time, {made.iterations} iterations each"
        )
    return {
        "none": "none",
        "generated": "made by a generator while the quantized network trains",
        "real": "real training images",
    }.get(kind, kind)


def _finetuning(facts: RunFacts) -> str:
    if facts.recipe is None or not facts.recipe.finetune.iterations:
        return "none"
    tuning = facts.recipe.finetune
    return (
        f"{tuning.iterations} steps of {tuning.batch_size} images, learning rate "
        f"{tuning.learning_rate:.3g} ({tuning.schedule})"
    )


def _execution(values: Any) -> str | None:
    """Options that differ from the defaults."""
    usual = dataclasses.asdict(Execution())
    found = values if isinstance(values, dict) else {}
    changed = [f"{k} {shown(v)}" for k, v in found.items() if usual.get(k) != v]
    return "; ".join(changed) or None


def _environment(found: dict[str, Any]) -> list[tuple[str, str]]:
    if not found:
        return [("Device", "not recorded (environment.json is missing)")]
    device = f"{shown(found.get('device'))}, {shown(found.get('device_name'))}"
    ranks = found.get("ranks", 1)
    processes = "" if ranks == 1 else f" in each of {shown(ranks)} processes"
    versions = [f"{k} {shown(found[k])}" for k in ("hast_cuda", "torch", "python") if k in found]
    pairs = [
        ("Device", f"{device}, {shown(found.get('threads'))} CPU threads{processes}"),
        ("Versions", ", ".join(versions)),
    ]
    return [*pairs, ("Build", shown(found["build"]))] if "build" in found else pairs


def seconds_section(facts: RunFacts) -> Section:
    """Seconds per phase, attempts that were killed left out."""
    if not facts.seconds:
        blocks: list[Block] = [Text("Nothing was timed yet: no phase has ended.")]
        if facts.recipe is None:
            blocks = [Text("Runs that only make images are not timed.")]
        return Section("Time", blocks)
    total = sum(facts.seconds.values())
    shares = [s / total if total else 0.0 for s in facts.seconds.values()]
    rows = [(name, duration(s)) for name, s in facts.seconds.items()]
    return Section(
        "Time",
        [
            Table(("phase", "time"), [*rows, ("all", duration(total))], shares={1: [*shares, None]}),
            Text("All attempts count, a killed one but for its last seconds; loading the network does not."),
        ],
    )
