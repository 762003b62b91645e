"""One step of fine-tuning: clean loss, perturbation, perturbed loss, update (Eq. 10-12), replayed as CUDA graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hast_cuda.finetune.batches import Batch
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.objective import TERMS, loss_terms, loss_weights
from hast_cuda.finetune.optimizer import InundatedSGD, OriginalSteps, make_optimizer
from hast_cuda.finetune.processes import GradientSums
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.graphs import Replayed
from hast_cuda.merged.followed import follow
from hast_cuda.networks.ends import Head
from hast_cuda.nn import quantized_once
from hast_cuda.ranks import World

Gradients = list[Tensor | None]


class FinetuneStep:
    """Both networks, in eval mode, the optimizer, and what one batch does to them.

    A call is :meth:`differentiate`, then :meth:`update`; nothing reads the device.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        layers: list[str],
        config: FinetuneConfig,
        execution: Execution | None = None,
        head: Head | None = None,
        original: nn.Module | None = None,
    ) -> None:
        self.student, self.config = student, config
        self.execution = execution or Execution()
        layers, classifier = layers if config.feature_weight else [], None
        if config.uses_maps_of_classes:
            if head is None:
                raise ValueError('alignment is "cam": give head, what find_head says of the teacher')
            layers, classifier = [head.feature], head.classifier
        direct, merge = config.alignment == "direct", self.execution.merge
        self.networks = follow((teacher, student), layers, merge=merge, maps=direct, classifier=classifier)
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.rate = torch.full((), config.learning_rate, device=self.parameters[0].device)
        self.optimizer = make_optimizer(config, self.parameters, student, self.rate)
        self.original_steps = OriginalSteps(student, teacher, original, config)
        self.factors = loss_weights(config)
        self._upstream: dict[tuple[torch.dtype, float], list[Tensor]] = {}

    def __call__(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, ...]:
        """Update the student on the images ``x``; see :meth:`differentiate`."""
        terms = self.differentiate(x, labels)
        self.update()
        return terms

    def differentiate(self, x: Tensor, labels: Tensor | None = None, share: float = 1.0) -> tuple[Tensor, ...]:
        """Leave the gradient of Eq. 12, times ``share``, in the parameters; the clean loss's terms.

        The perturbation's sign does not depend on ``share``, the part of a batch that the images
        ``x`` are: the loss is a sum over images. Terms are 0-d, without their weights.
        """
        config, parameters = self.config, self.parameters
        perturbed = bool(config.perturbation and config.perturbed_weight)
        x = x.detach().requires_grad_(perturbed)
        with quantized_once(self.student):
            clean = self.losses(x, labels, teacher_grad=perturbed)  # Eq. 11: first term of Eq. 12
            gradients: Gradients = []
            wanted = parameters if config.clean_weight else []
            weight = (config.clean_weight or 1.0) * share
            if not perturbed:
                gradients = self.gradients(clean, weight, wanted)
            elif config.perturb_by == "both":
                # One backward pass gives the student's gradient and the image's (through both
                # networks), and frees this graph before the next one is made.
                *gradients, towards = self.gradients(clean, weight, [*wanted, x])
            else:
                term = TERMS.index(config.perturb_by)
                (towards,) = self.gradients(clean, weight, [x], only=term, keep=bool(wanted))
                if wanted:
                    gradients = self.gradients(clean, weight, wanted)
            if perturbed:
                assert towards is not None
                harder = torch.add(x.detach(), towards.sign(), alpha=config.perturbation)  # Eq. 10
                hard = self.losses(harder, labels, teacher_grad=False)  # second term of Eq. 12
                more = self.gradients(hard, config.perturbed_weight * share, parameters)
                gradients = _sum(gradients, more) if gradients else more
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return tuple(term.detach() for term in clean)

    def update(self) -> None:
        """Clip the gradients that the parameters have, and take the optimizer's step."""
        if self.config.max_grad_norm:  # as clip_grad_norm_, in a few launches on every device
            found = [p.grad for p in self.parameters if p.grad is not None]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(found)))
            limit = self.config.max_grad_norm / (norm + 1e-6)
            torch._foreach_mul_(found, limit.clamp(max=1.0))
        before = self.original_steps.before()
        self.optimizer.step()
        self.original_steps.after(before)

    def set_rates(self, iteration: int, share: float = 1.0) -> None:
        """``share`` of the learning rate of a step and, for AIT, the fraction of codes it must change."""
        self.rate.fill_(share * self.config.rate(iteration))
        if isinstance(self.optimizer, InundatedSGD):
            self.optimizer.goal.fill_(self.config.flip_goal(iteration))

    def losses(self, x: Tensor, labels: Tensor | None = None, *, teacher_grad: bool) -> tuple[Tensor, ...]:
        """The terms of Eq. 11, and Eq. 6 where labels count, on ``x``; without their weights."""
        teacher, student = self.networks
        with self.execution.autocast(x.device):
            with torch.set_grad_enabled(teacher_grad):
                target = teacher(x)
            output = student(x, target)
        return loss_terms(self.config, target, output, labels)

    def gradients(
        self,
        terms: Sequence[Tensor],
        weight: float,
        inputs: Sequence[Tensor],
        only: int | None = None,
        *,
        keep: bool = False,
    ) -> Gradients:
        """Gradients of ``weight`` times Eq. 11, or ``only`` one term; ``keep`` keeps the graph."""
        factors, key = self.factors, (terms[0].dtype, weight)
        if key not in self._upstream:  # made once: a new constant is a launch
            self._upstream[key] = [terms[0].new_full((), weight * factor) for factor in factors]
        asked = range(len(terms)) if only is None else [only]
        counted = [i for i in asked if factors[i] and terms[i].requires_grad]
        outputs, upstreams = ([of[i] for i in counted] for of in (terms, self._upstream[key]))
        return list(torch.autograd.grad(outputs, inputs, upstreams, keep, allow_unused=True))

    @torch.no_grad()
    def measure(self, x: Tensor, labels: Tensor | None = None) -> list[float]:
        """The terms of Eq. 11 on ``x``, for ``balance="start"``; reads the device."""
        with quantized_once(self.student):
            return [float(term) for term in self.losses(x, labels, teacher_grad=False)]

    def balance(self, units: Sequence[float]) -> None:
        """Count the terms in ``units`` from now on; before the first step."""
        self.factors = loss_weights(self.config, units)

    def close(self) -> None:
        """Take the hooks out of both networks."""
        for network in self.networks:
            network.remove()


