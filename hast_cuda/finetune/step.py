"""One iteration of fine-tuning: clean loss, perturbation, perturbed loss, update (Eq. 10, 12)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hast_cuda.execution import Execution
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.features import follow
from hast_cuda.finetune.objective import loss_terms, loss_weights
from hast_cuda.nn import quantized_once


class Step:
    """Both networks, the optimizer, and what one batch does to them; nothing reads the device.

    Both networks are in eval mode. Gradients are left in the student's parameters.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module, layers: list[str], config: FinetuneConfig,
        execution: Execution | None = None,
    ) -> None:  # fmt: skip
        self.student, self.config = student, config
        self.execution = execution or Execution()
        wanted = layers if config.feature_weight else []
        self.networks = follow((teacher, student), wanted, merge=self.execution.merge)
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        device = self.parameters[0].device
        self.rate = torch.full((), config.learning_rate, device=device)
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=self.rate, momentum=config.momentum,
            nesterov=config.momentum > 0, weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip
        self._upstream: dict[tuple[torch.dtype, float], list[Tensor]] = {}

    def losses(self, x: Tensor, *, teacher_grad: bool) -> tuple[Tensor, Tensor]:
        """The two terms of Eq. 12 on ``x``, without their weights."""
        teacher, student = self.networks
        with self.execution.autocast(x.device):
            with torch.set_grad_enabled(teacher_grad):
                target = teacher(x)
            output = student(x)
        return loss_terms(self.config, target, output)

    def gradients(
        self, terms: tuple[Tensor, Tensor], weight: float, inputs: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Gradients of ``weight`` times Eq. 12; the weights go in as upstream gradients."""
        weights = [weight * factor for factor in loss_weights(self.config)]
        key = terms[0].dtype, weight
        if key not in self._upstream:  # made once: a new constant is a launch
            self._upstream[key] = [
                torch.full((), w, dtype=terms[0].dtype, device=terms[0].device) for w in weights
            ]
        counted = [
            (term, upstream)
            for term, upstream, factor in zip(terms, self._upstream[key], weights, strict=True)
            if factor and term.requires_grad
        ]
        outputs, upstreams = zip(*counted, strict=True)
        return list(torch.autograd.grad(outputs, inputs, upstreams, allow_unused=True))

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Update the student on the batch ``x``; returns the two terms of the clean loss."""
        config = self.config
        perturbed = config.perturbation > 0
        x = x.detach().requires_grad_(perturbed)
        with quantized_once(self.student):
            terms = self.losses(x, teacher_grad=perturbed)
            # One backward pass gives the student's gradient and the image's (through both
            # networks), and frees this graph before the next one is made.
            wanted = self.parameters if config.clean_weight else []
            inputs = [*wanted, x] if perturbed else wanted
            found = self.gradients(terms, config.clean_weight or 1.0, inputs)
            gradients = found[: len(wanted)]
            if perturbed and config.perturbed_weight:
                towards = found[-1]
                assert towards is not None
                harder = torch.add(x.detach(), towards.sign(), alpha=config.perturbation)  # Eq. 10
                again = self.losses(harder, teacher_grad=False)
                more = self.gradients(again, config.perturbed_weight, self.parameters)
                gradients = _sum(gradients, more) if gradients else more
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if config.max_grad_norm:
            _clip([g for g in gradients if g is not None], config.max_grad_norm)
        self.optimizer.step()
        return terms[0].detach(), terms[1].detach()

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
