"""Everything a method can vary in the synthesis of images."""

from __future__ import annotations

from dataclasses import dataclass

from hast_cuda.validate import check_choice, check_positive, check_range, check_scale

SCHEDULES = ("plateau", "cosine")


@dataclass(frozen=True)
class SynthesisConfig:
    """Budget, optimiser and objective of Eq. 9; the values here are the paper's for CIFAR-10."""

    num_images: int = 5120
    """Images in the synthetic set."""
    batch_size: int = 256
    """Images optimised together; their joint statistics are matched."""
    iterations: int = 1000
    """Adam steps per batch."""
    learning_rate: float = 0.5
    """Initial Adam learning rate on pixels."""
    schedule: str = "plateau"
    """"plateau": x0.1 when the loss stalls; "cosine": decay to min_learning_rate."""
    patience: int = 50
    """Iterations without improvement before the plateau rule acts."""
    min_learning_rate: float = 1e-4
    """Floor of the learning rate."""
    match_reduction: str = "mse"
    """Eq. 3 as released ("mse") or as printed ("norm")."""
    label_weight: float = 10.0
    """beta of Eq. 5 and 9."""
    difficulty_exponent: float = 2.0
    """gamma of Eq. 8; 0 gives the plain inception loss of Eq. 4."""
    detach_difficulty: bool = False
    """Treat (1-p)^gamma as a constant weight instead of differentiating it."""
    balanced_labels: bool = False
    """Equal counts per class instead of uniform draws."""
    augment_probability: float = 0.0
    """Chance per iteration that the batch is cropped, resized and flipped before the teacher."""
    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Area fraction of the crops."""

    def __post_init__(self) -> None:
        check_positive("num_images", self.num_images)
        check_positive("batch_size", self.batch_size)
        check_positive("iterations", self.iterations)
        check_positive("learning_rate", self.learning_rate)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("match_reduction", self.match_reduction, ("mse", "norm"))
        check_range("label_weight", self.label_weight, 0)
        check_range("difficulty_exponent", self.difficulty_exponent, 0)
        check_range("augment_probability", self.augment_probability, 0, 1)
        check_scale("crop_scale", self.crop_scale)
        check_range("min_learning_rate", self.min_learning_rate, 0)
        check_range("patience", self.patience, 0)
