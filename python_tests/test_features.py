"""Which layers are aligned by default, and the taps that read them."""

from __future__ import annotations

import pytest
import torch
from pytorchcv.model_provider import get_model
from torch import nn
from torchvision.models import resnet18, resnet50

from hast_cuda.networks.blocks import feature_layers
from hast_cuda.networks.taps import FeatureTap


@pytest.mark.parametrize(
    ("name", "count", "leaf", "last"),
    [
        ("resnet20_cifar10", 9, "body", "stage3.unit3"),
        ("resnet18", 8, "body", "stage4.unit2"),
        ("mobilenet_w1", 13, "pw_conv.bn", "stage5.unit2"),
        ("mobilenetv2_w1", 17, "conv3", "stage5.unit4"),
    ],
)
def test_published_layers_of_pytorchcv(name: str, count: int, leaf: str, last: str) -> None:
    with torch.device("meta"):
        model = get_model(name, pretrained=False)
    layers = feature_layers(model)
    assert len(layers) == len(set(layers)) == count
    assert all(layer.endswith(f".{leaf}") for layer in layers)
    assert layers[0] == f"features.stage1.unit1.{leaf}"
    assert layers[-1] == f"features.{last}.{leaf}"


@pytest.mark.parametrize(("build", "count", "leaf"), [(resnet18, 8, "bn2"), (resnet50, 16, "bn3")])
def test_torchvision_resnets(build: object, count: int, leaf: str) -> None:
    with torch.device("meta"):
        layers = feature_layers(build(weights=None))  # type: ignore[operator]
    assert len(layers) == count
    assert {layer.rsplit(".", 1)[1] for layer in layers} == {leaf}


class Cell(nn.Module):
    """A block whose side branch is registered last."""

    def __init__(self, branch: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)
        self.add_module(branch, nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))


@pytest.mark.parametrize("branch", ["downsample", "shortcut", "skip", "identity_conv"])
def test_side_branches_do_not_count(branch: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(2), Cell(branch), Cell(branch))
    assert feature_layers(model) == ["1.norm", "2.norm"]


class Unit(nn.Module):
    """A block made of two smaller repeated ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Cell("skip"), Cell("skip")


def test_the_outermost_repeated_block_counts() -> None:
    assert feature_layers(nn.Sequential(Unit(), Unit(), Unit())) == [f"{i}.b.norm" for i in range(3)]
    assert feature_layers(nn.Sequential(Unit())) == ["0.a.norm", "0.b.norm"]


def test_network_without_blocks_gives_every_batch_norm() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))
    )
    assert feature_layers(model) == ["1", "3.1"]
    assert feature_layers(nn.Sequential(nn.Conv2d(1, 2, 3))) == []


class NormAct(nn.BatchNorm2d):
    """A BatchNorm that holds its activation."""

    def __init__(self) -> None:
        super().__init__(2)
        self.act = nn.ReLU()


class NormActUnit(nn.Module):
    """A block of two such."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = NormAct(), NormAct()


def test_a_batch_norm_with_children_is_no_block() -> None:
    assert feature_layers(nn.Sequential(NormAct(), nn.Conv2d(2, 2, 1), NormAct())) == ["0", "2"]
    assert feature_layers(nn.Sequential(NormActUnit(), NormActUnit())) == ["0.b", "1.b"]
    assert feature_layers(NormAct()) == []


class BasicBlock(nn.Module):
    """Named like a known block but without its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))


def test_known_name_without_the_known_layer_falls_back() -> None:
    assert feature_layers(nn.Sequential(BasicBlock(), BasicBlock())) == ["0.layers.1", "1.layers.1"]


def double(device: torch.device) -> nn.Sequential:
    """x -> 2x -> 6x."""
    layers = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    for layer, value in zip(layers, (2.0, 3.0), strict=True):
        nn.init.constant_(layer.weight, value)
    return layers.to(device)


def test_tap_records_only_while_active(device: torch.device) -> None:
    model, x = double(device), torch.ones(1, 1, 2, 2, device=device, requires_grad=True)
    tap = FeatureTap(model, ["1", "0"])  # maps come in the order of execution, with their graph
    model(x)
    assert tap.take() == []
    tap.active = True
    model(x)
    tap.active = False
    model(5 * x)
    maps = tap.take()
    assert [float(m.detach().flatten()[0]) for m in maps] == [2, 6]
    assert bool((torch.autograd.grad(maps[1].sum(), x)[0] == 6).all())
    assert tap.take() == []
    tap.active = True
    model(x)
    tap.remove()
    assert tap.take() == []
    assert not model[0]._forward_hooks


def test_unknown_layers_are_refused_before_any_hook(device: torch.device) -> None:
    model = double(device)
    with pytest.raises(ValueError, match=r"feature layers \['7', 'x'\] are not modules of the net"):
        FeatureTap(model, ["0", "7", "x"])
    assert not model[0]._forward_hooks
