"""SQuant: sums of rounding errors vanish; against a literal loop over kernels and elements."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.ops import reference
from hast_cuda.posttraining import squant
from hast_cuda.posttraining.squant import flip, flipped_codes

SHAPES = {"3x3": (6, 5, 9), "wide": (3, 7, 25), "depthwise": (8, 1, 9), "1x1": (6, 40, 1)}


def stage(codes: list[float], exact: list[float], allowed: list[int], bits: int) -> int | None:
    """One stage on one row, element by element; changes ``codes``, gives the next candidate."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    residuals = [q - x for q, x in zip(codes, exact, strict=True)]
    total = sum(residuals)
    movable = []
    for i in allowed:
        up = residuals[i] < 0 and exact[i] < high
        down = residuals[i] > 0 and exact[i] > low
        if (total < 0 and up) or (total > 0 and down):
            movable.append(i)
    movable.sort(key=lambda i: -abs(residuals[i]))
    count = round(abs(total))
    for i in movable[:count]:
        codes[i] += 1 if total < 0 else -1
    if total == 0:
        return None
    following = count - 1 if count >= abs(total) else count
    return movable[following] if following < len(movable) else None


def oracle(exact: Tensor, bits: int) -> Tensor:
    """Codes for [out, in, positions]."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    out, inputs, positions = exact.shape
    result = torch.zeros_like(exact)
    for o in range(out):
        codes, values, allowed = [], [], []
        for i in range(inputs):
            row = [float(v) for v in exact[o, i]]
            kernel = [float(min(max(round(v), low), high)) for v in row]
            candidates = list(range(positions))
            if positions > 1:
                found = stage(kernel, row, candidates, bits)
                candidates = [] if found is None else [found]
            allowed += [len(codes) + c for c in candidates]
            codes += kernel
            values += row
        stage(codes, values, allowed, bits)
        result[o] = torch.tensor(codes).reshape(inputs, positions)
    return result


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equals_the_loop(device: torch.device, shape: tuple[int, int, int], bits: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    half = 2 ** (bits - 1)
    exact = torch.randn(shape, generator=random, dtype=torch.float64) * half * 0.8
    exact.clamp_(-half - 0.4, half - 0.6)  # some beyond the ends, where a code cannot move
    assert torch.equal(flipped_codes(exact.to(device), bits).cpu(), oracle(exact, bits))


def test_hand_computed_kernel_and_channel() -> None:
    kernels = torch.tensor([[[0.4, 0.3, 0.45, 0.1], [0.3, 0.2, -0.3, 0.0]]])
    # Kernel 1: e = -1.25, so one code goes up: 0.45. -0.25 is left; next is 0.4.
    # Kernel 2: e = -0.2, nothing moves; next is 0.3. Channel: e = -0.45, nothing moves.
    assert flipped_codes(kernels, 4).tolist() == [[[0, 0, 1, 0], [0, 0, 0, 0]]]
    kernels[0, 1, 3] = 0.15
    # Kernel 2: -0.35. Channel: -0.6, so one of the two candidates goes up, the larger: 0.4.
    assert flipped_codes(kernels, 4).tolist() == [[[1, 0, 1, 0], [0, 0, 0, 0]]]


def test_last_flipped_can_be_flipped_back() -> None:
    up = [0.45, 0.3, 0.02, 0.0]  # e = -0.77: 0.45 goes up, 0.23 too far; it may go back
    kernels = torch.tensor([[up, up, up, [0.0] * 4]])
    # Channel: 3 * 0.23 = 0.69, so one candidate goes down: 0.45, whose residual is now the largest.
    assert flipped_codes(kernels, 4).sum(-1).tolist() == [[0, 1, 1, 0]]


def test_sums_of_zero_move_nothing_and_give_no_candidate() -> None:
    exact = torch.tensor([[0.25, -0.25, 0.0], [1.0, 2.0, -3.0]], dtype=torch.float64)
    codes, following = flip(exact.round(), exact, torch.ones(2, 3, dtype=torch.bool), -4, 3)
    assert torch.equal(codes, exact.round())
    assert not bool(following.any())


def layers(bits: int) -> nn.Module:
    """Every kind of layer that has weights."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(4, 16, 3),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 8, 5, groups=4),
        nn.Conv2d(8, 8, (1, 3)),
        nn.Conv2d(8, 24, 1),
        nn.Flatten(),
        nn.Linear(48, 10),
    )
    with torch.no_grad():
        network[0].weight[0] = 0.0  # a dead channel
        network[4].weight[1] = 0.3  # a constant one
    return hc.quantize(network, bits, None)


