from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import Branching, TinyNet, draw_batch_norms, pictures, same_state, snapshot, tiny
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.files.tensors import load_tensors, save_tensors
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.reconstruction import ReconstructionConfig, ReconstructionFile, reconstruct
from hast_cuda.reconstruction.learned_step import LearnedStep, draw_mask_
from hast_cuda.reconstruction.maps import MapStore, squared_error
from hast_cuda.reconstruction.rounding import SoftRounding, search_weight_range

pytestmark = pytest.mark.usefixtures("exact")
CONFIG = ReconstructionConfig(
    iterations=30, batch_size=8, rounding_travel=0.3, weight_step_travel=0.03, act_step_travel=0.06, regulariser=0.1
)


def calibrated(bits: int = 3, teacher: nn.Module | None = None, **options: Any) -> nn.Module:
    return hc.calibrate(hc.quantize(teacher or tiny(), bits, bits, **options), [pictures(24)])


def loss(student: nn.Module, teacher: nn.Module | None = None) -> float:
    with torch.no_grad():
        x = pictures(24)
        return float((student.eval()(x) - (teacher or tiny())(x)).square().mean())


def test_the_student_comes_closer_and_ends_on_its_grid(device: torch.device) -> None:
    teacher, student = tiny().train(), calibrated()
    before, start = snapshot(teacher), loss(student)
    records: list[dict[str, Any]] = []
    errors = reconstruct(teacher, student, pictures(24), CONFIG, device=device, log=records.append)
    student.cpu()
    assert loss(student) < 0.8 * start
    assert all(error.after <= error.before for error in errors)
    assert [error.name for error in errors] == ["features.0", "features.3", "output"]
    assert [record["name"] for record in records] == [error.name for error in errors]
    for layer in student.modules():
        if isinstance(layer, QuantizedWeight) and layer.weight_range is not None:
            assert torch.allclose(layer.quantized_weight(), layer.weight, rtol=1e-6, atol=1e-7)
            assert all(len(row.unique()) <= 2**3 for row in layer.weight.flatten(1))
    assert same_state(teacher, before)
    assert teacher.training
    assert all(p.requires_grad for p in student.parameters())


def test_only_weights_grids_and_ranges_change() -> None:
    student = calibrated()
    start = snapshot(student)
    reconstruct(tiny(), student, pictures(24), CONFIG)
    changed = {
        name for name, value in snapshot(student).items() if name not in start or not torch.equal(value, start[name])
    }
    allowed = {n for n in student.state_dict() if n.endswith(("weight", "weight_range", "range_state"))}
    assert changed <= allowed - {n for n in allowed if n.startswith(("features.1.", "features.4."))}
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in student.modules())
    assert not any(isinstance(m, LearnedStep) for m in student.modules())


def test_a_seed_decides_every_bit_and_the_global_stream_is_left_alone() -> None:
    random, found = torch.random.get_rng_state(), []
    for seed in (1, 1, 2):
        student = calibrated()
        reconstruct(tiny(), student, pictures(24), CONFIG, seed=seed)
        found.append(snapshot(student))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])
    assert torch.equal(torch.random.get_rng_state(), random)


class Stopped(Exception):
    pass


def test_a_run_that_was_cut_off_ends_as_if_it_was_not(tmp_path: Path) -> None:
    whole = calibrated()
    errors = reconstruct(tiny(), whole, pictures(24), CONFIG)
    file = ReconstructionFile(tmp_path / "reconstruction.safetensors")

    class Stopping(ReconstructionFile):
        def save(self, student: nn.Module, done: list[Any]) -> None:
            super().save(student, done)
            if len(done) == 2:
                raise Stopped

    with pytest.raises(Stopped):
        reconstruct(tiny(), calibrated(), pictures(24), CONFIG, checkpoint=Stopping(file.path))
    student = calibrated()
    assert reconstruct(tiny(), student, pictures(24), CONFIG, checkpoint=file) == errors
    assert same_state(student, snapshot(whole))
    assert reconstruct(tiny(), calibrated(), pictures(24), CONFIG, checkpoint=file) == errors  # nothing left to do


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "reconstruction.safetensors"
    save_tensors(path, {"other": torch.zeros(2)}, {"done": "[]"})
    with pytest.raises(ValueError, match=r"(?s)reconstruction.safetensors does not fit .*delete it"):
        reconstruct(tiny(), calibrated(), pictures(24), CONFIG, checkpoint=ReconstructionFile(path))
    reconstruct(tiny(), calibrated(), pictures(24), CONFIG, checkpoint=ReconstructionFile(path.with_name("new")))
    tensors, _ = load_tensors(path.with_name("new"))
    save_tensors(path, tensors, {"done": '[{"name": "a"}]'})
    with pytest.raises(ValueError, match="delete it"):
        reconstruct(tiny(), calibrated(), pictures(24), CONFIG, checkpoint=ReconstructionFile(path))


