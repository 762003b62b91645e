"""One iteration of synthesis on one batch of images (Eq. 3-9, and what other methods add)."""

from __future__ import annotations

import torch
from torch import Tensor

from hast_cuda.loops.crops import resize_crops
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.graphs import Replayed
from hast_cuda.ops import hard_sample_loss
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.intra_class import ClassDistance
from hast_cuda.synthesis.objective import Objective, soft_label_loss
from hast_cuda.synthesis.schedule import CosineSchedule, PlateauSchedule, Schedule


def make_schedule(config: SynthesisConfig, device: torch.device) -> Schedule:
    """The learning-rate schedule that ``config`` names."""
    first, least = config.learning_rate, min(config.min_learning_rate, config.learning_rate)
    if config.schedule == "plateau":
        return PlateauSchedule(first, patience=config.patience, minimum=least, device=device)
    return CosineSchedule(first, config.iterations, minimum=least, device=device)


class SynthesisStep:
    """Images of one batch and all that follows them, in place; nothing in an iteration reads the
    device. :attr:`metrics` holds what the last one found."""

    def __init__(
        self, objective: Objective, shape: tuple[int, int, int, int], execution: Execution, device: torch.device
    ) -> None:
        self.matching, self.execution = objective.matching, execution
        self.config = config = objective.matching.config
        self.distance = None
        if objective.features is not None:
            self.distance = ClassDistance(objective.features, shape[0], config.margins)
        self.images = execution.images(torch.zeros(shape, device=device)).requires_grad_()
        self.layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self.labels = torch.zeros(shape[0], dtype=torch.int64, device=device)
        self.targets = torch.ones(shape[0], device=device)  # of p_y, with soft labels
        self.crops = torch.zeros(shape[0], 5, device=device)
        self.schedule = make_schedule(config, device)
        graphs = device.type == "cuda"
        self.optimizer = torch.optim.Adam([self.images], self.schedule.rate, fused=True, capturable=graphs)
        self.guard = FiniteGuard("synthesis", device)
        names = ("loss", "match", "label", "difficulty")
        self.metrics = {name: torch.zeros((), device=device) for name in names}
        # gradient of the loss with respect to its terms
        weights = [config.match_weight, config.label_weight, *([1.0] if self.distance else [])]
        self.upstream = [torch.full((), w, device=device) for w in weights]
        self.plain = Replayed(lambda: self._run(crop=False), device, execution.cuda_graphs)
        self.cropped = Replayed(lambda: self._run(crop=True), device, execution.cuda_graphs)

    def start(self, noise: Tensor, labels: Tensor, what: str, targets: Tensor | None = None) -> None:
        """Begin a batch: new images and targets of p_y [N], the optimizer as if never used."""
        with torch.no_grad():
            self.images.copy_(noise)
        self.labels.copy_(labels)
        if targets is not None:
            self.targets.copy_(targets)
        if self.distance is not None:
            self.distance.start(labels)
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
        images: Tensor = self.images
        x = images
        if crop:
            x = self.execution.images(resize_crops(x, self.crops))
        with self.execution.autocast(images.device):
            logits = self.matching.statistics.model(x)
        match = self.matching.loss(x)  # Eq. 3, or ZeroQ's or DSG's
        label, difficulty = self._label_loss(logits)  # Eq. 8 and its mean difficulty, or IntraQ's
        terms = [match, label]
        if self.distance is not None:
            terms.append(self.distance.loss())
        (gradient,) = torch.autograd.grad(terms, images, self.upstream)  # of Eq. 9
        # The fused Adam takes for granted that gradient and images have the same layout.
        images.grad = gradient.contiguous(memory_format=self.layout)
        self.optimizer.step()
        loss = self._weighted_sum(terms)  # Eq. 9
        self.schedule.step(loss)
        self.guard.observe(loss)
        found = (loss, match.detach(), label.detach(), difficulty)
        torch._foreach_copy_(list(self.metrics.values()), list(found))

    def _label_loss(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.label_loss == "soft":
            return soft_label_loss(logits, self.labels, self.targets, check_labels=False)
        gamma, detach = self.config.difficulty_exponent, self.config.detach_difficulty
        return hard_sample_loss(logits, self.labels, gamma, detach=detach, check_labels=False)

    def _weighted_sum(self, terms: list[Tensor]) -> Tensor:
        """Eq. 9, with the weight of its first term, and the margins' if they count."""
        match, label, *rest = (term.detach() for term in terms)
        if self.config.match_weight != 1:
            match = match * self.config.match_weight
        loss = torch.add(match, label, alpha=self.config.label_weight)
        return torch.add(loss, rest[0]) if rest else loss
