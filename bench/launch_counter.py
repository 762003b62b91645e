"""Counts the kernel launches and bytes of a piece of PyTorch code without running it on a GPU.

Every operator that reaches the dispatcher is one launch, except those that only make views or
allocate; convolution_backward is one per gradient, multi-tensor operators one per hundred tensors.
Bytes are those of the operator's inputs and outputs, each once: the traffic of a kernel that
caches nothing between launches. Run the code on fake tensors (``torch._subclasses.FakeTensorMode``)
to count at any size in no time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Allocate, alias or look at sizes only.
_FREE = {
    "aten::empty",
    "aten::empty_like",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::detach",
    "aten::alias",
    "aten::_unsafe_view",
    "aten::lift_fresh",
    "aten::_reshape_alias",
    "prim::device",
    "aten::is_same_size",
    "aten::result_type",
    "aten::set_",
}
_TENSORS_PER_LAUNCH = 100
# have no fake implementation everywhere
_NO_RESULT = ("aten::_fused_sgd_", "aten::_fused_adam_", "aten::_fused_adamw_")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)


def _bytes(tensor: Tensor) -> int:
    """Of what is stored: an expanded tensor is read once."""
    if 0 in tensor.stride():
        distinct = [n for n, s in zip(tensor.shape, tensor.stride(), strict=True) if s != 0 or n == 0]
        return int(torch.Size(distinct).numel()) * tensor.element_size()
    return tensor.numel() * tensor.element_size()


def _touched(name: str, args: tuple[Any, ...], kwargs: Any, result: Any) -> list[Tensor]:
    """What the kernels of an operator read and write; some arguments only tell a shape."""
    if name == "aten::convolution_backward":
        gradient, x, weight, to_x, to_weight = *args[:3], args[10][0], args[10][1]
        data, weights = [gradient, weight] * to_x, [gradient, x] * to_weight
        return [*data, *weights, *_tensors(result)]
    if name in ("aten::max_pool2d_with_indices_backward", "aten::avg_pool2d_backward"):
        return [args[0], *_tensors(args[2:]), *_tensors(kwargs), *_tensors(result)]
    return [*_tensors((args, kwargs)), *_tensors(result)]


def _launches(name: str, func: Any, args: tuple[Any, ...]) -> int:
    if name in _FREE or name.startswith("profiler::"):
        return 0
    aliases = [r.alias_info for r in func._schema.returns]
    if aliases and all(a is not None and not a.is_write for a in aliases):
        return 0  # a view
    if name == "aten::convolution_backward":
        return sum(args[10])
    if name == "aten::select_backward":
        return 2  # zeros, and the slice copied into them
    if name.startswith(("aten::_foreach", "aten::_fused")):
        first = next(a for a in args if isinstance(a, (list, tuple)))
        return -(-len(first) // _TENSORS_PER_LAUNCH) * (2 if "norm" in name else 1)
    return 1


class LaunchCounter(TorchDispatchMode):
    """Counts while it is active: ``launches``, ``bytes`` and both per operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_operator: Counter[str] = Counter()
        self.bytes_by_operator: Counter[str] = Counter()

    @property
    def launches(self) -> int:
        """All launches so far."""
        return sum(self.by_operator.values())

    @property
    def bytes(self) -> int:
        """All bytes so far."""
        return sum(self.bytes_by_operator.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run the operator and count it."""
        kwargs = kwargs or {}
        name = func._schema.name
        result = None if name in _NO_RESULT else func(*args, **kwargs)
        count = _launches(name, func, args)
        if count:
            self.by_operator[name] += count
            touched = _touched(name, args, kwargs, result)
            self.bytes_by_operator[name] += sum(map(_bytes, touched))
        return result
