"""Before a run begins, its networks are compared with the one that was given: mistakes are found and placed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from edge_networks import small_recipe
from networks import SIZE, DoubledNorm, TinyNet, draw_batch_norms, pictures, same_state, snapshot, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.merged import FusedBatchNorm2d, merge_batch_norms
from hast_cuda.networks.compare import TOLERANCE, apart, distance, where_apart
from hast_cuda.run import zero_shot_quantize

SHAPE = (3, SIZE, SIZE)


def run(network: nn.Module, method: str = "hast") -> nn.Module:
    return zero_shot_quantize(network, SHAPE, recipe=small_recipe(method)).student


def lively(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    draw_batch_norms(network)
    return network.eval()


class Reused(TinyNet):
    """Edits a map in place and reads it again."""

    def __init__(self) -> None:
        super().__init__()
        self.features[2] = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features[1](self.features[0](x))
        self.features[2](y)
        return self.output(self.features[5](self.features[4](self.features[3](y))).mean((2, 3)))


class Steep(TinyNet):
    """Makes of float32's rounding a difference that shows; its factor is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.tensor(1e6)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(torch.sin(self.factor * self.features(x)).mean((2, 3)))


def test_rounding_that_a_network_enlarges_is_no_other_function() -> None:
    network, x = lively(Steep()), pictures(2)
    merged = merge_batch_norms(network, FusedBatchNorm2d).model
    with torch.no_grad():
        assert apart(network(x), merged(x)) > TOLERANCE
        assert distance(network, merged, x) < TOLERANCE
        assert network.factor.dtype is torch.float32
        network.factor *= 1.001
        assert distance(lively(Steep()), network, x) > TOLERANCE
    as_it_is = hc.methods.change(small_recipe("hast"), {"posttraining.equalize_activations": False})
    zero_shot_quantize(network, SHAPE, recipe=as_it_is)  # balanced weights are rounded: that would be another function


class Overflowing(nn.Module):
    """Gives its input back where numbers are wide enough."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 1e30 * 1e30 / 1e30 / 1e30


def test_what_float32_cannot_hold_is_no_rounding() -> None:
    x = pictures(1)
    assert apart(x.double(), Overflowing()(x.double())) < TOLERANCE
    assert distance(nn.Identity(), Overflowing(), x) == float("inf")


def hooked() -> nn.Module:
    network = tiny()
    network.features[2].register_forward_hook(lambda _module, _args, output: 2 * output)
    return network


def with_doubled_norm() -> nn.Module:
    network = tiny()
    norm = DoubledNorm(8)
    norm.load_state_dict(network.features[4].state_dict())
    network.features[4] = norm.eval()
    return network


def any_batch_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d)


class InPlace(TinyNet):
    """The residual is edited after the sum has read it."""

    def forward(self, x: Tensor) -> Tensor:
        beside = 2 * x.repeat(1, 2, 1, 1)
        y = self.features[1](self.features[0](x)) + beside
        beside += 1
        y = self.features[2](y) + beside
        return self.output(self.features[5](self.features[4](self.features[3](y))).mean((2, 3)))


PLANTED: dict[str, tuple[Callable[[], nn.Module], str, str, object, str]] = {
    "a hook that swapping forgets": (
        *(hooked, "hast_cuda.networks.swap", "_give_hooks", lambda _old, _new: None),
        r"the student.* layer 'features\.2' \(ReLU\); up to 'features\.1' all is equal",
    ),
    "a ReLU in place whose input is read again": (
        *(lambda: lively(Reused()), "hast_cuda.nn.quantize", "activations_read_again", lambda _: set()),
        r"the student.* at layer 'features\.3' \(Conv2d\); up to 'features\.2'",
    ),
    "a BatchNorm taken for a plain one": (
        *(with_doubled_norm, "hast_cuda.merged.matched_batch_norm", "is_plain_batch_norm", any_batch_norm),
        r"images are made with is another.* layer 'output' .*up to 'features\.3' .*merge=False",
    ),
    "an edit in place that merging does not see": (
        *(lambda: lively(InPlace()), "hast_cuda.merged.merge", "edited_between", lambda *_: False),
        r"is another function .* It begins .*merge=False",
    ),
}


@pytest.mark.filterwarnings("ignore:BatchNorm layers are not merged")
@pytest.mark.parametrize("mistake", PLANTED)
def test_a_planted_mistake_is_found_before_the_first_iteration(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, place, name, wrong, message = PLANTED[mistake]
    run(make())
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[place], name, wrong)  # of some, a function has the name too
        patch.setattr("hast_cuda.run.work.synthesize", lambda *_, **__: pytest.fail("work began"))
        with pytest.raises(ValueError, match=message):
            run(make())


class Dropping(TinyNet):
    """Drops whatever the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return self.output(F.dropout(self.features(x), 0.5).mean((2, 3)))


class Shifting(TinyNet):
    """Normalises its images where they lie."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5))


class Sealed(TinyNet):
    """Lets no gradient through."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.features(x)
        return self.output(y.mean((2, 3)))


