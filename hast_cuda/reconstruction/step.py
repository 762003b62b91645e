"""One step of a block's reconstruction: its output's error and Eq. 24, then Adam."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hast_cuda.loops.execution import Execution
from hast_cuda.reconstruction.config import ReconstructionConfig
from hast_cuda.reconstruction.learned_step import LearnedStep
from hast_cuda.reconstruction.rounding import SoftRounding


class ReconstructionStep:
    """A block, what is trained in it, and the optimizer.

    Nothing reads the device.
    """

    def __init__(
        self,
        block: nn.Module,
        weights: SoftRounding,
        steps: Sequence[LearnedStep],
        config: ReconstructionConfig,
        unit: float,
        execution: Execution,
    ) -> None:
        self.block, self.weights, self.steps = block, weights, list(steps)
        self.config, self.unit, self.execution = config, unit, execution
        device = weights.roundings[0].device
        self.rates = [torch.zeros((), device=device) for _ in range(3)]
        self.beta = torch.full((), config.first_beta, device=device, dtype=weights.roundings[0].dtype)
        self.share = torch.zeros((), device=device)  # of Eq. 24
        trained = weights.roundings, weights.factors, [step.factor for step in steps]
        self.initial = config.rates
        self.rates[0].fill_(self.initial[0])  # stays: most weights decide late
        used = [(p, rate) for p, rate, initial in zip(trained, self.rates, self.initial, strict=True) if p and initial]
        self.parameters = [parameter for group, _ in used for parameter in group]
        groups = [{"params": group, "lr": rate} for group, rate in used]
        self.optimizer = torch.optim.Adam(groups, fused=True, capturable=device.type == "cuda")
        self.loss = torch.zeros((), device=device)

    def set_rates(self, iteration: int) -> None:
        """Rates of the steps, and exponent and weight of Eq. 24, of a step."""
        decay = self.config.decay(iteration)
        for rate, initial in zip(self.rates[1:], self.initial[1:], strict=True):
            rate.fill_(initial * decay)
        self.beta.fill_(self.config.beta(iteration))
        self.share.fill_(self.config.weight(iteration))

    def differentiate(self, x: Tensor, target: Tensor, share: float = 1.0) -> Tensor:
        """Leave the gradients of ``share`` times the objective; the error alone, 0-d.

        The objective is ``mean (block(x) - target)^2 / unit + weight * Eq. 24``.
        """
        regulariser = self.weights.soft(self.beta)
        with self.execution.autocast(x.device):
            output = self.block(x.clone())  # which a block that begins in place edits
        error: Tensor = (output - target).square().mean() / self.unit
        objective = (error + self.share * regulariser) * share
        gradients = torch.autograd.grad(objective, self.parameters, allow_unused=True)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return error.detach()

    def update(self) -> None:
        """Adam's step."""
        self.optimizer.step()
