from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import CHANNELS, CLASSES, SIZE, same_state, snapshot, tiny, without_batch_norm
from torch import Tensor, nn

from hast_cuda.data import InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.seeding import generator
from hast_cuda.synthesis import ImageStore, SynthesisConfig, difficulty, synthesize

pytestmark = pytest.mark.usefixtures("exact")
SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
CONFIG = SynthesisConfig(num_images=6, batch_size=4, iterations=12, learning_rate=0.1)
LOGITS = [[2.0, 0, -1], [0, 1, 0.5]]
Records = list[dict[str, Any]]


def test_difficulty_is_one_minus_probability(device: torch.device) -> None:
    logits = torch.tensor([*LOGITS, [100.0, 0, 0]], device=device)
    found = difficulty(logits, torch.tensor([0, 2, 0], device=device))
    expected = torch.tensor([1 - 0.843795, 1 - 0.307196, 1e-6], device=device)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def by_hand(network: nn.Module, labels: Tensor, noise: Tensor, config: SynthesisConfig) -> Tensor:
    """The published loop with torch's own parts: hooks, Adam and ReduceLROnPlateau."""
    inputs: dict[nn.Module, Tensor] = {}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(lambda m, i, o: inputs.update({m: i[0]})) for m in norms]
    x = noise.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=config.learning_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
        adam, min_lr=config.min_learning_rate, patience=config.patience
    )
    for _ in range(config.iterations):
        logits = network(x)
        match = torch.zeros((), device=x.device)
        for norm in norms:
            var, mean = torch.var_mean(inputs[norm], (0, 2, 3), correction=0)
            scale = norm.running_var.mean() if config.match_reduction == "relative" else 1.0
            gaps = (mean - norm.running_mean) / scale**0.5, (var - norm.running_var) / scale
            for gap in gaps:
                norm_loss = config.match_reduction == "norm"
                match = match + (gap.norm() if norm_loss else gap.square().mean()) / len(norms)
        p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        hard = ((1 - p) ** config.difficulty_exponent * -p.log()).mean()
        loss = config.match_weight * match + config.label_weight * hard
        adam.zero_grad()
        loss.backward()
        adam.step()
        plateau.step(loss.detach())
    for hook in hooks:
        hook.remove()
    return x.detach()


@pytest.mark.parametrize(("reduction", "weight"), [("mse", 1.0), ("norm", 1.0), ("relative", 10.0)])
def test_equals_a_loop_of_torch_parts(device: torch.device, reduction: str, weight: float) -> None:
    config = replace(
        CONFIG, match_reduction=reduction, match_weight=weight, num_images=4, learning_rate=8.0, patience=0
    )
    records: Records = []
    found = synthesize(tiny(), SHAPE, config, seed=3, device=device, log=records.append)
    noise = torch.randn(4, CHANNELS, SIZE, SIZE, generator=generator(3, "noise", 0))
    expected = by_hand(tiny(device), found.labels.to(device), noise.to(device), config)
    torch.testing.assert_close(found.images, expected.cpu(), rtol=1e-3, atol=1e-3)
    assert (found.images - noise).abs().mean() > 0.1
    assert records[-1]["learning_rate"] < 8  # the plateau rule had its say


@pytest.mark.parametrize("changed", [{"schedule": "cosine", "balanced_labels": True}, {"augment_probability": 1.0}])
def test_loss_falls(device: torch.device, changed: dict[str, Any]) -> None:
    records: Records = []
    config = replace(CONFIG, num_images=4, iterations=40, **changed)
    found = synthesize(tiny(), SHAPE, config, device=device, log=records.append)
    assert [r["iteration"] for r in records] == [*range(0, 40, 2), 39]
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]
    assert found.images.isfinite().all()


def test_augmentation_changes_what_the_teacher_sees(device: torch.device) -> None:
    plain, augmented, closer = (
        synthesize(tiny(), SHAPE, replace(CONFIG, **changed), device=device).images
        for changed in ({}, {"augment_probability": 0.5}, {"augment_probability": 0.5, "crop_scale": (0.1, 0.2)})
    )
    assert not torch.equal(plain, augmented)
    assert not torch.equal(augmented, closer)


