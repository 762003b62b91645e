"""Which feature maps are aligned (the set S of Eq. 12)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.networks.tracing import plain_class

# The published choice: the last BatchNorm of a block, before the residual sum and the activation.
_KNOWN_BLOCKS = {
    "ResUnit": "body",  # pytorchcv ResNet
    "DwsConvBlock": "pw_conv.bn",  # pytorchcv MobileNet
    "LinearBottleneck": "conv3",  # pytorchcv MobileNetV2
    "BasicBlock": "bn2",  # torchvision ResNet
    "Bottleneck": "bn3",
}
_SIDE_BRANCHES = ("downsample", "shortcut", "identity", "skip")


def _normalizers(module: nn.Module) -> list[str]:
    """Names of the normalising layers inside of ``module``."""
    return [
        name
        for name, child in module.named_modules()
        if name and has_running_statistics(child) and not any(branch in name for branch in _SIDE_BRANCHES)
    ]


@typed
def feature_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose outputs are aligned.

    Known block types give the published layers. Otherwise the last BatchNorm of every repeated
    block (a class that occurs at least twice and holds a BatchNorm; the outermost such class), side
    branches left out. A network without blocks gives every BatchNorm.

    Example:
        >>> import hast_cuda as hc
        >>> feature_layers(hc.load_teacher("digits"))[:2]
        ['blocks.0.body.4', 'blocks.1.body.4']
    """
    modules = dict(model.named_modules())
    known = [
        f"{name}.{_KNOWN_BLOCKS[type(m).__name__]}" for name, m in modules.items() if type(m).__name__ in _KNOWN_BLOCKS
    ]
    known = [name for name in known if name in modules]
    if known:
        return known
    blocks = {
        name: m
        for name, m in modules.items()
        if name
        and _normalizers(m)
        and not has_running_statistics(m)
        and not isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    }
    counts = Counter(plain_class(m) for m in blocks.values())
    repeated = {name for name, m in blocks.items() if counts[plain_class(m)] > 1}
    outermost = [
        name for name in repeated if not any(name.startswith(f"{other}.") for other in repeated if other != name)
    ]
    if outermost:
        order = [name for name in modules if name in set(outermost)]
        return [f"{name}.{_normalizers(modules[name])[-1]}" for name in order]
    return _normalizers(model)


def require_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of ``model`` by name; ValueError if one of ``layers`` is not among them."""
    modules = dict(model.named_modules())
    missing = [name for name in layers if not name or name not in modules]
    if missing:
        raise ValueError(f"feature layers {missing} are not modules of the network")
    return modules
