"""Attention vectors and the feature-alignment loss against float64 oracles."""

from __future__ import annotations

import pytest
import torch
from cases import FORMATS, arrange, check_close, covering, refused
from conftest import DTYPES, SHAPES

import hast_cuda as hc
from hast_cuda.ops import reference


@covering(layout=FORMATS, shape=SHAPES, dtype=DTYPES)
def test_energy_and_gradient(device: torch.device, layout: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = arrange(torch.randn(shape, device=device).to(dtype), layout).requires_grad_()
    energy = hc.channel_attention(x)
    upstream = torch.randn(energy.shape, device=device).to(energy.dtype)
    energy.backward(upstream)
    exact = x.detach().double().square().flatten(2).sum(2)
    check_close(energy, reference.channel_attention(x.detach()), exact, 1e-6)
    oracle = 2 * upstream.double()[..., None, None] * x.detach().double()
    check_close(x.grad, oracle.to(dtype), oracle, 1e-6)


@covering(dtype=DTYPES, normalized=[True, False], layout=FORMATS)
def test_loss_and_gradients(device: torch.device, dtype: torch.dtype, normalized: bool, layout: str) -> None:
    shapes = [(4, *s[1:]) for s in SHAPES]
    maps = [
        [arrange(torch.randn(s, device=device).to(dtype), layout).requires_grad_() for s in shapes] for _ in range(2)
    ]
    loss = hc.attention_loss(*maps, normalized=normalized)
    (2 * loss).backward()
    twins = [[m.detach().double().requires_grad_() for m in side] for side in maps]
    exact = reference.attention_loss(*twins, normalized=normalized)
    (2 * exact).backward()
    torch.testing.assert_close(loss.double(), exact.detach(), rtol=1e-5, atol=1e-9)
    for side, twin_side in zip(maps, twins, strict=True):
        for item, twin in zip(side, twin_side, strict=True):
            check_close(item.grad, twin.grad.to(dtype), twin.grad, 1e-6)


def test_known_vector(device: torch.device) -> None:
    f = torch.tensor([[[[1.0, 2], [0, 1]], [[3, 0], [0, 1]]]], device=device)
    g = torch.tensor([[[[1.0, 1], [1, 1]], [[2, 0], [2, 0]]]], device=device)
    assert hc.channel_attention(f).tolist() == [[6.0, 10.0]]
    assert 1000 * float(hc.attention_loss([f], [g])) == pytest.approx(2.945515, rel=1e-5)


def test_plain_loss_by_hand(device: torch.device) -> None:
    # Eq. 12-14 without normalisation: energies (6, 10) and (4, 8), one sample, two equal layers
    f = torch.tensor([[[[1.0, 2], [0, 1]], [[3, 0], [0, 1]]]], device=device)
    g = torch.tensor([[[[1.0, 1], [1, 1]], [[2, 0], [2, 0]]]], device=device)
    assert float(hc.attention_loss([f, f], [g, g], normalized=False)) == pytest.approx(8.0)


def test_gradients_to_one_side_only(device: torch.device) -> None:
    teacher = torch.randn(2, 3, 4, 4, device=device)
    student = torch.randn(2, 3, 4, 4, device=device, requires_grad=True)
    hc.attention_loss([teacher], [student]).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_dead_map_has_no_nan(device: torch.device) -> None:
    dead = torch.zeros(2, 3, 4, 4, device=device, requires_grad=True)
    alive = torch.randn(2, 3, 4, 4, device=device)
    loss = hc.attention_loss([alive], [dead])
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1 / 3, rel=1e-5)  # two unit vectors over three channels
    assert bool(torch.isfinite(dead.grad).all())


def test_many_maps_and_same_bits_twice(device: torch.device) -> None:
    maps = [torch.randn(3, 1 + i % 6, 3, 2, device=device) for i in range(130)]
    others = [torch.randn_like(m) for m in maps]
    first, second = (hc.attention_loss(maps, others) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, reference.attention_loss(maps, others))


def test_mixed_precision_pair(device: torch.device) -> None:
    teacher, student = (torch.randn(2, 4, 5, 5, device=device), torch.randn(2, 4, 5, 5, device=device))
    mixed = hc.attention_loss([teacher], [student.bfloat16()])
    torch.testing.assert_close(mixed, hc.attention_loss([teacher], [student.bfloat16().float()]))


def test_opcheck(device: torch.device) -> None:
    x = torch.randn(3, 4, 5, 5, device=device)
    e = x.square().flatten(2).sum(2)
    ops = torch.ops.hast_cuda
    torch.library.opcheck(ops.channel_attention.default, ([x, x.clone()],))
    torch.library.opcheck(ops.channel_attention_backward.default, ([e], [x], e[0, 0].clone()))
    torch.library.opcheck(ops.attention_loss.default, ([e], [e + 1], [25], True))


X = torch.randn(2, 3, 4, 4)


test_refusals = refused(
    (lambda: hc.channel_attention(X[:, :, 0, 0]), ValueError, r"expected \[N, C, H, W\]"),
    (lambda: hc.channel_attention(X[:0]), ValueError, "not empty"),
    (lambda: hc.attention_loss([], []), ValueError, "at least 1"),
    (lambda: hc.attention_loss([X], [X, X]), ValueError, "got 1 and 2"),
    (lambda: hc.attention_loss([X], [X[:1]]), ValueError, "map 0: teacher"),
    (lambda: hc.attention_loss([X], [X.double()]), ValueError, "map 0: teacher is"),
    (lambda: hc.attention_loss([X.int()], [X]), TypeError, "teacher.0. has dtype"),
)
