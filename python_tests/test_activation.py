"""FakeQuantActivation: the range is tracked, frozen, kept exactly, and carried along."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from conftest import DTYPES
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import hast_cuda as hc
from hast_cuda.nn.layers import quantizers_aside
from hast_cuda.ops import reference


def observed(device: torch.device, **options: object) -> hc.FakeQuantActivation:
    """A quantizer on ``device`` that has seen three batches."""
    quantizer = hc.FakeQuantActivation(4, **options).to(device)  # type: ignore[arg-type]
    for scale in (1.0, 3.0, 0.5):
        quantizer(torch.randn(2, 3, 4, 4, device=device) * scale)
    return quantizer


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("ema", ["corrected", "released"])
@pytest.mark.parametrize("beta", [0.9, 0.5, 0.0])
def test_tracks_the_moving_average(device: torch.device, activation: str | None, ema: str, beta: float) -> None:
    quantizer = hc.FakeQuantActivation(4, activation=activation, ema=ema, beta=beta).to(device)
    state = hc.new_range_state(device=device)
    for _ in range(4):
        x = torch.randn(3, 5, device=device) * 4
        quantizer(x)
        reference.update_range(x, state, activation=activation, beta=beta, released=ema == "released")
    torch.testing.assert_close(quantizer.range_state, state, rtol=1e-6, atol=1e-7)
    assert torch.equal(quantizer.lower, quantizer.range_state[0])
    assert torch.equal(quantizer.upper, quantizer.range_state[1])


def test_freeze_fixes_the_range_and_unfreeze_frees_it(device: torch.device) -> None:
    quantizer = observed(device)
    quantizer.freeze()
    before = quantizer.range_state.clone()
    quantizer(torch.full((4,), 100.0, device=device))
    assert torch.equal(quantizer.range_state, before)
    assert (quantizer.observing, bool(quantizer.frozen)) == (False, True)
    quantizer.unfreeze()
    quantizer(torch.full((4,), 100.0, device=device))
    assert float(quantizer.upper) > float(before[1])
    assert (quantizer.observing, bool(quantizer.frozen)) == (True, False)


@pytest.mark.parametrize("frozen", [False, True])
def test_set_range_is_exact_and_keeps_the_state(device: torch.device, frozen: bool) -> None:
    quantizer = observed(device)
    if frozen:
        quantizer.freeze()
    quantizer.set_range(-1.5, torch.tensor(2.5, device=device))
    assert quantizer.range_state.tolist() == [-1.5, 2.5, -1.5, 2.5, 0]
    assert quantizer.observing is not frozen


def test_tracking_continues_from_a_set_range(device: torch.device) -> None:
    quantizer = hc.FakeQuantActivation(4).to(device)
    quantizer.set_range(-1.0, 2.0)
    quantizer(torch.tensor([-3.0, 12.0], device=device))
    assert float(quantizer.lower) == pytest.approx(-1.2)
    assert float(quantizer.upper) == pytest.approx(3.0)


@pytest.mark.parametrize("frozen", [False, True])
def test_state_dict_carries_range_and_freeze(device: torch.device, frozen: bool) -> None:
    source, target = observed(device), hc.FakeQuantActivation(4).to(device)
    if frozen:
        source.freeze()
    else:
        target.freeze()  # loading must also thaw
    target.load_state_dict(source.state_dict())
    assert set(source.state_dict()) == {"range_state", "frozen"}
    assert torch.equal(target.range_state, source.range_state)
    assert target.observing is not frozen
    x = torch.randn(50, device=device) * 9
    assert torch.equal(target(x), source(x))
    assert torch.equal(target.range_state, source.range_state)


def test_half_methods_and_back(device: torch.device) -> None:
    quantizer = observed(device)
    before = quantizer.range_state.clone()
    assert torch.equal(nn.Sequential(quantizer.half()).to(device, torch.bfloat16)[0].lower, before[0])
    assert torch.equal(quantizer.half().range_state, before)
    assert torch.equal(quantizer.bfloat16().float().range_state, before)
    assert quantizer.double().range_state.dtype == torch.float64
    assert torch.equal(quantizer.half().range_state, before.double())
    assert torch.equal(quantizer.float().range_state, before)


@pytest.mark.parametrize("module_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("frozen", [False, True])
def test_any_module_dtype_takes_any_input(
    device: torch.device, module_dtype: torch.dtype, dtype: torch.dtype, frozen: bool
) -> None:
    quantizer = observed(device).to(module_dtype)
    if frozen:
        quantizer.freeze()
    x = torch.randn(40, device=device).to(dtype)
    y = quantizer(x)
    bounds = quantizer.range_state.to(reference.arithmetic_dtype(dtype))
    assert y.dtype == dtype
    assert torch.equal(y, reference.fake_quantize(x, bounds[0:1], bounds[1:2], 4))


def test_moves_to_meta_and_back_without_reading_values(device: torch.device) -> None:
    quantizer = observed(device).to("meta")
    assert quantizer.range_state.is_meta
    assert quantizer(torch.empty(2, 3, device="meta")).shape == (2, 3)
    assert quantizer.to_empty(device=device).range_state.device.type == device.type


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_independent(device: torch.device, copied: object) -> None:
    source = observed(device, activation="relu6", ste="clipped", ema="released", beta=0.8)
    source.freeze()
    twin = copied(source)  # type: ignore[operator]
    assert repr(twin) == repr(source)
    assert (twin.beta, twin.observing) == (0.8, False)
    x = torch.randn(30, device=device)
    assert torch.equal(twin(x), source(x))
    twin.set_range(0.0, 0.125)
    assert float(source.upper) != 0.125


@pytest.mark.parametrize("ste", ["identity", "clipped"])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_equals_the_op_with_its_gradient(device: torch.device, activation: str | None, ste: str) -> None:
    quantizer = hc.FakeQuantActivation(3, activation=activation, ste=ste).to(device)
    quantizer.set_range(-0.5, 4.0)
    quantizer.freeze()
    upstream, gradients, outputs = torch.randn(200, device=device), [], []
    values = torch.randn(200, device=device) * 5

    def op(x: Tensor) -> Tensor:
        state = quantizer.range_state
        return hc.quantize_activation(x, state, 3, activation=activation, ste=ste)

    for function in (quantizer, op):
        x = values.clone().requires_grad_()
        outputs.append(function(x))
        outputs[-1].backward(upstream)
        gradients.append(x.grad)
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("ste", ["identity", "clipped"])
def test_gradient_uses_the_range_of_its_own_forward(device: torch.device, ste: str) -> None:
    quantizer = hc.FakeQuantActivation(4, activation="relu", ste=ste, beta=0.0).to(device)
    x = torch.tensor([-1.0, 0.5, 3.0], device=device, requires_grad=True)
    y = quantizer(x)
    quantizer(torch.tensor([0.0, 0.1], device=device))  # shrinks the range before the backward
    y.sum().backward()
    assert x.grad.tolist() == [0, 1, 1]


def test_extra_repr() -> None:
    assert repr(hc.FakeQuantActivation(3)) == "FakeQuantActivation(bits=3)"
    other = hc.FakeQuantActivation(5, activation="relu6", ste="clipped")
    assert other.extra_repr() == "bits=5, activation=relu6, ema=corrected, ste=clipped"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 1}, ValueError, "bits is 1; allowed: 2 to 8"),
        ({"bits": 2.5}, TypeError, "bits must be an int from 2 to 8, got 2.5"),
        ({"activation": "gelu"}, ValueError, "activation is 'gelu'; allowed: None, 'relu'"),
        ({"ema": "none"}, ValueError, "ema is 'none'; allowed: 'corrected', 'released'"),
        ({"ste": "none"}, ValueError, "ste is 'none'; allowed: 'identity', 'clipped'"),
        ({"beta": 1.0}, ValueError, "beta is 1.0; allowed: 0 <= beta < 1"),
        ({"beta": float("nan")}, ValueError, "beta is nan; allowed: 0 <= beta < 1"),
    ],
)
def test_refused_arguments(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        hc.FakeQuantActivation(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (2.0, 1.0, "lower must not exceed upper; at index 0 lower is 2.0 and upper 1.0"),
        (0.0, float("nan"), "lower and upper must be finite"),
        (torch.tensor(-float("inf")), 1.0, "lower and upper must be finite"),
    ],
)
def test_refused_range_changes_nothing(lower: float | Tensor, upper: float | Tensor, message: str) -> None:
    quantizer = observed(torch.device("cpu"))
    before = quantizer.range_state.clone()
    with pytest.raises(ValueError, match=message):
        quantizer.set_range(lower, upper)
    assert torch.equal(quantizer.range_state, before)


@pytest.mark.parametrize("value", [10**400, "1", None, torch.zeros(2), float("nan")])
def test_an_end_that_is_no_finite_number_is_refused(value: Any) -> None:
    layer = hc.FakeQuantActivation()
    with pytest.raises((TypeError, ValueError), match="upper"):
        layer.set_range(0.0, value)
    assert float(layer.upper) == 0.0


def test_an_average_of_networks_freezes_with_the_network(device: torch.device) -> None:
    student = nn.Sequential(hc.FakeQuantActivation(4)).to(device)
    average = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    student(x := torch.randn(2, 3, device=device))
    student[0].freeze()
    average.update_parameters(student)
    copied = average.module[0].range_state.clone()
    average(100 * x)
    assert not average.module[0].observing
    assert torch.equal(average.module[0].range_state, copied)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("way", ["written", "replaced", "copied"])
def test_whoever_writes_the_flag_is_followed(device: torch.device, way: str, frozen: bool) -> None:
    quantizer = hc.FakeQuantActivation(4).to(device)
    quantizer.unfreeze() if frozen else quantizer.freeze()
    if way == "written":
        quantizer.frozen.copy_(torch.tensor(frozen))
    elif way == "replaced":
        quantizer.frozen = torch.tensor(frozen, device=device)
    else:
        quantizer.frozen.logical_not_()
        quantizer = copy.deepcopy(quantizer)
    before = quantizer.range_state.clone()
    quantizer(torch.randn(2, 3, device=device))
    assert quantizer.observing is not frozen
    assert torch.equal(quantizer.range_state, before) is frozen


def test_the_flag_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quantizer = observed(torch.device("cpu"))
    quantizer.freeze()
    reads, read = [], quantizer._remember
    monkeypatch.setattr(quantizer, "_remember", lambda **flags: (reads.append(1), read(**flags)))
    quantizer.frozen.fill_(True)
    for _ in range(3):
        quantizer(torch.randn(2, 3))
    assert reads == [1]


def test_in_inference_mode_it_freezes_too() -> None:
    with torch.inference_mode():
        quantizer = observed(torch.device("cpu"))
        quantizer.freeze()
        before = quantizer.range_state.clone()
        quantizer(100 * torch.randn(2, 3))
        assert torch.equal(quantizer.range_state, before)
        quantizer.unfreeze()
        assert quantizer.observing


def test_set_aside_it_is_its_activation(device: torch.device) -> None:
    network = nn.Sequential(hc.FakeQuantActivation(2, activation="relu", inplace=True)).to(device)
    x = torch.randn(4, 5, device=device)
    with quantizers_aside(network):
        seen = x.clone()
        assert torch.equal(network(seen), x.relu())
        assert torch.equal(seen, x.relu())
    assert float(network[0].upper) == 0
    network(x)
    assert float(network[0].upper) > 0


@pytest.mark.parametrize(
    ("given", "expected"), [((1.0, 3.0), (0.0, 3.0)), ((-3.0, -1.0), (-3.0, 0.0)), ((-1.0, 2.0), (-1.0, 2.0))]
)
def test_a_range_that_has_to_hold_zero_is_widened(given: tuple[float, float], expected: tuple[float, float]) -> None:
    quantizer = hc.FakeQuantActivation(8, holds_zero=True)
    quantizer.set_range(*given)
    assert (float(quantizer.lower), float(quantizer.upper)) == pytest.approx(expected)
    quantizer = hc.FakeQuantActivation(8, holds_zero=True)
    quantizer(torch.tensor(given))
    assert float(quantizer.lower) == pytest.approx(given[0])  # as it was seen, until it is frozen
    quantizer.freeze()
    assert (float(quantizer.lower), float(quantizer.upper)) == pytest.approx(expected)
    assert "holds_zero=True" in repr(quantizer)
