"""Networks whose forward pass also gives what the alignment compares (Eq. 12-14, Table 7)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from hast_cuda.merged.fused_batch_norm import FusedBatchNorm2d
from hast_cuda.merged.merge import merge_batch_norms, warn_unmerged
from hast_cuda.networks import CannotMergeError, Tap
from hast_cuda.networks.blocks import require_layers
from hast_cuda.networks.taps import FeatureTap
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ops import channel_attentions

T = TypeVar("T")


@dataclass
class ForwardResult:
    """What one forward pass gave: logits, and of every layer what the alignment compares."""

    logits: Tensor
    energies: list[Tensor] = field(default_factory=list)
    """Attention vectors [N, C] (Eq. 14)."""
    positions: list[int] = field(default_factory=list)
    """Per map, beside energies and distances."""
    maps: list[Tensor] = field(default_factory=list)
    """What another network's distances are measured from."""
    distances: list[Tensor] = field(default_factory=list)
    """[N, C], ``sum over space of (f - f_t)^2``."""
    classifier: Tensor | None = None
    """Weight [classes, K] behind the mean of the one map, for class activation maps."""


class Followed:
    """A network whose forward pass also gives what the alignment of some layers compares.

    Attention vectors or, with ``maps``, the maps themselves and then, in a pass that is given those
    of another network, the distances from them. With the name of a ``classifier`` always the maps,
    and its weight.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], *, merge: bool, maps: bool, classifier: str | None = None
    ) -> None:
        self.model, self.tap = model, FeatureTap(model, [] if merge else layers)
        self.maps = maps
        self.classifier = None if classifier is None else require_layers(model, [classifier])[classifier]
        self.watched: list[nn.Module] = []
        if merge:
            require_layers(model, layers)
            merged = merge_batch_norms(model, FusedBatchNorm2d, layers)
            self.model, self.watched = merged.model, [merged.watched[name] for name in layers]

    def __call__(self, x: Tensor, target: ForwardResult | None = None) -> ForwardResult:
        """One forward pass; ``target`` is that of the network to measure distances from."""
        if self.classifier is not None:
            result = self._maps(x)
            result.classifier = _weight(self.classifier)
            return result
        if not self.maps:
            return self._attentions(x)
        return self._maps(x) if target is None else self._distances(x, target.maps)

    def _attentions(self, x: Tensor) -> ForwardResult:
        for module in self._fused():
            module.watched = True
        logits, maps = self._run(x)
        # Hooks and taps know maps only; in a merged network most layers summed their own vector.
        return _result(logits, "energies", self._vectors(maps))

    def _maps(self, x: Tensor) -> ForwardResult:
        for module in self._fused():
            module.mapped = True
        logits, maps = self._run(x)
        own: dict[nn.Module, Tensor] = {m: m.take_map() for m in self._fused()}
        return ForwardResult(logits, maps=self._in_order(own, maps))

    def _distances(self, x: Tensor, targets: list[Tensor]) -> ForwardResult:
        others = targets  # of the maps that hooks and taps find
        if self.watched:
            others = []
            for module, target in zip(self.watched, targets, strict=True):
                if isinstance(module, FusedBatchNorm2d):
                    module.watched, module.target = True, target
                else:
                    others.append(target)
        logits, maps = self._run(x)
        apart = [_spatial(m - target) for m, target in zip(maps, others, strict=True)]
        return _result(logits, "distances", self._vectors(apart))

    def _fused(self) -> list[FusedBatchNorm2d]:
        """Each once: several names may be those of one module's output."""
        return [m for m in dict.fromkeys(self.watched) if isinstance(m, FusedBatchNorm2d)]

    def _run(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the maps of hooks or taps."""
        self.tap.active = True
        logits: Tensor = self.model(x)
        self.tap.active = False
        return logits, self.tap.take() + [m.take() for m in self.watched if isinstance(m, Tap)]

    def _in_order(self, own: Mapping[nn.Module, T], found: Iterable[T]) -> list[T]:
        """What each layer gave: ``own`` by the modules that knew it, ``found`` by hooks or taps."""
        others = iter(found)
        known = [own[module] if module in own else next(others) for module in self.watched]
        return [*known, *others]

    def _vectors(self, maps: list[Tensor]) -> list[tuple[Tensor, int]]:
        """(vector, positions) of every layer; ``maps`` are those that no module summed itself."""
        own: dict[nn.Module, tuple[Tensor, int]] = {m: m.take() for m in self._fused()}
        found = zip(channel_attentions(maps), (m[0, 0].numel() for m in maps), strict=True)
        return self._in_order(own, found)

    def remove(self) -> None:
        """Take the hooks out of the network."""
        self.tap.remove()


def _spatial(feature: Tensor) -> Tensor:
    """A map [N, C] has one position."""
    return feature if feature.dim() > 2 else feature.unsqueeze(2)


def _weight(layer: nn.Module) -> Tensor:
    """[classes, K] as the forward pass has it: on its grid, where it is quantized."""
    weight: Any = layer.quantized_weight() if isinstance(layer, QuantizedWeight) else layer.weight
    found: Tensor = weight.flatten(1)
    return found


def _result(logits: Tensor, name: str, found: list[tuple[Tensor, int]]) -> ForwardResult:
    vectors, positions = zip(*found, strict=True) if found else ((), ())
    result = ForwardResult(logits, positions=list(positions))
    setattr(result, name, list(vectors))
    return result


def follow(
    networks: Sequence[nn.Module], layers: Sequence[str], *, merge: bool, maps: bool, classifier: str | None = None
) -> list[Followed]:
    """Followed networks, all merged or, with one warning, none."""
    if merge:
        try:
            return [Followed(n, layers, merge=True, maps=maps, classifier=classifier) for n in networks]
        except CannotMergeError as reason:
            warn_unmerged(reason)
    return [Followed(n, layers, merge=False, maps=maps, classifier=classifier) for n in networks]
