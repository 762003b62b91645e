"""Everything a method can vary in the generator that makes its images (GDFQ, Qimera)."""

from __future__ import annotations

from dataclasses import dataclass

from hast_cuda.checks.typed import check_fields
from hast_cuda.checks.values import check_choice, check_positive, check_range


@dataclass(frozen=True)
class GeneratorConfig:
    """A conditional generator and its training; the values here are GDFQ's.

    Example:
        >>> GeneratorConfig(superpose_probability=0.4).rate(done=0.1)
        0.001
    """

    latent_size: int = 100
    """Length of the noise vector; embedding="classifier" takes the classifier's input width."""
    learning_rate: float = 1e-3
    """Initial Adam learning rate."""
    decay_at: tuple[float, ...] = (1 / 4, 1 / 2, 3 / 4)
    """Fractions of the fine-tuning at which the rate decays x0.1."""
    match_weight: float = 0.1
    """Weight of the BatchNorm loss (Eq. 3) beside the cross entropy."""
    warmup: int = 800
    """Iterations that train only the generator; the last of them set the student's ranges."""
    superpose_probability: float = 0.0
    """Qimera: chance that a batch consists of superposed classes."""
    superpose_classes: int = 2
    """Qimera: classes superposed in one image."""
    embedding: str = "random"
    """Class embeddings start "random", or as the rows of the teacher's "classifier" (Qimera)."""
    embedding_noise: float = 0.0
    """Qimera: the latent is the normalised sum of embedding and this times noise; 0 is GDFQ's
    product of embedding and noise."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive("latent_size", self.latent_size, most=2**20)
        check_positive("learning_rate", self.learning_rate)
        for fraction in self.decay_at:
            check_range("decay_at", fraction, 0, 1)
        check_range("match_weight", self.match_weight, 0)
        check_positive("warmup", self.warmup)
        check_range("superpose_probability", self.superpose_probability, 0, 1)
        check_positive("superpose_classes", self.superpose_classes, most=2**20)
        check_choice("embedding", self.embedding, ("random", "classifier"))
        check_range("embedding_noise", self.embedding_noise, 0)

    def rate(self, done: float) -> float:
        """Learning rate when the fraction ``done`` of the fine-tuning is over; 0 in the warm-up."""
        return float(self.learning_rate * 0.1 ** sum(done >= at for at in self.decay_at))