def test_a_block_that_became_worse_stays_as_it_was() -> None:
    student = calibrated()
    start = snapshot(student)
    wild = replace(CONFIG, iterations=3, rounding_travel=300.0, act_step_travel=60.0, weight_step_travel=60.0)
    errors = reconstruct(tiny(), student, pictures(24), wild)
    kept = [error for error in errors if error.after == error.before]
    assert len(kept) == len(errors)
    assert {n for n, v in snapshot(student).items() if n in start and not torch.equal(v, start[n])} == set()


def test_rounding_alone_is_learned_where_nothing_else_is_asked_for() -> None:
    ranges: dict[str, Any] = {"act_step_travel": 0.0, "weight_step_travel": 0.0, "search_ranges": False}
    student = calibrated()
    for layer in student.modules():
        if isinstance(layer, QuantizedWeight):
            layer.fix_weight_range()
    start = snapshot(student)
    reconstruct(tiny(), student, pictures(24), replace(CONFIG, drop_probability=0.0, **ranges))
    for name, value in snapshot(student).items():
        if name.endswith("range_state"):
            assert torch.allclose(value[:2], start[name][:2])
        if name.endswith("weight_range"):
            before = start[name]  # the zero point is rounded
            assert torch.allclose(value[1] - value[0], before[1] - before[0])


def test_every_input_of_a_layer_is_quantized_too() -> None:
    student = calibrated(placement="all")
    start = loss(student)
    reconstruct(tiny(), student, pictures(24), CONFIG)
    assert loss(student) < start


def test_weights_alone() -> None:
    student = hc.quantize(tiny(), 3, None)
    start = loss(student)
    reconstruct(tiny(), student, pictures(24), CONFIG)
    assert loss(student) < start


def test_an_interrupted_student_computes_with_its_own_weights() -> None:
    class Interrupted(ReconstructionConfig):
        def beta(self, iteration: int) -> float:
            if iteration == 2:
                raise KeyboardInterrupt
            return super().beta(iteration)

    student = calibrated()
    start = loss(student)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(tiny(), student, pictures(24), Interrupted(iterations=5, batch_size=8))
    assert not any(m.cached_weight is not None for m in student.modules() if isinstance(m, QuantizedWeight))
    assert loss(student) == pytest.approx(start, rel=0.5)


