"""Activation checkpointing of a traced network: keep one part's activations, compute the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint


class Checkpointed(nn.Module):
    """A part of a network whose activations are computed again in the backward pass."""

    def __init__(self, part: nn.Module, forget: Callable[[], None]) -> None:
        super().__init__()
        self.part, self.forget = part, forget

    def forward(self, *inputs: Any) -> Any:
        """What the part gives."""
        again = False

        def run(*inputs: Any) -> Any:
            nonlocal again
            if not again:
                again = True
                return self.part(*inputs)
            try:
                return self.part(*inputs)  # in the backward pass; left by an exception when done
            finally:
                self.forget()

        # Nothing in a part is random; saving the state of the generators would synchronise.
        return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)


def checkpoint_segments(network: fx.GraphModule, segments: int, forget: Callable[[], None]) -> nn.Module:
    """``network`` in ``segments`` parts of equally many nodes; its modules are shared.

    Gradients are those of ``network``, for one more forward pass. ``forget`` is called after each
    such pass and must drop what modules keep of one (:class:`hast_cuda.MatchedBatchNorm2d`): it
    would keep all activations of the part alive.
    """
    work = [n for n in network.graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
    share = -(-len(work) // segments)
    part = {node: index // share for index, node in enumerate(work)}
    split = split_module(network, network, lambda node: part[node], keep_original_order=True)  # type: ignore[arg-type,unused-ignore]
    for name, child in list(split.named_children()):
        if name.startswith("submod_"):
            setattr(split, name, Checkpointed(child, forget))
    return split.eval()
