"""Training of an image generator on the teacher's statistics, while it is used (GDFQ, Qimera)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast_cuda.checks import values as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.generator.config import GeneratorConfig
from hast_cuda.generator.network import Generator, check_places, soft_labels
from hast_cuda.loops import optimizer_state as _state
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.modes import frozen_copy
from hast_cuda.loops.seeding import derive_seed
from hast_cuda.merged import BatchStatistics

CHECK_EVERY = 50  # iterations between reads of the device
LARGE = 64  # images with longer sides are conditioned through BatchNorm


class GeneratorTrainer:
    """A conditional generator that takes one training step per batch of images it gives.

    Loss: (soft) cross entropy of the teacher on the wanted labels + ``match_weight`` * Eq. 3; Adam
    with betas (0.5, 0.999). All that is random depends on seed and iteration alone: training goes
    on from :meth:`state` as if it had never stopped. A step reads nothing from the device.

    Args:
        teacher: with BatchNorm; copied, never edited.
        shape: (C, H, W) of the images, H and W multiples of 4.
        num_classes: of the teacher.
        config: default GDFQ's.
        batch_size: images per step.
        seed: of weights, noise and labels.
        device: where to compute.
        merge: let the teacher's BatchNorm layers take along what follows them.

    Raises:
        ValueError: no BatchNorm, sizes that are not multiples of 4, one image of 4 x 4 pixels per
            step, ``embedding="classifier"`` and no layer that gives the logits.

    Example:
        >>> trainer = GeneratorTrainer(hc.load_teacher("digits"), (1, 8, 8), 10, batch_size=4)
        >>> images, labels = trainer.step()
        >>> images.shape, labels.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
    """

    @typed
    def __init__(
        self,
        teacher: nn.Module,
        shape: tuple[int, int, int],
        num_classes: int,
        config: GeneratorConfig | None = None,
        *,
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        merge: bool = True,
    ) -> None:
        _checks.check_image_size("shape", shape)
        check_places(batch_size, *shape[1:])
        self.config = config = config or GeneratorConfig()
        _checks.check_range("num_classes", num_classes, 1, _checks.LARGEST_CLASSES)
        _checks.check_range("batch_size", batch_size, 1)
        self.device, self.seed = _checks.as_device(device), seed
        self.batch_size, self.num_classes, self.shape = batch_size, num_classes, shape
        rows = classifier_rows(teacher, num_classes) if config.embedding == "classifier" else None
        self.latent_size = config.latent_size if rows is None else rows.shape[1]
        self.statistics = BatchStatistics(frozen_copy(teacher, self.device), merge=merge)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "generator weights"))
            latent = self.latent_size, config.embedding_noise, rows
            network = Generator(*shape, num_classes, *latent, conditional_norm=min(shape[1:]) > LARGE)
        self.network = network.to(self.device)
        self.parameters = list(self.network.parameters())
        rate, betas = config.learning_rate, (0.5, 0.999)
        self.optimizer = torch.optim.Adam(self.parameters, rate, betas, fused=True)
        self.random = torch.Generator(self.device)
        self.guard = FiniteGuard("generator", self.device)
        self.loss = torch.zeros((), device=self.device)
        self.iteration = 0

    def step(self, done: float = 0.0) -> tuple[Tensor, Tensor]:
        """One training step on a fresh batch, with the fraction ``done`` of the fine-tuning over.

        Its images [N, C, H, W], without gradient, and their labels: [N] int64, or where the
        configuration superposes classes always probabilities [N, classes].
        """
        noise, classes, weights = self._draw()
        labels = classes
        if weights is not None:
            labels = soft_labels(classes, weights, self.num_classes)
        elif self.config.superpose_probability:
            alone = classes[:, None]
            labels = soft_labels(alone, torch.ones_like(alone, dtype=noise.dtype), self.num_classes)
        with torch.enable_grad():
            images = self.network(noise, classes, weights)
            loss = F.cross_entropy(self.statistics.model(images), labels)
            loss = loss + self.config.match_weight * self.statistics.loss()
            gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.param_groups[0]["lr"] = self.config.rate(done)
        self.optimizer.step()
        self.loss = loss.detach()
        self.guard.observe(self.loss)
        self.iteration += 1
        return images.detach(), labels

    def like_step(self) -> tuple[Tensor, Tensor]:
        """Zeros of the shapes and dtypes that :meth:`step` gives, without a step."""
        count, soft = self.batch_size, self.config.superpose_probability
        images = torch.zeros(count, *self.shape, device=self.device)
        labels = images.new_zeros(count, self.num_classes) if soft else images.new_zeros(count).long()
        return images, labels

    def _draw(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Noise, classes and, if they are superposed, their weights, of this iteration."""
        config, device = self.config, self.device
        random = self.random.manual_seed(derive_seed(self.seed, "generator noise", self.iteration))
        # the coin is tossed on the host: it decides on shapes
        coin = derive_seed(self.seed, "superposed", self.iteration) / 2**63
        superposed = coin < config.superpose_probability
        places = (self.batch_size, *([config.superpose_classes] if superposed else []))
        # without an embedding there is one noise vector per image, whatever its classes
        vectors = places[:1] if self.network.embedding is None else places
        noise = torch.randn(*vectors, self.latent_size, generator=random, device=device)
        classes = torch.randint(self.num_classes, places, generator=random, device=device)
        if not superposed:
            return noise, classes, None
        return noise, classes, torch.randn(places, generator=random, device=device).softmax(1)

    def check(self) -> None:
        """Read the device; FloatingPointError if a loss was not finite, naming the iteration."""
        self.guard.check(self.iteration)

    def batches(self) -> Iterator[Tensor]:
        """Endless images, one training step each; looks at the loss now and then."""
        while True:
            images, _ = self.step()
            if self.iteration % CHECK_EVERY == 1:
                self.check()
            yield images

    def state(self) -> dict[str, Tensor]:
        """Weights, Adam moments and iteration, by name."""
        tensors = _state.prefixed(self.network.state_dict(), "network.")
        tensors |= _state.prefixed(_state.optimizer_state(self.optimizer), "adam.")
        return tensors | {"iteration": torch.tensor(self.iteration)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on from :meth:`state`; KeyError, RuntimeError or ValueError if it is another's."""
        iteration = int(tensors["iteration"])
        self.network.load_state_dict(_state.without_prefix(tensors, "network."))
        _state.load_optimizer_state(self.optimizer, _state.without_prefix(tensors, "adam."))
        self.iteration = iteration
        self.guard.reset("generator", iteration)


def classifier_rows(teacher: nn.Module, num_classes: int) -> Tensor:
    """Weights [classes, features] of the last linear layer or 1x1 convolution that gives logits."""
    for module in reversed(list(teacher.modules())):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            weight = module.weight.detach()
            if weight.shape[0] == num_classes and weight[0].numel() == weight.shape[1]:
                return weight.flatten(1)
    raise ValueError(
        'embedding is "classifier", but no linear layer or 1x1 convolution of the teacher has '
        f'{num_classes} outputs; choose "random"'
    )
