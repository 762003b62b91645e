"""Refuse losses whose second derivative autograd would get wrong without a word.

The fused ops of this package compute their gradient in a kernel. Differentiating that gradient
again either stops (ops marked as differentiable once), or drops terms: a gradient that was computed
in the forward pass is a constant to autograd, and a kernel without a derivative gives a warning and
no gradient. Only straight-through quantization, whose gradient is the identity, has a second one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.autograd.function import once_differentiable

from hast_cuda.checks.typed import typed

# torch raises for a function so marked only where its incoming gradient has a graph of its own;
# directly under a sum it gives a constant. All that are marked share the code of the wrapper.
_ONCE = once_differentiable(lambda *_: None).__code__
_EAGER = (
    "use its eager twin in hast_cuda.ops.reference, an unmerged network, and for a quantized one "
    "hast_cuda.analysis.twice_differentiable"
)


class NotTwiceDifferentiableError(RuntimeError):
    """A loss depends on an op without a second derivative."""


@typed
def require_double_backward(*tensors: Tensor) -> None:
    """NotTwiceDifferentiableError if an op behind ``tensors`` is known to break double backward.

    Finds every fused op of this package but straight-through quantization, every
    ``autograd.Function`` marked as differentiable once, and ops without an autograd formula. A
    function of somebody else's that keeps a gradient of its own making without the mark cannot be
    told from a correct one.
    """
    for name in map(_broken, _nodes(tensors)):
        if name is not None:
            raise NotTwiceDifferentiableError(f"{name} has no second derivative: {_EAGER}")


def _nodes(tensors: tuple[Tensor, ...]) -> Iterator[Any]:
    """Every node of the graphs behind ``tensors``, once."""
    waiting: list[Any] = [t.grad_fn for t in tensors]
    seen = {None}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node


def _broken(node: Any) -> str | None:
    """Name of the op of ``node`` if it cannot be differentiated twice."""
    if "NotImplemented" in node.name():
        return "an op registered without an autograd formula"
    function = getattr(node, "_forward_cls", None)
    if function is None:
        return None
    if not function.__module__.startswith("hast_cuda."):
        once = getattr(function.backward, "__code__", None) is _ONCE
        return f"{function.__name__}, differentiable once," if once else None
    name = function.__name__
    if name == "FakeQuantizeFunction":
        _bits, _axis, _real, activation, clipped = node.settings
        passes = not (activation or clipped)  # a mask is applied by a kernel
    else:
        passes = name == "_FakeQuantizeWeights"
    return None if passes else f"the fused {name}"
