"""What each value of a network's graph is to an integer runtime: what is fused, moved, and computed."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from hast_cuda.networks.in_place import edited, read_again
from hast_cuda.networks.statistics import has_running_statistics, is_patched
from hast_cuda.networks.tracing import ADD, ADD_METHODS, CannotMergeError, imul, isub, itruediv, trace
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ops.activations import FUNCTIONS, METHODS, MODULES

IMAGE, LAYER, AFFINE, RELU, ACTIVATION = "image", "layer", "affine", "relu", "activation"
SUM, POOL, CONCATENATION, MOVED, SAME = "sum", "pool", "concatenation", "moved", "same"
OTHER, CONSTANT, LOGITS = "other", "constant", "logits"

ACTIVATIONS = (
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
)
_MODULES: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    (LAYER, (nn.Conv2d, nn.Linear)),
    (ACTIVATION, ACTIVATIONS),
    (SAME, (nn.Identity, nn.modules.dropout._DropoutNd)),
    (MOVED, (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten, nn.ZeroPad2d)),
    (MOVED, (nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle)),
    (POOL, (nn.AvgPool2d, nn.AdaptiveAvgPool2d)),
)
_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys(FUNCTIONS, ACTIVATION),
    **dict.fromkeys((F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid), ACTIVATION),
    **dict.fromkeys((torch.sigmoid, torch.tanh, F.sigmoid, F.tanh, F.softplus, F.hardtanh, torch.clamp), ACTIVATION),
    **dict.fromkeys((F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean), POOL),
    **dict.fromkeys((torch.cat, torch.concat), CONCATENATION),
    **dict.fromkeys((F.dropout, F.dropout2d), SAME),
    **dict.fromkeys((F.max_pool2d, F.adaptive_max_pool2d, F.pad, torch.flatten, torch.reshape), MOVED),
    **dict.fromkeys((torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze), MOVED),
    **dict.fromkeys((torch.chunk, torch.split, operator.getitem), MOVED),
    **dict.fromkeys((F.pixel_shuffle, F.channel_shuffle), MOVED),
    F.batch_norm: AFFINE,
}
_METHODS = {
    **dict.fromkeys(METHODS, ACTIVATION),
    **dict.fromkeys(("sigmoid", "sigmoid_", "tanh", "tanh_", "clamp", "clamp_"), ACTIVATION),
    "mean": POOL,
    **dict.fromkeys(("view", "reshape", "flatten", "permute", "transpose", "contiguous", "squeeze"), MOVED),
    **dict.fromkeys(("unsqueeze", "chunk", "split", "expand", "expand_as", "clone"), MOVED),
}
_ARITHMETIC = (*ADD, operator.sub, operator.mul, operator.truediv, torch.sub, torch.mul, torch.div)
_ASSIGNED = (isub, imul, itruediv, operator.isub, operator.imul, operator.itruediv)
_ARITHMETIC_METHODS = (*ADD_METHODS, "sub", "sub_", "mul", "mul_", "div", "div_")


class Values:
    """The graph of ``model``, with a kind for every node."""

    def __init__(self, model: nn.Module) -> None:
        try:
            traced, self.outputs = trace(model)
            self.given: dict[str, list[fx.Node | None]] = traced.meta["inputs"]
        except CannotMergeError as reason:
            raise ValueError(
                f'placement="integer" has to follow the network: {reason}; placement="all" quantizes '
                "the inputs of layers without that"
            ) from reason
        self.modules: dict[str, nn.Module] = dict(traced.named_modules())
        self.nodes = list(traced.graph.nodes)
        self.calls = Counter(str(n.target) for n in self.nodes if n.op == "call_module")
        self.kinds: dict[fx.Node, str] = {}
        for node in self.nodes:
            self.kinds[node] = self._kind(node)
        self._take_in_normalization()

    def _take_in_normalization(self) -> None:
        """Images that are normalised in parts and joined are images from there on; what lies before is constant."""
        images: list[fx.Node] = []
        for node in self.nodes:
            inputs = self.inputs(node)
            moved = self.kinds[node] in (AFFINE, MOVED, SAME, CONCATENATION) and node.op != "call_module"
            if self.kinds[node] == IMAGE or (moved and inputs and all(value in images for value in inputs)):
                images.append(node)
        joints = [node for node in images if self.kinds[node] == CONCATENATION]
        if not joints:
            return
        whole, parts = joints[-1], images[: images.index(joints[-1])]
        if all(user in (*parts, whole) for value in parts for user in self.users(value)):
            self.kinds |= dict.fromkeys(parts, CONSTANT) | {whole: IMAGE}

    def _kind(self, node: fx.Node) -> str:
        target: Any = node.target
        if node.op in ("placeholder", "output", "get_attr"):
            return {"placeholder": IMAGE, "output": LOGITS, "get_attr": CONSTANT}[node.op]
        if not self.inputs(node):
            return CONSTANT
        if node.op == "call_module":
            return self._of_module(self.modules[target])
        if target is getattr or target in ("size", "dim"):
            return CONSTANT
        if target in _ARITHMETIC or target in _ASSIGNED or target in _ARITHMETIC_METHODS:
            return SUM if len(self.inputs(node)) > 1 or node.args[:1] == node.args[1:2] else AFFINE
        known = _FUNCTIONS if node.op == "call_function" else _METHODS
        return known.get(target, OTHER)

    def _of_module(self, module: nn.Module) -> str:
        if has_running_statistics(module):
            return AFFINE
        if isinstance(module, (FakeQuantActivation, QuantizedWeight)):
            return RELU if isinstance(module, FakeQuantActivation) else LAYER
        if is_patched(module):
            return OTHER
        if type(module) in MODULES:
            return RELU
        return next((kind for kind, types in _MODULES if isinstance(module, types)), OTHER)

    def edited_names(self) -> list[fx.Node]:
        """Nodes, other than ReLU modules, that change in place what is read again: a name that stands for two maps."""
        editors = [n for n in self.nodes if self.kinds[n] != RELU and edited(n, self.modules) is not None]
        return [node for node in editors if read_again(node, self.modules)]

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The maps that ``node`` reads, without constants and sizes."""
        return [n for n in node.all_input_nodes if self.kinds[n] != CONSTANT]

    def users(self, node: fx.Node) -> list[fx.Node]:
        """Nodes that read ``node`` as a map."""
        return [user for user in node.users if self.kinds[user] != CONSTANT]

    def readers(self, node: fx.Node) -> list[fx.Node]:
        """The same, through what only moves numbers."""
        found: list[fx.Node] = []
        for user in self.users(node):
            found += self.readers(user) if self.kinds[user] in (MOVED, SAME) else [user]
        return found

    def roots(self, node: fx.Node) -> list[fx.Node]:
        """What computed the numbers of ``node``, through what only moves or joins them."""
        if self.kinds[node] not in (MOVED, SAME, CONCATENATION):
            return [node]
        return [root for value in self.inputs(node) for root in self.roots(value)]

    def fused(self, node: fx.Node) -> bool:
        """Whether a runtime never stores ``node``: the operation behind it is one with it."""
        users = self.users(node)
        if all(self.kinds[reader] == LOGITS for reader in self.readers(node)):
            return True
        if len(users) != 1:
            return False
        kind, user = self._computed(node), self.kinds[users[0]]
        if user == SAME:
            return self.fused(users[0])
        if user == CONCATENATION:
            return kind in (LAYER, AFFINE) and self.fused(users[0])
        if user == AFFINE:
            return kind in (LAYER, AFFINE, IMAGE)  # an image is normalised before it is quantized
        if kind == CONCATENATION:  # the activation moves in front of it
            return user in (RELU, ACTIVATION) and all(self._ends_here(value, node) for value in self.inputs(node))
        return user in (RELU, ACTIVATION) and kind in (LAYER, AFFINE, SUM)

    def _computed(self, node: fx.Node) -> str:
        kind = self.kinds[node]
        return self._computed(self.inputs(node)[0]) if kind == SAME else kind

    def _ends_here(self, value: fx.Node, joint: fx.Node) -> bool:
        """A layer's output that nothing but ``joint`` reads."""
        return self.kinds[value] in (LAYER, AFFINE) and self.users(value) == [joint]
