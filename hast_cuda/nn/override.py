"""Bits of single layers, and of the first and the last one."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import LATER
from hast_cuda.nn.integer_values import LAYER, RELU, Values


@dataclass(frozen=True)
class Override:
    """Bits of the layers that match a pattern; None keeps that part in full precision.

    Example:
        >>> import hast_cuda as hc
        >>> first = {"stem.*": hc.Override(8, 8)}
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4, overrides=first)
        >>> student.stem[0].weight_bits
        8
    """

    weight_bits: int | None = None
    """2 to 8, or None."""
    act_bits: int | None = None
    """2 to 8, or None."""
    input_bits: int | None = field(default=None, metadata=LATER)
    """Of a quantizer in front of a layer, whatever the placement; None: as the placement has it."""

    def __post_init__(self) -> None:
        """Refuse bits out of range where they are written down."""
        for name, bits in vars(self).items():
            if bits is not None:
                _checks.bit_width(name, bits)


def end_overrides(
    model: nn.Module, bits: int, placement: str, ends: tuple[str, str] | None = None
) -> dict[str, Override]:
    """Weights and inputs of the first and the last layer at ``bits``, by the names of modules.

    The input of the last one is that of a quantizer of its own, or of the ReLU that gives it.

    Args:
        model: full-precision network.
        bits: 2 to 8.
        placement: as for :func:`hast_cuda.quantize`.
        ends: names of both layers; None: the first and the last that torch.fx meets.

    Raises:
        ValueError: no layer, or ``ends`` is None and torch.fx cannot follow the network.

    Example:
        >>> import hast_cuda as hc
        >>> sorted(end_overrides(hc.load_teacher("digits"), 8, "relu"))
        ['output', 'stem.0']
    """
    own = Override(bits, bits, bits)
    try:
        values = Values(model)
    except ValueError as error:
        if ends is None:
            raise ValueError(f"the first and the last layer cannot be found: {error}; use overrides") from error
        return dict.fromkeys(ends, own)
    layers = [node for node in values.nodes if values.kinds[node] == LAYER]
    if not layers:
        raise ValueError("the network has no Conv2d or Linear layer to quantize")
    first, last = ends or (str(layers[0].target), str(layers[-1].target))
    found = {first: own, last: own}
    roots = [root for node in layers if node.target == last for root in values.roots(values.inputs(node)[0])]
    if placement != "all" and roots and all(values.kinds[root] == RELU for root in roots) and last != first:
        found[last] = Override(bits, bits)
        found |= {str(root.target): Override(None, bits) for root in roots}
    return found
