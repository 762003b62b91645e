"""timm's layers that are BatchNorm and activation in one, as two: what is quantized are modules."""

from __future__ import annotations

from torch import nn


def split_norms(network: nn.Module) -> nn.Module:
    """``network``, edited in place, with every BatchNormAct2d as a BatchNorm2d and what follows it.

    The function and the tensors stay the same, names below such a layer change ("bn1.weight" to
    "bn1.0.weight"): load weights first.
    """
    made: dict[nn.Module, nn.Module] = {}  # one for a layer that is used in several places
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if _is_fused(layer):
                made.setdefault(layer, _split(layer))
                setattr(parent, name, made[layer])
    return network


def _is_fused(layer: nn.Module) -> bool:
    kind = type(layer)
    return (
        isinstance(layer, nn.BatchNorm2d) and kind.__name__ == "BatchNormAct2d" and kind.__module__.startswith("timm.")
    )


def _split(layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.BatchNorm2d)
    norm = nn.BatchNorm2d(
        layer.num_features,
        layer.eps,
        layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
        device="meta",
    ).train(layer.training)
    norm._parameters.update(layer._parameters)
    norm._buffers.update(layer._buffers)
    after = [part for name, part in layer.named_children() if name in ("drop", "act")]
    after = [part for part in after if not isinstance(part, nn.Identity)]
    return nn.Sequential(norm, *after) if after else norm
