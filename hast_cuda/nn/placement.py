"""Which placement of activation quantizers suits a network."""

from __future__ import annotations

from torch import fx, nn

from hast_cuda.checks.typed import typed
from hast_cuda.nn.integer_values import ACTIVATION, IMAGE, LAYER, OTHER, RELU, Values
from hast_cuda.ops.activations import MODULES

PLACEMENTS = ("auto", "relu", "all", "integer")


@typed
def suitable_placement(model: nn.Module) -> str:
    """What ``placement="auto"`` is for ``model``: "relu", or "all" where that would leave activations out.

    "relu" reaches what modules of ReLU and ReLU6 give, each used in one place. Where the way back from
    a layer's input meets another nonlinearity before such a module or another layer, a map is edited in place
    and read again, or torch.fx cannot follow the network, the inputs of layers are quantized.

    Args:
        model: full-precision network.

    Example:
        >>> import hast_cuda as hc
        >>> suitable_placement(hc.load_teacher("digits"))
        'relu'
        >>> suitable_placement(torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Conv2d(8, 8, 1)))
        'all'
    """
    try:
        values = Values(model)
    except ValueError:
        return "all"
    if values.edited_names():
        return "all"
    used = [count for name, count in values.calls.items() if type(values.modules[name]) in MODULES]
    layers = [node for node in values.nodes if values.kinds[node] == LAYER]
    bypassed = any(_meets_other(values, source) for node in layers for source in values.inputs(node))
    return "relu" if used and max(used) == 1 and not bypassed else "all"


def _meets_other(values: Values, node: fx.Node) -> bool:
    """Whether a nonlinearity other than a module of ReLU lies between ``node`` and what computed it."""
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        kind = values.kinds[node]
        if kind in (ACTIVATION, OTHER):
            return True
        if kind not in (RELU, LAYER, IMAGE):
            waiting += values.inputs(node)
    return False
