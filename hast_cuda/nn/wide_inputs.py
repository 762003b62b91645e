"""Layer inputs that placement "all" leaves at 8 bits: images and pooled features."""

from __future__ import annotations

from torch import fx, nn

from hast_cuda.nn.integer_values import AFFINE, IMAGE, LAYER, POOL, Values

_COLOURS = 4  # no map inside a network has so few channels


def wide_inputs(model: nn.Module) -> set[str]:
    """Names of the layers that read an image, or features that a pooling averaged.

    An image has 256 levels from the start and the mean of 49 numbers of 4 bits has ten: at the
    bits of activations these two would lose more than all the rest. Where torch.fx cannot follow the network, they
    are the convolutions of at most four input channels.
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
    """Whether all that ``node`` is made of are images, normalised or not, or means."""
    for root in values.roots(node):
        if values.kinds[root] == AFFINE:
            if not _is_wide(values, values.inputs(root)[0]):
                return False
        elif values.kinds[root] not in (IMAGE, POOL):
            return False
    return True
