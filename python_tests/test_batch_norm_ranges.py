"""Activation ranges from BatchNorm parameters: values, least error, and what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from foldable import build, unit
from networks import Branching, DoubledNorm, hooked_norm
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.moments import batch_norm_ranges
from hast_cuda.moments.distribution import Distribution
from hast_cuda.moments.range_search import smallest_error_range
from hast_cuda.nn import activation_quantizers
from hast_cuda.posttraining import correct_biases, fold_batch_norms


def ranges(model: nn.Module) -> dict[str, tuple[float, float]]:
    """(lower, upper) of every quantizer."""
    return {n: (float(q.lower), float(q.upper)) for n, q in activation_quantizers(model).items()}


class Block(nn.Module):
    """A residual block behind a stem; the same ReLU everywhere; classifier on pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = unit(3, 2, None, kernel_size=1), unit(2, 2, None, kernel_size=1)
        self.relu, self.last, self.unused = nn.ReLU(), nn.ReLU6(), nn.ReLU()
        self.output = nn.Linear(2, 3)
        with torch.no_grad():
            for norm, gamma, beta in (
                (self.stem[1], [1.0, -0.5], [0.5, 1.0]),
                (self.body[1], [0.25, 2.0], [0.0, -1.0]),
            ):
                norm.weight.copy_(torch.tensor(gamma))
                norm.bias.copy_(torch.tensor(beta))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 3]."""
        x = self.relu(self.stem(x))
        y = self.relu(self.body(x))
        x = self.last(x + y)
        result: Tensor = self.output(x.mean((2, 3)))
        return result


def block_ranges(placement: str, width: float) -> dict[str, list[float]]:
    """Expected ranges of the block, computed from the definition."""
    stem = Distribution.of(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.5])).activated("relu")
    body = Distribution.of(torch.tensor([0.0, -1.0]), torch.tensor([0.25, 2.0])).activated("relu")
    (mean, var), (more, spread) = stem.moments(), body.moments()
    total = float((mean + more + width * (var + spread).sqrt()).max())
    low = max(float((mean + more - width * (var + spread).sqrt()).min()), 0.0)
    first, second = max(0.5 + width, 1 + width * 0.5), max(width * 0.25, -1 + 2 * width)
    if placement == "relu":
        return {"relu": [0.0, max(first, second)], "last": [low, min(total, 6.0)]}
    return {
        "stem.0.input_quantizer": [-width, width],
        "body.0.input_quantizer": [0.0, first],
        "output.input_quantizer": [low, min(total, 6.0)],
    }


@pytest.mark.parametrize(("bits", "taken"), [(3, 3.0), (4, 4.0), (5, 4.5), (8, 5.5)])
def test_few_bits_take_narrow_ranges(bits: int, taken: float) -> None:
    narrow, plain = (hc.quantize(Block().eval(), 4, bits) for _ in range(2))
    assert ranges(batch_norm_ranges(narrow, 5.5, narrow=True)) == ranges(batch_norm_ranges(plain, taken))


@pytest.mark.parametrize("width", [1.0, 6.0])
@pytest.mark.parametrize("placement", ["relu", "all"])
def test_values_by_hand(device: torch.device, placement: str, width: float) -> None:
    model = hc.quantize(Block().eval().to(device), 4, 4, placement=placement)
    assert batch_norm_ranges(model, width) is model
    found = ranges(model)
    for name, expected in block_ranges(placement, width).items():
        assert found.pop(name) == pytest.approx(expected, rel=1e-6), name
    assert set(found) == ({"unused"} if placement == "relu" else set())
    assert all(not q.observing and bool(q.frozen) for q in activation_quantizers(model).values())
    model(torch.randn(2, 3, 4, 4, device=device) * 100)
    assert ranges(model)[name] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["resnet20", "inverted"])
@pytest.mark.parametrize("placement", ["relu", "all"])
def test_folding_changes_no_range(name: str, placement: str) -> None:
    network, _ = build(name, torch.float32)
    plain, folded = (
        ranges(batch_norm_ranges(hc.quantize(m, 4, 4, placement=placement)))
        for m in (network, fold_batch_norms(network))
    )
    assert plain.keys() == folded.keys()
    for key, bounds in plain.items():
        assert folded[key] == pytest.approx(bounds, rel=1e-5), key


def test_ranges_hold_what_calibration_finds() -> None:
    torch.manual_seed(0)
    first, second = (unit(c, 8, nn.ReLU(), kernel_size=3) for c in (3, 8))
    network = nn.Sequential(first, second)
    with torch.no_grad():
        for norm in (first[1], second[1]):
            norm.momentum = None  # statistics of all batches
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.5)
        for _ in range(5):
            network(torch.randn(32, 3, 12, 12))
    network.eval()
    model = batch_norm_ranges(hc.quantize(network, 8, 8), 4.0)
    measured = hc.calibrate(hc.quantize(network, 8, 8), [torch.randn(64, 3, 12, 12)] * 3)
    for name, (_, upper) in ranges(measured).items():
        assert 0.7 * upper < ranges(model)[name][1] < 1.6 * upper


def gaussian(mean: float, std: float) -> Distribution:
    return Distribution.of(torch.tensor([mean]), torch.tensor([std]))


@pytest.mark.parametrize(
    ("bits", "step"),
    [(4, 0.3352), (5, 0.1881), (8, 0.0308)],  # Max, "Quantizing for minimum distortion", 1960
)
def test_best_step_of_a_standard_normal(bits: int, step: float) -> None:
    lower, upper = smallest_error_range([gaussian(0.0, 1.0)], bits)
    assert (upper - lower) / (2**bits - 1) == pytest.approx(step, rel=0.03)
    assert -lower == pytest.approx(upper, abs=2.5 * step)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(
    ("activation", "mean", "std"), [("relu", 0.0, 1.0), ("relu", -2.0, 3.0), ("relu6", 3.0, 3.0), (None, 1.0, 2.0)]
)
def test_no_other_range_has_a_smaller_error(bits: int, activation: str | None, mean: float, std: float) -> None:
    distribution = gaussian(mean, std).activated(activation)
    z = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    x = (mean + std * z).clamp(*distribution.clip)

    def error(lower: float, upper: float) -> float:
        return (x - hc.fake_quantize(x, lower, upper, bits)).square().mean().item()

    low, high = distribution.bounds(6)
    best = min(error(low * a / 40, high * b / 40) for a in (range(1, 41, 3) if low < 0 else [40]) for b in range(1, 41))
    found = error(*smallest_error_range([distribution], bits))
    assert found <= 1.01 * best
    # ReLU6 has a sixth of its values at the upper end, which is then worth a code.
    assert found < (1.0 if activation == "relu6" else 0.9) * error(low, high)


def test_reused_quantizer_serves_all_its_places() -> None:
    narrow, wide = gaussian(0.0, 1.0).activated("relu"), gaussian(0.0, 10.0).activated("relu")
    (_, a), (_, both), (_, b) = (smallest_error_range(seen, 4) for seen in ([narrow], [narrow, wide], [wide]))
    assert 2 * a < both <= b
    assert smallest_error_range([gaussian(-9.0, 1.0).activated("relu")], 4) == (0.0, 0.0)


@pytest.mark.parametrize("placement", ["relu", "all"])
def test_width_0_uses_every_quantizers_own_bits(placement: str) -> None:
    network, x = build("resnet20", torch.float32)
    uppers = []
    for bits in (2, 4):
        model = batch_norm_ranges(hc.quantize(network, 4, bits, placement=placement, sum_bits=bits), 0)
        uppers.append([upper for _, upper in ranges(model).values()])
        assert torch.isfinite(model(x)).all()
    assert all(low < high for low, high in zip(*uppers, strict=True))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Branching(), r"torch.fx cannot follow .*calibrate the network with images instead"),
        (
            nn.Sequential(unit(3, 3, nn.ReLU(), kernel_size=1), nn.Conv2d(3, 2, 1), nn.ReLU()),
            r"in front of the quantizer '2' is unknown: .* calibrate the network with images",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 1), nn.TransformerEncoderLayer(4, 2, 8)),
            r"the quantizer '1\.activ' is unknown",
        ),
    ],
)
def test_unknown_distributions_are_refused_and_change_nothing(network: nn.Module, message: str) -> None:
    if isinstance(network, nn.Sequential) and len(network) == 2:
        network[1].activ = nn.ReLU()  # inside a module that is one node of the graph
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 layers stay in full precision")  # the attention
        model = hc.quantize(network.eval(), 4, 4)
    before = ranges(model)
    with pytest.raises(ValueError, match=message):
        batch_norm_ranges(model)
    assert ranges(model) == before
    assert all(q.observing for q in activation_quantizers(model).values())


@pytest.mark.parametrize("norm", [DoubledNorm(3), hooked_norm(3)])
def test_a_batch_norm_that_does_more_is_refused(norm: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 2, 1)).eval()
    model = hc.quantize(network, 4, 4, placement="all")
    message = rf"layer '1' \({type(norm).__name__}\) has running statistics but .* calibrate with images"
    with pytest.raises(ValueError, match=message):
        batch_norm_ranges(model)
    with pytest.raises(ValueError, match=message):
        correct_biases(model, network)
    assert all(q.observing for q in activation_quantizers(model).values())


def test_refused_values() -> None:
    model = hc.quantize(unit(3, 3, nn.ReLU(), kernel_size=1).eval(), 4, 4)
    for width in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"width is .*; allowed: 0 or more, finite"):
            batch_norm_ranges(model, width)
    with torch.no_grad():
        model[1].bias[0] = float("nan")
    for width in (0.0, 6.0):
        with pytest.raises(ValueError, match="in front of the quantizer '2' are not finite"):
            batch_norm_ranges(model, width)


def test_weights_only_needs_nothing() -> None:
    model = hc.quantize(Branching(), 4, None)
    assert batch_norm_ranges(model) is model
