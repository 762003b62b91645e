"""The Hessian of a scalar loss as an operator: products with vectors, never the matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hast_cuda.checks.typed import typed


class Hessian:
    """``H v`` of a loss over some parameters, by differentiating its gradient again.

    The gradient's graph is built once, in the constructor, and kept. A quantized network gives the
    Hessian of its straight-through surrogate: rounding counts as the identity.

    Args:
        loss: called once, without arguments; gives a 0-d tensor made of ops that have a second
            derivative. The fused ops of this package have none (see
            :mod:`hast_cuda.analysis.hessian`): use ``hast_cuda.ops.reference`` and
            :func:`hast_cuda.analysis.twice_differentiable`.
        parameters: what to differentiate by, one dtype and device; those that the loss does not
            depend on have rows and columns of zeros.

    Raises:
        NotTwiceDifferentiableError: the loss uses an op whose second derivative would be wrong.
        ValueError: no parameters, parameters without gradient, or a loss that is not a finite
            scalar that depends on one of them.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> Hessian(lambda: (x**3).sum(), [x]).product(torch.ones(2))
        tensor([ 6., 12.])
    """

    @typed
    def __init__(self, loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        _check_parameters(self.parameters)
        with torch.enable_grad():
            value = loss()
            _check_loss(value)
            require_double_backward(value)
            self.gradients = torch.autograd.grad(value, self.parameters, create_graph=True, materialize_grads=True)
        require_double_backward(*self.gradients)
        self.value = float(value.detach())
        self.size = sum(p.numel() for p in self.parameters)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters and of the products."""
        return self.parameters[0].dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters and of the products."""
        return self.parameters[0].device

    @typed
    def product(self, vector: Tensor) -> Tensor:
        """``H v``, [P] -> [P], P the number of all parameters in the order given."""
        if (vector.shape, vector.dtype, vector.device) != ((self.size,), self.dtype, self.device):
            raise ValueError(
                f"vector has shape {list(vector.shape)} {vector.dtype} on {vector.device}; "
                f"expected [{self.size}] {self.dtype} on {self.device}"
            )
        parts = zip(self.gradients, vector.split([p.numel() for p in self.parameters]), strict=True)
        # a part of the gradient that is constant adds nothing
        pairs = [(g, v.view_as(g)) for g, v in parts if g.requires_grad]
        if not pairs:
            return torch.zeros_like(vector)
        found = torch.autograd.grad(
            [g for g, _ in pairs], self.parameters, [v for _, v in pairs], retain_graph=True, materialize_grads=True
        )
        return torch.cat([h.reshape(-1) for h in found])


def _check_parameters(parameters: list[Tensor]) -> None:
    if not parameters:
        raise ValueError("parameters is empty: there is nothing to differentiate by")
    first = parameters[0]
    for index, parameter in enumerate(parameters):
        if not parameter.requires_grad:
            raise ValueError(f"parameters[{index}] does not require a gradient; call requires_grad_()")
        if parameter.dtype != first.dtype or parameter.device != first.device:
            raise ValueError(
                f"parameters[{index}] is {parameter.dtype} on {parameter.device}; parameters[0] is "
                f"{first.dtype} on {first.device}: they must agree"
            )


def _check_loss(value: Any) -> None:
    if not isinstance(value, Tensor) or value.dim() != 0:
        found = f"tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"loss gives a {found}; expected a scalar torch.Tensor, []")
    if not value.requires_grad:
        raise ValueError("loss does not depend on any parameter (is it computed under no_grad?)")
    if not bool(value.isfinite()):
        raise ValueError(f"loss is {float(value.detach())}: its curvature would mean nothing")


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
