"""What a network does beside calling its layers: weights that others read, functions in place of modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hast_cuda.loops.modes import hooked
from hast_cuda.networks.statistics import has_own_forward
from hast_cuda.networks.tracing import CannotMergeError, trace
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ops.activations import FUNCTIONS, METHODS

_ACTIVATIONS = {*FUNCTIONS, F.silu, F.hardswish, F.gelu, F.leaky_relu, F.elu, F.mish, F.hardtanh, F.prelu}
_LAYERS = {F.conv2d, torch.conv2d, F.linear, F.conv_transpose2d}


class Uses:
    """What is found by looking; of a network that torch.fx cannot follow, what its registrations tell.

    ``shared``: layers whose weight something else reads, unquantized; ``activations``: how often forward calls an
    activation function; ``layers``: how often a convolution, or the like, as a function.
    """

    def __init__(self, model: nn.Module) -> None:
        self.activations = self.layers = 0
        readers: dict[int, list[nn.Module | None]] = {}
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                plain = isinstance(module, (nn.Conv2d, nn.Linear)) and not has_own_forward(module)
                readers.setdefault(id(parameter), []).append(module if plain else None)
        try:
            whole = isinstance(model, (nn.Conv2d, nn.Linear))  # torch.fx looks into it
            nodes = [] if whole else list(trace(model)[0].graph.nodes)
        except CannotMergeError:
            nodes = []
        layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        own = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for node in nodes:
            target: Any = node.target
            if node.op == "get_attr" and target in parameters:
                readers.setdefault(id(parameters[target]), []).append(None)
            self.activations += node.op == "call_function" and target in _ACTIVATIONS
            self.activations += node.op == "call_method" and target in METHODS
            if node.op == "call_function" and target in _LAYERS:
                weight = parameters.get(str(getattr(node.args[1], "target", ""))) if len(node.args) > 1 else None
                self.layers += id(weight) not in own  # else its row of the table says so
        known = [found for found in readers.values() if None in found]
        self.shared = {module for found in known for module in found if module is not None}


class _Witness(TorchFunctionMode):
    """Notes in ``wrong`` what functions read: parameters of nobody in the network, or of a layer that is quantized."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.own = {id(p) for p in model.parameters()}
        layers = [(n, m) for n, m in model.named_modules() if isinstance(m, QuantizedWeight)]
        self.weights = {id(layer.weight): name for name, layer in layers}
        self.wrong: str | None = None
        self.last = "the images"
        self.handles = [m.register_forward_pre_hook(self._arrive(n)) for n, m in model.named_modules() if n]

    def _arrive(self, name: str) -> Any:
        def note(*_: Any) -> None:
            self.last = repr(name)

        return note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The result, of which nothing changes."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            for value in (*args, *(kwargs or {}).values()):
                if isinstance(value, nn.Parameter):
                    self._judge(value)
        return result

    def _judge(self, read: nn.Parameter) -> None:
        if id(read) not in self.own:
            self.wrong = self.wrong or (
                f"the forward pass reads a weight {list(read.shape)} that is no parameter of this network: of a layer "
                f"in a function, a global or a list that is not registered, or of the network that this one was copied "
                f"from. It does so behind or in {self.last}. Register it (as an attribute, in nn.ModuleList) and "
                "call it through self"
            )
        if id(read) in self.weights:
            name = self.weights[id(read)]
            self.wrong = self.wrong or (
                f"the forward pass reads the weight of {name!r} in full precision, beside the quantized layer (through "
                "another reference to the layer, or as a weight of its own): call it as the registered layer, or keep "
                f"it as it is with overrides={{{name!r}: Override(None, None)}}"
            )


@contextmanager
def own_weights_only(model: nn.Module) -> Iterator[None]:
    """ValueError behind a forward pass that reads parameters around the layers of ``model``.

    Its quantized weights are cached (:func:`hast_cuda.nn.layers.quantized_once`).
    """
    witness = _Witness(model)
    with hooked(witness.handles), witness:
        yield
    if witness.wrong is not None:
        raise ValueError(witness.wrong)
