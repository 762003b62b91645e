"""batch_norm_match and match_loss against float64 oracles."""

from __future__ import annotations

import pytest
import torch
from cases import FORMATS, arrange, check_close, covering, refused
from conftest import DTYPES, SHAPES
from torch import Tensor

import hast_cuda as hc
from hast_cuda.ops import reference


def parameters(channels: int, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Running mean, running variance, weight, bias."""
    return [
        torch.randn(channels, device=device).to(dtype),
        (torch.rand(channels, device=device) + 0.3).to(dtype),
        torch.randn(channels, device=device).to(dtype),
        torch.randn(channels, device=device).to(dtype),
    ]


def run(
    function: object,
    x: Tensor,
    stats: list[Tensor],
    activation: str | None,
    residual: Tensor | None,
    upstream: list[Tensor],
) -> list[Tensor]:
    """Outputs and every gradient of one forward and backward pass."""
    x = x.detach().requires_grad_()
    weight, bias = (s.detach().requires_grad_() for s in stats[2:])
    leaves = [x, weight, bias]
    if residual is not None:
        residual = residual.detach().requires_grad_()
        leaves.append(residual)
    outputs = function(  # type: ignore[operator]
        x, *stats[:2], weight, bias, 1e-5, activation=activation, residual=residual
    )
    torch.autograd.backward(outputs, [u.to(o.dtype) for u, o in zip(upstream, outputs, strict=True)])
    return [*outputs, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@covering(layout=FORMATS, shape=SHAPES, dtype=DTYPES, activation=[None, "relu", "relu6"])
def test_against_float64(
    device: torch.device, layout: str, shape: tuple[int, ...], dtype: torch.dtype, activation: str | None
) -> None:
    channels = shape[1]
    wide = reference.arithmetic_dtype(dtype)
    x = arrange((torch.randn(shape, device=device) * 2 + 1).to(dtype), layout)
    residual = torch.randn(shape, device=device).to(dtype) if activation == "relu" else None
    stats = parameters(channels, device, wide)
    upstream = [torch.randn(s, device=device) for s in (shape, (channels,), (channels,))]
    upstream[0] = upstream[0].to(dtype)
    kernel = run(hc.batch_norm_match, x, stats, activation, residual, upstream)
    eager = run(reference.batch_norm_match, x, stats, activation, residual, upstream)
    oracle = run(
        reference.batch_norm_match,
        x.double(),
        [s.double() for s in stats],
        activation,
        None if residual is None else residual.double(),
        upstream,
    )
    # Half types may disagree about the mask where the output rounds to the edge of the activation.
    half = dtype in (torch.float16, torch.bfloat16)
    atol = {torch.float16: 4e-3, torch.bfloat16: 4e-2, torch.float32: 4e-6, torch.float64: 1e-12}
    for a, b, c in zip(kernel[:3], eager[:3], oracle[:3], strict=True):
        check_close(a, b, c, atol[dtype])
    if not (half and activation):
        for a, b, c in zip(kernel[3:], eager[3:], oracle[3:], strict=True):
            check_close(a, b, c, atol[dtype])
    assert kernel[0].dtype == dtype
    assert kernel[1].dtype == wide


@pytest.mark.parametrize("offset", [0.0, 20.0, 300.0])
def test_variance_far_from_the_running_mean(device: torch.device, offset: float) -> None:
    x = torch.randn(16, 4, 32, 32, device=device) + offset
    _, mean, var = hc.batch_norm_match(x, *(torch.zeros(4, device=device), torch.ones(4, device=device)))
    exact = x.double().var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), x.double().mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    assert float(((var.double() - exact) / exact).abs().max()) < 2e-7 * (1 + offset**2)


def test_gradcheck(device: torch.device) -> None:
    x = torch.randn(3, 2, 3, 4, device=device, dtype=torch.float64, requires_grad=True)
    residual = torch.randn_like(x, requires_grad=True)
    rm, rv, weight, bias = parameters(2, device, torch.float64)
    weight.requires_grad_()
    bias.requires_grad_()

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias, residual = leaves
        return hc.batch_norm_match(x, rm, rv, weight, bias, 1e-3, activation="relu", residual=residual)

    assert torch.autograd.gradcheck(function, (x, weight, bias, residual))


def test_gradient_of_statistics_alone(device: torch.device) -> None:
    x = torch.randn(4, 3, 5, 5, device=device, dtype=torch.float64, requires_grad=True)
    rm, rv = torch.zeros(3, device=device).double(), torch.ones(3, device=device).double()
    _, mean, var = hc.batch_norm_match(x, rm, rv)
    (mean.sum() + 2 * var.sum()).backward()
    twin = x.detach().requires_grad_()
    v, m = torch.var_mean(twin, dim=(0, 2, 3), correction=0)
    (m.sum() + 2 * v.sum()).backward()
    torch.testing.assert_close(x.grad, twin.grad)


def test_equals_eval_batch_norm_and_leaves_statistics_alone(device: torch.device) -> None:
    norm = torch.nn.BatchNorm2d(6).to(device).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    before = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(5, 6, 7, 7, device=device)
    y, _, _ = hc.batch_norm_match(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    torch.testing.assert_close(y, norm(x), rtol=1e-5, atol=1e-5)
    assert torch.equal(before[0], norm.running_mean)
    assert torch.equal(before[1], norm.running_var)


def test_same_bits_twice_and_dead_channel(device: torch.device) -> None:
    x = torch.randn(32, 16, 31, 33, device=device)
    x[:, 3] = 0.5
    rm, rv = torch.full((16,), 0.5, device=device), torch.zeros(16, device=device)
    first, second = (hc.batch_norm_match(x, rm, rv) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert float(first[2][3]) == 0.0


@pytest.mark.parametrize("activation", [None, "relu"])
def test_output_used_twice_gets_the_sum_of_both_gradients(device: torch.device, activation: str | None) -> None:
    x = torch.randn(4, 6, 5, 5, device=device, dtype=torch.float64)
    residual, first, second = torch.randn_like(x), torch.randn_like(x), torch.randn_like(x)
    rm, rv, weight, bias = parameters(6, device, torch.float64)
    found = []
    for twice in (False, True):
        leaves = [t.detach().requires_grad_() for t in (x, residual, weight)]
        y, mean, var, *again = hc.batch_norm_match(
            leaves[0], rm, rv, leaves[2], bias, activation=activation, residual=leaves[1], twice=twice
        )
        other = again[0] if twice else y
        loss = (y * first).sum() + (other * second).sum() + (mean * 3 + var).sum()
        found.append(torch.autograd.grad(loss, leaves))
    torch.testing.assert_close(found[0], found[1])


def layers(device: torch.device, dtype: torch.dtype) -> list[list[Tensor]]:
    """Means, variances, running means and running variances of five layers."""
    sizes = (16, 1, 64, 7, 2048)
    groups = [[torch.randn(c, device=device).to(dtype) for c in sizes] for _ in range(4)]
    return [*groups[:3], [t.abs() for t in groups[3]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mse", "norm", "relative"])
def test_match_loss_against_float64(device: torch.device, dtype: torch.dtype, reduction: str) -> None:
    groups = layers(device, dtype)
    leaves = [t.requires_grad_() for t in (*groups[0], *groups[1])]
    loss = hc.match_loss(*groups, reduction=reduction)
    (3 * loss).backward()
    twins = [t.detach().double().requires_grad_() for t in leaves]
    exact = reference.match_loss(
        twins[:5], twins[5:], *([t.double() for t in g] for g in groups[2:]), reduction=reduction
    )
    (3 * exact).backward()
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=0)
    for leaf, twin in zip(leaves, twins, strict=True):
        torch.testing.assert_close(leaf.grad.double(), twin.grad, rtol=1e-5, atol=1e-9)


def test_match_loss_of_many_layers(device: torch.device) -> None:
    groups = [[torch.randn(1 + i % 9, device=device) for i in range(203)] for _ in range(4)]
    groups[3] = [t.abs() for t in groups[3]]
    for reduction in ("mse", "norm", "relative"):
        found = hc.match_loss(*groups, reduction=reduction)
        torch.testing.assert_close(found, reference.match_loss(*groups, reduction=reduction))


def test_match_loss_by_hand(device: torch.device) -> None:
    # two layers: gaps (1, 2) and (3); mse: ((1+4)/2 + 9)/2, norm: (sqrt(5) + 3)/2
    means = [torch.tensor([1.0, 2.0], device=device), torch.tensor([3.0], device=device)]
    zeros = [torch.zeros_like(m) for m in means]
    assert float(hc.match_loss(means, zeros, zeros, zeros)) == pytest.approx(5.75)
    norm = hc.match_loss(means, zeros, zeros, zeros, reduction="norm")
    assert float(norm) == pytest.approx((5**0.5 + 3) / 2)
    # all running variances are 0, so that the unit is 1
    relative = hc.match_loss(means, zeros, zeros, zeros, reduction="relative")
    assert float(relative) == pytest.approx(5.75)
    # mean variances 2 and 4; gaps of the variances (-1, -3) and (-4)
    running = [torch.tensor([1.0, 3.0], device=device), torch.tensor([4.0], device=device)]
    relative = hc.match_loss(means, zeros, zeros, running, reduction="relative")
    expected = (5 / (2 * 2) + 9 / 4 + 10 / (2 * 4) + 16 / 16) / 2
    assert float(relative) == pytest.approx(expected)


def test_relative_gaps_do_not_depend_on_the_scale_of_a_layer(device: torch.device) -> None:
    mean, var, running_mean, running_var = (torch.rand(5, device=device) for _ in range(4))
    losses = [
        hc.match_loss([k * mean], [k**2 * var], [k * running_mean], [k**2 * running_var], reduction="relative")
        for k in (1.0, 1e-8, 1e8)
    ]
    torch.testing.assert_close(losses[1:], [losses[0]] * 2)


def test_norm_gradient_is_zero_at_zero(device: torch.device) -> None:
    mean = torch.zeros(3, device=device, requires_grad=True)
    zeros = torch.zeros(3, device=device)
    hc.match_loss([mean], [zeros], [zeros], [zeros], reduction="norm").backward()
    assert mean.grad.tolist() == [0, 0, 0]


def test_opcheck(device: torch.device) -> None:
    x, c = torch.randn(3, 4, 5, 5, device=device), torch.rand(4, device=device)
    torch.library.opcheck(torch.ops.hast_cuda.batch_norm_match.default, (x, c, c, c, None, 1e-5, "relu", x.clone()))
    given, norm = (x, x.clone(), c, None, None, None), (c, c, c, c, None, 1e-5)
    torch.library.opcheck(
        torch.ops.hast_cuda.batch_norm_backward.default,
        (*given, x, x.clone(), None, None, *norm, None, 0, "relu", 1, True, True, False),
    )
    torch.library.opcheck(torch.ops.hast_cuda.match_loss.default, ([c], [c], [c], [c], "mse"))


X, C = torch.randn(2, 3, 4, 4), torch.ones(3)


test_refusals = refused(
    (lambda: hc.batch_norm_match(X, C[:2], C), ValueError, r"running_mean has shape \(2,\)"),
    (lambda: hc.batch_norm_match(X[:0], C, C), ValueError, "at least one element"),
    (lambda: hc.batch_norm_match(X[:, :0], C[:0], C[:0]), ValueError, "at least one element"),
    (lambda: hc.batch_norm_match(X, C, C, residual=X[:1]), ValueError, "residual is"),
    (lambda: hc.batch_norm_match(X.int(), C, C), TypeError, "x has dtype torch.int32"),
    (lambda: hc.match_loss([], [], [], []), ValueError, "at least 1"),
    (lambda: hc.match_loss([C], [C], [C], []), ValueError, "equally many"),
    (lambda: hc.match_loss([C], [C], [C], [C[:2]]), ValueError, "layer 0: all four"),
    (
        lambda: hc.match_loss([C], [C], [C], [C], reduction="sum"),
        ValueError,
        "reduction is 'sum'; allowed: 'mse', 'norm'",
    ),
)
