"""One iteration of synthesis on one batch of images (Eq. 3-9, and what other methods add)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hast_cuda.loops.crops import resize_crops
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.graphs import Replayed
from hast_cuda.networks.outputs import gives_logits
from hast_cuda.ops import hard_sample_loss
from hast_cuda.synthesis.intra_class import ClassDistance
from hast_cuda.synthesis.objective import Objective, soft_label_loss
from hast_cuda.synthesis.source import Shape, make_source


class SynthesisStep:
    """Images of one batch and all that follows them, in place; nothing in an iteration reads the
    device. :attr:`metrics` holds what the last one found."""

    def __init__(self, objective: Objective, shape: Shape, execution: Execution, device: torch.device) -> None:
        self.matching, self.execution = objective.matching, execution
        self.config = config = objective.matching.config
        self.distance = None
        if objective.features is not None:
            self.distance = ClassDistance(objective.features, shape[0], config.margins)
        self.shape, self.swing = shape, objective.swing
        self.source = make_source(config, shape, execution, device)
        self.labels = torch.zeros(shape[0], dtype=torch.int64, device=device)
        self.targets = torch.ones(shape[0], device=device)  # of p_y, with soft labels
        self.crops = torch.zeros(shape[0], 5, device=device)
        self.schedule = self.source.groups[0][1]
        groups = [{"params": group, "lr": schedule.rate} for group, schedule in self.source.groups]
        self.optimizer = torch.optim.Adam(groups, fused=True, capturable=device.type == "cuda")
        self.guard = FiniteGuard("synthesis", device)
        self.unlabelled = torch.zeros((), device=device, requires_grad=True)
        names = ("loss", "match", "label", "difficulty")
        self.metrics = {name: torch.zeros((), device=device) for name in names}
        # gradient of the loss with respect to its terms
        weights = [config.match_weight, config.label_weight, *([1.0] if self.distance else [])]
        self.upstream = [torch.full((), w, device=device) for w in weights]
        self.plain = Replayed(lambda: self._run(crop=False), device, execution.cuda_graphs)
        self.cropped = Replayed(lambda: self._run(crop=True), device, execution.cuda_graphs)

    @property
    def images(self) -> Tensor:
        """[N, C, H, W] as they are now."""
        return self.source.images()

    def start(self, values: Sequence[Tensor], labels: Tensor, what: str, targets: Tensor | None = None) -> None:
        """Begin a batch: new ``values`` of what is trained and targets of p_y [N], the optimizer as
        if never used."""
        self.source.start(values)
        self.labels.copy_(labels)
        if targets is not None:
            self.targets.copy_(targets)
        if self.distance is not None:
            self.distance.start(labels)
        self.guard.reset(what)
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()

    def __call__(self, crops: Tensor | None = None) -> None:
        """One iteration, on the images as they are or cut out of them by ``crops`` [N, 5]."""
        if crops is None:
            self.plain()
        else:
            self.crops.copy_(crops)
            self.cropped()

    def _run(self, *, crop: bool) -> None:
        x = self.source.images()
        if crop:
            x = self.execution.images(resize_crops(x, self.crops))
        with self.execution.autocast(x.device):
            output = self.matching.statistics.model(x)
        match = self.matching.loss(x)  # Eq. 3, or ZeroQ's or DSG's
        label, difficulty = self._label_loss(output)  # Eq. 8 and its mean difficulty, or IntraQ's
        terms = [match, label]
        if self.distance is not None:
            terms.append(self.distance.loss())
        parameters = self.source.parameters
        gradients = torch.autograd.grad(terms, parameters, self.upstream)  # of Eq. 9
        for parameter, gradient in zip(parameters, gradients, strict=True):
            # The fused Adam takes for granted that both have the same layout.
            parameter.grad = gradient.contiguous(memory_format=self.source.layout)
        self.optimizer.step()
        loss = self._weighted_sum(terms)  # Eq. 9
        self.source.step(loss)
        self.guard.observe(loss)
        found = (loss, match.detach(), label.detach(), difficulty)
        torch._foreach_copy_(list(self.metrics.values()), list(found))

    def _label_loss(self, logits: Any) -> tuple[Tensor, Tensor]:
        if not gives_logits(logits):  # there are no classes, and the weight is 0
            return self.unlabelled, self.unlabelled.detach()
        if self.config.label_loss == "soft":
            return soft_label_loss(logits, self.labels, self.targets, check_labels=False)
        gamma, detach = self.config.difficulty_exponent, self.config.detach_difficulty
        if self.config.label_temperature != 1:
            logits = logits / self.config.label_temperature
        return hard_sample_loss(logits, self.labels, gamma, detach=detach, check_labels=False)

    def _weighted_sum(self, terms: list[Tensor]) -> Tensor:
        """Eq. 9, with the weight of its first term, and the margins' if they count."""
        match, label, *rest = (term.detach() for term in terms)
        if self.config.match_weight != 1:
            match = match * self.config.match_weight
        loss = torch.add(match, label, alpha=self.config.label_weight)
        return torch.add(loss, rest[0]) if rest else loss
