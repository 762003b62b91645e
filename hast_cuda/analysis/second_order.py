"""What rounding weights costs to second order: one backward pass for all layers and widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.loops.seeding import generator
from hast_cuda.networks.outputs import gives_logits, output_tensors

BATCH = 16  # images of one draw: the fewer, the more draws, and the more passes


def weight_curvature(model: nn.Module, layers: Mapping[str, Any], images: Tensor) -> dict[str, Tensor]:
    """The diagonal ``h`` with which weights that move by ``d`` cost ``sum h d^2``, by layer, float64.

    A classifier's cost is the divergence of its class probabilities, whose matrix of second derivatives is
    Fisher's: half of the mean square of the gradient of a class that the network itself draws. Any other
    network's is the squared distance of its outputs as a share of their squares, with random signs in the place
    of classes. What moves are many weights by rounding errors that do not know each other, so that the products
    of different ones, which are left out, cancel. ``model`` computes with the ``cached_weight`` of ``layers``, which
    are put back. ValueError: a network without gradients for its weights.
    """
    kept = {name: layer.cached_weight for name, layer in layers.items()}
    sums = {name: torch.zeros_like(layer.weight, dtype=torch.float64) for name, layer in layers.items()}
    random = generator(0, "second order")
    batches = images.split(BATCH)
    try:
        with torch.enable_grad():
            for layer in layers.values():
                layer.cached_weight = layer.weight.detach().clone().requires_grad_()
            leaves = [layer.cached_weight for layer in layers.values()]
            for batch in batches:
                drawn, factor = _drawn(model(batch), random)
                if not drawn.requires_grad:
                    raise ValueError(
                        "the network's outputs have no gradient for its weights: its forward detaches them"
                    )
                for name, found in zip(layers, torch.autograd.grad(drawn, leaves, allow_unused=True), strict=True):
                    if found is not None:
                        sums[name] += factor / len(batches) * found.double().square()
    finally:
        for name, layer in layers.items():
            layer.cached_weight = kept[name]
    return sums


def _drawn(output: Any, random: torch.Generator) -> tuple[Tensor, float]:
    """What to differentiate, and by what the square of its gradient counts."""
    if gives_logits(output):
        logs = output.double().log_softmax(1)
        classes = torch.multinomial(logs.detach().exp().cpu(), 1, generator=random).to(logs.device)
        return logs.gather(1, classes).sum(), 0.5 / len(logs)
    terms = []
    for tensor in output_tensors(output).values():
        signs = (torch.randint(2, tensor.shape, generator=random) * 2 - 1).to(tensor.device, torch.float64)
        wide = tensor.double()
        terms.append((wide * signs).sum() / wide.detach().norm().clamp(min=1e-15))
    return torch.stack(terms).sum(), 1 / len(terms)