def residuals(layer: nn.Module, exact: Tensor, zero_point: str) -> tuple[Tensor, Tensor]:
    """[out, in, positions] in units of the grid, after and before; grid of the exact weights."""
    rows = exact.flatten(1)
    scale, zero = reference.quantizer_parameters(
        rows.amin(1, keepdim=True), rows.amax(1, keepdim=True), layer.weight_bits, real_zero_point=zero_point == "real"
    )
    x = scale * rows - zero
    found = (scale * layer.weight.detach().flatten(1) - zero).round()
    shape = (*exact.shape[:2], -1)
    return ((found - x).double().reshape(shape), (x.round() - x).double().reshape(shape))


@pytest.mark.parametrize("zero_point", ["integer", "real"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_sums_of_errors(device: torch.device, bits: int, zero_point: str) -> None:
    model = layers(bits).to(device)
    for layer in model:
        layer.zero_point = zero_point
    before = copy.deepcopy(model)
    assert squant(model) is model
    for layer, old in zip(model, before, strict=True):
        if isinstance(layer, nn.Flatten):
            continue
        after, nearest = residuals(layer, old.weight.detach(), zero_point)
        constant = old.weight.flatten(1).amax(1) == old.weight.flatten(1).amin(1)
        after, nearest = after[~constant], nearest[~constant]
        tolerance = 1e-3
        assert float(after.sum((1, 2)).abs().max()) <= 0.5 + tolerance
        assert float(after.abs().max()) < 1 + tolerance  # a neighbour of the exact value
        assert float((after - nearest).abs().max()) <= 1 + tolerance
        if after.shape[2] > 1:  # one candidate per kernel may have moved for the channel's sake
            kernels = after.sum(2).abs()
            assert float(kernels.max()) <= 1 + tolerance
        if after.shape[1] > 1:
            assert float(nearest.sum((1, 2)).abs().max()) > 0.6  # rounding to nearest does not


def test_stage_k_alone_bounds_every_kernel() -> None:
    exact = torch.randn(20, 30, 9, dtype=torch.float64).clamp(-3, 3) * 2
    everywhere = torch.ones_like(exact, dtype=torch.bool)
    codes, following = flip(exact.round(), exact, everywhere, -8, 7)
    assert float((codes - exact).sum(-1).abs().max()) <= 0.5
    assert float((exact.round() - exact).sum(-1).abs().max()) > 1
    assert torch.equal(following.sum(-1), torch.ones(20, 30, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_quantizing_again_changes_nothing(device: torch.device, dtype: torch.dtype) -> None:
    model = squant(layers(3).to(device, dtype))
    for layer in model:
        if not isinstance(layer, nn.Flatten):
            assert torch.equal(layer.quantized_weight(), layer.weight)
            assert layer.weight_range.dtype == reference.arithmetic_dtype(dtype)
    once = {k: v.clone() for k, v in model.state_dict().items()}
    squant(model)
    assert all(torch.equal(v, once[k]) for k, v in model.state_dict().items())


def test_shared_weights_are_rounded_once() -> None:
    conv, twin = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    twin.weight = conv.weight
    model = squant(hc.quantize(nn.Sequential(conv, twin), 3, None))
    for layer in model:
        assert torch.equal(layer.quantized_weight(), layer.weight)


def test_error_of_outputs_with_a_mean_falls() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(16, 16, 3).requires_grad_(False)
    x = 1 + 0.2 * torch.randn(4, 16, 8, 8)  # inputs that are not centred, as after ReLU
    student = hc.quantize(network, 3, None)
    nearest = (student(x) - network(x)).square().mean()
    assert (squant(student)(x) - network(x)).square().mean() < 0.1 * nearest


def test_a_whole_network_stays_finite_and_keeps_its_activations() -> None:
    model = hc.quantize(get_model("resnet20_cifar10", pretrained=False).eval(), 3, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    squant(model)
    for key, value in model.state_dict().items():
        if key.endswith("weight_range"):
            assert math.isfinite(float(value.sum()))
        elif not (key.endswith("weight") and value.dim() > 1):
            assert torch.equal(value, before[key]), key


def test_refused_networks() -> None:
    with pytest.raises(ValueError, match=r"no quantized layer: give what hast_cuda.quantize"):
        squant(nn.Conv2d(1, 1, 1))
    model = layers(4)
    with torch.no_grad():
        model[2].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="the weights of '2' contain NaN or infinity"):
        squant(model)
    assert model[0].weight_range is None
