"""One iteration of fine-tuning: clean loss, perturbation, perturbed loss, update (Eq. 10, 12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.inundation import InundatedSGD
from hast_cuda.finetune.objective import loss_terms, loss_weights
from hast_cuda.finetune.optimizer import make_optimizer
from hast_cuda.loops.execution import Execution
from hast_cuda.merged.followed import follow
from hast_cuda.nn import quantized_once

Gradients = list[Tensor | None]
TERMS = {"distillation": 0, "alignment": 1}  # what perturb_by names, in the order of loss_terms


class Step:
    """Both networks, the optimizer, and what one batch does to them; nothing reads the device.

    Both networks are in eval mode. Gradients are left in the student's parameters. A call is
    :meth:`differentiate`, then :meth:`update`.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, layers: list[str], config: FinetuneConfig,
        execution: Execution | None = None,
    ) -> None:  # fmt: skip
        self.student, self.config = student, config
        self.execution = execution or Execution()
        wanted = layers if config.feature_weight else []
        self.networks = follow(
            (teacher, student), wanted, merge=self.execution.merge,
            maps=config.alignment == "direct",
        )  # fmt: skip
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        device = self.parameters[0].device
        self.rate = torch.full((), config.learning_rate, device=device)
        self.optimizer = make_optimizer(config, self.parameters, student, self.rate)
        self._upstream: dict[tuple[torch.dtype, float], list[Tensor]] = {}

    def set_rates(self, rate: float, flip_goal: float = 0.0) -> None:
        """Learning rate of the next update and, for AIT, the fraction of codes it must change."""
        self.rate.fill_(rate)
        if isinstance(self.optimizer, InundatedSGD):
            self.optimizer.goal.fill_(flip_goal)

    def losses(
        self, x: Tensor, labels: Tensor | None = None, *, teacher_grad: bool
    ) -> tuple[Tensor, ...]:
        """The terms of Eq. 12, and Eq. 6 where labels count, on ``x``; without their weights."""
        teacher, student = self.networks
        with self.execution.autocast(x.device):
            with torch.set_grad_enabled(teacher_grad):
                target = teacher(x)
            output = student(x, target)
        return loss_terms(self.config, target, output, labels)

    def gradients(
        self, terms: tuple[Tensor, ...], weight: float, inputs: Sequence[Tensor], *,
        only: int | None = None, keep_graph: bool = False,
    ) -> Gradients:  # fmt: skip
        """Gradients of ``weight`` times Eq. 12; the weights go in as upstream gradients.

        ``only`` picks one of the terms.
        """
        factors = loss_weights(self.config)
        weights = [weight * factor for factor in factors]
        key = terms[0].dtype, weight
        if key not in self._upstream:  # made once: a new constant is a launch
            self._upstream[key] = [
                torch.full((), w, dtype=terms[0].dtype, device=terms[0].device) for w in weights
            ]
        counted = [
            (term, upstream)
            for index, (term, upstream, factor) in enumerate(
                zip(terms, self._upstream[key], factors, strict=True)
            )
            if factor and term.requires_grad and only in (None, index)
        ]
        outputs, upstreams = zip(*counted, strict=True)
        return list(
            torch.autograd.grad(
                outputs, inputs, upstreams, retain_graph=keep_graph, allow_unused=True
            )
        )

    def _clean_gradients(
        self, terms: tuple[Tensor, ...], x: Tensor, share: float
    ) -> tuple[Gradients, Tensor | None]:
        """The clean loss's gradients for the student, and what perturbs ``x`` if it needs one."""
        config = self.config
        weight = (config.clean_weight or 1.0) * share
        wanted = self.parameters if config.clean_weight else []
        if not x.requires_grad:
            return self.gradients(terms, weight, wanted), None
        if config.perturb_by == "both":
            # One backward pass gives the student's gradient and the image's (through both
            # networks), and frees this graph before the next one is made.
            *found, towards = self.gradients(terms, weight, [*wanted, x])
            return found, towards
        term = TERMS[config.perturb_by]
        (towards,) = self.gradients(terms, weight, [x], only=term, keep_graph=bool(wanted))
        return self.gradients(terms, weight, wanted) if wanted else [], towards

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Update the student on the batch ``x``; returns the terms of the clean loss.

        Args:
            x: images [N, C, H, W].
            labels: classes [N] int64 or probabilities [N, classes], where the configuration has a
                ``label_weight``.
        """
        terms = self.differentiate(x, labels)
        self.update()
        return terms

    def differentiate(
        self, x: Tensor, labels: Tensor | None = None, share: float = 1.0
    ) -> tuple[Tensor, ...]:
        """The terms of the clean loss on ``x``; gradients, times ``share``, go to the parameters.

        ``share`` is the part of a batch that ``x`` is. The perturbation's sign does not depend on
        it: the loss is a sum over images, each with a gradient of its own.
        """
        config = self.config
        perturbed = config.perturbation > 0
        x = x.detach().requires_grad_(perturbed)
        with quantized_once(self.student):
            terms = self.losses(x, labels, teacher_grad=perturbed)
            gradients, towards = self._clean_gradients(terms, x, share)
            if perturbed and config.perturbed_weight:
                assert towards is not None
                harder = torch.add(x.detach(), towards.sign(), alpha=config.perturbation)  # Eq. 10
                again = self.losses(harder, labels, teacher_grad=False)
                more = self.gradients(again, config.perturbed_weight * share, self.parameters)
                gradients = _sum(gradients, more) if gradients else more
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return tuple(term.detach() for term in terms)

    def update(self) -> None:
        """Clip the gradients that the parameters have, and take the optimizer's step."""
        if self.config.max_grad_norm:
            found = [p.grad for p in self.parameters if p.grad is not None]
            _clip(found, self.config.max_grad_norm)
        self.optimizer.step()

    def close(self) -> None:
        """Take the hooks out of both networks."""
        for network in self.networks:
            network.remove()


def _clip(gradients: list[Tensor], largest: float) -> None:
    """As ``clip_grad_norm_``, in a few launches on every device."""
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (largest / (norm + 1e-6)).clamp(max=1.0))


def _sum(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Elementwise sums in one launch; None counts as 0."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if pairs:
        torch._foreach_add_([a for a, _ in pairs], [b for _, b in pairs])
    return [b if a is None else a for a, b in zip(first, second, strict=True)]