class Overwriting(TinyNet):
    """Edits what the backward pass reads."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        z = y * y
        y += 1
        return self.output((y + z).mean((2, 3)))


class Certain(TinyNet):
    """Gives probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Named(TinyNet):
    """Gives more than logits."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(x)}


class Two(TinyNet):
    """Takes two images."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x + y)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Dropping, r"other outputs for the same images in eval mode .*up to|behind"),
        (Shifting, "changes its images in place"),
        (Sealed, r"no gradient for its images.*torch\.no_grad"),
        (Overwriting, r"cannot be differentiated: .*modified by an inplace operation"),
        (Certain, r"probabilities \(each row sums to 1\)"),
        (Named, r"classifies nothing .* needs classes: .* wrap it in a module"),
        (Two, "does not take images of shape .* required positional argument: 'y'"),
    ],
)
@pytest.mark.filterwarnings("ignore:channels of activations are not balanced")
def test_networks_that_no_run_can_work_with(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(lively(kind()))


def test_calibrating_a_network_of_two_inputs_names_them() -> None:
    student = hc.quantize(lively(Two()))
    with pytest.raises(ValueError, match=r"does not take batches\[0\].* argument: 'y'"):
        hc.calibrate(student, [pictures(2)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_another_precision_are_named(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"'features\.0\.weight' .* is {dtype}; .*give network\.float\(\)"):
        run(tiny().to(dtype), "rtn")
    mixed = tiny()
    mixed.output.to(dtype)
    with pytest.raises(ValueError, match=rf"'output\.weight' of the network is {dtype}"):
        run(mixed, "rtn")


def test_random_weights_are_refused() -> None:
    for method in ("hast", "rtn"):
        with pytest.raises(ValueError, match="mean 0, variance 1 and has seen no batch: its weights are random"):
            run(TinyNet().eval(), method)
    network = TinyNet().train()
    network(pictures(8))
    run(network.eval(), "rtn")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_run_may_be_called_where_gradients_are_off(mode: Callable[[], torch.no_grad]) -> None:
    network = tiny()
    with mode():
        found, images = run(network), pictures(2)
        inside = found(images)
    assert not any(p.is_inference() for p in found.parameters())
    torch.testing.assert_close(found(images.clone()).detach(), inside.clone())
    plain = run(network)
    assert same_state(found, snapshot(plain))


@pytest.mark.parametrize("method", ["hast", "gdfq", "genie"])
def test_the_student_comes_back_without_gradients(method: str) -> None:
    assert all(parameter.grad is None for parameter in run(tiny(), method).parameters())


class TwoLayered(TinyNet):
    """A ReLU behind a linear layer, whose distribution no BatchNorm tells."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5))


@pytest.mark.parametrize("method", ["rtn", "squant", "dfq"])
def test_training_free_methods_name_a_way_for_every_head(method: str) -> None:
    network = lively(TwoLayered())
    recipe = hc.methods.recipe(method)
    with pytest.raises(ValueError, match=r"quantizer 'output\.1' is unknown.*finetune\.calibration=\"generator\""):
        zero_shot_quantize(network, SHAPE, recipe=recipe)
    changes = {"finetune.calibration": "generator", "finetune.calibration_updates": 2, "generator.warmup": 4}
    student = zero_shot_quantize(network, SHAPE, recipe=hc.methods.change(recipe, changes)).student
    assert float(student.output[1].upper) > 0


def test_where_two_networks_part() -> None:
    one, other = tiny(), tiny()
    assert where_apart(one, other, pictures(2)) == "behind 'output'"
    with torch.no_grad():
        other.features[3].weight.mul_(1.1)
    assert where_apart(one, other, pictures(2)).startswith("at layer 'features.3' (Conv2d); up to 'features.2'")


def test_how_far_apart() -> None:
    x = torch.tensor([1.0, -4.0])
    assert apart(x, x) == 0
    assert apart(x, torch.tensor([1.0, -3.0])) == 0.25
    assert apart(x, torch.tensor([1.0])) == float("inf")
    assert apart(x, torch.tensor([1.0, float("nan")])) > 1e30
    assert apart(torch.zeros(0), torch.zeros(0)) == 0


def test_loops_refuse_what_they_cannot_train_by_name() -> None:
    config, spec = hc.finetune.FinetuneConfig(iterations=1, batch_size=4, evaluations=1), hc.InputSpec(*SHAPE, 5)
    with torch.inference_mode():
        made_inside = hc.calibrate(hc.quantize(tiny()), [pictures(4)])
    with pytest.raises(ValueError, match=r"student was made in torch\.inference_mode"):
        hc.finetune.finetune(tiny(), made_inside, pictures(8), config)
    student = hc.calibrate(hc.quantize(tiny()), [pictures(4)])
    with pytest.raises(ValueError, match=r"does not take images, .* torch\.float32"):
        hc.finetune.finetune(tiny(), student.half(), pictures(8), config)
    with pytest.raises(ValueError, match=r"is torch\.float16; .*give network\.float"):
        hc.synthesis.synthesize(tiny().half(), spec, small_recipe("hast").synthesis)
    with pytest.raises(ValueError, match="its weights are random"):
        hc.synthesis.synthesize(TinyNet().eval(), spec, small_recipe("hast").synthesis)
