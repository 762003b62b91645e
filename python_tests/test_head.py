from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, snapshot, tiny
from pytorchcv.model_provider import get_model
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from hast_cuda.methods import change, recipe
from hast_cuda.networks.ends import Head, find_head
from hast_cuda.run import zero_shot_quantize

SHAPE = (CHANNELS, SIZE, SIZE)


@pytest.mark.parametrize(
    ("make", "size", "expected"),
    [
        (tiny, SIZE, Head("features.5", "output")),
        (lambda: get_model("resnet20_cifar10"), 32, Head("features.stage3.unit3.activ", "output")),
        (lambda: get_model("mobilenetv2_wd4"), 224, Head("features.final_block.activ", "output")),  # a 1x1 convolution
        # its ReLU is called twice per block; at 32 pixels its last convolution gives one position
        (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=6), 32, Head("layer4.0", "fc")),
        (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=6), 64, Head("layer4.0", "fc")),
    ],
    ids=["tiny", "resnet20", "mobilenetv2", "torchvision at 32", "torchvision"],
)
def test_heads(make: Callable[[], nn.Module], size: int, expected: Head) -> None:
    assert find_head(make(), (3, size, size)) == expected


def test_looking_leaves_nothing_behind() -> None:
    network = tiny().train()
    before, random = snapshot(network), torch.random.get_rng_state()
    assert find_head(network.double(), SHAPE) == Head("features.5", "output")
    assert network.training
    assert all(torch.equal(network.float().state_dict()[k], v) for k, v in before.items())
    assert not any(m._forward_hooks for m in network.modules())
    assert torch.equal(torch.random.get_rng_state(), random)


def end(*layers: nn.Module) -> nn.Module:
    """Six maps of 8 x 8 pixels, and ``layers``."""
    return nn.Sequential(nn.Conv2d(CHANNELS, 6, 3, padding=1), nn.ReLU(), *layers)


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


POOLED = nn.AdaptiveAvgPool2d(1), nn.Flatten()
OTHERS = {
    "no mean": (
        end(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES)),
        "what '4' is given is not the mean over space of a map",
    ),
    "all positions": (end(nn.Flatten(), nn.Linear(384, CLASSES)), "what '3' is given is not the mean"),
    "two layers": (end(*POOLED, nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES)), "what '6' is given is not"),
    "pooled logits": (end(nn.Conv2d(6, CLASSES, 1), *POOLED), "'2', which is called last, is not one linear layer"),
    "scaled logits": (end(*POOLED, nn.Linear(6, CLASSES), Scaled()), "'4', which is called last, is not"),
    "no layer": (nn.Sequential(nn.BatchNorm2d(CHANNELS), *POOLED), "it calls no layer with a weight"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_ends_are_refused(name: str) -> None:
    network, reason = OTHERS[name]
    with pytest.raises(ValueError, match=f"of this one {reason}.*Set alignment to"):
        find_head(network.eval(), SHAPE)


def test_a_run_refuses_before_any_work() -> None:
    network = OTHERS["no mean"][0].eval()
    with pytest.raises(ValueError, match="class activation maps need a network that ends"):
        zero_shot_quantize(network, SHAPE, recipe=change(recipe("hast"), {"finetune.alignment": "cam"}))
