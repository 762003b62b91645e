"""No change may bring kernel launches or traffic back into an iteration."""

from __future__ import annotations

import pytest
import torch
from counting import count, finetune_iteration, synthesis_iteration
from launch_counter import LaunchCounter
from networks import CHANNELS, SIZE, tiny
from pytorchcv.model_provider import get_model
from pytorchcv.models.resnet_cifar import get_resnet_cifar

from hast_cuda.finetune import FinetuneConfig
from hast_cuda.loops.execution import Execution
from hast_cuda.synthesis import SynthesisConfig

SHAPES = {"resnet20_cifar10": (256, 3, 32, 32), "resnet18": (16, 3, 224, 224)}
# (network, loop): launches, and GB: 10 % over what a roofline model predicted for a fully merged
# iteration. For ResNet-18 it left out max-pooling, 0.18 GB forward and backward in synthesis.
LIMITS = {
    ("resnet20_cifar10", "synthesis"): (105, 1.1 * 2.07),
    ("resnet18", "synthesis"): (105, 1.1 * 1.65 + 0.18),
    ("resnet20_cifar10", "finetune"): (420, 1.1 * 9.05),
    ("resnet18", "finetune"): (415, 1.1 * 7.74),
}
# The same with AdamW and without clipping, where maps are aligned directly: every map written and
# read twice more in either pass.
DIRECT_LIMITS = {"resnet20_cifar10": (417, 9.5), "resnet18": (411, 8.3)}


@pytest.mark.parametrize(("network", "loop"), LIMITS)
def test_launches_and_bytes_of_an_iteration(network: str, loop: str) -> None:
    model = get_model(network, pretrained=False)
    make = synthesis_iteration if loop == "synthesis" else finetune_iteration
    found = count(make(model, SHAPES[network]))
    launches, gigabytes = LIMITS[network, loop]
    assert found.launches <= launches, found.by_operator.most_common()
    assert found.bytes / 1e9 <= gigabytes, found.bytes_by_operator.most_common()


@pytest.mark.parametrize("network", ["resnet20_cifar10", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_aligning_maps_directly_costs_little_more(network: str) -> None:
    model = get_model(network, pretrained=False)
    config = FinetuneConfig(alignment="direct", optimizer="adamw")
    found = count(finetune_iteration(model, SHAPES[network], config))
    launches, gigabytes = DIRECT_LIMITS[network]
    assert found.launches <= launches, found.by_operator.most_common()
    assert found.bytes / 1e9 <= gigabytes, found.bytes_by_operator.most_common()


@pytest.mark.parametrize("loop", ["synthesis", "finetune"])
def test_only_convolutions_and_this_packages_ops_grow_with_depth(loop: str) -> None:
    make = synthesis_iteration if loop == "synthesis" else finetune_iteration
    counters = [
        count(make(get_resnet_cifar(10, blocks=layers, bottleneck=False), (4, 3, 32, 32))).by_operator
        for layers in (8, 14)
    ]
    grown = {name for name in counters[1] if counters[1][name] > counters[0][name]}
    own = {name for name in grown if name.startswith("hast_cuda::batch_norm")}
    assert grown - own <= {
        "aten::convolution",
        "aten::convolution_backward",
        "aten::_foreach_add_",
        "aten::_foreach_mul_",
        "aten::_foreach_mul",
        "aten::_foreach_norm",
        "aten::_fused_sgd_",
    }
    assert len(own) == 2


def test_merging_is_what_saves_the_launches() -> None:
    model = get_resnet_cifar(10, blocks=8, bottleneck=False)
    merged, unmerged = (
        count(finetune_iteration(model, (8, 3, 32, 32), execution=Execution(merge=merge))) for merge in (True, False)
    )
    assert merged.launches + 80 < unmerged.launches
    assert merged.bytes < 0.7 * unmerged.bytes


def test_crops_cost_a_fixed_number_of_launches() -> None:
    model = get_model("resnet20_cifar10", pretrained=False)
    plain, cropped = (
        count(synthesis_iteration(model, (n, 3, 32, 32), SynthesisConfig(augment_probability=p)))
        for n, p in ((4, 0.0), (64, 0.5))
    )
    assert 0 < cropped.launches - plain.launches <= 30


def test_the_counter_counts() -> None:
    x, weight = torch.randn(4, 3, 8, 8, requires_grad=True), torch.randn(5, 3, 3, 3)
    with LaunchCounter() as counter:
        y = torch.conv2d(x, weight.requires_grad_())
        y.view(4, -1).t().detach()  # views are free
        y.sum().backward()
    by = counter.by_operator
    assert by["aten::convolution"] == 1
    assert by["aten::convolution_backward"] == 2  # one per gradient
    assert "aten::view" not in by
    assert "aten::t" not in by
    assert counter.bytes_by_operator["aten::convolution"] == 4 * (x.numel() + weight.numel() + y.numel())
    with LaunchCounter() as counter:
        torch.zeros(3, 1).expand(3, 1000).clone()
    assert counter.bytes_by_operator["aten::clone"] == 4 * 3 + 4 * 3000


def test_counting_leaves_no_fake_tensor_behind() -> None:
    shape = (2, CHANNELS, SIZE + 3, SIZE + 3)  # a size that no other test crops
    count(finetune_iteration(tiny(), shape))
    finetune_iteration(tiny(), shape)()


@pytest.mark.parametrize("layers", [8, pytest.param(26, marks=pytest.mark.slow)])
def test_maps_of_classes_cost_a_fixed_number_of_launches(layers: int) -> None:
    """And labels of easy images; beside a student that aligns nothing, on the labels of all."""
    model, shape = get_resnet_cifar(10, blocks=layers, bottleneck=False), (8, 3, 32, 32)
    plain = FinetuneConfig(feature_weight=0.0, label_weight=1.0)
    ours = FinetuneConfig(alignment="cam", label_weight=1.0, label_difficulty=0.6)
    counters = [count(finetune_iteration(model, shape, config)) for config in (plain, ours)]
    assert 0 < counters[1].launches - counters[0].launches <= 66
