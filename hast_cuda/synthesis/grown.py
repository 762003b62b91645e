"""Images that a small network grows from latents, both trained for one batch alone (Genie)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hast_cuda.data import InputSpec
from hast_cuda.generator.network import Generator, check_places
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.seeding import derive_seed, generator
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.schedule import ExponentialSchedule
from hast_cuda.synthesis.source import Pixels, Shape, Source, make_schedule


def check_source(config: SynthesisConfig, shape: InputSpec, batches: Sequence[Tensor]) -> None:
    """ValueError, before any work, if a network cannot grow such images, or their ends are of others."""
    if config.lowest and len(config.lowest) != shape.channels:
        raise ValueError(f"lowest is {tuple(config.lowest)}; expected one for each of the {shape.channels} channels")
    if config.generator_rate:
        for labels in batches:
            check_places(len(labels), shape.height, shape.width)


def make_source(config: SynthesisConfig, shape: Shape, execution: Execution, device: torch.device) -> Source:
    """What ``config`` optimises for a batch of ``shape``."""
    kind = Grown if config.generator_rate else Pixels
    return kind(config, shape, execution, device)


class Grown(Source):
    """``G(z)`` of latents z [N, ``latent_size``] and a network G without conditions."""

    def __init__(self, config: SynthesisConfig, shape: Shape, execution: Execution, device: torch.device) -> None:
        self.config, self.shape, self.execution = config, shape, execution
        self.latents = torch.zeros(shape[0], config.latent_size, device=device).requires_grad_()
        self.network = self._network(0, 0).to(device)
        rate = ExponentialSchedule(config.generator_rate, config.iterations, left=config.generator_left, device=device)
        self.groups = [([self.latents], make_schedule(config, device)), (list(self.network.parameters()), rate)]

    def _network(self, seed: int, batch: int) -> Generator:
        """With the weights that a batch begins with, on the CPU."""
        with torch.random.fork_rng([]):
            torch.manual_seed(derive_seed(seed, "generator of a batch", batch))
            return Generator(*self.shape[1:], 0, self.config.latent_size, conditional_norm=False)

    def images(self) -> Tensor:
        """G(z), normalised over the batch."""
        found: Tensor = self.network(self.latents)
        return self.execution.images(found)

    def draw(self, seed: int, batch: int) -> list[Tensor]:
        """Latents from N(0, 1) and fresh weights."""
        latents = torch.randn(self.latents.shape, generator=generator(seed, "noise", batch))
        return [latents, *self._network(seed, batch).parameters()]
