"""Networks of every kind through all stages, each held to the one before; the families of torchvision and timm."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from architecture_stages import PLACEMENTS, STAGES, Gone, lively, require_quantized_inputs, walk
from architectures import FAMILIES, RESULTS, Network, examine
from torch import Tensor, nn
from torch.nn import functional as F

import hast_cuda as hc
from hast_cuda.nn.layers import quantizers_aside

SIZE = (3, 16, 16)


def conv(inp: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm."""
    layer = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out))


class Net(nn.Module):
    """A stem, blocks and a classifier; [N, 3, 16, 16] -> [N, 5]."""

    def __init__(self, act: Callable[[], nn.Module], *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Sequential(*conv(3, 8, 3, 2), act()), nn.Sequential(*blocks)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class Excited(nn.Module):
    """MobileNetV3's and EfficientNet's block: a gate made of the pooled map."""

    def __init__(self, act: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.expand, self.act, self.depth, self.again = conv(8, 16, 1), act(), conv(16, 16, 3, 1, 16), act()
        self.squeeze, self.relu, self.excite, self.gate = nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), gate()
        self.project = conv(16, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.again(self.depth(self.act(self.expand(x))))
        scale = self.gate(self.excite(self.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return x + self.project(y * scale)


class Mixed(nn.Module):
    """ConvMixer's block: GELU in front of BatchNorm, a sum inside."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GELU(), nn.BatchNorm2d(8))
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GELU(), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.point(self.depth(x) + x)


class PreActivated(nn.Module):
    """DenseNet's layer: BatchNorm and ReLU in front of the convolution, whose output joins its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.relu, self.grow = nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3, padding=1)
        self.after, self.act, self.shrink = nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, self.grow(self.relu(self.norm(x)))], 1)
        return self.shrink(self.act(self.after(y)))


class Branched(nn.Module):
    """Inception's block: branches of one map, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(conv(8, 4, 1), nn.ReLU()), nn.Sequential(conv(8, 2), nn.ReLU())
        self.c = nn.Sequential(nn.MaxPool2d(3, 1, 1), *conv(8, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in (self.a, self.b, self.c)], 1)


class Shuffled(nn.Module):
    """ShuffleNetV2's block: half of the channels pass, then all are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(*conv(4, 4, 1), nn.ReLU(), *conv(4, 4, 3, 1, 4), *conv(4, 4, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        kept, given = x.chunk(2, dim=1)
        y = torch.cat((kept, self.branch(given)), 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "hard swish and gates": lambda: Net(nn.Hardswish, Excited(nn.Hardswish, nn.Hardsigmoid)),
    "swish and gates": lambda: Net(nn.SiLU, Excited(nn.SiLU, nn.Sigmoid)),
    "GELU and BatchNorm": lambda: Net(nn.GELU, Mixed(), Mixed()),
    "PReLU": lambda: Net(lambda: nn.PReLU(8), nn.Sequential(*conv(8, 8), nn.PReLU(8))),
    "pre-activation": lambda: Net(nn.ReLU, PreActivated(), PreActivated()),
    "concatenation": lambda: Net(nn.ReLU, Branched(), Branched()),
    "channel shuffle": lambda: Net(nn.ReLU, Shuffled(), Shuffled()),
}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_networks(kind: str, placement: str) -> None:
    torch.manual_seed(0)
    found = walk(lively(KINDS[kind](), SIZE), SIZE, placement, light=True)
    assert not found.refused
    assert not found.notes
    assert not found.left


@pytest.mark.parametrize("kind", ["swish and gates", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS)])
def test_kinds_of_networks_to_the_file(kind: str) -> None:
    pytest.importorskip("onnxruntime")
    found = walk(lively(KINDS[kind](), SIZE), SIZE)
    assert not found.refused
    assert tuple(found.passed) == STAGES


def test_a_stage_that_does_not_hold_is_found() -> None:
    """The hold on placements: "relu" leaves the swish in front of the layers as it is."""
    network = lively(KINDS["swish and gates"](), SIZE)
    with pytest.warns(UserWarning, match="stay in full precision"):
        student = hc.quantize(network, 8, 8, placement="relu")
    hc.calibrate(student, [torch.randn(4, *SIZE)])
    with pytest.raises(Gone, match=r"in full precision: blocks\.0\.expand\.0"):
        require_quantized_inputs(student, torch.randn(4, *SIZE), [])


def test_a_member_of_a_family() -> None:
    pytest.importorskip("timm")
    row = examine(Network("timm:resnet", "test_resnet", 32), ["auto"], largest=0)
    assert not row["placements"]["auto"]["refused"]


def test_the_classifier_of_timm_is_a_linear_layer() -> None:
    layers = pytest.importorskip("timm.layers.linear")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), layers.Linear(4, 5))
    student = hc.quantize(network, 8, None)
    assert isinstance(student[3], hc.FakeQuantLinear)
    with quantizers_aside(student):
        assert torch.equal(student(x := torch.randn(2, *SIZE)), network(x))


@pytest.mark.slow
@pytest.mark.parametrize("network", FAMILIES, ids=lambda n: f"{n.family}-{n.member}")
def test_families(network: Network) -> None:
    """No stage is lost that the committed table has."""
    if network.family.startswith("timm:"):
        pytest.importorskip("timm")
    pytest.importorskip("onnxruntime")
    committed = {row["family"]: row for row in json.loads(RESULTS.read_text())["rows"]}.get(network.family)
    if committed is None:
        pytest.skip("the table has no line for it yet")
    row = examine(network, list(PLACEMENTS), largest=0 if committed["light"] else 1000)
    for placement, found in row["placements"].items():
        before = committed["placements"][placement]
        assert set(before["passed"]) <= set(found["passed"]), found["refused"]
        assert before["placement"] == found["placement"]
