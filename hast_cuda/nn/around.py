"""Quantizers in front of and behind modules whose classes know nothing of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from hast_cuda.networks.swap import swap_modules
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.quantized_weight import QuantizedWeight


class QuantizedOutput(nn.Module):
    """``module``, one that torch.fx takes as a whole (BatchNorm, pooling), and a quantizer behind it.

    Example:
        >>> import hast_cuda as hc
        >>> pool = QuantizedOutput(nn.AvgPool2d(2), hc.FakeQuantActivation(8))
        >>> pool(torch.randn(1, 3, 4, 4)).shape
        torch.Size([1, 3, 2, 2])
    """

    is_followed: ClassVar[bool] = True  # torch.fx sees the module and the quantizer

    def __init__(self, module: nn.Module, quantizer: FakeQuantActivation) -> None:
        super().__init__()
        self.module, self.output_quantizer = module, quantizer
        self.training = module.training

    def forward(self, x: Tensor) -> Tensor:
        """Any shape that the module takes -> what it gives."""
        y: Tensor = self.output_quantizer(self.module(x))
        return y


class QuantizedBlock(nn.Module):
    """Mixed into the class of a block, whose input or output is then quantized; names and code stay its own."""

    plain_class: ClassVar[type[nn.Module]]
    calls_children: ClassVar[bool]  # whatever they are
    input_quantizer: nn.Module | None
    output_quantizer: nn.Module | None

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """What the block gives."""
        before, behind = self.input_quantizer, self.output_quantizer
        x = x if before is None else before(x)
        if self.calls_children:
            with _unregistered(self):
                y = super().forward(x, *args, **kwargs)
        else:
            y = super().forward(x, *args, **kwargs)
        return y if behind is None else behind(y)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Classes made on the way have no name that a pickle could find."""
        return _empty_block, (self.plain_class,), self.__dict__.copy()


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


_QUANTIZERS = ("input_quantizer", "output_quantizer")


@contextmanager
def _unregistered(block: nn.Module) -> Iterator[None]:
    """Without the quantizers among the children: ``for layer in self`` is to meet the block's own."""
    modules = vars(block)["_modules"]  # the dict itself: under torch.export the property gives a copy
    kept = {name: modules.pop(name) for name in _QUANTIZERS}
    try:
        yield
    finally:
        modules.update(kept)


def _calls_children(plain: type[nn.Module]) -> bool:
    """Whether its forward may go through the children without their names."""
    if issubclass(plain, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return True
    read = getattr(getattr(plain.forward, "__code__", None), "co_names", ())
    return not {"children", "named_children", "modules", "named_modules", "_modules"}.isdisjoint(read)


def _quantized(plain: type[nn.Module]) -> type[nn.Module]:
    """One for each class, so that blocks of a class stay of a class."""
    if plain not in _CLASSES:
        calls = _calls_children(plain)
        names = {
            "plain_class": plain,
            "calls_children": calls,
            "__module__": plain.__module__,
            "__qualname__": plain.__qualname__,
        }
        _CLASSES[plain] = type(plain.__name__, (QuantizedBlock, plain), names)
    return _CLASSES[plain]


def _empty_block(plain: type[nn.Module]) -> nn.Module:
    kind = _quantized(plain)
    return kind.__new__(kind)


def _as_block(module: nn.Module) -> None:
    if not isinstance(module, QuantizedBlock):
        module.__class__ = _quantized(type(module))
        module.register_module("input_quantizer", None)
        module.register_module("output_quantizer", None)


def quantize_around(
    model: nn.Module, entries: Mapping[str, FakeQuantActivation], outputs: Mapping[str, FakeQuantActivation]
) -> nn.Module:
    """Put quantizers in front of blocks and behind modules, by first name; edits ``model``, returns the new root.

    Its convolutions and linear layers are quantized already; one object may stand behind several modules.
    """

    def convert(name: str, module: nn.Module) -> nn.Module | None:
        before, behind = entries.get(name), outputs.get(name)
        whole = not any(True for _ in module.children())
        if before is not None:
            _as_block(module)
            module.input_quantizer = before
        if behind is None:
            return None
        if isinstance(module, QuantizedWeight):
            module.output_quantizer = behind
        elif whole and before is None:
            return QuantizedOutput(module, behind)
        else:
            _as_block(module)
            module.output_quantizer = behind
        return None

    return swap_modules(model, convert)


def in_order(layer: nn.Module, quantizers: Mapping[str, nn.Module]) -> nn.Module:
    """``layer`` with what :func:`around` names in front of it and behind it, as plain modules."""
    before, behind = quantizers.get("input_quantizer"), quantizers.get("output_quantizer")
    parts = [part for part in (before, layer, behind) if part is not None]
    return layer if len(parts) == 1 else nn.Sequential(*parts)


def drop_around(model: nn.Module) -> nn.Module:
    """Without quantizers around modules; edits ``model``, returns the new root."""

    def convert(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, QuantizedBlock):
            del module.input_quantizer, module.output_quantizer
            object.__setattr__(module, "__class__", module.plain_class)
        return module.module if isinstance(module, QuantizedOutput) else None

    return swap_modules(model, convert)


def around(module: nn.Module) -> dict[str, FakeQuantActivation]:
    """The quantizers of ``module`` by their names in it: "input_quantizer", "output_quantizer"."""
    if not isinstance(module, (QuantizedWeight, QuantizedOutput, QuantizedBlock)):
        return {}
    found = {name: getattr(module, name, None) for name in _QUANTIZERS}
    return {name: q for name, q in found.items() if isinstance(q, FakeQuantActivation)}
