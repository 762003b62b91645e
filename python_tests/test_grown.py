"""Images that a network of the batch's own grows from latents (Genie), as one source of the loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from counting import count, synthesis_iteration
from networks import CHANNELS, CLASSES, SIZE, tiny
from pytorchcv.model_provider import get_model
from test_host_reads import refuse_reads
from torch import Tensor, nn

from hast_cuda.data import InputSpec
from hast_cuda.generator.network import Generator
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.seeding import derive_seed, generator
from hast_cuda.methods import genie
from hast_cuda.synthesis import ImageStore, SynthesisConfig, synthesize
from hast_cuda.synthesis.schedule import ExponentialSchedule

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)
CONFIG = replace(genie.IMAGES, num_images=10, batch_size=4, iterations=6, latent_size=12)


@pytest.fixture(scope="module")
def expected() -> Tensor:
    """The images of CONFIG, seed 0."""
    return synthesize(tiny(), SHAPE, CONFIG).images


class Plain(nn.Module):
    """The published generator, of torch's parts, with the parameters of ``source``."""

    def __init__(self, source: Generator) -> None:
        super().__init__()
        self.project = nn.Linear(12, 128 * (SIZE // 4) ** 2)
        self.first = nn.BatchNorm2d(128)
        self.rest = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(128, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, CHANNELS, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(CHANNELS, affine=False),
        )
        pairs = [(self.project, source.project), (self.first, source.norms[0])]
        pairs += [(self.rest[i], source.convs[k]) for k, i in enumerate((1, 5, 8))]
        pairs += [(self.rest[i], source.norms[k]) for k, i in ((1, 2), (2, 6))]
        for own, given in pairs:
            own.load_state_dict(given.state_dict())

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.rest(self.first(self.project(z).view(-1, 128, SIZE // 4, SIZE // 4)))
        return images


def places_of(seed: int, batch: int) -> list[list[int]]:
    """Where the one strided convolution of the tiny network is, by iteration."""
    draws = torch.rand(50, 1, 2, generator=generator(seed, "swing", batch, 0))
    return [[int(v * 3) for v in pair] for (pair,) in draws.tolist()]


def by_hand(config: SynthesisConfig, seed: int, batch: int) -> tuple[Tensor, list[float]]:
    """Images and losses of a batch with torch's own parts alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(seed, "generator of a batch", batch))
        network = Plain(Generator(CHANNELS, SIZE, SIZE, 0, 12, conditional_norm=False))
    z = torch.randn(4, 12, generator=generator(seed, "noise", batch)).requires_grad_()
    adams = torch.optim.Adam([z], config.learning_rate), torch.optim.Adam(network.parameters(), config.generator_rate)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adams[0], min_lr=1e-4, patience=config.patience)
    decay = torch.optim.lr_scheduler.ExponentialLR(adams[1], config.generator_left ** (1 / config.iterations))
    stem, norm, _, strided, after, _ = tiny().features
    losses = []
    for top, left in places_of(seed, batch)[: config.iterations]:
        one = stem(network(z))
        moved = F.pad(norm(one).relu(), (1, 1, 1, 1), mode="reflect")[:, :, top : top + SIZE, left : left + SIZE]
        loss = torch.zeros(())
        for x, layer in ((one, norm), (strided(moved), after)):
            var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
            gaps = mean - layer.running_mean, (var + 1e-6).sqrt() - (layer.running_var + 1e-6).sqrt()
            loss = loss + sum(gap.square().sum() for gap in gaps)
        gradients = torch.autograd.grad(loss, [z, *network.parameters()])
        for parameter, gradient in zip([z, *network.parameters()], gradients, strict=True):
            parameter.grad = gradient
        for adam in adams:
            adam.step()
        plateau.step(loss.detach())
        decay.step()
        losses.append(loss.item())
    return network(z).detach(), losses


@pytest.mark.usefixtures("exact")
def test_equals_a_loop_of_torch_parts(device: torch.device) -> None:
    # a rate of the weights at which the first digits agree after several steps of Adam
    config = replace(CONFIG, generator_rate=1e-3, patience=0)
    records: list[dict[str, Any]] = []
    found = synthesize(tiny(), SHAPE, config, seed=3, device=device, log=records.append)
    for batch in (0, 1):
        expected, losses = by_hand(config, 3, batch)
        torch.testing.assert_close(found.images[4 * batch : 4 * batch + 4], expected, rtol=1e-2, atol=1e-2)
        own = [r["loss"] for r in records if r["batch"] == batch]
        assert [own[0], own[-1]] == pytest.approx([losses[0], losses[-1]], rel=1e-3)


def test_statistics_come_closer(device: torch.device) -> None:
    records: list[dict[str, Any]] = []
    config = replace(CONFIG, num_images=4, iterations=60, generator_rate=0.01)
    found = synthesize(tiny(), SHAPE, config, device=device, log=records.append)
    assert records[-1]["match"] < 0.7 * records[0]["match"]
    assert found.images.isfinite().all()


def test_exponential_schedule(device: torch.device) -> None:
    schedule = ExponentialSchedule(0.5, 4, left=0.0625, device=device)
    for _ in range(2):
        rates = []
        for _ in range(5):
            rates.append(float(schedule.rate))
            schedule.step(torch.zeros((), device=device))
        assert rates == pytest.approx([0.5, 0.25, 0.125, 0.0625, 0.03125])
        schedule.reset()


def test_every_batch_has_a_network_of_its_own(device: torch.device, tmp_path: Path) -> None:
    """A lost batch is made again bit for bit, whatever the network made before it."""
    store = ImageStore(tmp_path)
    first = synthesize(tiny(), SHAPE, CONFIG, device=device, store=store)
    store.path(1).unlink()
    assert torch.equal(synthesize(tiny(), SHAPE, CONFIG, device=device, store=store).images, first.images)
    fewer = synthesize(tiny(), SHAPE, replace(CONFIG, num_images=4), device=device)
    assert torch.equal(fewer.images, first.images[:4])
    assert not torch.allclose(first.images[:4], first.images[4:8], atol=1e-2)


def test_a_run_killed_between_batches_ends_as_if_it_was_not(tmp_path: Path, expected: Tensor) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["batch"] == 1 and record["iteration"] == 5:
            raise KeyboardInterrupt

    store = ImageStore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tiny(), SHAPE, CONFIG, store=store, log=stop)
    assert store.finished() == {0}
    assert torch.equal(synthesize(tiny(), SHAPE, CONFIG, store=store).images, expected)


def test_labels_have_no_part_in_the_images(expected: Tensor) -> None:
    assert torch.equal(synthesize(tiny(), replace(SHAPE, num_classes=2), CONFIG).images, expected)


def test_the_global_random_state_is_untouched() -> None:
    state = torch.random.get_rng_state()
    synthesize(tiny(), SHAPE, CONFIG)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "changed",
    [
        {"statistics": "sample"},
        {"augment_probability": 1.0},
        {"margins": (0.3, 0.31), "label_loss": "soft", "label_weight": 1.0},
        {"spread": "variance", "match_reduction": "relative"},
    ],
)
def test_goes_with_the_terms_of_others(changed: dict[str, Any], expected: Tensor) -> None:
    config = replace(CONFIG, num_images=4, **changed)
    found = synthesize(tiny(), SHAPE, config).images
    assert found.isfinite().all()
    assert torch.equal(found, synthesize(tiny(), SHAPE, config).images)
    assert not torch.equal(found, expected[:4])


@pytest.mark.parametrize(
    "execution", [Execution(channels_last=True), Execution(merge=False), Execution(checkpoint_segments=2)]
)
def test_how_it_computes_does_not_matter(execution: Execution) -> None:
    config = replace(CONFIG, num_images=4, generator_rate=1e-3)
    expected, found = (synthesize(tiny(), SHAPE, config, execution=e).images for e in (Execution(), execution))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


def test_an_iteration_reads_nothing() -> None:
    refuse_reads(synthesis_iteration(tiny(), (4, CHANNELS, SIZE, SIZE), CONFIG))


# An iteration of pixels with this loss of statistics, then the generator and its optimizer, then
# two selections, two products and their gradients per strided convolution.
LIMITS = {"pixels": 461, "grown": 503, "grown and swing": 527}


def test_launches_of_an_iteration() -> None:
    model, shape = get_model("resnet20_cifar10", pretrained=False), (8, 3, 32, 32)
    steps = {
        "pixels": replace(CONFIG, generator_rate=0.0, swing=False),
        "grown": replace(CONFIG, swing=False),
        "grown and swing": CONFIG,
    }
    found = {name: count(synthesis_iteration(model, shape, config)).launches for name, config in steps.items()}
    assert all(found[name] <= LIMITS[name] for name in found), found


@pytest.mark.parametrize(
    ("shape", "changed", "message"),
    [
        ((CHANNELS, 8, 6), {}, "sizes that are multiples of 4, got 8x6"),
        ((CHANNELS, 4, 4), {"num_images": 5}, "batch_size is 1 and images are 4 x 4"),
    ],
)
def test_images_that_cannot_grow(shape: tuple[int, int, int], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthesize(tiny(), InputSpec(*shape, CLASSES), replace(CONFIG, **changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"noise": "natural"}, "noise is 'natural', how pixels start, .* set noise to \"gaussian\""),
        ({"generator_left": 0.0}, "generator_left is 0.0; it must be greater than 0"),
    ],
)
def test_settings_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changed)
