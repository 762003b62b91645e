"""Calls for which autograd keeps nothing: the same values at less cost, and every refusal as before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import hast_cuda as hc
from hast_cuda.ops import _autograd

MEAN, VAR, STATE = torch.tensor([0.1, -0.2]), torch.tensor([0.5, 2.0]), torch.tensor([-1.0, 2.0, 0, 0, 0])
OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_norm_match": lambda x: hc.batch_norm_match(x, MEAN, VAR, activation="relu", twice=True)[0],
    "batch_norm_activation": lambda x: hc.ops.batch_norm_activation(x, MEAN, VAR, state=STATE, twice=True)[0],
    "quantize_activation": lambda x: hc.quantize_activation(x, STATE, 4, activation="relu", ste="clipped"),
    "fake_quantize": lambda x: hc.fake_quantize(x, -1.0, 2.0, 4, activation="relu"),
}
every_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


@pytest.fixture
def x() -> Tensor:
    return torch.linspace(-2, 3, 24).reshape(2, 2, 2, 3)


@every_op
def test_the_values_are_those_of_a_recorded_call(op: Callable[[Tensor], Tensor], x: Tensor) -> None:
    recorded = op(x.clone().requires_grad_())
    assert recorded.grad_fn is not None
    plain = op(x)
    assert plain.grad_fn is None
    assert torch.equal(plain, recorded)
    with torch.no_grad():
        assert torch.equal(op(x.clone().requires_grad_()), recorded)


@every_op
def test_no_function_is_applied_where_nobody_can_ask(
    op: Callable[[Tensor], Tensor], x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def applied(*_: object) -> None:
        raise AssertionError("autograd was asked")

    monkeypatch.setattr(torch.autograd.Function, "apply", applied)
    op(x)
    with pytest.raises(AssertionError, match="autograd was asked"):
        op(x.clone().requires_grad_())


def test_a_gradient_of_a_parameter_alone_is_recorded(x: Tensor) -> None:
    weight = torch.ones(2, requires_grad=True)
    assert hc.batch_norm_match(x, MEAN, VAR, weight)[0].requires_grad
    assert hc.ops.batch_norm_activation(x, MEAN, VAR, weight)[0].requires_grad


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own, at a first tangent
@every_op
def test_tangents_are_refused_and_not_lost(op: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=r"jvp|forward mode"):
        op(forward_ad.make_dual(x, torch.ones_like(x)))


@every_op
def test_transforms_of_functions_are_refused(op: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"transforms of torch\.func"):
        torch.func.vmap(op)(x[None])
    with pytest.raises(RuntimeError, match=r"transforms of torch\.func"):
        torch.func.grad(lambda t: op(t).sum())(x)


def test_nothing_can_be_kept_for_nobody() -> None:
    with pytest.raises(AttributeError):
        _autograd._NOBODY.eps = 1e-5  # type: ignore[attr-defined]
