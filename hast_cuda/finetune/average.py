"""The mean of the student's parameters over the last iterations (stochastic weight averaging)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hast_cuda.finetune.config import FinetuneConfig


class WeightAverage:
    """Means of ``parameters`` over the fraction ``config.average`` of the iterations, the last ones.

    Latent weights near the middle between two codes go to and fro from step to step, and every
    evaluation sees another student; their mean says to which side they belong (Izmailov et al.,
    "Averaging Weights Leads to Wider Optima", UAI 2018, arXiv:1803.05407).
    """

    def __init__(self, parameters: Sequence[Tensor], config: FinetuneConfig) -> None:
        self.parameters = [p.detach() for p in parameters]
        self.start = config.iterations - round(config.average * config.iterations)
        self.means: list[Tensor] = []

    def add(self, iteration: int) -> None:
        """Count the parameters as they are after a step, numbered from 0."""
        if iteration < self.start:
            return
        if not self.means:
            self.means = [p.clone() for p in self.parameters]
        torch._foreach_lerp_(self.means, self.parameters, 1.0 / (iteration - self.start + 1))

    def forget(self) -> None:
        """Begin again."""
        self.means = []

    def finish(self) -> None:
        """Put the means in the place of the parameters."""
        if self.means:
            torch._foreach_copy_(self.parameters, self.means)

    def state(self) -> dict[str, Tensor]:
        """The means by number, for a checkpoint."""
        return {str(index): mean for index, mean in enumerate(self.means)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`; ValueError if it is not that of these parameters."""
        found = [state[str(index)] for index in range(len(state))]
        if found and [m.shape for m in found] != [p.shape for p in self.parameters]:
            raise ValueError("the checkpoint's averages are of other parameters; delete it to start fine-tuning again")
        self.means = [m.to(p.device).clone() for m, p in zip(found, self.parameters, strict=False)]
