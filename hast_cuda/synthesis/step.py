"""One iteration of synthesis on one batch of images (Eq. 3-9)."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.augment import resize_crops
from hast_cuda.execution import Execution
from hast_cuda.failures import FiniteGuard
from hast_cuda.graphs import Replayed
from hast_cuda.nn import BatchStatistics
from hast_cuda.ops import hard_sample_loss
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.schedule import CosineSchedule, PlateauSchedule, Schedule


def make_schedule(config: SynthesisConfig, device: torch.device) -> Schedule:
    """The learning-rate schedule that ``config`` names."""
    minimum = min(config.min_learning_rate, config.learning_rate)
    if config.schedule == "plateau":
        return PlateauSchedule(
            config.learning_rate, patience=config.patience, minimum=minimum, device=device
        )
    return CosineSchedule(config.learning_rate, config.iterations, minimum=minimum, device=device)


class Step:
    """Images of one batch and all that follows them; everything stays in place between batches.

    Nothing in an iteration reads the device. :attr:`figures` holds what the last one found.
    """

    def __init__(
        self, statistics: BatchStatistics, shape: tuple[int, int, int, int],
        config: SynthesisConfig, execution: Execution, device: torch.device,
    ) -> None:  # fmt: skip
        self.statistics, self.config, self.execution = statistics, config, execution
        self.images = execution.images(torch.zeros(shape, device=device)).requires_grad_()
        self.layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self.labels = torch.zeros(shape[0], dtype=torch.int64, device=device)
        self.crops = torch.zeros(shape[0], 5, device=device)
        self.schedule = make_schedule(config, device)
        self.optimizer = torch.optim.Adam(
            [self.images], lr=self.schedule.rate, fused=True, capturable=device.type == "cuda"
        )
        self.guard = FiniteGuard("synthesis", device)
        names = ("loss", "match", "label", "difficulty")
        self.figures = {name: torch.zeros((), device=device) for name in names}
        # gradient of Eq. 9 with respect to its two terms
        self.upstream = [torch.full((), w, device=device) for w in (1.0, config.label_weight)]
        self.plain = Replayed(lambda: self._run(crop=False), device, execution.cuda_graphs)
        self.cropped = Replayed(lambda: self._run(crop=True), device, execution.cuda_graphs)

    def start(self, noise: Tensor, labels: Tensor, what: str) -> None:
        """Begin a batch: new images, and the optimizer and schedule as if never used."""
        with torch.no_grad():
            self.images.copy_(noise)
        self.labels.copy_(labels)
        self.schedule.reset()
        self.guard.reset(what)
        for value in self.optimizer.state[self.images].values():
            value.zero_()

    def __call__(self, crops: Tensor | None = None) -> None:
        """One iteration, on the images as they are or cut out of them by ``crops`` [N, 5]."""
        if crops is None:
            self.plain()
        else:
            self.crops.copy_(crops)
            self.cropped()

    def _run(self, *, crop: bool) -> None:
        config, images = self.config, self.images
        x: Tensor = images
        if crop:
            x = resize_crops(images, self.crops[:, :4], self.crops[:, 4])
            x = self.execution.images(x)
        with self.execution.autocast(images.device):
            logits = self.statistics.model(x)
        match = self.statistics.loss(config.match_reduction)  # Eq. 3
        label, difficulty = hard_sample_loss(  # Eq. 8
            logits,
            self.labels,
            config.difficulty_exponent,
            detach=config.detach_difficulty,
            check_labels=False,
        )
        (gradient,) = torch.autograd.grad([match, label], images, self.upstream)
        # The fused Adam takes for granted that gradient and images have the same layout.
        images.grad = gradient.contiguous(memory_format=self.layout)
        self.statistics.forget()  # checkpointed layers have seen a second forward
        self.optimizer.step()
        loss = torch.add(match.detach(), label.detach(), alpha=config.label_weight)  # Eq. 9
        self.schedule.step(loss)
        self.guard.observe(loss)
        found = (loss, match.detach(), label.detach(), difficulty)
        torch._foreach_copy_(list(self.figures.values()), list(found))
