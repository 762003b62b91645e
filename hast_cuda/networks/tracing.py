"""A network's graph, and the names under which sums and activations are written in it.

torch.fx follows the forward of any network without data-dependent control flow, so operations are
found wherever they are written: as modules, as functions, one ReLU used in many places.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hast_cuda.networks.statistics import has_running_statistics

_OWN = (
    "hast_cuda.nn",
    "hast_cuda.merged",
    "hast_cuda.networks",
)  # whose modules are one node
ADD = (operator.add, operator.iadd, torch.add)
ADD_METHODS = ("add", "add_")
RELU_MODULES = {nn.ReLU: "relu", nn.ReLU6: "relu6"}
RELU_FUNCTIONS = {
    F.relu: "relu", torch.relu: "relu", torch.relu_: "relu", F.relu_: "relu", F.relu6: "relu6",
}  # fmt: skip
RELU_METHODS = {"relu": "relu", "relu_": "relu"}


class CannotMergeError(Exception):
    """The network cannot be followed; the message says why."""


class Tracer(fx.Tracer):
    """Stops at BatchNorm and at this package's layers; remembers which node a module gave."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[fx.Node]] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules that are one node."""
        own = type(m).__module__.startswith(_OWN)
        return own or has_running_statistics(m) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        """Node, or what a module that is followed gives."""
        result = super().call_module(m, forward, args, kwargs)
        if isinstance(result, fx.Proxy):
            self.outputs.setdefault(self.path_of_module(m), []).append(result.node)
        return result


def trace(model: nn.Module) -> tuple[fx.GraphModule, dict[str, list[fx.Node]]]:
    """Graph of ``model``, whose modules it shares, and the nodes that each module gave.

    Raises:
        CannotMergeError: torch.fx cannot follow its forward.
    """
    tracer = Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:  # whatever the network's own code raises when given proxies
        reason = str(error).partition("\n")[0]
        message = f"torch.fx cannot follow its forward ({type(error).__name__}: {reason})"
        raise CannotMergeError(message) from error
    return fx.GraphModule(model, graph), tracer.outputs
