"""Which few layers are best kept at more bits than the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hast_cuda.analysis.sensitivity import LayerSensitivity
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_choice, check_range


@dataclass(frozen=True)
class KeptLayer:
    """One that is worth more bits.

    Example:
        >>> KeptLayer("stem", saved=0.3, share=0.75, bytes=72).share
        0.75
    """

    name: str
    saved: float
    """What it loses less with more bits, all others in full precision."""
    share: float
    """Of what all layers lose with the few bits."""
    bytes: int
    """That its weights take more; 0 for activations."""


@typed
def layers_to_keep(
    sensitivity: Mapping[str, LayerSensitivity], count: int = 3, *, bits: int = 4, at: int = 8, kind: str = "weights"
) -> list[KeptLayer]:
    """The layers that lose most at ``bits`` against ``at`` bits, the first of them first.

    Args:
        sensitivity: from :func:`hast_cuda.sensitivity`.
        count: how many.
        bits: of all others.
        at: of those that are kept, more than ``bits``.
        kind: "weights" or "activations".

    Raises:
        ValueError: a width that was not measured.

    Example:
        >>> import hast_cuda as hc
        >>> layer = hc.analysis.LayerSensitivity
        >>> layers = {"a": layer({4: 0.1, 8: 0.0}), "b": layer({4: 0.3, 8: 0.1})}
        >>> [(layer.name, round(layer.share, 2)) for layer in layers_to_keep(layers, 1)]
        [('b', 0.5)]
    """
    check_choice("kind", kind, ("weights", "activations"))
    check_range("bits", bits, 2, at - 1)
    losses = {name: found for name, layer in sensitivity.items() if (found := getattr(layer, kind))}
    missing = [name for name, found in losses.items() if not {bits, at} <= found.keys()]
    if missing:
        raise ValueError(
            f"{kind} of {missing[0]!r} were measured at {sorted(losses[missing[0]])}, not at {bits} and {at}"
        )
    total = sum(found[bits] for found in losses.values()) or 1.0
    kept = []
    for name, found in losses.items():
        parameters = sensitivity[name].parameters if kind == "weights" else 0
        saved = found[bits] - found[at]
        kept.append(KeptLayer(name, saved, saved / total, -(-parameters * (at - bits) // 8)))
    return sorted(kept, key=lambda layer: -layer.saved)[:count]
