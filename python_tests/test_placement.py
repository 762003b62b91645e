"""What placement "auto" is for networks of several families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as zoo
from pytorchcv.model_provider import get_model
from torch import Tensor, nn
from torch.nn import functional as F

import hast_cuda as hc
from hast_cuda.nn import suitable_placement
from hast_cuda.report.facts import read_facts
from hast_cuda.report.words import bits_name

SHORT = {"finetune.calibration_updates": 1, "finetune.calibration_batch_size": 4, "generator.warmup": 1}


class Calls(nn.Module):
    """Two layers with ``between`` from one to the other."""

    def __init__(self, between: Callable[[Tensor], Tensor], module: nn.Module | None = None) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.between, self.module = between, module

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> logits [N, 4]."""
        y = self.between(self.norm(self.first(x)))
        logits: Tensor = self.second(y if self.module is None else self.module(y)).mean((2, 3))
        return logits


class Edited(Calls):
    """A swish in place of what is read under its old name."""

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`Calls`."""
        y = self.between(self.norm(self.first(x)))
        F.silu(y, inplace=True)
        logits: Tensor = self.second(y).mean((2, 3))
        return logits


class Data(Calls):
    """What torch.fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        """As :class:`Calls`."""
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: hc.load_teacher("digits"), "relu"),
        (lambda: get_model("resnet20_cifar10"), "relu"),
        (lambda: get_model("seresnet20_cifar10"), "relu"),
        (lambda: get_model("densenet40_k12_cifar10"), "relu"),
        (lambda: get_model("mobilenetv3_small_w7d20"), "all"),
        (lambda: zoo.resnet18(num_classes=4), "all"),  # a block's two activations are one module
        (lambda: zoo.mobilenet_v2(num_classes=4), "relu"),
        (lambda: zoo.mobilenet_v3_small(num_classes=4), "all"),
        (lambda: Calls(F.relu), "all"),
        (lambda: Calls(lambda y: y, nn.PReLU()), "all"),
        (lambda: Calls(lambda y: y * torch.sigmoid(y)), "all"),
        (lambda: Calls(lambda y: y * torch.sigmoid(y), nn.ReLU()), "relu"),  # what enters the layer is ReLU's
        (lambda: Calls(lambda y: F.max_pool2d(y, 2), nn.ReLU6()), "relu"),
        (lambda: Calls(lambda y: y), "all"),  # nothing that "relu" could reach
        (lambda: Data(lambda y: y), "all"),
        (lambda: Edited(nn.ReLU()), "all"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*stay in full precision")  # gates
def test_every_activation_is_reached(make: Callable[[], nn.Module], expected: str) -> None:
    network = make()
    assert suitable_placement(network) == expected
    assert any(row.act_bits for row in hc.quantization_table(hc.quantize(network, 4, 4, placement="auto")).rows)


def test_a_run_says_which_it_was(tmp_path: Path) -> None:
    found: Any = {}
    for between in (nn.ReLU(), nn.SiLU()):
        teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), between, nn.Flatten(), nn.Linear(144, 3)).eval()
        with torch.no_grad():
            teacher.train()(torch.randn(8, 3, 8, 8))
        teacher.eval()
        out = tmp_path / type(between).__name__
        done = hc.zero_shot_quantize(teacher, (3, 8, 8), method="rtn", out=out)
        x = torch.randn(4, 3, 8, 8)
        assert torch.equal(hc.load(out, teacher)(x), done.student(x))
        found[type(between).__name__] = done.result["bits"]["placement"]
    assert found == {"ReLU": "relu", "SiLU": "all"}


def test_integers_refuse_a_name_of_two_maps() -> None:
    with pytest.raises(ValueError, match=r"value .silu. .* changes in place a map that is read"):
        hc.quantize(Edited(nn.ReLU()), 8, 8, placement="integer")


class Upsampled(Calls):
    """Has a layer that is not quantized."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU(), nn.ConvTranspose2d(4, 4, 2))


@pytest.mark.filterwarnings("ignore:.*stay in full precision", "ignore:no activation is quantized")
@pytest.mark.parametrize(
    ("make", "placement", "name"),
    [
        (lambda: Calls(nn.ReLU()), "auto", "W4A4"),
        (lambda: Calls(nn.SiLU()), "auto", "W4A4"),
        (lambda: Calls(nn.SiLU()), "relu", "W4, weights only, but for 1 in full precision"),
        (lambda: Calls(F.silu), "relu", "W4, weights only"),
        (Upsampled, "auto", "W4A4, but for 1 in full precision"),
    ],
)
def test_bits_are_said_as_they_are(make: Callable[[], nn.Module], placement: str, name: str, tmp_path: Path) -> None:
    teacher = make()
    with torch.no_grad():
        teacher(torch.randn(8, 3, 8, 8))
    recipe = hc.methods.change(hc.methods.recipe("rtn"), {"finetune.calibration": "generator"} | SHORT)
    hc.zero_shot_quantize(
        teacher.eval(), (3, 8, 8), hc.Bits(4, 4, placement), recipe=recipe, out=tmp_path / "run", progress=False
    )
    assert bits_name(read_facts(tmp_path / "run")) == name
