"""BatchNorm taken into the convolution in front of it: the same function, fewer layers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hast_cuda.checks.typed import typed
from hast_cuda.loops.modes import copied
from hast_cuda.networks.layer_graph import LayerGraph, only_user
from hast_cuda.networks.statistics import is_plain_batch_norm, set_output_moments
from hast_cuda.networks.swap import swap_modules
from hast_cuda.posttraining.channels import ensure_bias


@typed
@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in which convolutions have taken up the BatchNorm behind them.

    With s = gamma / sqrt(running_var + eps): ``W' = s*W``, ``b' = s*(b - running_mean) + beta``.
    The outputs in eval mode stay the same; each BatchNorm becomes an ``nn.Identity`` of the same
    name. Every such convolution remembers that its output is N(beta, gamma^2), as
    :func:`hast_cuda.moments.batch_norm_ranges` and the other steps of DFQ want it.

    A BatchNorm that is no convolution's only user, or one of the two called or shared elsewhere,
    stays.

    Args:
        model: any ``nn.Module``; never edited.

    Raises:
        ValueError: torch.fx cannot follow the network.

    Example:
        >>> import hast_cuda as hc
        >>> fold_batch_norms(hc.load_teacher("digits")).stem[1]
        Identity()
    """
    folded = copied(model)
    gone: set[nn.Module] = set()
    graph = LayerGraph(folded)
    for node in graph.nodes:
        conv, user = graph.plain_layer(node), only_user(node)
        norm = None if user is None else graph.called_once(user)
        if isinstance(conv, nn.Conv2d) and norm is not None and is_plain_batch_norm(norm):
            _fold(conv, norm)
            gone.add(norm)

    def convert(_: str, module: nn.Module) -> nn.Module | None:
        return nn.Identity().train(module.training) if module in gone else None

    return swap_modules(folded, convert)


@typed
def replace_relu6(model: nn.Module) -> nn.Module:
    """Put ``nn.ReLU`` where ``model`` has ``nn.ReLU6``, which changes its function; edits it.

    Functional calls stay.

    Example:
        >>> replace_relu6(torch.nn.Sequential(torch.nn.ReLU6()))[0]
        ReLU()
    """

    def convert(_: str, module: nn.Module) -> nn.Module | None:
        if type(module) is not nn.ReLU6:
            return None
        return nn.ReLU(inplace=module.inplace).train(module.training)

    return swap_modules(model, convert)


def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    double = torch.float64
    ensure_bias(conv)
    assert conv.bias is not None
    mean, weight = norm.running_mean.to(double), conv.weight
    gamma = norm.weight.to(double) if norm.affine else torch.ones_like(mean)
    beta = norm.bias.to(double) if norm.affine else torch.zeros_like(mean)
    scale = gamma / (norm.running_var.to(double) + norm.eps).sqrt()
    folded_weight = (weight.to(double) * scale.reshape(-1, 1, 1, 1)).to(weight.dtype)
    folded_bias = ((conv.bias.to(double) - mean) * scale + beta).to(weight.dtype)
    conv.weight = nn.Parameter(folded_weight, weight.requires_grad)
    conv.register_parameter("bias", nn.Parameter(folded_bias, weight.requires_grad))
    set_output_moments(conv, beta.to(weight.dtype), gamma.abs().to(weight.dtype))
