"""Which feature maps are aligned (the set S of Eq. 12), and how they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hast_cuda.nn import (
    CannotMergeError,
    FusedBatchNorm2d,
    Merged,
    Tap,
    has_running_statistics,
    merge_batch_norms,
    warn_unmerged,
)
from hast_cuda.ops import channel_attentions
from hast_cuda.typed import typed

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
    return [
        name
        for name, child in module.named_modules()
        if has_running_statistics(child) and not any(branch in name for branch in _SIDE_BRANCHES)
    ]


@typed
def feature_layers(model: nn.Module) -> list[str]:
    """Names of the layers whose outputs are aligned.

    Known block types give the published layers. Otherwise the last BatchNorm of every repeated
    block (a class that occurs at least twice and holds a BatchNorm; the outermost such class), side
    branches left out. A network without blocks gives every BatchNorm.
    """
    modules = dict(model.named_modules())
    known = [
        f"{name}.{_KNOWN_BLOCKS[type(m).__name__]}"
        for name, m in modules.items()
        if type(m).__name__ in _KNOWN_BLOCKS
    ]
    known = [name for name in known if name in modules]
    if known:
        return known
    blocks = {
        name: m
        for name, m in modules.items()
        if name and next(m.children(), None) is not None and _normalizers(m)
        and not isinstance(m, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    }  # fmt: skip
    counts = Counter(type(m) for m in blocks.values())
    repeated = {name for name, m in blocks.items() if counts[type(m)] > 1}
    outermost = [
        name
        for name in repeated
        if not any(name.startswith(f"{other}.") for other in repeated if other != name)
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
        message = f"feature layers {missing} are not modules of the network"
        raise ValueError(message)
    return modules


class FeatureTap:
    """Forward hooks that collect the outputs of some layers of one network.

    Raises:
        ValueError: a name is not a module of the network.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        modules = require_layers(model, layers)
        self.active = False  # an evaluation in between must not fill the memory
        self._found: list[Tensor] = []
        self._handles = [modules[name].register_forward_hook(self._record) for name in layers]

    def _record(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        if self.active:
            # a copy: what follows may change the map in place (+=, an in-place activation)
            self._found.append(output.clone())

    def take(self) -> list[Tensor]:
        """Maps of the forward passes since the last call, in the order of execution."""
        found, self._found = self._found, []
        return found

    def remove(self) -> None:
        """Detach the hooks."""
        for handle in self._handles:
            handle.remove()
        self._found = []


@dataclass
class Seen:
    """What one forward pass gave: logits and, of every layer, attention vector (Eq. 14) or map."""

    logits: Tensor
    energies: list[Tensor] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    maps: list[Tensor] = field(default_factory=list)


class Followed:
    """A network whose forward pass also gives the attention vectors, or ``maps``, of some layers.

    Raises:
        CannotMergeError: with ``merge``, if torch.fx cannot follow the network. ValueError: a name
            is not a module of the network.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], *, merge: bool, maps: bool = False
    ) -> None:
        self.model, self.tap = model, FeatureTap(model, [] if merge else layers)
        self.maps = maps
        self.watched: list[nn.Module] = []
        if merge:
            require_layers(model, layers)
            merged = merge_batch_norms(model, FusedBatchNorm2d, layers)
            if maps:
                merged = _merged_around(model, merged, layers)
            self.model, self.watched = merged.model, list(merged.watched.values())
            for module in self.watched:
                if isinstance(module, FusedBatchNorm2d):
                    module.watched = True

    def __call__(self, x: Tensor) -> Seen:
        """One forward pass."""
        self.tap.active = True
        logits = self.model(x)
        self.tap.active = False
        maps = self.tap.take() + [m.take() for m in self.watched if isinstance(m, Tap)]
        if self.maps:
            return Seen(logits, maps=maps)
        # Hooks and taps know maps only; in a merged network most layers summed their own vector.
        found = iter(zip(channel_attentions(maps), (m[0, 0].numel() for m in maps), strict=True))
        vectors = [
            module.take() if isinstance(module, FusedBatchNorm2d) else next(found)
            for module in self.watched
        ]
        energies, positions = zip(*vectors, *found, strict=True) if vectors or maps else ((), ())
        return Seen(logits, list(energies), list(positions))

    def remove(self) -> None:
        """Take the hooks out of the network."""
        self.tap.remove()


def _merged_around(model: nn.Module, merged: Merged, layers: Sequence[str]) -> Merged:
    """Merged anew, but for the BatchNorms of ``layers``: no one sees a map inside a chain."""
    kept = {m.norm for m in merged.watched.values() if isinstance(m, FusedBatchNorm2d)}

    def fuse(norm: Any, activation: str | None, quantizer: Any) -> nn.Module | None:
        return None if norm in kept else FusedBatchNorm2d(norm, activation, quantizer)

    return merge_batch_norms(model, fuse, layers)


def follow(
    networks: Sequence[nn.Module], layers: Sequence[str], *, merge: bool, maps: bool = False
) -> list[Followed]:
    """Followed networks, all merged or, with one warning, none."""
    if merge:
        try:
            return [Followed(network, layers, merge=True, maps=maps) for network in networks]
        except CannotMergeError as reason:
            warn_unmerged(reason)
    return [Followed(network, layers, merge=False, maps=maps) for network in networks]
