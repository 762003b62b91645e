"""MatchedBatchNorm2d and BatchStatistics: eval BatchNorm that reports, and the loss of Eq. 3."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import DoubledNorm
from torch import Tensor, nn

from hast_cuda.merged import BatchStatistics, MatchedBatchNorm2d

SHAPES = [(4, 6, 5, 7), (1, 6, 1, 1), (9, 6), (3, 6, 11), (2, 6, 3, 4, 5)]


def lived(norm: Any) -> Any:
    """Give a BatchNorm statistics and parameters as if it had been trained."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.3, 3)
    if norm.weight is not None:
        nn.init.uniform_(norm.weight, -2, 2)
        nn.init.normal_(norm.bias)
    return norm


def eval_norm(x: Tensor, norm: Any) -> Tensor:
    """The plain formula in eager torch."""
    bounds = (norm.running_mean, norm.running_var)
    return F.batch_norm(x, *bounds, norm.weight, norm.bias, False, 0.0, norm.eps)


def eager_loss(statistics: list[tuple[Tensor, Any]], reduction: str) -> Tensor:
    """Eq. 3 written out, from the inputs of the BatchNorm layers."""
    terms = []
    for x, norm in statistics:
        var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        for gap in (mean - norm.running_mean, var - norm.running_var):
            terms.append(gap.square().mean() if reduction == "mse" else gap.norm())
    return torch.stack(terms).sum() / len(statistics)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_eval_batch_norm_and_reports(
    device: torch.device, shape: tuple[int, ...], affine: bool, training: bool
) -> None:
    norm = lived(MatchedBatchNorm2d(6, eps=1e-3, affine=affine)).to(device).train(training)
    x = torch.randn(shape, device=device) * 2 + 1
    before = copy.deepcopy(norm.state_dict())
    torch.testing.assert_close(norm(x), eval_norm(x, norm), rtol=1e-5, atol=1e-5)
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x, dims, correction=0)
    torch.testing.assert_close(norm.batch_mean, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.batch_var, var, rtol=1e-5, atol=1e-6)
    for key, value in norm.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("affine", [True, False])
def test_from_float_shares_everything(device: torch.device, affine: bool) -> None:
    norm = lived(nn.BatchNorm2d(6, eps=0.1, momentum=None, affine=affine)).to(device).eval()
    layer = MatchedBatchNorm2d.from_float(norm)
    shared = [*norm._parameters, *norm._buffers]
    assert all(getattr(layer, name) is getattr(norm, name) for name in shared)
    assert (layer.eps, layer.momentum, layer.training) == (0.1, None, False)
    assert list(layer.state_dict()) == list(norm.state_dict())
    x = torch.randn(3, 6, 4, 4, device=device)
    torch.testing.assert_close(layer(x), norm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(device: torch.device, dtype: torch.dtype) -> None:
    norm = lived(MatchedBatchNorm2d(6)).to(device, dtype)
    x = torch.randn(4, 6, 5, 5, device=device).to(dtype)
    y = norm(x)
    assert y.dtype == dtype
    assert norm.batch_mean.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = copy.deepcopy(norm).double()
    torch.testing.assert_close(y, eval_norm(x.double(), wide).to(dtype))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_after_a_forward_leave_its_statistics_behind(device: torch.device, copied: Any) -> None:
    norm = lived(MatchedBatchNorm2d(6)).to(device)
    x = torch.randn(4, 6, 5, 5, device=device, requires_grad=True)
    y = norm(x)
    twin = copied(norm)
    assert twin.batch_mean is None
    assert norm.batch_mean is not None
    assert torch.equal(twin(x), y)


def test_without_running_statistics_is_refused() -> None:
    norm = MatchedBatchNorm2d(6, track_running_stats=False)
    with pytest.raises(ValueError, match="needs running statistics"):
        norm(torch.zeros(2, 6, 3, 3))


class Frozen(nn.Module):
    """No BatchNorm by type, but running statistics that never change."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.weight = self.bias = None
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        return eval_norm(x, self)


def network(second: nn.Module) -> nn.Sequential:
    """Conv, BatchNorm, ReLU, conv and another normalisation."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), lived(nn.BatchNorm2d(4)), nn.ReLU(), nn.Conv2d(4, 6, 3), second, nn.ReLU()
    ).eval()


