"""Merged networks: the same outputs, losses and gradients as the parts one after the other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Branching, DoubledNorm, hooked_norm, outputs_of
from pytorchcv.model_provider import get_model
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import hast_cuda as hc
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep
from hast_cuda.loops.execution import Execution
from hast_cuda.merged import BatchStatistics, FusedBatchNorm2d, MatchedBatchNorm2d, merge_batch_norms
from hast_cuda.merged.followed import follow
from hast_cuda.networks import CannotMergeError, Tap
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.networks.head import find_head

pytestmark = pytest.mark.filterwarnings("ignore:calls of functions such as F.relu")  # Odd has them


class Odd(nn.Module):
    """Everything a finder of patterns may trip over; [N, 3, 16, 16] -> logits [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(7))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, groups=g, bias=False) for g in (1, 2, 8, 4, 1, 1))
        self.relu = nn.ReLU(inplace=True)  # used in several places
        self.scale = nn.Conv2d(8, 8, 1)
        self.output = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Reused ReLU, functional ReLU, BatchNorm alone, grouped convolutions, odd sums."""
        x = self.relu(self.norms[0](self.stem(x)))
        y = F.relu6(self.norms[1](self.convs[0](x)))  # functional
        y = self.norms[2](self.convs[1](y))  # nothing behind it but a sum
        x = torch.add(y, x)
        y = self.norms[3](self.convs[2](x))
        y += x  # in place, the BatchNorm on the left
        y = y.relu()
        z = x + self.norms[4](self.convs[3](y))  # the BatchNorm on the right
        z = F.leaky_relu(z, 0.1)
        gate = torch.sigmoid(self.scale(F.adaptive_avg_pool2d(z, 1)))
        u = self.norms[5](self.convs[4](z))
        u = self.relu(u + gate)  # broadcast, and no residual of the same shape
        v = self.norms[6](self.convs[5](u))
        w = F.relu(v) + v * 0.1  # the BatchNorm's output is used twice
        result: Tensor = self.output(F.max_pool2d(w, 2).mean((2, 3)))
        return result


def mobilenet(name: str) -> nn.Module:
    network = get_model(name, pretrained=False, num_classes=7)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)
    return network


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20_cifar10": (lambda: get_model("resnet20_cifar10", pretrained=False), 32),
    "torchvision": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=6), 32),
    "mobilenet": (lambda: mobilenet("mobilenet_wd4"), 64),
    "mobilenetv2": (lambda: mobilenet("mobilenetv2_wd4"), 64),
    "odd": (Odd, 16),
}


def build(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor]:
    """A network in eval mode with statistics of its own, and a batch."""
    maker, size = NETWORKS[name]
    torch.manual_seed(3)
    network = maker().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.to(dtype), torch.randn(4, 3, size, size, dtype=dtype)


def fused(network: nn.Module) -> list[FusedBatchNorm2d]:
    return [m for m in network.modules() if isinstance(m, FusedBatchNorm2d)]


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


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("bits", "alignment"),
    [((4, 4), "relaxed"), ((3, None), "relaxed"), ((4, 4), "direct"), ((4, 4), "cam"), ((3, None), "cam")],
)
def test_finetuning_losses_and_gradients(name: str, bits: tuple[int, int | None], alignment: str) -> None:
    teacher, x = build(name)
    if name == "odd" and alignment == "cam":
        pytest.skip("it pools the output of a function")
    student = hc.calibrate(hc.quantize(teacher, *bits), [x])
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


@pytest.mark.parametrize(("name", "chains"), [("resnet20_cifar10", 21), ("mobilenetv2", 53), ("odd", 7)])
def test_every_batch_norm_is_merged_with_what_follows(name: str, chains: int) -> None:
    network, _ = build(name)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert len(fused(merged)) == chains
    assert not any(isinstance(m, (nn.ReLU, nn.ReLU6)) for m in merged.modules())


def test_chains_of_the_odd_network() -> None:
    network, x = build("odd")
    student = hc.calibrate(hc.quantize(network, 4, 4), [x])
    merged = merge_batch_norms(student.eval(), FusedBatchNorm2d).model
    targets = {str(n.target): n for n in merged.graph.nodes if n.op == "call_module"}
    norms = [(merged.get_submodule(f"norms.{i}"), targets[f"norms.{i}"]) for i in range(7)]
    found = [(m.activation, m.quantizer is not None, len(node.args) == 2) for m, node in norms]
    assert found == [
        ("relu", True, False),  # the reused ReLU became a quantizer
        ("relu6", False, False),  # functional: no quantizer, but merged
        (None, False, True),
        ("relu", False, True),
        (None, False, True),  # the sum has it on the right
        ("relu", True, True),  # runs unfused: the residual is broadcast
        (None, False, False),  # used twice
    ]
    torch.testing.assert_close(merged(x), student(x), rtol=1e-9, atol=1e-10)


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


def test_outputs_used_twice_are_split_where_that_is_safe() -> None:
    network, _ = build("resnet20_cifar10")
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert sum(m.twice for m in fused(merged)) == 9  # the stem and eight of nine units
    odd, _ = build("odd")
    merged = merge_batch_norms(odd, FusedBatchNorm2d).model
    assert [merged.get_submodule(f"norms.{i}").twice for i in (0, 6)] == [True, False]


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


def test_watched_layers_are_called_once() -> None:
    network, _ = build("odd")
    layers = ["norms.2", "norms.4", "convs.5", "relu"]
    with pytest.raises(CannotMergeError, match="relu is called 2 times"):
        merge_batch_norms(network, FusedBatchNorm2d, layers)
    merged = merge_batch_norms(network, FusedBatchNorm2d, layers[:3])
    kinds = [type(merged.watched[name]) for name in layers[:3]]
    assert kinds == [FusedBatchNorm2d, FusedBatchNorm2d, Tap]


@pytest.mark.parametrize("merge", [False, True])
def test_distances_from_another_network(merge: bool) -> None:
    layers = ["norms.2", "convs.5", "norms.4"]
    executed = ["norms.2", "norms.4", "convs.5"]  # how hooks see them
    network, x = build("odd")
    other = copy.deepcopy(network)
    for parameter in other.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    first, second = follow((network, other), layers, merge=merge, maps=True)
    target = first(x)
    found = second(x, target)
    first.remove()
    second.remove()
    maps, others = (dict(zip(executed, outputs_of(n, executed, x)[1], strict=True)) for n in (network, other))
    names = layers if merge else executed
    for name, own, distance in zip(names, target.maps, found.distances, strict=True):
        torch.testing.assert_close(own, maps[name])
        torch.testing.assert_close(distance, (others[name] - maps[name]).square().sum((2, 3)))
    assert found.positions == [256] * 3


class Block(nn.Module):
    """Ends with an activation; the sum is a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.join = Join()
        self.end = nn.Sequential(nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> same."""
        result: Tensor = self.end(self.join(self.body(x), x))
        return result


class Join(nn.Module):
    """A sum."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return x + y


def blocks() -> tuple[nn.Module, Tensor]:
    """Two blocks and a classifier, in float64, and a batch."""
    torch.manual_seed(4)
    network = nn.Sequential(Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize(
    "layers",
    [
        ["0", "1"],  # a block is its last ReLU
        ["0.body.1", "0.body", "0.join", "0.end.0", "0.end", "0"],  # several names of one output
    ],
)
def test_outputs_inside_and_at_the_end_of_chains_are_watched(layers: list[str], maps: bool) -> None:
    network, x = blocks()
    student = hc.calibrate(hc.quantize(network, 4, 4), [x]).eval()
    results = []
    for merge in (False, True):
        pair = follow((network, student), layers, merge=merge, maps=maps)
        target = pair[0](x)
        found = pair[1](x, target if maps else None)
        results.append((found.logits, found.distances if maps else found.energies, target.maps))
        assert len(found.positions) == len(layers)
        for followed in pair:
            followed.remove()
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)


def test_a_watched_sum_keeps_the_activation_behind_it_apart() -> None:
    network, x = blocks()
    merged = merge_batch_norms(network, FusedBatchNorm2d, ["0.join"])
    assert [m.activation for m in fused(merged.model)] == [None, "relu"]
    merged.model(x)
    (expected,) = outputs_of(network[0].body, ["1"], x)[1]
    torch.testing.assert_close(merged.watched["0.join"].take(), expected + x)


class Right(nn.Module):
    """A sum with the BatchNorm on the right, written in a way that is asked for."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu, self.join = nn.BatchNorm2d(4), nn.ReLU(inplace=True), join

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 4, H, W]."""
        x = self.first(x)
        return self.relu(self.join(x, self.norm(self.second(x))))


def _iadd(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


def _read_later(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return F.relu(x) * x


def _view_read_later(x: Tensor, y: Tensor) -> Tensor:
    before = x.flatten(2)
    x += y
    return F.relu(x) * before.reshape(x.shape)


def _relu_in_place_after(x: Tensor, y: Tensor) -> Tensor:
    total = y + x
    x.relu_()
    return F.relu(total)


def _relu_in_place_later(x: Tensor, y: Tensor) -> Tensor:
    return F.relu(y + x) + F.relu_(x)


@pytest.mark.parametrize(
    ("join", "sums"),
    [
        (lambda x, y: x + y, True),
        (torch.add, True),
        (lambda x, y: x.add(y), True),
        (lambda x, y: x.add_(y), True),
        (_iadd, True),  # nobody reads the edited operand
        (lambda x, y: torch.add(x, y, alpha=2), False),
        (lambda x, y: x - y, False),
        (_read_later, True),  # as the result of the sum
        (_view_read_later, False),
        (_relu_in_place_after, False),  # between the sum and its activation
        (_relu_in_place_later, True),
    ],
)
def test_sums_are_merged_in_either_order_unless_an_edit_would_be_missed(
    join: Callable[[Tensor, Tensor], Tensor], sums: bool
) -> None:
    torch.manual_seed(0)
    network, x = Right(join).eval(), torch.randn(2, 3, 5, 5)
    network.norm.running_mean.normal_()
    with torch.no_grad():
        merged = merge_batch_norms(network, FusedBatchNorm2d).model
        (node,) = [n for n in merged.graph.nodes if n.target == "norm"]
        assert (len(node.args) == 2) is sums
        torch.testing.assert_close(merged(x), network(x))


def test_what_cannot_be_followed_keeps_its_layers_and_says_so_once() -> None:
    network = Branching().eval()
    with pytest.raises(CannotMergeError, match=r"torch\.fx cannot follow its forward \(TraceError"):
        merge_batch_norms(network, FusedBatchNorm2d)
    with pytest.warns(UserWarning, match="not merged .* torch.fx cannot follow") as found:
        statistics = BatchStatistics(copy.deepcopy(network), merge=True)
    assert len(found) == 1
    statistics.model(torch.randn(2, 3, 8, 8))
    assert float(statistics.loss().detach()) > 0
    student = hc.quantize(network, 4, None).eval().requires_grad_(True)
    with pytest.warns(UserWarning, match="not merged") as found:
        step = FinetuneStep(network.requires_grad_(False), student, ["norm"], FinetuneConfig())
    assert len(found) == 1
    assert float(step(torch.randn(2, 3, 8, 8))[1]) > 0


class Flagged(nn.Module):
    """Gives more than logits where it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Any = None, features: bool = False, *, scale: float = 2.0, mask: Any = None) -> Any:
        """[N, 3, H, W] -> [N, 4]."""
        y = self.body(x) * scale
        y = y if mask is None else y * mask
        return (y.mean((2, 3)), y) if features else y.mean((2, 3))


def test_arguments_of_forward_have_their_defaults() -> None:
    network, x = Flagged().eval(), torch.randn(2, 3, 6, 6)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert len(fused(merged)) == 1
    assert [n.target for n in merged.graph.nodes if n.op == "placeholder"] == ["x"]
    torch.testing.assert_close(merged(x), network(x))


def test_hooks_are_not_lost() -> None:
    network, x = build("odd")
    calls: list[int] = []
    backward = network.relu.register_full_backward_pre_hook(lambda *_: None)
    with pytest.raises(CannotMergeError, match="relu has hooks"):
        merge_batch_norms(network, FusedBatchNorm2d)
    backward.remove()
    network.relu.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="hooks"):
        BatchStatistics(network.requires_grad_(False), merge=True).model(x)
    assert len(calls) == 2


def patched() -> nn.BatchNorm2d:
    """One object with another forward than its class."""
    norm = nn.BatchNorm2d(4)
    plain = norm.forward
    norm.forward = lambda x: 2 * plain(x)  # type: ignore[method-assign]
    return norm


class OwnNorm(nn.Module):
    """Has running statistics and a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by hand."""
        mean, var = (t[:, None, None] for t in (self.running_mean, self.running_var))
        return (x - mean) / (var + 1e-5).sqrt()


@pytest.mark.parametrize("norm", [lambda: DoubledNorm(4), patched, lambda: hooked_norm(4), OwnNorm])
def test_a_batch_norm_that_does_more_stays_as_it_is(norm: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm(), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    ).eval()
    x = torch.randn(2, 3, 9, 9)
    expected = network(x)
    merged = merge_batch_norms(network, FusedBatchNorm2d, ["1"])
    assert len(fused(merged.model)) == 1
    assert isinstance(merged.watched["1"], Tap)
    torch.testing.assert_close(merged.model(x), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # hooks of its own are nothing to warn of
        statistics = BatchStatistics(network.requires_grad_(False), merge=True)
    torch.testing.assert_close(statistics.model(x), expected)
    first, second = statistics.layers
    torch.testing.assert_close(first.batch_mean, network[0](x).mean((0, 2, 3)))
    assert isinstance(second, MatchedBatchNorm2d)


def test_synchronised_batch_norm_is_merged() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4), nn.ReLU()).eval()
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert [m.activation for m in fused(merged)] == ["relu"]


def test_a_patched_activation_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    network[2].forward = lambda x: x.relu() + 1  # type: ignore[method-assign]
    x = torch.randn(2, 3, 9, 9)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    torch.testing.assert_close(merged(x), network(x))


def test_a_batch_norm_called_twice_stays_as_it_is() -> None:
    shared = nn.BatchNorm2d(3)
    network = nn.Sequential(shared, nn.ReLU(), nn.Conv2d(3, 3, 1), shared, nn.ReLU()).eval()
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    assert not fused(merged)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(merged(x), network(x))


def test_nothing_to_take_is_said() -> None:
    with pytest.raises(RuntimeError, match="nothing has passed this Tap"):
        Tap().take()
    module = FusedBatchNorm2d(nn.BatchNorm2d(3), "relu", None)
    with pytest.raises(RuntimeError, match="set watched, and run a forward pass"):
        module.take()
    with pytest.raises(RuntimeError, match="set mapped, and run a forward pass"):
        module.take_map()
