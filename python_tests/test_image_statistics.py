"""Gaps of images' statistics, and BatchNorm estimated anew on them."""

from __future__ import annotations

import pytest
import torch
from networks import CHANNELS, pictures, tiny
from torch import nn

from hast_cuda.analysis import reestimate_batch_norms, statistic_gaps


def one_layer(mean: list[float], var: list[float]) -> nn.Sequential:
    layer = nn.BatchNorm2d(len(mean))
    layer.running_mean, layer.running_var = torch.tensor(mean), torch.tensor(var)
    return nn.Sequential(layer)


def test_gaps_by_hand() -> None:
    # channels with values (0, 2) and (1, 5): means 1 and 3, variances 1 and 4
    images = torch.tensor([[[[0.0, 2.0]], [[1.0, 5.0]]]])
    found = statistic_gaps(one_layer([1.0, 0.0], [1.0, 2.0]), images)
    scale = 1.5
    assert list(found) == ["0"]
    assert found["0"].mean == pytest.approx((0 + 3) / 2 / scale**0.5)
    assert found["0"].variance == pytest.approx((0 + 2) / 2 / scale)
    dead = statistic_gaps(one_layer([1.0, 3.0], [0.0, 0.0]), images)["0"]
    assert (dead.mean, dead.variance) == (0, pytest.approx(2.5))


def test_gaps_do_not_depend_on_the_batches() -> None:
    whole, parts = (statistic_gaps(tiny(), pictures(12), batch_size=size) for size in (12, 5))
    assert list(whole) == list(parts)
    for name, gap in whole.items():
        assert gap.mean == pytest.approx(parts[name].mean, rel=1e-5)
        assert gap.variance == pytest.approx(parts[name].variance, rel=1e-5)


def test_statistics_of_the_images_themselves_leave_no_gap() -> None:
    images, network = pictures(12), tiny()
    anew = reestimate_batch_norms(network, images, batch_size=12)
    before, after = statistic_gaps(network, images), statistic_gaps(anew, images)
    for name, gap in after.items():
        # running variances are unbiased: n / (n - 1) of the biased one
        assert gap.mean < 1e-3
        assert gap.variance < 0.02
        assert before[name].mean > 10 * gap.mean
    assert not any(m.training for m in anew.modules())
    momenta = [m.momentum for m in anew.modules() if isinstance(m, nn.BatchNorm2d)]
    assert momenta == [0.1] * len(momenta)


def test_the_network_stays_as_it_was() -> None:
    network = tiny().train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    statistic_gaps(network, pictures(12))
    reestimate_batch_norms(network, pictures(12))
    assert network.training
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert not any(m._forward_pre_hooks for m in network.modules())


def test_errors() -> None:
    plain = nn.Sequential(nn.Conv2d(CHANNELS, 4, 3))
    with pytest.raises(ValueError, match="reaches no BatchNorm layer with running statistics"):
        statistic_gaps(plain, pictures(12))
    with pytest.raises(ValueError, match="no BatchNorm layer with running statistics to estimate"):
        reestimate_batch_norms(plain, pictures(12))
    with pytest.raises(ValueError, match=r"images is \[0, "):
        statistic_gaps(tiny(), pictures(12)[:0])
    with pytest.raises(ValueError, match="batch_size is 0"):
        reestimate_batch_norms(tiny(), pictures(12), batch_size=0)