def inputs_of_norms(model: nn.Sequential, x: Tensor) -> list[tuple[Tensor, Any]]:
    """(input, layer) of both normalisations in an eager forward."""
    found = []
    for module in model:
        if hasattr(module, "running_mean"):
            found.append((x, module))
        x = module(x)
    return found


@pytest.mark.parametrize("reduction", ["mse", "norm"])
@pytest.mark.parametrize(
    ("kind", "replaced"), [(nn.BatchNorm2d, True), (nn.SyncBatchNorm, True), (DoubledNorm, False), (Frozen, False)]
)
def test_loss_and_image_gradient_equal_the_eager_formula(
    device: torch.device, kind: type[nn.Module], replaced: bool, reduction: str
) -> None:
    model = network(lived(kind(6))).to(device, torch.float64)  # type: ignore[call-arg]
    x = torch.randn(3, 2, 8, 8, device=device, dtype=torch.float64, requires_grad=True)
    eager_model = copy.deepcopy(model)
    if kind is nn.SyncBatchNorm:  # its own forward wants a GPU
        eager_model[4] = DoubledNorm(6).to(device, torch.float64)
        eager_model[4].load_state_dict(model[4].state_dict())
        eager_model.eval()
    expected = eager_loss(inputs_of_norms(eager_model, x), reduction)
    statistics = BatchStatistics(model)
    assert statistics.model is model
    assert isinstance(model[4], MatchedBatchNorm2d) is replaced
    statistics.model(x)
    loss = statistics.loss(reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    found, wanted = (torch.autograd.grad(value, x)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, DoubledNorm, Frozen])
def test_output_of_the_network_is_unchanged(device: torch.device, kind: type[nn.Module]) -> None:
    model = network(lived(kind(6))).to(device)  # type: ignore[call-arg]
    x = torch.randn(3, 2, 8, 8, device=device)
    expected, before = model(x), copy.deepcopy(model.state_dict())
    statistics = BatchStatistics(model)
    torch.testing.assert_close(statistics.model(x), expected, rtol=1e-5, atol=1e-5)
    for key, value in statistics.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_batch_norm_1d(device: torch.device) -> None:
    model = nn.Sequential(nn.Linear(5, 6), lived(nn.BatchNorm1d(6))).to(device).eval()
    x = torch.randn(7, 5, device=device)
    expected, inner = model(x), model[0](x)
    statistics = BatchStatistics(model)
    torch.testing.assert_close(statistics.model(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(statistics.loss(), eager_loss([(inner, model[1])], "mse"))


class Skipping(nn.Module):
    """The second BatchNorm runs only on request."""

    def __init__(self) -> None:
        super().__init__()
        self.always, self.sometimes = lived(nn.BatchNorm2d(2)), lived(nn.BatchNorm2d(2))
        self.both = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.always(x)
        return self.sometimes(x) if self.both else x


def test_loss_takes_only_the_layers_of_the_last_forward(device: torch.device) -> None:
    model, x = Skipping().to(device).eval(), torch.randn(3, 2, 4, 4, device=device)
    expected = eager_loss([(x, model.always)], "mse")
    statistics = BatchStatistics(model)
    model(x)
    assert float(statistics.loss().detach()) != pytest.approx(float(expected))
    model.both = False
    model(x)
    torch.testing.assert_close(statistics.loss(), expected)


def test_loss_needs_a_forward_each_time(device: torch.device) -> None:
    statistics = BatchStatistics(network(lived(nn.BatchNorm2d(6))).to(device))
    with pytest.raises(ValueError, match="no BatchNorm layer was reached: run a forward pass"):
        statistics.loss()
    statistics.model(torch.randn(2, 2, 8, 8, device=device))
    statistics.loss()
    with pytest.raises(ValueError, match="run a forward pass first"):
        statistics.loss()


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.InstanceNorm2d(2)),
    ],
)
def test_network_without_batch_norm_is_refused_with_advice(model: nn.Module) -> None:
    message = "no BatchNorm layer with running statistics.*use a network with BatchNorm"
    with pytest.raises(ValueError, match=message):
        BatchStatistics(model)