def test_shapes_dtypes_and_a_smaller_last_batch(device: torch.device) -> None:
    found = synthesize(tiny(), SHAPE, CONFIG, device=device)
    assert found.images.shape == (6, CHANNELS, SIZE, SIZE)
    assert (found.images.dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert found.images.device.type == "cpu"
    assert len(found) == 6


def test_labels_are_balanced_on_request() -> None:
    config = replace(CONFIG, num_images=23, batch_size=23, iterations=1, balanced_labels=True)
    counts = synthesize(tiny(), SHAPE, config).labels.bincount(minlength=CLASSES)
    assert sorted(counts.tolist()) == [4, 4, 5, 5, 5]


def test_a_seed_decides_every_bit(device: torch.device) -> None:
    first, again, other = (synthesize(tiny(), SHAPE, CONFIG, seed=seed, device=device) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


def test_batches_do_not_depend_on_how_many_follow(device: torch.device) -> None:
    few = synthesize(tiny(), SHAPE, replace(CONFIG, num_images=4), device=device)
    more = synthesize(tiny(), SHAPE, replace(CONFIG, num_images=12), device=device)
    assert torch.equal(few.labels, more.labels[:4])
    assert torch.equal(few.images, more.images[:4])


def test_teacher_and_global_random_state_are_untouched(device: torch.device) -> None:
    teacher = tiny().train()
    before, modules = snapshot(teacher), list(teacher.modules())
    state = torch.random.get_rng_state()
    synthesize(teacher, SHAPE, CONFIG, device=device)
    assert same_state(teacher, before)
    assert list(teacher.modules()) == modules
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in modules)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_lost_batch_is_made_again_bit_for_bit(device: torch.device, tmp_path: Path) -> None:
    store, made = ImageStore(tmp_path), []
    first = synthesize(tiny(), SHAPE, CONFIG, device=device, store=store)
    store.path(0).unlink()
    again = synthesize(tiny(), SHAPE, CONFIG, device=device, store=store, log=lambda r: made.append(r["batch"]))
    assert set(made) == {0}
    assert torch.equal(first.images, again.images)
    assert torch.equal(store.load_all().images, first.images)
    assert torch.equal(store.load_all().labels, first.labels)


@pytest.mark.parametrize("other", [{"seed": 9}, {"shape": replace(SHAPE, height=4)}])
def test_shards_of_another_run_are_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    store = ImageStore(tmp_path)
    synthesize(tiny(), SHAPE, CONFIG, store=store)
    with pytest.raises(ValueError, match=r"batch_00000.safetensors belongs to another run"):
        synthesize(tiny(), **{"shape": SHAPE, "seed": 0} | other, config=CONFIG, store=store)


def test_a_loss_that_is_not_finite_stops_the_run(device: torch.device, tmp_path: Path) -> None:
    teacher, store = tiny(), ImageStore(tmp_path)
    teacher.output.weight.data[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match=r"synthesis of batch 0: .* not finite from iteration 0 on"):
        synthesize(teacher, SHAPE, CONFIG, device=device, store=store)
    assert store.finished() == set()


def test_finished_batches_outlive_a_failure(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)

    def stop(record: dict[str, Any]) -> None:
        if record["batch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tiny(), SHAPE, CONFIG, store=store, log=stop)
    assert store.finished() == {0}


def test_network_without_batch_norm() -> None:
    with pytest.raises(ValueError, match="no BatchNorm layer with running statistics"):
        synthesize(without_batch_norm(), SHAPE, CONFIG)


@pytest.mark.parametrize(("images_last", "teacher_last"), [(False, True), (True, False)])
def test_the_memory_layout_does_not_matter(device: torch.device, images_last: bool, teacher_last: bool) -> None:
    # the gradient of a crop is contiguous, whatever the layout of the images
    config = replace(CONFIG, num_images=4, iterations=8, augment_probability=1.0)
    expected = synthesize(tiny(), SHAPE, config, device=device).images
    layout = torch.channels_last if teacher_last else torch.contiguous_format
    found = synthesize(
        tiny().to(memory_format=layout),  # type: ignore[call-overload]
        SHAPE,
        config,
        device=device,
        execution=Execution(channels_last=images_last),
    ).images
    assert float((expected - found).abs().mean() / expected.abs().mean()) < 2e-3
