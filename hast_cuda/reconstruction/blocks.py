"""What is reconstructed together, and what goes into it: blocks of a graph, or single layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.loops.warn import warn_caller
from hast_cuda.networks.cut import cut_into_blocks
from hast_cuda.networks.tracing import CannotMergeError
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.reconstruction.maps import MapStore


class Blocks(ABC):
    """Parts of two equal networks in the order of execution, and the maps that they are given."""

    names: list[str]
    """Of the parts."""

    def __init__(self, images: Tensor, device: torch.device, maps: MapStore) -> None:
        self.images, self.device, self.maps = images, device, maps

    @abstractmethod
    def parts(self, index: int) -> tuple[nn.Module, nn.Module]:
        """The teacher's and the student's part."""

    @abstractmethod
    def inputs(self, index: int) -> tuple[Tensor, Tensor]:
        """Their inputs [N, ...] for all images; parts are asked for in order, trained in between."""

    def shared(self) -> set[nn.Module]:
        """Layers and quantizers of the student that more than one part has, or that share a weight."""
        owners: Counter[Any] = Counter()
        found: list[tuple[nn.Module, Any]] = []
        for index in range(len(self.names)):
            _, part = self.parts(index)
            for module in part.modules():
                if isinstance(module, (QuantizedWeight, FakeQuantActivation)):
                    keys = {module, id(module.weight)} if isinstance(module, QuantizedWeight) else {module}
                    owners.update(keys)
                    found.extend((module, key) for key in keys)
        return {module for module, key in found if owners[key] > 1}


class ChainedBlocks(Blocks):
    """Blocks that follow one another: each is given what the one before it gave."""

    def __init__(self, teacher: nn.Module, student: nn.Module, images: Tensor, device: torch.device, maps: MapStore):
        super().__init__(images, device, maps)
        self._teacher, self._student = cut_into_blocks(teacher), cut_into_blocks(student)
        self.names = [block.name for block in self._student]
        if [block.name for block in self._teacher] != self.names:
            raise CannotMergeError("the quantized network is cut in other places than the original")
        self._found = images, images

    def parts(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Block ``index`` of both."""
        return self._teacher[index].network, self._student[index].network

    def inputs(self, index: int) -> tuple[Tensor, Tensor]:
        """What the last block that was asked for gives now."""
        if index:
            before = self.parts(index - 1)
            exact = self.maps.through(before[0], self._found[0], self.device)
            self._found = exact, self.maps.through(before[1], self._found[1], self.device)
        return self._found


class SingleLayers(Blocks):
    """Quantized layers of networks that cannot be cut; each pass goes from the images to a layer."""

    def __init__(self, teacher: nn.Module, student: nn.Module, images: Tensor, device: torch.device, maps: MapStore):
        super().__init__(images, device, maps)
        self._networks = teacher, student
        self._modules = tuple(dict(network.named_modules()) for network in self._networks)
        self.names = self._called_once()

    def _called_once(self) -> list[str]:
        order: list[str] = []
        layers = [(n, m) for n, m in self._modules[1].items() if isinstance(m, QuantizedWeight)]
        handles = [m.register_forward_pre_hook(lambda *_, name=n: order.append(name)) for n, m in layers]
        try:
            with torch.no_grad():
                self._networks[1](self.images[:1].to(self.device))
        finally:
            for handle in handles:
                handle.remove()
        return [name for name in order if order.count(name) == 1]

    def parts(self, index: int) -> tuple[nn.Module, nn.Module]:
        """Layer ``index`` of both."""
        return self._modules[0][self.names[index]], self._modules[1][self.names[index]]

    def inputs(self, index: int) -> tuple[Tensor, Tensor]:
        """What reaches the layer in each of the networks."""
        exact, given = (
            self.maps.through(_UpTo(network, layer), self.images, self.device)
            for network, layer in zip(self._networks, self.parts(index), strict=True)
        )
        return exact, given


class _Reached(Exception):
    """The layer was reached, with this input."""


class _UpTo:
    """A network as the function from images to the input of one of its layers."""

    def __init__(self, network: nn.Module, layer: nn.Module) -> None:
        self.network, self.layer = network, layer

    def __call__(self, x: Tensor) -> Tensor:
        def stop(_: nn.Module, args: Any) -> None:
            raise _Reached(args[0])

        handle = self.layer.register_forward_pre_hook(stop)
        try:
            self.network(x)
        except _Reached as reached:
            found: Tensor = reached.args[0]
            return found
        finally:
            handle.remove()
        raise ValueError("the network reached other layers for these images than for the first one")


def make_blocks(teacher: nn.Module, student: nn.Module, images: Tensor, device: torch.device, maps: MapStore) -> Blocks:
    """Blocks of the graph or, with a warning, layers of networks that torch.fx cannot follow."""
    try:
        return ChainedBlocks(teacher, student, images, device, maps)
    except CannotMergeError as reason:
        warn_caller(
            f"the network cannot be cut into blocks ({reason}): its layers are reconstructed one by one, which is "
            "less accurate and takes a pass through the network for each",
            UserWarning,
        )
        return SingleLayers(teacher, student, images, device, maps)
