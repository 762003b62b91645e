"""What is wrong with an argument: every value here must be refused in its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from fuzzing.tensors import HUGE, WRONG_DTYPES

NAN, INFINITY = float("nan"), float("inf")
NO_TENSOR: list[Any] = [3, 2.5, "x", b"x", [[1.0]], (), {}, np.ones((2, 3)), object(), Tensor]
BITS: list[Any] = [-4, 0, 1, 9, 2**70, True, 4.0, "4", NAN, [4], torch.tensor(4)]
NO_NUMBER: list[Any] = [NAN, "0.5", [0.5], (), 1j, object(), True, torch.tensor(0.5)]
NO_FLAG: list[Any] = ["yes", 1, 0, None, 2.0, [], torch.tensor(True)]
NO_CHOICE: list[Any] = ["", "ReLU", "real ", 3, b"relu", ["relu"], {"relu"}, True, object()]
NO_AXIS: list[Any] = [7, -9, 2**70, 1.0, "1", [1], True, NAN]


def misaligned(x: Tensor) -> Tensor:
    """Zeros like ``x`` at an odd address, as a buffer of somebody else's may have it."""
    count = max(x.numel(), 1)
    buffer = bytearray(count * x.element_size() + 1)
    flat = torch.frombuffer(buffer, dtype=x.dtype, offset=1, count=count)
    return flat.view(x.shape) if x.numel() else flat


def wrong_tensors(x: Tensor) -> list[Any]:
    """What no op takes in the place of ``x``."""
    return [
        *NO_TENSOR,
        *(torch.zeros(x.shape, dtype=dtype) for dtype in WRONG_DTYPES),
        torch.eye(2, dtype=torch.float32).to_sparse(),
        torch.zeros((), dtype=x.dtype).expand(HUGE),
        misaligned(x),
    ]


@st.composite
def flawed(
    draw: st.DrawFn, good: Mapping[str, Any], wrong: Mapping[str, list[Any]]
) -> tuple[dict[str, Any], str | None]:
    """``good`` arguments, half the time with one of ``wrong`` in its place; and which that is."""
    if draw(st.booleans()):
        return dict(good), None
    name = draw(st.sampled_from(sorted(wrong)))
    return {**good, name: draw(st.sampled_from(wrong[name]))}, name