def _sum(first: Gradients, second: Gradients) -> Gradients:
    """Elementwise sums in one launch; None counts as 0."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if pairs:
        torch._foreach_add_([a for a, _ in pairs], [b for _, b in pairs])
    return [b if a is None else a for a, b in zip(first, second, strict=True)]


class ReplayedStep:
    """Takes ``step`` on batches that stay in place; ``guard`` sees the loss.

    A batch that comes again is replayed. With several processes a step is two graphs: inside one
    nothing may wait for another process. :attr:`terms` are the last clean loss's, unweighted.
    """

    def __init__(self, step: FinetuneStep, guard: FiniteGuard, world: World | None = None) -> None:
        self.step, self.guard, self.sums = step, guard, None
        count = len(loss_weights(step.config))
        self.terms = tuple(torch.zeros((), device=step.rate.device) for _ in range(count))
        if world is not None and world.size > 1:
            self.sums = GradientSums(step.parameters, count, world)
            self.terms = self.sums.terms
        self._graphs: dict[Batch, list[Replayed]] = {}

    def __call__(self, batch: Batch) -> None:
        """One step on ``batch``."""
        if batch not in self._graphs:
            self._graphs[batch] = self._make_graphs(batch)
        first, *rest = self._graphs[batch]
        first()
        if self.sums is not None:
            self.sums.reduce()
        for part in rest:
            part()

    def _make_graphs(self, batch: Batch) -> list[Replayed]:
        def differentiate() -> None:
            images, labels = batch.read()
            images = self.step.execution.images(images)
            terms = self.step.differentiate(images, labels, batch.share)
            if self.sums is not None:
                self.sums.put(terms, batch.share)
            else:
                torch._foreach_copy_(list(self.terms), list(terms))

        def update() -> None:
            self.step.update()
            self.guard.observe(sum(self.terms[1:], self.terms[0]))

        def whole() -> None:
            differentiate()
            update()

        parts = [whole] if self.sums is None else [differentiate, update]
        mode = self.step.execution.cuda_graphs
        return [Replayed(part, self.step.rate.device, mode) for part in parts]
