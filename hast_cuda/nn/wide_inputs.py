"""Layer inputs that placement "all" leaves at 8 bits: what no activation function gave."""

from __future__ import annotations

from torch import fx, nn

from hast_cuda.networks.tracing import ADD, ADD_METHODS
from hast_cuda.nn.integer_values import AFFINE, IMAGE, LAYER, OTHER, POOL, SUM, Values

_COLOURS = 4  # no map inside a network has so few channels


def wide_inputs(model: nn.Module) -> set[str]:
    """Names of the layers that read an image, pooled features, a linear bottleneck or a residual sum.

    An image has 256 levels from the start, the mean of 49 numbers of 4 bits has ten bits, and a sum
    carries what every later block adds to: at the bits of activations these would lose more than all
    the rest. Where ReLU is a module, the published placement leaves them as they are. Where torch.fx cannot
    follow the network, the convolutions of at most four input channels.
    """
    try:
        values = Values(model)
    except ValueError:
        return {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels <= _COLOURS}
    read: dict[str, bool] = {}
    for node in values.nodes:
        if values.kinds[node] == LAYER and node.op == "call_module":
            name = str(node.target)
            read[name] = read.get(name, True) and all(_is_wide(values, value) for value in values.inputs(node))
    return {name for name, wide in read.items() if wide}


def _is_wide(values: Values, node: fx.Node) -> bool:
    """Whether no activation function gave any part of ``node``: a product is one, x * sigmoid(x)."""
    for root in values.roots(node):
        kind = values.kinds[root]
        if kind == AFFINE:
            if not _is_wide(values, values.inputs(root)[0]):
                return False
        elif kind == OTHER:
            if not _is_image(values, root):
                return False
        elif kind not in (IMAGE, POOL, LAYER) and not (kind == SUM and root.target in (*ADD, *ADD_METHODS)):
            return False
    return True


def _is_image(values: Values, node: fx.Node) -> bool:
    """Whether ``node`` is made of images alone, whatever was done to them: cast, resized, normalised."""
    return all(
        values.kinds[root] == IMAGE
        or (values.kinds[root] in (AFFINE, OTHER) and all(_is_image(values, value) for value in values.inputs(root)))
        for root in values.roots(node)
    )
