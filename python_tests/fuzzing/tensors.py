"""Tensors as strangers make them: any shape, layout and value."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
WRONG_DTYPES = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]
HUGE = (2**40, 3, 2, 2)  # as an expanded view: no memory, until somebody copies it


def _expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x) if x.dim() and x.numel() else x


def _strided(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1)[..., ::2] if x.dim() else x


def _swapped(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() else x


def _unaligned(x: Tensor) -> Tensor:
    buffer = torch.empty(x.numel() + 1, dtype=x.dtype)
    buffer[1:] = x.flatten()
    return buffer[1:].view(x.shape)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": _channels_last,
    "swapped axes": _swapped,
    "unaligned": _unaligned,
    "stride 0": _expanded,
    "stride 2": _strided,
    "flipped": lambda x: x.flip(list(range(x.dim()))),
}


def _one(value: float) -> Callable[[Tensor], Tensor]:
    def put(x: Tensor) -> Tensor:
        if x.numel():
            x.view(-1)[x.numel() // 2] = value
        return x

    return put


VALUES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: x,
    "zero": lambda x: x * 0,
    "constant": lambda x: x * 0 + 0.37,
    "one NaN": _one(float("nan")),
    "one infinity": _one(float("inf")),
    "one minus infinity": _one(-float("inf")),
    "all NaN": lambda x: x * float("nan"),
    "denormal": lambda x: x * 1e-42,
    "large": lambda x: x * 1e4,
}


def shapes(least: int, most: int, *, empty: bool = True, largest: int = 6) -> st.SearchStrategy:
    """Shapes of ``least`` to ``most`` axes, now and then with one of length 0."""
    sizes = st.integers(0 if empty else 1, largest)
    return st.lists(sizes, min_size=least, max_size=most).map(tuple)


@st.composite
def tensors(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype, *, odd: bool = True) -> Tensor:
    """A tensor of that shape and dtype; ``odd`` values and layouts too."""
    seed = draw(st.integers(0, 2**20))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if odd:
        # Half of all examples have values that a result can be compared for.
        kind = draw(st.one_of(st.just("normal"), st.sampled_from(list(VALUES))))
        x = VALUES[kind](x)
    x = x.to(dtype)
    if odd:
        x = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))](x)
    return x


@st.composite
def any_tensors(draw: st.DrawFn) -> Tensor:
    """Of any shape and dtype, in any layout, with or without values."""
    x = draw(tensors(draw(shapes(0, 5)), draw(st.sampled_from([*FLOATS, *WRONG_DTYPES]))))
    return x.to("meta") if draw(st.integers(0, 5)) == 0 else x
