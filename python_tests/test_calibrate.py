"""Calibration: ranges from images, frozen for ever, found anew each time, and shrunk if asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.nn import activation_quantizers


class Passing(nn.Module):
    """The identity under the hood of a linear layer, so that ranges can be read off the images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ReLU()
        self.second = nn.ReLU6()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.first(x)) + self.head(self.second(-x))
        return result


def network(device: torch.device) -> nn.Module:
    """A small student with BatchNorm and Dropout, in training mode."""
    return hc.quantize(
        nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        ).to(device),
        4,
        4,
    )


def images(device: torch.device, count: int = 3) -> list[Tensor]:
    """Batches of different scale."""
    return [torch.randn(4, 1, 8, 8, device=device) * (i + 1) for i in range(count)]


def ranges(model: nn.Module) -> list[Tensor]:
    """A copy of every range state."""
    return [q.range_state.clone() for q in activation_quantizers(model).values()]


def test_ranges_are_the_corrected_average(device: torch.device) -> None:
    model = hc.quantize(Passing().to(device), 4, 4)
    batches = [torch.randn(5, 4, device=device) * scale for scale in (1, 3, 0.5, 9)]
    hc.calibrate(model, batches)
    powers = torch.tensor([0.9**3, 0.9**2, 0.9, 1.0], dtype=torch.float64) / 10
    weights = powers / (1 - 0.9**4)
    for name, function in (("first", torch.relu), ("second", lambda x: (-x).clamp(0, 6))):
        seen = torch.stack([torch.stack(torch.aminmax(function(b))) for b in batches]).double()
        quantizer = activation_quantizers(model)[name]
        expected = (weights.to(device)[:, None] * seen).sum(0).float()
        torch.testing.assert_close(quantizer.range_state[:2], expected, rtol=1e-5, atol=1e-6)


def test_frozen_for_ever_afterwards(device: torch.device) -> None:
    model = network(device)
    assert hc.calibrate(model, images(device)) is model
    before = ranges(model)
    assert all(not q.observing and bool(q.frozen) for q in activation_quantizers(model).values())
    for mode in (True, False):
        model.train(mode)
        model(torch.randn(4, 1, 8, 8, device=device) * 100)
    assert all(torch.equal(a, b) for a, b in zip(ranges(model), before, strict=True))


def test_nothing_else_changes(device: torch.device) -> None:
    model = network(device)
    model[1].eval()  # a frozen BatchNorm inside a network in training
    before = {k: v.clone() for k, v in model.state_dict().items()}
    hc.calibrate(model, images(device))
    assert [m.training for m in model] == [True, False] + [True] * 6
    assert model.training
    for key, value in model.state_dict().items():
        if not key.endswith(("range_state", "frozen")):
            assert torch.equal(value, before[key])
    assert all(p.grad is None for p in model.parameters())
    assert all(getattr(m, "cached_weight", None) is None for m in model)


def test_calibrating_again_starts_anew(device: torch.device) -> None:
    batches = images(device)
    model = hc.calibrate(network(device), batches)
    once = ranges(model)
    hc.calibrate(model, [b * 50 for b in batches])
    assert not torch.equal(ranges(model)[0], once[0])
    hc.calibrate(model, batches)
    assert all(torch.equal(a, b) for a, b in zip(ranges(model), once, strict=True))


def test_frozen_also_after_an_exception(device: torch.device) -> None:
    model = network(device)

    def breaking() -> Iterator[Tensor]:
        yield images(device)[0]
        raise OSError("the data ended badly")

    with pytest.raises(OSError, match="the data ended badly"):
        hc.calibrate(model, breaking())
    assert all(not q.observing for q in activation_quantizers(model).values())
    assert model.training
    assert all(getattr(m, "cached_weight", None) is None for m in model)


