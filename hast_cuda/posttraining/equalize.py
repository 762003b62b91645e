"""Cross-layer equalization (DFQ, ICCV 2019)."""

from __future__ import annotations

import torch
from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.networks.layer_graph import LayerGraph
from hast_cuda.posttraining.channels import grouped, rescale

_LARGEST_SCALE = 1e8
_ROUNDS, _CONVERGED = 500, 1e-6


@typed
@torch.no_grad()
def equalize(model: nn.Module) -> nn.Module:
    """Balance the channels of neighbouring layers; the network computes the same function.

    For channel i between two layers, ``r1 = max|W1[i]|``, ``r2 = max|W2[:, i]|`` and ``s =
    sqrt(r1/r2)``: ``W1[i] /= s``, ``b1[i] /= s``, ``W2[:, i] *= s``, which makes both ranges
    ``sqrt(r1*r2)``. Repeated over all pairs until no s differs from 1 any more. A pair is two
    convolutions (any groups) or two linear layers with nothing but ReLU, LeakyReLU, pooling or
    dropout between them, each output used once; everything else is left alone. A ReLU6 or a
    BatchNorm in between parts the two: see :func:`hast_cuda.posttraining.fold_batch_norms`.

    DFQ quantizes weights with one range per tensor. With one range per output channel, as here, the
    scale of W1's rows does not matter any more; what equalization still does is to even out the
    input channels inside each row of W2, and the channels that share an activation range.

    Args:
        model: float network, edited; moments that its layers remember are scaled along.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: torch.fx cannot follow the network.

    Example:
        >>> import hast_cuda as hc
        >>> from hast_cuda.posttraining import fold_batch_norms
        >>> network = equalize(fold_batch_norms(hc.load_teacher("digits")))
    """
    pairs = LayerGraph(model).pairs()
    layers = list(dict.fromkeys(layer for p in pairs for layer in (p.first, p.second)))
    # Largest weight per output and input channel: all that the scales depend on.
    sizes = {m: grouped(m, m.weight).abs().double().amax(-1) for m in layers}
    scales = {p: torch.ones(p.first.weight.shape[0]).to(sizes[p.first]) for p in pairs}
    for _ in range(_ROUNDS if pairs else 0):
        change = torch.zeros(())
        for pair in pairs:
            first, second = sizes[pair.first], sizes[pair.second]
            r1, r2 = first.amax(-1).flatten(), second.amax(1).flatten()
            step = (r1 / r2).sqrt().clamp(1 / _LARGEST_SCALE, _LARGEST_SCALE)
            step = torch.where((r1 > 0) & (r2 > 0), step, 1.0)  # a dead channel has no scale
            first /= step.reshape(*first.shape[:2], 1)
            second *= step.reshape(second.shape[0], 1, -1)
            scales[pair] *= step
            change = torch.maximum(change, step.log().abs().max().cpu())
        if float(change) < _CONVERGED:
            break
    for pair, scale in scales.items():
        rescale(pair, 1 / scale)
    return model
