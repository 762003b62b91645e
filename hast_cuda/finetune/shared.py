"""Gradients and losses of a batch that several processes have parts of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hast_cuda.ranks import World


class SharedSums:
    """One buffer for all gradients and loss terms of a step: one collective sums them.

    Losses are means over the batch, so a rank's share of the batch times its own means, summed, are
    those of the whole. Buckets that overlap with the backward pass (DDP) would gain little here:
    the perturbed images' backward pass adds to the gradients of the clean ones', so that none is
    final before the last pass, and one sum leaves both networks without wrappers.

    Everything stays in place, so that what comes before and after can be CUDA graphs.

    Args:
        parameters: of the student, on one device.
        terms: of the loss.
        world: who else has a part.

    Raises:
        ValueError: parameters of several dtypes.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], terms: int, world: World) -> None:
        kinds = {p.dtype for p in parameters}
        if len(kinds) > 1:
            names = sorted(str(kind) for kind in kinds)
            message = (
                f"the student's parameters have dtypes {names}; several processes sum gradients of "
                "one dtype: convert the network, or run it in one process"
            )
            raise ValueError(message)
        self.parameters, self.world = list(parameters), world
        sizes = [p.numel() for p in parameters]
        (kind,) = kinds
        self.flat = torch.zeros(sum(sizes) + terms, dtype=kind, device=parameters[0].device)
        parts = self.flat.split([*sizes, terms])
        # laid out in memory as the parameters are: the optimizer takes that for granted
        self.gradients = [_like(part, p) for part, p in zip(parts[:-1], parameters, strict=True)]
        self.terms = parts[-1].unbind() if terms else ()

    def put(self, terms: Sequence[Tensor], share: float) -> None:
        """Copy the parameters' gradients, already times ``share``, and ``terms`` times it."""
        pairs = [
            (own, p.grad)
            for own, p in zip(self.gradients, self.parameters, strict=True)
            if p.grad is not None  # a parameter without influence has none on any rank
        ]
        torch._foreach_copy_([own for own, _ in pairs], [grad for _, grad in pairs])
        for own, p in zip(self.gradients, self.parameters, strict=True):
            p.grad = None if p.grad is None else own
        torch._foreach_copy_(list(self.terms), [term * share for term in terms])

    def sum_(self) -> None:
        """Replace all by their sums over the ranks."""
        self.world.sum_(self.flat)


def _like(flat: Tensor, parameter: Tensor) -> Tensor:
    """``flat`` seen in the shape and, where that leaves no gaps, the strides of ``parameter``."""
    if parameter.is_contiguous() or parameter.dim() != 4:
        return flat.view(parameter.shape)
    return flat.view(parameter.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