class Repeated(nn.Module):
    """One activation and one convolution in two blocks; [N, 3, 8, 8] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.relu = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()
        self.output = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.twice(self.relu(self.twice(self.relu(self.first(x))))))
        result: Tensor = self.output(x.mean((2, 3)))
        return result


def test_what_two_blocks_share_stays_as_it_is() -> None:
    torch.manual_seed(3)
    teacher = Repeated().eval()
    student = calibrated(teacher=teacher)
    start = snapshot(student)
    reconstruct(teacher, student, pictures(24), CONFIG)
    changed = {n for n, v in snapshot(student).items() if n not in start or not torch.equal(v, start[n])}
    assert "first.weight" in changed
    assert {name.split(".")[0] for name in changed} <= {"first", "output"}


@pytest.mark.filterwarnings("ignore:no image reached")  # by chance the branch is not taken
def test_a_network_that_cannot_be_cut_is_reconstructed_layer_by_layer() -> None:
    torch.manual_seed(3)
    teacher = Branching().eval()
    student = calibrated(teacher=teacher)
    with pytest.warns(UserWarning, match="cannot be cut into blocks .*one by one"):
        errors = reconstruct(teacher, student, pictures(24), replace(CONFIG, iterations=100))
    assert [error.name for error in errors] == ["conv"]
    assert errors[0].after <= errors[0].before


def test_maps_beyond_the_limit_are_in_files(tmp_path: Path) -> None:
    held = calibrated()
    reconstruct(tiny(), held, pictures(24), CONFIG)
    student = calibrated()
    reconstruct(tiny(), student, pictures(24), replace(CONFIG, map_memory=0))
    assert same_state(student, snapshot(held))
    maps = MapStore(100, tmp_path)
    small, large = maps.empty((5, 5), torch.zeros(1)), maps.empty((2, 3), torch.zeros(1))
    assert maps.taken == 100
    assert large.copy_(torch.ones(2, 3)).sum() == 6
    assert not list(tmp_path.iterdir())  # the file has no name any more
    del small
    assert maps.taken == 0


def test_images_of_another_shape_and_open_ranges_are_refused() -> None:
    with pytest.raises(ValueError, match="images is"):
        reconstruct(tiny(), calibrated(), torch.zeros(0, 3, 8, 8), CONFIG)
    with pytest.raises(ValueError, match="does not take images"):
        reconstruct(tiny(), calibrated(), torch.zeros(4, 1, 8, 8), CONFIG)
    with pytest.raises(ValueError, match="teacher has no layer '0' with a weight"):  # a student of another network
        reconstruct(tiny(), hc.quantize(nn.Sequential(nn.Linear(2, 2)), 4, None), pictures(24), CONFIG)
    with pytest.raises(ValueError, match="does not take images"):  # or no student at all
        reconstruct(tiny(), nn.Sequential(nn.Linear(2, 2)), pictures(24), CONFIG)
    with pytest.raises(ValueError, match=r"'features.2' is not frozen"):
        reconstruct(tiny(), hc.quantize(tiny(), 4, 4), pictures(24), CONFIG)


def test_soft_rounding_begins_at_the_weights() -> None:
    student = hc.quantize(tiny(), 4, None)
    layers = [m for m in student.modules() if isinstance(m, QuantizedWeight)]
    weights = [m.weight.detach().clone() for m in layers]
    soft = SoftRounding(layers, weights)
    soft.soft(torch.tensor(20.0))
    for layer, weight in zip(layers, weights, strict=True):
        index = layers.index(layer)
        lower = soft.lows[index] * soft.steps[index]
        upper = lower + 15 * soft.steps[index]
        inside = weight.flatten(1).clamp(lower[:, None], upper[:, None])  # the zero point is rounded
        assert ((layer.quantized_weight().flatten(1) - inside).abs() <= 0.01 * soft.steps[index][:, None]).all()
    soft.harden()
    for layer, weight in zip(layers, weights, strict=True):
        nearest = hc.fake_quantize_weights([weight], 4, ranges=[layer.weight_range])[0]
        assert torch.allclose(layer.quantized_weight(), nearest, atol=1e-6)


def test_the_range_of_the_smallest_error() -> None:
    torch.manual_seed(1)
    weight = torch.randn(4, 50)
    weight[1, 0] = 9.0  # an outlier that is better cut off
    weight[2] = weight[2].abs()
    weight[3] = 0.0
    found = search_weight_range(weight, 3)

    def error(ranges: Tensor) -> Tensor:
        return (hc.fake_quantize_weights([weight], 3, ranges=[ranges])[0] - weight).abs().pow(2.4).sum(1)

    widest = torch.stack(weight.aminmax(dim=1)[:2])
    assert (error(found) <= error(widest) + 1e-6).all()
    assert error(found)[1] < 0.9 * error(widest)[1]
    assert found[0, 2] == 0


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_the_gradient_of_a_step(activation: str | None) -> None:
    """By float64 autograd through ``step * clamp(round(x / step), low, high)``, straight through."""
    torch.manual_seed(2)
    quantizer = hc.FakeQuantActivation(3, activation=activation)
    quantizer.set_range(0.0 if activation else -1.0, 2.0)
    quantizer.freeze()
    x, upstream = (torch.randn(200, dtype=torch.float64) * 2 for _ in range(2))
    step = LearnedStep(quantizer.double(), 0.0, learn=True)
    given = x.clone().requires_grad_()
    y = step(given)
    dx, dfactor = torch.autograd.grad(y, (given, step.factor), upstream)

    factor, plain = torch.ones((), dtype=torch.float64, requires_grad=True), x.clone().requires_grad_()
    active = {None: plain, "relu": plain.relu(), "relu6": plain.clamp(0, 6)}[activation]
    levels = active / (step.step * factor)
    levels = levels + (levels.round() - levels).detach()
    cut = levels.clamp(step.low, step.low + 7)
    expected = torch.where(levels == cut, levels, cut.detach()) * step.step * factor
    assert torch.allclose(y, expected)
    wanted = torch.autograd.grad(expected, (plain, factor), upstream)
    assert torch.allclose(dx, wanted[0])
    assert torch.allclose(dfactor, wanted[1])


def test_a_dropped_activation_stays_in_full_precision() -> None:
    quantizer = hc.FakeQuantActivation(2, activation="relu")
    quantizer.set_range(0.0, 1.0)
    quantizer.freeze()
    step = LearnedStep(quantizer, 0.5, learn=False)
    x = torch.rand(4, 50)
    assert torch.equal(step(x), quantizer(x))  # nothing is drawn yet
    assert step.kept is not None
    draw_mask_(step.kept, 0.5, torch.Generator().manual_seed(0), 4, slice(0, 4))
    y = step(x)
    assert torch.equal(y[step.kept == 1], x[step.kept == 1])
    assert torch.equal(y[step.kept == 0], quantizer(x)[step.kept == 0])


def test_masks_of_a_part_are_those_of_the_whole() -> None:
    whole, part = torch.zeros(10, 1000), torch.zeros(3, 1000)
    draw_mask_(whole, 0.25, torch.Generator().manual_seed(4), 10, slice(0, 10))
    draw_mask_(part, 0.25, torch.Generator().manual_seed(4), 10, slice(4, 7))
    assert torch.equal(part, whole[4:7])
    assert abs(float(whole.mean()) - 0.25) < 0.02


def test_an_error_is_a_mean_over_all_maps() -> None:
    maps, target = pictures(70), pictures(70) * 3
    found = squared_error(lambda x: 2 * x, maps, target, torch.device("cpu"))
    assert found == pytest.approx(float(maps.square().mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iterations": -1}, "iterations"),
        ({"batch_size": 0}, "batch_size"),
        ({"rounding_travel": 0.0}, "rounding_travel"),
        ({"drop_probability": 1.5}, "drop_probability"),
        ({"regulariser": -1.0}, "regulariser"),
        ({"last_beta": 0.5}, "last_beta"),
        ({"map_memory": -1}, "map_memory"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReconstructionConfig(**values)


def test_the_schedule_of_the_regulariser() -> None:
    config = ReconstructionConfig(iterations=100, warmup=0.2, regulariser=0.5)
    assert [config.weight(i) for i in (0, 19, 20, 99)] == [0.0, 0.0, 0.5, 0.5]
    assert [config.beta(i) for i in (0, 20, 60, 100)] == [20.0, 20.0, 11.0, 2.0]
    assert config.decay(0) == 1
    assert config.decay(50) == pytest.approx(0.5)


class EditsItsInput(TinyNet):
    """Its second block begins in place, with something that is another thing when done twice."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.features[1](self.features[0](x))
        x.add_(1.0)
        self.features[2](x)
        return self.output(self.features[5](self.features[4](self.features[3](x))).mean((2, 3)))


def test_blocks_that_edit_their_input_leave_the_maps_alone() -> None:
    torch.manual_seed(3)
    teacher = EditsItsInput()
    draw_batch_norms(teacher)
    teacher.features[2] = nn.ReLU(inplace=True)
    student = hc.calibrate(hc.quantize(teacher.eval(), 3, 4), [pictures(16)])
    images = pictures(16)
    with torch.no_grad():
        apart = (student(images) - teacher(images)).square().mean()
        errors = reconstruct(teacher, student, images, ReconstructionConfig(iterations=60, batch_size=8))
        assert torch.equal(images, pictures(16))
        assert (student(images) - teacher(images)).square().mean() < apart
    assert all(error.after <= error.before for error in errors)
    assert any(error.after < 0.9 * error.before for error in errors)
