"""What is optimised for a batch of images: their pixels, or latents and a network that grows them (Genie)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from hast_cuda.data import InputSpec
from hast_cuda.generator.network import Generator, check_places
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.seeding import derive_seed, generator
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.draws import draw_noise
from hast_cuda.synthesis.schedule import CosineSchedule, ExponentialSchedule, PlateauSchedule, Schedule

Shape = tuple[int, int, int, int]


def make_schedule(config: SynthesisConfig, device: torch.device) -> Schedule:
    """The learning-rate schedule that ``config`` names."""
    first, least = config.learning_rate, min(config.min_learning_rate, config.learning_rate)
    if config.schedule == "plateau":
        return PlateauSchedule(first, patience=config.patience, minimum=least, device=device)
    return CosineSchedule(first, config.iterations, minimum=least, device=device)


class Source(ABC):
    """Where the images of a batch come from; everything stays in place."""

    groups: list[tuple[list[Tensor], Schedule]]
    """What is trained, and the rate of each group; the first follows ``config.schedule``."""
    layout = torch.contiguous_format
    """Of all that is trained."""

    @abstractmethod
    def images(self) -> Tensor:
        """[N, C, H, W] as they are now, with a graph to what is trained."""

    @abstractmethod
    def draw(self, seed: int, batch: int) -> list[Tensor]:
        """What :attr:`parameters` are when a batch begins, on the CPU."""

    @property
    def parameters(self) -> list[Tensor]:
        """All that is trained."""
        return [parameter for group, _ in self.groups for parameter in group]

    @torch.no_grad()
    def start(self, values: Sequence[Tensor]) -> None:
        """Begin with ``values``, and with the first rates."""
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        for _, schedule in self.groups:
            schedule.reset()

    def step(self, loss: Tensor) -> None:
        """Rates of the next iteration, after one whose loss is 0-d."""
        for _, schedule in self.groups:
            schedule.step(loss)


class Pixels(Source):
    """The images themselves, projected between the ends of ``config`` if it has some."""

    def __init__(self, config: SynthesisConfig, shape: Shape, execution: Execution, device: torch.device) -> None:
        self.config, self.shape = config, shape
        self.pixels = execution.images(torch.zeros(shape, device=device)).requires_grad_()
        self.layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self.groups = [([self.pixels], make_schedule(config, device))]
        ends = (config.lowest, config.highest) if config.lowest else ()
        self.ends = [torch.tensor(end, dtype=torch.float32, device=device).view(1, -1, 1, 1) for end in ends]

    def images(self) -> Tensor:
        """The pixels."""
        return self.pixels

    def draw(self, seed: int, batch: int) -> list[Tensor]:
        """Noise of the kind that the configuration names."""
        return [draw_noise(self.config, self.shape, seed, batch)]

    def start(self, values: Sequence[Tensor]) -> None:
        """Begin with noise, of which what lies outside is projected too."""
        super().start(values)
        self._project()

    def step(self, loss: Tensor) -> None:
        """Rates of the next iteration; the optimizer may have led pixels outside."""
        super().step(loss)
        self._project()

    @torch.no_grad()
    def _project(self) -> None:
        if self.ends:
            self.pixels.clamp_(*self.ends)


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
