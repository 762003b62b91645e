"""Activations that edit their input: quantized, the network still computes the same function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorchcv.model_provider import get_model
from torch import Tensor, nn
from torchvision import models

import hast_cuda as hc
from hast_cuda.analysis.student_losses import twice_differentiable
from hast_cuda.exports import load_packed, save_onnx, save_packed, to_float
from hast_cuda.merged import FusedBatchNorm2d, merge_batch_norms
from hast_cuda.networks.in_place import activations_read_again
from hast_cuda.nn import activation_quantizers

Use = Callable[[nn.Module, Tensor], Tensor]


def dropped(relu: nn.Module, x: Tensor) -> Tensor:
    """The result is thrown away: x itself is it."""
    relu(x)
    return x


def read_again(relu: nn.Module, x: Tensor) -> Tensor:
    """x is activated when it is added."""
    return relu(x) + x


def viewed(relu: nn.Module, x: Tensor) -> Tensor:
    """A view made before sees the change."""
    flat = x.flatten(2)
    return relu(x) + flat.reshape(x.shape)


def through_a_view(relu: nn.Module, x: Tensor) -> Tensor:
    """A view is edited, the whole is read."""
    relu(x[:, :2])
    return x


def in_a_sum(relu: nn.Module, x: Tensor) -> Tensor:
    """The sum in place is x."""
    total = x.add_(1)
    relu(total)
    return x


def in_an_assignment(relu: nn.Module, x: Tensor) -> Tensor:
    """So it is here."""
    total = x
    total += 1
    relu(total)
    return x


def data_dependent(relu: nn.Module, x: Tensor) -> Tensor:
    """What torch.fx cannot follow."""
    if float(x.detach().sum()) > -1e30:
        relu(x)
    return x


class Net(nn.Module):
    """[N, 3, H, W] -> [N, 5]; ``use`` says what becomes of the activation in the middle."""

    def __init__(self, use: Use, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.act, self.use = activation(inplace=True), use
        self.second, self.end = nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.use(self.act, self.norm(self.first(x)))
        result: Tensor = self.head(self.end(self.second(x)).mean((2, 3)))
        return result


USES = [dropped, read_again, viewed, through_a_view, in_a_sum, in_an_assignment, data_dependent]


def build(use: Use, activation: type[nn.Module] = nn.ReLU) -> tuple[nn.Module, nn.Module, Tensor]:
    """Network, 8-bit student and images."""
    torch.manual_seed(0)
    network, x = Net(use, activation).eval(), torch.randn(8, 3, 9, 9)
    return network, hc.calibrate(hc.quantize(network, 8, 8), [x]).eval(), x


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("use", USES)
def test_the_student_computes_the_same_function(use: Use, activation: type[nn.Module]) -> None:
    network, student, x = build(use, activation)
    assert student.act.inplace
    with torch.no_grad():
        expected = network(x)
        assert float((student(x) - expected).abs().max()) < 0.03 * float(expected.std())
    images = [x.clone().requires_grad_() for _ in range(2)]
    for model, image in zip((network, student), images, strict=True):
        model(image).square().sum().backward()
    first, second = (image.grad for image in images)
    assert float((first - second).norm()) < 0.1 * float(first.norm())


@pytest.mark.parametrize("use", USES)
def test_so_do_all_that_are_made_of_it(use: Use, tmp_path: Path) -> None:
    network, student, x = build(use)
    expected = student(x)
    save_packed(student, tmp_path / "student.safetensors")
    loaded = load_packed(tmp_path / "student.safetensors", network)
    torch.testing.assert_close(loaded(x), expected)
    torch.testing.assert_close(twice_differentiable(student)(x), expected)
    torch.testing.assert_close(to_float(student)(x), network(x), rtol=0.05, atol=0.01)
    if use is not data_dependent:
        merged = merge_batch_norms(student, FusedBatchNorm2d).model
        torch.testing.assert_close(merged(x), expected)
    assert "inplace=True" in repr(copy.deepcopy(student).act)


def test_onnx_files_of_it(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    _, student, x = build(dropped)
    save_onnx(student, tmp_path / "student.onnx", (3, 9, 9))
    session = onnxruntime.InferenceSession(str(tmp_path / "student.onnx"))
    (found,) = session.run(None, {"images": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), student(x).detach(), rtol=1e-3, atol=1e-3)


def usual(relu: nn.Module, x: Tensor) -> Tensor:
    """Nothing but its result is used."""
    return relu(x)


def in_a_residual_sum(relu: nn.Module, x: Tensor) -> Tensor:
    """The sum is edited, which nobody else reads."""
    y = nn.functional.avg_pool2d(x, 3, 1, 1)
    y += x
    return relu(y)


@pytest.mark.parametrize("use", [usual, in_a_residual_sum])
def test_where_nobody_notices_nothing_is_written_back(use: Use) -> None:
    _, student, _ = build(use)
    assert not any(q.inplace for q in activation_quantizers(student).values())


@pytest.mark.parametrize(
    "network",
    [
        models.resnet18,
        models.mobilenet_v2,
        models.vgg11_bn,
        models.densenet121,
        models.squeezenet1_0,
        models.shufflenet_v2_x0_5,
        models.mnasnet0_5,
        lambda: get_model("resnet20_cifar10"),
        lambda: get_model("mobilenetv2_w1"),
        lambda: get_model("preresnet18"),
        lambda: get_model("densenet121"),
        lambda: get_model("shufflenetv2_wd2"),
        lambda: get_model("vgg11"),
    ],
)
def test_usual_networks_have_none(network: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        assert not activations_read_again(network())
