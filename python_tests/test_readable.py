"""Networks that cannot be read or copied whole are refused by name, before any work."""

from __future__ import annotations

import functools
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import TinyNet, pictures, tiny
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel

import hast_cuda as hc
from hast_cuda.run import zero_shot_quantize


def with_child(name: str, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    network = tiny()
    network.set_submodule(name, change(network.get_submodule(name)))
    return network


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)


def traced(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(module, pictures(2))


def torch_quantized(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)


def pruned(network: nn.Module, name: str = "features.3") -> nn.Module:
    prune.l1_unstructured(network.get_submodule(name), "weight", 0.3)
    network(pictures(1))  # leaves a weight that no copy can be made of
    return network


WRAPPED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (lambda: scripted(tiny()), "the network was made by torch.jit"),
    "traced": (lambda: traced(tiny()), "the network was made by torch.jit"),
    "a scripted layer": (lambda: with_child("features.3", scripted), r"layer 'features\.3' was made by torch.jit"),
    "exported": (lambda: torch.export.export(tiny(), (pictures(2),)).module(), "exported .*calls aten.conv2d"),
    "compiled": (lambda: torch.compile(tiny()), r"torch\.compile: give what is inside, network\._orig_mod"),
    "a compiled part": (lambda: with_child("features", torch.compile), r"inside, network\.features\._orig_mod"),
    "DataParallel": (lambda: nn.DataParallel(tiny()), r"DataParallel: give what is inside, network\.module"),
    "averaged": (lambda: AveragedModel(tiny()), r"AveragedModel: give what is inside, network\.module"),
    "by torch": (lambda: torch_quantized(tiny()), r"layer 'output' .* is quantized by torch already"),
    "pruned": (lambda: pruned(tiny()), r"layer 'features\.3' .*computed from other parameters"),
    "already": (lambda: hc.quantize(tiny()), "the network is already quantized"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_is_not_the_network_itself_is_refused(kind: str) -> None:
    make, message = WRAPPED[kind]
    network = make()
    for call in (lambda: hc.quantize(network), lambda: zero_shot_quantize(network, (3, 8, 8), method="rtn")):
        with pytest.raises(ValueError, match=message):
            call()


def test_weights_that_a_parametrization_computes_are_named() -> None:
    network = tiny()
    nn.utils.parametrizations.weight_norm(network.features[3])
    with pytest.raises(ValueError, match=r"layer 'features\.3' .* computed from other parameters"):
        hc.quantize(network)
    student = hc.quantize(network, overrides={"features.3": hc.Override(None, None)})
    torch.testing.assert_close(student.features[3].weight, network.features[3].weight)


class Shortcut(TinyNet):
    """Calls a part in ways of its own; ``kind`` says which."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        conv, extra = self.features[0], nn.Conv2d(8, 8, 1)
        old = conv.forward
        kinds: dict[str, Any] = {
            "closure": lambda x: conv(x) + 1,
            "default": lambda x, layer=conv: layer(x),
            "partial": functools.partial(lambda layer, x: self.features[0](x), None),
            "bound": lambda x: 2 * old(x),
            "list": [extra],
            "nested": {"a": deque([(extra,)])},
        }
        self.part = kinds[kind]


@pytest.mark.parametrize("kind", ["closure", "default", "partial", "bound"])
def test_functions_that_would_call_the_original_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"in 'part': the function '.*' holds a \w+, and in a copy"):
        hc.quantize(Shortcut(kind))


@pytest.mark.parametrize("kind", ["list", "nested"])
def test_layers_that_nobody_registered_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"in 'part': a Conv2d with weights that is not registered"):
        hc.quantize(Shortcut(kind))


@pytest.mark.parametrize("hooked", ["output", "features.2"])
def test_hooks_that_hold_a_layer_are_refused(hooked: str) -> None:
    network, beside = tiny(), nn.Linear(5, 5)
    network.get_submodule(hooked).register_forward_hook(lambda _module, _args, output: beside(output))
    with pytest.raises(ValueError, match=rf"layer '{hooked}' .*'_forward_hooks'.* holds a Linear"):
        hc.quantize(network)


def test_hooks_that_keep_what_they_see_stay() -> None:
    network, seen = tiny(), list[Tensor]()
    network.features[2].register_forward_hook(lambda _module, _args, output: seen.append(output))
    student = hc.calibrate(hc.quantize(network, 8, 8), [pictures(4)])
    seen.clear()
    student(pictures(2))
    assert len(seen) == 1
