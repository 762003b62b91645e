"""The Gaussian model of a feature map: clipped moments, sums, ranges; and how it is propagated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foldable import build
from torch import Tensor, nn

from hast_cuda.moments.distribution import Distribution, clipped_moments, concatenate
from hast_cuda.moments.mapped_distribution import mapped
from hast_cuda.moments.propagation import input_distributions
from hast_cuda.networks.statistics import set_output_moments


def gaussian(*parameters: tuple[float, float]) -> Distribution:
    """One channel per (mean, std)."""
    mean, std = torch.tensor(parameters).T
    return Distribution.of(mean, std)


@pytest.mark.parametrize("bounds", [(0.0, math.inf), (0.0, 6.0), (-1.0, 2.5), (-math.inf, 0.5)])
@pytest.mark.parametrize("parameters", [(0.0, 1.0), (2.0, 0.5), (-3.0, 1.0), (5.0, 4.0), (-40.0, 1.0), (1.0, 0.0)])
def test_clipped_moments_against_quadrature(parameters: tuple[float, float], bounds: tuple[float, float]) -> None:
    mean, std = (torch.tensor([v], dtype=torch.float64) for v in parameters)
    z = torch.linspace(-9, 9, 200_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    density /= density.sum()
    x = (mean + std * z).clamp(*bounds)
    first = (x * density).sum()
    second = ((x - first).square() * density).sum()
    found, variance = clipped_moments(mean, std, *bounds)
    assert found.item() == pytest.approx(first.item(), abs=1e-7)
    assert variance.item() == pytest.approx(second.item(), abs=1e-6)


def test_sums_add_means_and_variances_after_clipping() -> None:
    left, right = gaussian((0.0, 1.0)).activated("relu"), gaussian((3.0, 2.0))
    both = left.plus(right)
    assert both.mean.item() == pytest.approx(3 + 1 / math.sqrt(2 * math.pi))
    assert both.std.item() ** 2 == pytest.approx(4 + 0.5 - 1 / (2 * math.pi))
    assert both.support == (-math.inf, math.inf)
    assert left.plus(left).support == (0.0, math.inf)
    assert left.plus(gaussian((0.0, 1.0), (0.0, 1.0))).mean.shape == (2,)  # one stands for all
    assert gaussian(*[(0.0, 1.0)] * 3).plus(gaussian(*[(0.0, 1.0)] * 2)) is None


def test_bounds_are_cut_to_what_can_occur() -> None:
    wide = gaussian((1.0, 1.0), (2.0, -0.5))
    assert wide.bounds(2) == (-1.0, 3.0)
    assert wide.activated("relu").bounds(6) == (0.0, 7.0)
    assert wide.activated("relu6").bounds(6) == (0.0, 6.0)
    assert gaussian((-9.0, 1.0)).activated("relu").bounds(6) == (0.0, 0.0)
    assert gaussian((9.0, 0.5)).activated("relu").bounds(6) == (6.0, 12.0)
    assert wide.activated("relu6").activated("relu").support == (0.0, 6.0)
    assert wide.activated(None) is wide


def test_cumulative_has_atoms_where_values_are_clipped() -> None:
    at = torch.tensor([-0.1, 0.0, 1.0, 5.9, 6.0], dtype=torch.float64)
    found = gaussian((0.0, 1.0), (2.0, 0.0)).activated("relu6").cumulative(at)
    half = [0.5, 0.8413447, 1.0, 1.0]  # of the first channel; the second is the constant 2
    assert found.tolist() == pytest.approx([0.0] + [(p + (i > 1)) / 2 for i, p in enumerate(half)])


def test_concatenation_of_unlike_parts_keeps_their_moments() -> None:
    parts = [gaussian((0.0, 1.0)).activated("relu"), gaussian((5.0, 2.0))]
    both = concatenate(parts)
    mean, variance = both.moments()
    for i, part in enumerate(parts):
        assert (mean[i], variance[i]) == pytest.approx([float(v) for v in part.moments()])
    assert concatenate(parts[:1] * 2).clip == (0.0, math.inf)


class Probed(nn.Module):
    """A BatchNorm and ``values(network, image, normalised)``, each in front of a probe."""

    def __init__(self, channels: int, values: Callable[[Any, Tensor, Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.norm, self.values = nn.BatchNorm2d(channels), values
        self.conv, self.act = nn.Conv2d(channels, channels, 1), nn.PReLU()
        self.probes = nn.ModuleList(nn.Identity() for _ in range(24))
        self.pool, self.flat, self.drop = nn.MaxPool2d(2), nn.Flatten(), nn.Dropout2d()
        self.leaky = nn.LeakyReLU(0.25, inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        """[N, C, H, W]."""
        values = self.values(self, image, self.norm(self.conv(image)))
        return sum(probe(v).mean() for probe, v in zip(self.probes, values, strict=False))


def every(m: Any, image: Tensor, x: Tensor) -> list[Tensor]:
    """All operations that are followed."""
    r = F.relu(x)
    return [
        image,
        x,
        r,
        torch.relu(x),
        x.relu(),
        F.relu6(x),
        x + r,
        x.add(r),
        torch.add(r, x),
        m.pool(r),
        F.max_pool2d(r, 2),
        F.adaptive_avg_pool2d(r, 1),
        r.mean((2, 3)),
        torch.mean(r, dim=[-1, -2]),
        m.flat(r),
        torch.flatten(r, 1),
        r.view(r.size(0), -1),
        m.drop(r),
        F.dropout(r, 0.1, m.training),
        F.avg_pool2d(r, 2),
        r.contiguous(),
        r[:, :, ::2, 1:],
        torch.cat([r, r], 1),
        F.pad(r[:, :, ::2], (0, 0, 0, 0, 1, 2)),
    ]


def elementwise(m: Any, _: Tensor, x: Tensor) -> list[Tensor]:
    """Activation functions as modules, functions and methods."""
    return [
        F.leaky_relu(x, 0.25),
        F.leaky_relu(x, negative_slope=0.25, inplace=False),
        torch.tanh(x),
        x.tanh(),
        m.leaky(x),
    ]


def unknown(m: Any, _: Tensor, x: Tensor) -> list[Tensor]:
    """Operations whose result nothing says."""
    return [
        m.act(x),
        x * 2,
        x.view(-1, 2, 2, 16),
        x.transpose(1, 2),
        x.mean(1),
        x.flatten(),
        torch.cat([x, x], 2),
        x + m.act(x),
        x + 1,
        x[:, 1:],
        x[0],
        F.pad(x, (1, 1, 1, 1)),
        F.pad(x, (0, 0, 0, 0, 1, 1), value=1.0),
    ]


def test_followed_operations() -> None:
    model = Probed(2, every).eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([2.0, -1.0]))
        model.norm.bias.copy_(torch.tensor([0.5, -1.0]))
    model(torch.zeros(1, 2, 8, 8))
    found = input_distributions(model)
    seen = [found[f"probes.{i}"][0] for i in range(24)]
    assert found["conv"][0].mean.tolist() == [0.0]  # the image
    assert found["norm"] == [None]  # a convolution that remembers nothing
    base = gaussian((0.5, 2.0), (-1.0, 1.0))
    rectified = base.activated("relu")
    wanted = [gaussian((0.0, 1.0)), base, *[rectified] * 3, base.activated("relu6")]
    wanted += [base.plus(rectified)] * 3 + [rectified] * 13 + [concatenate([rectified] * 2)]
    nothing = Distribution.of(torch.zeros(1), torch.zeros(1)).activated("relu")
    padded = [nothing, rectified, nothing, nothing]  # the shortcut of ResNets without parameters
    mean, variance = (torch.cat(parts) for parts in zip(*(p.moments() for p in padded), strict=True))
    wanted.append(Distribution(mean, variance.sqrt(), support=(0.0, math.inf)))
    for index, (distribution, expected) in enumerate(zip(seen, wanted, strict=True)):
        assert distribution is not None, index
        assert torch.equal(distribution.mean, expected.mean), index
        assert torch.equal(distribution.std, expected.std), index
        assert (distribution.clip, distribution.support) == (expected.clip, expected.support)


def test_mapped_moments_range_and_chances_against_samples() -> None:
    base = gaussian((0.5, 2.0), (-1.0, 1.0), (1.0, 0.0))
    z = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = base.mean[:, None] + base.std[:, None] * z
    for function in (nn.LeakyReLU(0.1, inplace=True), nn.SiLU(), nn.Hardswish(), nn.Tanh()):
        values, found = function(x.clone()), mapped(base, function)
        mean, variance = found.moments()
        torch.testing.assert_close(mean, values.mean(1), atol=0.01, rtol=0)
        torch.testing.assert_close(variance, values.var(1), atol=0.02, rtol=0)
        low, high = found.bounds(4)
        reached = function((x.clone() - base.mean[:, None]).clamp(-8, 8) + base.mean[:, None])
        assert low <= float(values.quantile(1e-4)) + 1e-4
        assert float(values.quantile(0.9999)) <= high
        assert float(reached.min()) - 0.5 <= low
        assert high <= float(reached.max()) + 0.5
        at = torch.tensor([-0.2, 0.0, 0.3, 1.5], dtype=torch.float64)
        chances = torch.stack([(values <= t).double().mean() for t in at])
        torch.testing.assert_close(found.cumulative(at), chances, atol=0.01, rtol=0)


def test_mapped_ranges_by_hand() -> None:
    leaky = mapped(gaussian((0.0, 1.0)), nn.LeakyReLU(0.1))
    assert leaky.bounds(4) == pytest.approx((-0.4, 4.0))
    assert leaky.support == (-math.inf, math.inf)
    assert leaky.activated("relu").bounds(4) == pytest.approx((0.0, 4.0))
    assert mapped(leaky, nn.LeakyReLU(0.1)).bounds(4) == pytest.approx((-0.04, 4.0))
    rectified = gaussian((0.0, 1.0)).activated("relu")
    assert mapped(rectified, lambda v: v + 1).bounds(4) == pytest.approx((1.0, 5.0))
    low, high = mapped(gaussian((0.0, 1.0)), nn.SiLU()).support
    assert (low, high) == (pytest.approx(-0.27846, abs=1e-4), math.inf)
    assert mapped(gaussian((0.0, 1.0)), nn.Sigmoid()).support == pytest.approx((0.0, 1.0))
    mean, variance = concatenate([leaky, rectified]).moments()
    assert mean.tolist() == pytest.approx([float(p.moments()[0]) for p in (leaky, rectified)])
    assert variance.tolist() == pytest.approx([float(p.moments()[1]) for p in (leaky, rectified)])
    assert leaky.plus(leaky).support == (-math.inf, math.inf)


def test_followed_activation_functions() -> None:
    found = input_distributions(Probed(1, elementwise).eval())
    bounds = [found[f"probes.{i}"][0].bounds(2) for i in range(5)]
    top = math.tanh(2)
    wanted = [(-0.5, 2.0)] * 2 + [(-top, top)] * 2 + [(-0.5, 2.0)]
    assert bounds == [pytest.approx(pair, abs=1e-4) for pair in wanted]


def test_operations_that_are_not_followed() -> None:
    found = input_distributions(Probed(4, unknown).eval())
    assert [found[f"probes.{i}"] for i in range(13)] == [[None]] * 13


def test_remembered_moments_and_reused_modules() -> None:
    conv, relu = nn.Conv2d(2, 2, 1), nn.ReLU()
    set_output_moments(conv, torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2]))
    network: Any = nn.Sequential(conv, relu, nn.BatchNorm2d(2), relu)
    first, second = input_distributions(network)["1"]
    assert first.mean.tolist() == [1.0, 2.0]
    assert second.mean.tolist() == [0.0, 0.0]
    assert len(input_distributions(build("odd")[0])["relu"]) == 4
