"""Everything that can vary in block reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hast_cuda.checks.typed import check_fields
from hast_cuda.checks.values import check_positive, check_range


@dataclass(frozen=True)
class ReconstructionConfig:
    """Budget and objective of one block; by default there is no reconstruction.

    Example:
        >>> ReconstructionConfig(iterations=300).beta(60), ReconstructionConfig(iterations=300).beta(300)
        (20.0, 2.0)
    """

    iterations: int = 0
    """Adam steps per block; 0 leaves reconstruction out."""
    batch_size: int = 32
    """Images per step."""
    rounding_travel: float = 30.0
    """How far Adam can move a rounding variable V (AdaRound, Eq. 22) in all iterations; its rate,
    the same to the end, is that over the iterations. With a third of it most weights stay
    undecided, whatever the number of steps."""
    weight_step_travel: float = 0.6
    """The same of the weights' steps, in units of each step, at a rate that stayed as at the start;
    0 keeps them (Genie-M learns them)."""
    act_step_travel: float = 1.2
    """The same of the activations' steps; 0 keeps them."""
    drop_probability: float = 0.5
    """QDrop: chance of an activation to stay as it is in full precision."""
    regulariser: float = 3.0
    """Weight of AdaRound's Eq. 24, a mean over the block's weights, beside the squared error in
    units of that of the block as it came. With less most weights are still undecided after a few
    hundred steps, and rounding them then undoes half of what the block had learned."""
    warmup: float = 0.2
    """Fraction of the iterations without regulariser."""
    first_beta: float = 20.0
    """Exponent of the regulariser after the warm-up."""
    last_beta: float = 2.0
    """Its value at the end, reached linearly."""
    search_ranges: bool = True
    """Begin on weight ranges of the smallest rounding error; false: on those that the student has."""
    map_memory: int = 4 * 2**30
    """Bytes of the blocks' inputs and outputs that are kept in memory; more goes to a file."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_range("iterations", self.iterations, 0, 10**8)
        check_positive("batch_size", self.batch_size, most=2**20)
        check_range("map_memory", self.map_memory, 0)
        check_positive("rounding_travel", self.rounding_travel)
        for name in ("weight_step_travel", "act_step_travel", "regulariser"):
            check_range(name, getattr(self, name), 0)
        for name in ("drop_probability", "warmup"):
            check_range(name, getattr(self, name), 0, 1)
        for name in ("first_beta", "last_beta"):
            check_range(name, getattr(self, name), 1)

    @property
    def rates(self) -> tuple[float, float, float]:
        """Adam's, at the start, of roundings, weights' steps and activations' steps."""
        travels = self.rounding_travel, self.weight_step_travel, self.act_step_travel
        rounding, weight, act = (travel / max(self.iterations, 1) for travel in travels)
        return rounding, weight, act

    def beta(self, iteration: int) -> float:
        """Exponent of Eq. 24 in a step, counted from 0."""
        start = self.warmup * self.iterations
        done = max(iteration - start, 0) / max(self.iterations - start, 1)
        return self.first_beta + (self.last_beta - self.first_beta) * min(done, 1)

    def weight(self, iteration: int) -> float:
        """What Eq. 24 is multiplied by in a step, counted from 0."""
        return self.regulariser if iteration >= self.warmup * self.iterations else 0.0

    def decay(self, iteration: int) -> float:
        """What the rates of steps are multiplied by: a half cosine from 1 to 0."""
        return (1 + math.cos(math.pi * iteration / max(self.iterations, 1))) / 2
