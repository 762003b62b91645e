"""Merged networks: the same outputs, losses and gradients as the parts one after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from merging import NETWORKS, build

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.loops.execution import Execution
from hast_cuda.merged import BatchStatistics, FusedBatchNorm2d, merge_batch_norms
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.networks.ends import find_head

pytestmark = pytest.mark.filterwarnings("ignore:calls of functions such as F.relu")  # Odd has them


@pytest.mark.parametrize("name", NETWORKS)
def test_synthesis_losses_and_gradients(name: str) -> None:
    network, x = build(name)
    results = []
    for merge in (False, True):
        statistics = BatchStatistics(copy.deepcopy(network).requires_grad_(False), merge=merge)
        images = x.clone().requires_grad_()
        logits = statistics.model(images)
        match = statistics.loss()
        (gradient,) = torch.autograd.grad(match + logits.square().mean(), images)
        results.append((logits.detach(), match.detach(), gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)


# Every kind of loss with every kind of chain: the small networks have all, the large ones one kind each.
@pytest.mark.parametrize(
    ("name", "bits", "alignment"),
    [
        *(("odd", bits, kind) for bits in ((4, 4), (3, None)) for kind in ("relaxed", "direct")),
        *(("resnet20_cifar10", (4, 4), kind) for kind in ("relaxed", "direct")),
        ("resnet20_cifar10", (3, None), "cam"),
        ("torchvision", (4, 4), "cam"),
        ("mobilenet", (4, 4), "direct"),
        ("mobilenetv2", (4, 4), "relaxed"),
        ("mobilenetv2", (3, None), "cam"),
    ],
)
def test_finetuning_losses_and_gradients(name: str, bits: tuple[int, int | None], alignment: str) -> None:
    teacher, x = build(name)
    student = hc.calibrate(hc.quantize(teacher, *bits, placement="relu"), [x])
    config = FinetuneConfig(learning_rate=1e-3, perturbation=0.02, weight_decay=0.0, alignment=alignment)
    head = find_head(teacher, (3, *x.shape[2:])) if alignment == "cam" else None
    results = []
    for merge in (False, True):
        own = copy.deepcopy(student).eval().requires_grad_(True)
        frozen = copy.deepcopy(teacher).requires_grad_(False)
        step = FinetuneStep(frozen, own, feature_layers(teacher), config, Execution(merge=merge), head)
        terms = step(x, torch.arange(4))
        gradients = {n: p.grad for n, p in own.named_parameters() if p.grad is not None}
        results.append((terms, gradients, dict(own.named_parameters())))
        step.close()
    assert results[0][1].keys() == results[1][1].keys()
    torch.testing.assert_close(results[0], results[1], rtol=1e-7, atol=1e-9)
    assert float(results[0][0][1]) > 0


def test_merging_shares_parameters_and_edits_nothing() -> None:
    network, x = build("resnet20_cifar10")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    names = [n for n, _ in network.named_modules()]
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert [n for n, _ in network.named_modules()] == names
    assert {id(p) for p in merged.parameters()} == {id(p) for p in network.parameters()}
    merged(x)
    after = network.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


def test_ranges_that_are_being_tracked_run_the_parts() -> None:
    network, x = build("resnet20_cifar10")
    student = hc.quantize(network, 4, 4).eval()
    merged = merge_batch_norms(student, FusedBatchNorm2d).model
    merged(x)  # tracks
    tracked = {n: q.range_state.clone() for n, q in hc.nn.activation_quantizers(student).items()}
    twin = hc.quantize(network, 4, 4).eval()
    twin(x)
    expected = {n: q.range_state for n, q in hc.nn.activation_quantizers(twin).items()}
    torch.testing.assert_close(tracked, expected)
