"""Networks as people write and leave them: what their forward does beside computing, and what they keep."""

from __future__ import annotations

import copy
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from edge_networks import small_recipe
from networks import SIZE, TinyNet, draw_batch_norms, pictures, same_state, snapshot, tiny
from torch import Tensor, nn
from torch.nn.utils import parametrize

import hast_cuda as hc
from hast_cuda.merged import BatchStatistics, FusedBatchNorm2d, merge_batch_norms
from hast_cuda.networks.compare import TOLERANCE, apart
from hast_cuda.networks.tracing import CannotMergeError, trace
from hast_cuda.nn.layers import quantizers_aside


def lively(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    draw_batch_norms(network)
    return network.eval()


def run(network: nn.Module) -> nn.Module:
    """The student of a whole run, which is the network that was given but for its quantizers."""
    before = snapshot(network)
    student = hc.zero_shot_quantize(network, (3, SIZE, SIZE), recipe=small_recipe("hast"), progress=False).student
    assert same_state(network, before)
    return student


class Rest(TinyNet):
    """Takes what it does not use."""

    def forward(self, x: Tensor, mask: Tensor | None = None, **others: Any) -> Tensor:
        y = super().forward(x)
        return y if mask is None else y * mask


class Many(TinyNet):
    """Takes any number of inputs."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return super().forward(inputs[0])


class Keeping(TinyNet):
    """Keeps its maps and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []
        self.last: Tensor | None = None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = self.features(x)
        self.maps, self.last = [y], y
        return self.output(y.mean((2, 3)))


class Caching(TinyNet):
    """Computes what depends on its weights alone once, as attention over few positions does with its biases."""

    def __init__(self) -> None:
        super().__init__()
        self.biases = nn.Parameter(torch.linspace(-1, 1, 8))
        self.order = torch.arange(7, -1, -1)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "biases" not in self.cache:
            self.cache["biases"] = self.biases[self.order].view(1, 8, 1, 1)
        return self.output((self.features(x) + self.cache["biases"]).mean((2, 3)))


class TwiceNormalised(TinyNet):
    """Reads the statistics of a BatchNorm beside calling it."""

    def forward(self, x: Tensor) -> Tensor:
        norm = self.features[1]
        y = F.batch_norm(norm(self.features[0](x)), norm.running_mean, norm.running_var)
        return self.output(self.features[2:](y).mean((2, 3)))


class Gated(TinyNet):
    """A gate without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        with torch.no_grad():
            gate = torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.output((y * gate).mean((2, 3)))


class Lower(TinyNet):
    """Chooses its own precision."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = self.features(x)
        return self.output(y.float().mean((2, 3)))


def patched() -> nn.Module:
    network = lively(TinyNet())
    network.forward = types.MethodType(lambda self, x: 2 * TinyNet.forward(self, x), network)  # type: ignore[method-assign]
    return network


@pytest.mark.filterwarnings(
    "ignore:BatchNorm layers are not merged",
    "ignore:the network cannot be cut into blocks",
    "ignore:channels of activations are not balanced",
)
@pytest.mark.parametrize(
    "make", [patched, *(lambda k=k: lively(k()) for k in (Rest, Many, Keeping, Caching, TwiceNormalised))]
)
def test_a_run_keeps_the_function(make: Callable[[], nn.Module]) -> None:
    student, network = run(make()), make()
    near = hc.calibrate(hc.quantize(network, 8, 8, placement="auto"), [pictures(8)])
    with quantizers_aside(near), torch.no_grad():
        assert apart(network(pictures(4)), near(pictures(4))) < TOLERANCE
    assert bool(student(pictures(4)).isfinite().all())


def test_a_network_compiled_in_place_is_read_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrapped(call: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            return call(*args)

        return run

    monkeypatch.setattr(torch, "compile", wrapped)  # whose import takes seconds
    compiled = tiny()
    compiled.compile()
    student, plain = (hc.quantize(network, 8, None) for network in (compiled, tiny()))
    assert torch.equal(student(pictures(2)), plain(pictures(2)))


def test_what_a_network_keeps_stays_its_own() -> None:
    network = lively(Keeping())
    images = pictures(2).requires_grad_()
    network(images)
    kept, count = network.last, float(network.calls)
    run(network)
    assert network.last is kept
    assert network.maps[0] is kept
    assert float(network.calls) == count
    trace(network)
    assert network.last is kept
    assert float(network.calls) == count


def test_what_is_computed_once_is_no_value_of_another_pass() -> None:
    network = lively(Caching())
    for _ in range(2):
        nodes = list(trace(network)[0].graph.nodes)
        assert not network.cache
        assert all(value in nodes for node in nodes for value in node.all_input_nodes)


class Sliced(TinyNet):
    """Calls a part of its layers, a container made on the way."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(self.features[:3](x), 2)
        return self.output(self.features[3:](y).mean((2, 3)))


def test_containers_made_on_the_way_are_followed() -> None:
    network, x = lively(Sliced()), pictures(4)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    with torch.no_grad():
        assert apart(network(x), merged(x)) < TOLERANCE
    assert sum(isinstance(m, FusedBatchNorm2d) for m in merged.modules()) == 2
    assert hc.nn.suitable_placement(network) == "relu"


def test_a_norm_that_is_read_elsewhere_stays() -> None:
    network, x = lively(TwiceNormalised()), pictures(4)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    with torch.no_grad():
        assert apart(network(x), merged(x)) < TOLERANCE
    assert sum(isinstance(m, FusedBatchNorm2d) for m in merged.modules()) == 1


def test_a_norm_that_is_read_elsewhere_is_not_folded() -> None:
    network, x = lively(TwiceNormalised()), pictures(4)
    folded = hc.posttraining.fold_batch_norms(network)
    assert [type(folded.features[i]) for i in (1, 4)] == [nn.BatchNorm2d, nn.Identity]
    with torch.no_grad():
        assert apart(network(x), folded(x)) < TOLERANCE


@pytest.mark.parametrize(("kind", "why"), [(Gated, "no_grad"), (Lower, "autocast"), (Many, r"one of \*inputs")])
def test_what_no_graph_keeps_is_not_followed(kind: type[nn.Module], why: str) -> None:
    with pytest.raises(CannotMergeError, match=why):
        trace(lively(kind()))


@pytest.mark.filterwarnings("ignore:BatchNorm layers are not merged")
def test_gradients_are_those_of_the_network() -> None:
    network, grads = lively(Gated()), []
    for model in (network, BatchStatistics(copy.deepcopy(network), merge=True).model):
        x = pictures(2).requires_grad_()
        model(x)[:, 0].sum().backward()
        assert x.grad is not None
        grads.append(x.grad)
    torch.testing.assert_close(*grads)


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Locked(TinyNet):
    """What cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def parametrized(layer: str, name: str) -> nn.Module:
    network = lively(TinyNet())
    parametrize.register_parametrization(network.get_submodule(layer), name, Doubled())
    return network


def lazy() -> nn.Module:
    network = lively(TinyNet())
    network.output = nn.LazyLinear(5)
    return network


@pytest.mark.filterwarnings("ignore:channels of activations are not balanced")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parametrized("output", "bias"), r"the bias of layer 'output' .*remove_parametrizations"),
        (lambda: parametrized("features.1", "weight"), r"the weight of layer 'features\.1' .*remove_parametrizations"),
        (lambda: lively(Lower()), r"torch\.autocast in its forward, in front of 'features'"),
        (lambda: lively(Locked()), r"cannot be copied \(TypeError: cannot pickle '_thread\.lock' object\)"),
        (lazy, r"layer 'output' \(LazyLinear\) has no weights yet"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    network = make()
    with pytest.raises(ValueError, match=message):
        hc.zero_shot_quantize(network, (3, SIZE, SIZE), recipe=small_recipe("hast"), progress=False)


class Versioned(TinyNet):
    """Asks which version the weights are of, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: dict[str, Any], *others: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *others)  # type: ignore[no-untyped-call]


def test_layers_that_ask_for_their_version_are_told(tmp_path: Path) -> None:
    network, out = lively(Versioned()), tmp_path / "run"
    recipe = small_recipe("hast", **{"finetune.evaluations": 3})
    done = hc.zero_shot_quantize(network, (3, SIZE, SIZE), recipe=recipe, out=out, progress=False)
    x = pictures(4)
    assert torch.equal(hc.load(out, network)(x), done.student(x))
    (out / "result.json").unlink()  # so that it goes on from its checkpoints
    (out / "student.safetensors").unlink()
    again = hc.zero_shot_quantize(network, (3, SIZE, SIZE), recipe=recipe, out=out, progress=False)
    assert same_state(again.student, snapshot(done.student))
    for kind in ("packed", "float"):
        assert hc.export(done.student, tmp_path, kind, (3, SIZE, SIZE), network=network, images=x).checks is not None
