"""Argument checks of the public ops: early, naming argument, value and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from hast_cuda.checks.values import check_choice, check_flag, check_positive, check_range, check_whole

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
STE = ("identity", "clipped")
ZERO_POINTS = ("integer", "real")
flag, choice, positive = check_flag, check_choice, check_positive
LARGEST = 2**38  # elements: a terabyte in float32; what has more is a view that nobody can copy


def tensor(name: str, x: Tensor) -> None:
    """``x`` is an ordinary tensor, of a size that memory can hold."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if torch._C._get_tracing_state() is not None:  # torch.compile knows this question
        raise RuntimeError(
            "torch.jit.trace cannot record the operators of hast_cuda: write the network as a program of torch.export "
            "(hast_cuda.exports.save_program) or as ONNX (save_onnx), both of which run without this package"
        )
    if not is_compiling() and torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise RuntimeError(
            "transforms of torch.func (grad, vmap, jvp) cannot follow the operators of hast_cuda: differentiate with "
            "torch.autograd, or use the eager twins in hast_cuda.ops.reference"
        )
    if x.layout is not torch.strided or x.is_quantized:
        raise TypeError(f"{name} is a {x.layout} tensor of {x.dtype}; expected an ordinary dense one")
    # a guard on the size would bound the dynamic axes of an exported program
    if not is_compiling() and x.numel() > LARGEST:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, which is more than {LARGEST} elements")
    if misaligned(x):
        raise ValueError(f"{name} lies at an address that {x.dtype} may not have: give {name}.clone()")


def misaligned(x: Tensor) -> bool:
    """Whether it lies at an address that its dtype may not have, as far as that can be asked."""
    # known_values(), written out: this is asked of every tensor of every call
    return x.is_cpu and type(x) is Tensor and not is_compiling() and bool(x.data_ptr() % x.element_size())


def tensors(name: str, values: Any) -> list[Tensor]:
    """``values`` as a list; it is a sequence, whose items are not looked at."""
    return _listed(name, values, "tensors")


def _listed(name: str, values: Any, kind: str) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a list of {kind}, got {type(values).__name__}")
    return list(values)


def whole_numbers(name: str, values: Any) -> list[int]:
    """``values`` as a list; it is a sequence of ints above 0."""
    listed: list[int] = _listed(name, values, "ints")
    for index, value in enumerate(listed):
        check_whole(f"{name}[{index}]", value)
        if not 0 < value <= LARGEST:
            raise ValueError(f"{name}[{index}] is {value}; allowed: 1 to {LARGEST}")
    return listed


def floating(name: str, x: Tensor) -> None:
    """``x`` is a tensor of a dtype and on a device that the kernels support."""
    tensor(name, x)
    if x.dtype not in FLOATING:
        raise TypeError(f"{name} has dtype {x.dtype}; allowed: float32, float16, bfloat16, float64")
    if not (x.is_cpu or x.is_cuda or x.is_meta):  # several times cheaper than to ask x.device
        raise ValueError(f"{name} is on {x.device}; hast_cuda runs on cpu and cuda")


def same_device(name: str, x: Tensor, reference_name: str, reference: Tensor) -> None:
    """Both tensors are on one device."""
    if x.device != reference.device:
        raise ValueError(
            f"{name} is on {x.device} but {reference_name} is on {reference.device}; "
            f"move one of them, e.g. {name}.to({reference_name}.device)"
        )


def bit_width(name: str, bits: int) -> None:
    """``bits`` is an integer from 2 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"{name} must be an int from 2 to 8, got {bits!r}")
    if not 2 <= bits <= 8:
        raise ValueError(f"{name} is {bits}; allowed: 2 to 8")


def bit_widths(bits: Any, name: str, count: int) -> list[int]:
    """``bits`` for each of ``count`` tensors called ``name``: one for all, or a list of them."""
    if not isinstance(bits, (int, Sequence)) or isinstance(bits, (str, bytes)):
        raise TypeError(f"bits must be an int from 2 to 8 or a list of them, got {bits!r}")
    widths = [bits] * count if isinstance(bits, int) else list(bits)
    if len(widths) != count:
        raise ValueError(f"bits has {len(widths)} entries for {count} {name}")
    for index, width in enumerate(widths):
        bit_width(f"bits[{index}]", width)
    return widths


LARGEST_DECAY = 1 - 2.0**-24  # the last float32 below 1: at 1 the average is 0 / 0
_DECAYS = f"0 <= beta < 1, in float32: at most {LARGEST_DECAY}"
LARGEST_FLOAT = 2.0**128 - 2.0**104  # float32, in which everything but float64 is computed


def decay(beta: float) -> None:
    """``beta`` is a decay of a moving average."""
    check_range("beta", beta, 0, LARGEST_DECAY, allowed=_DECAYS)


def not_negative(name: str, value: float) -> None:
    """``value`` is a number from 0 on that float32 can hold."""
    check_range(name, value, 0, LARGEST_FLOAT, allowed="0 or more, finite in float32")


def logits(name: str, x: Tensor) -> None:
    """``x`` is a floating-point matrix [N, classes] with elements."""
    floating(name, x)
    if x.dim() != 2 or x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected [N, classes], not empty")


def channel_axis(x: Tensor, axis: int | None) -> int | None:
    """``axis`` as a non-negative index of ``x``, or None for one range per tensor."""
    if axis is None:
        return None
    check_whole("channel_axis", axis)
    if not -x.dim() <= axis < x.dim():
        raise ValueError(f"channel_axis is {axis} but x has {x.dim()} dimensions")
    return axis % x.dim()


def range_state(state: Tensor, x: Tensor) -> None:
    """``state`` is a range state for the activations ``x``."""
    tensor("state", state)
    same_device("state", state, "x", x)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if state.shape != (5,) or state.dtype is not dtype or not state.is_contiguous():
        raise ValueError(
            f"state is {tuple(state.shape)} {state.dtype}; expected a contiguous (5,) {dtype} "
            "tensor from new_range_state"
        )


def known_values(x: Tensor) -> bool:
    """True when reading values of ``x`` costs no device synchronisation and breaks no trace."""
    # a fake tensor has no values
    return x.is_cpu and type(x) is Tensor and not is_compiling()


def ordered_range(lower: Tensor, upper: Tensor) -> None:
    """Ranges are finite and lower <= upper. Only for CPU ranges: a CUDA read would synchronise."""
    if not (known_values(lower) and known_values(upper)):
        return
    width = upper - lower
    if bool(((width >= 0) & torch.isfinite(width)).all()):
        return
    if not bool(torch.isfinite(lower).all() & torch.isfinite(upper).all()):
        raise ValueError("lower and upper must be finite; found NaN or infinity")
    wrong = (lower > upper).flatten().nonzero()
    if wrong.numel():
        index = int(wrong[0])
        low, high = float(lower.flatten()[index]), float(upper.flatten()[index])
        raise ValueError(f"lower must not exceed upper; at index {index} lower is {low} and upper {high}")
    raise ValueError(f"upper - lower is beyond the largest number of {lower.dtype}: narrow the range")


def ordered_ranges(ranges: Sequence[Tensor]) -> None:
    """:func:`ordered_range` of many [2, N] in few steps, as long as all are right."""
    for dtype in {r.dtype for r in ranges if known_values(r)}:
        known = [r for r in ranges if known_values(r) and r.dtype == dtype]
        lower, upper = torch.cat(known, 1)
        width = upper - lower
        if not bool(((width >= 0) & torch.isfinite(width)).all()):
            for one in known:
                ordered_range(*one)
