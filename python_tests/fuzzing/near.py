"""Whether the answer to a hostile call is right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_EPS = {torch.float32: 1e-5, torch.float64: 1e-10, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def equal(found: Tensor, expected: Tensor) -> None:
    """Same shape, dtype and bits; NaN equals NaN."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert torch.equal(found.isnan(), expected.isnan()), (found, expected)
    assert torch.equal(found.nan_to_num(), expected.nan_to_num()), (found, expected)


def near(found: Tensor, eager: Tensor, exact: Tensor, name: str = "", slack: float = 0.0) -> None:
    """As close to the float64 formula as eager code is, about; NaN where eager code has it.

    Where eager code overflows the kernel need not. ``slack`` allows more, where the result is a
    small difference of large numbers.
    """
    assert found.shape == eager.shape, (name, found.shape, eager.shape)
    assert not bool((found.isfinite() & eager.isnan()).any()), (name, found, eager)
    counted = eager.isfinite() & exact.isfinite()
    f, e, x = (t.double()[counted] for t in (found, eager, exact))
    if not f.numel():
        return
    scale = float(x.abs().max())
    allowed = 4 * float((e - x).abs().max()) + _EPS[found.dtype] * scale + slack + 1e-30
    assert float((f - x).abs().max()) <= allowed, (name, found, eager, exact)


def size_of(*values: Tensor | None) -> float:
    """What rounding errors are in proportion to where large numbers cancel."""
    there = [v for v in values if v is not None]
    return 1 + sum(float(v.double().nan_to_num(0, 0, 0).abs().max()) for v in there)


def doubled(call: dict[str, Any]) -> dict[str, Any]:
    """The same arguments in float64."""
    return {name: _double(value) for name, value in call.items()}


def _double(value: Any) -> Any:
    if isinstance(value, list):
        return [_double(item) for item in value]
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