def test_no_batch_is_refused_and_keeps_the_ranges(device: torch.device) -> None:
    model = hc.calibrate(network(device), images(device))
    before = ranges(model)
    with pytest.raises(ValueError, match="needs at least one batch of images, got none"):
        hc.calibrate(model, [])
    assert all(torch.equal(a, b) for a, b in zip(ranges(model), before, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_broken_images_name_the_layer(device: torch.device, value: float) -> None:
    batch = images(device)[0]
    batch[1, 0, 2, 2] = value
    message = "activation range of '2' is not finite after calibration: the images"
    with pytest.raises(ValueError, match=message):
        hc.calibrate(network(device), [batch])


def single(device: torch.device, activation: str | None, x: Tensor) -> nn.Module:
    """One 3-bit quantizer, calibrated on ``x``."""
    model = nn.Sequential(hc.FakeQuantActivation(3, activation=activation)).to(device)
    return hc.calibrate(model, [x])


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_shrinking_finds_the_best_candidate(device: torch.device, activation: str | None, power: float) -> None:
    x = torch.randn(1, 1, 32, 32, device=device).exp()
    x[0, 0, 0, 0] = -x.max()
    model = single(device, activation, x)
    lower, upper = model[0].lower.clone(), model[0].upper.clone()
    assert hc.shrink_ranges(model, x, candidates=5, smallest=0.2, power=power) is model
    x = torch.relu(x) if activation else x
    errors = {
        f: float((hc.fake_quantize(x, lower * f, upper * f, 3) - x).abs().pow(power).mean())
        for f in (1.0, 0.8, 0.6, 0.4, 0.2)
    }
    best = min(errors, key=errors.__getitem__)
    assert best < 1
    assert float(model[0].upper) == pytest.approx(best * float(upper), rel=1e-6)


def test_shrinking_keeps_a_range_that_fits(device: torch.device) -> None:
    x = torch.arange(-4.0, 4.0, device=device).repeat(8).reshape(1, 1, 8, 8)  # the grid itself
    model = single(device, None, x)
    before = model[0].range_state[:2].clone()
    hc.shrink_ranges(model, x)
    assert torch.equal(model[0].range_state[:2], before)
    torch.testing.assert_close(model(x), x, rtol=0, atol=1e-5)


class Shared(nn.Module):
    """One quantizer for three maps of different size, the last the smallest."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = hc.FakeQuantActivation(3, activation="relu")
        self.again = self.relu
        self.places = [self.relu, self.again, self.relu]

    def forward(self, x: Tensor) -> Tensor:
        for place, factor in zip(self.places, (1.0, 6.0, 0.05), strict=True):
            x = place(x * factor)
        return x


def test_a_quantizer_used_in_several_places_has_the_range_that_suits_them_all(device: torch.device) -> None:
    x = torch.randn(2, 1, 16, 16, device=device)
    model = Shared().to(device)
    hc.calibrate(model, [x])
    upper, inputs = float(model.relu.upper), []
    hook = model.relu.register_forward_pre_hook(lambda _, args: inputs.append(args[0].relu()))
    hc.shrink_ranges(model, x, candidates=9)
    hook.remove()  # it was there first: it has seen what the searches saw

    def error(end: float) -> float:
        return sum(float((hc.fake_quantize(seen, 0.0, end, 3) - seen).square().mean()) for seen in inputs)

    assert len(inputs) == 3
    best = min((upper * (1 - 0.1 * step) for step in range(9)), key=error)
    assert float(model.relu.upper) == pytest.approx(best, rel=1e-6)
    assert error(best) < 0.5 * error(0.2 * upper)


def test_shrinking_sees_quantized_inputs_and_restores_the_network(device: torch.device) -> None:
    model = hc.calibrate(network(device), images(device))
    model[1].eval()
    hc.shrink_ranges(model, images(device)[0], candidates=4)
    assert [m.training for m in model] == [True, False] + [True] * 6
    before = ranges(model)
    model(images(device)[0])  # the search hooks are gone
    assert all(torch.equal(a, b) for a, b in zip(ranges(model), before, strict=True))
    assert all(getattr(m, "cached_weight", None) is None for m in model)


def test_shrinking_an_open_range_is_refused(device: torch.device) -> None:
    with pytest.raises(ValueError, match="range of '2' is not frozen: calibrate it first"):
        hc.shrink_ranges(network(device), images(device)[0])


class TwoWays(nn.Module):
    """A branch that is a matter of options."""

    deep = False

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.more = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv(x))
        return self.more(-y) if self.deep else y


def test_quantizers_that_no_image_reached_are_named() -> None:
    student, images = hc.quantize(TwoWays(), 8, 8), torch.randn(4, 3, 4, 4)
    with pytest.warns(UserWarning, match=r"no image reached 1 of 2 quantizers \('more'\)"):
        hc.calibrate(student, [images])
    student.deep = True
    hc.calibrate(student, [images, images])
