"""Settings and numbers of a run as a person reads them."""

from __future__ import annotations

from typing import Any

from hast_cuda.report.facts import RunFacts
from hast_cuda.run.summary import standard_error


def shown(value: Any) -> str:
    """Any JSON value as short text; "-" for nothing."""
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(v)}" for key, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value))
    return str(value)


def number(value: Any, pattern: str = ".2f", unit: str = "") -> str:
    """A number in a format, "-" for what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-"
    return f"{value:{pattern}}{unit}"


def amount(value: Any) -> str:
    """Bytes in the unit that suits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"


def with_error(percent: float, count: int | None) -> str:
    """The share, and its standard error where the number of images is known."""
    return f"{percent:.2f}" + (f" ± {standard_error(percent, count):.2f}" if count else "")


def network_name(facts: RunFacts) -> str:
    """What was quantized, as far as the run says."""
    network = facts.config.get("network")
    if isinstance(network, dict):
        network = network.get("model")
    return shown(network) if network else "unnamed network"


def method_name(facts: RunFacts) -> str:
    """The method, or what stands in its place."""
    if facts.recipe is None:
        return "synthetic images"
    return shown(facts.config.get("method") or "a recipe of its own")


def bits_name(facts: RunFacts) -> str:
    """Short form of the bits, such as W4A4, and of how many layers have others, where the run knows."""
    bits, found = facts.config.get("bits"), facts.result or {}
    if not isinstance(bits, dict):
        return "-"
    activations, left = bits.get("activations"), found.get("full_precision_layers")
    weights = f"W{shown(bits.get('weights'))}"
    alone = activations is None or found.get("activation_quantizers") == 0
    name = f"{weights}, weights only" if alone else f"{weights}A{activations}"
    return f"{name}, but for {len(left)} in full precision" if isinstance(left, dict) and left else name
