"""Everything that can be done without data and without training, as configured steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from hast_cuda.checks.typed import check_fields, typed
from hast_cuda.checks.values import check_choice, check_range
from hast_cuda.loops.modes import copied
from hast_cuda.loops.warn import warn_caller
from hast_cuda.posttraining.bias import absorb_biases, correct_biases
from hast_cuda.posttraining.channels import ensure_bias
from hast_cuda.posttraining.equalize import equalize
from hast_cuda.posttraining.equalize_activations import equalize_activations
from hast_cuda.posttraining.fold import fold_batch_norms, replace_relu6
from hast_cuda.posttraining.squant import squant


@dataclass(frozen=True)
class PostTrainingConfig:
    """Steps of DFQ (ICCV 2019) and SQuant (ICLR 2022); by default none of them.

    Example:
        >>> PostTrainingConfig(fold=True, equalize=True).rounding
        'nearest'
    """

    fold: bool = False
    """Take every BatchNorm into the convolution in front of it."""
    equalize: bool = False
    """DFQ: balance the channels' weights between neighbouring layers; needs fold."""
    equalize_activations: bool = False
    """Balance the channels that share an activation range between neighbouring layers."""
    absorb_biases: bool = False
    """DFQ: move large biases behind the next layer; needs fold."""
    correct_biases: bool = False
    """DFQ: take the expected error of the quantized weights out of the biases."""
    rounding: str = "nearest"
    """Weights: "nearest", or SQuant's rounding, "squant"."""
    range_width: float = 6.0
    """Half-width of activation ranges from BatchNorm, in standard deviations; 0: least error."""
    narrow_ranges: bool = False
    """Fewer of those deviations for few bits, as :func:`hast_cuda.moments.batch_norm_ranges` does."""
    keep_relu6: bool = True
    """False replaces ReLU6 by ReLU, as DFQ does: equalization cannot cross a ReLU6."""
    end_bits: int = 0
    """Bits of the first and the last layer, 2 to 8; 0: those of all others."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_choice("rounding", self.rounding, ("nearest", "squant"))
        check_range("range_width", self.range_width, 0)
        if self.end_bits:
            check_range("end_bits", self.end_bits, 2, 8, allowed="0, or from 2 to 8")
        for name in ("equalize", "absorb_biases"):
            if getattr(self, name) and not self.fold:
                raise ValueError(f"{name}=True works on folded networks: set fold=True as well")


@typed
def prepare(teacher: nn.Module, config: PostTrainingConfig) -> nn.Module:
    """A float copy of ``teacher`` to quantize: folded, equalized, biases absorbed as configured.

    The same call gives a network with the same state-dict keys: with ``correct_biases``, layers
    without bias get one of zeros here.

    Args:
        teacher: any ``nn.Module``; never edited.
        config: which steps.

    Raises:
        ValueError: a step needs a network that torch.fx can follow, and it cannot follow this one.

    Example:
        >>> import hast_cuda as hc
        >>> from hast_cuda.posttraining import PostTrainingConfig
        >>> network = prepare(hc.load_teacher("digits"), PostTrainingConfig(fold=True))
    """
    model = fold_batch_norms(teacher) if config.fold else copied(teacher)
    if not config.keep_relu6:
        model = replace_relu6(model)
    if config.equalize:
        equalize(model)
    if config.equalize_activations:
        _equalize_activations(model)
    if config.absorb_biases:
        absorb_biases(model)
    if config.correct_biases:
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                ensure_bias(layer)
    return model


def _equalize_activations(model: nn.Module) -> None:
    """With a warning in place of an error: the student is sound without it."""
    try:
        equalize_activations(model)
    except ValueError as reason:
        why = reason.__cause__ or reason
        warn_caller(f"channels of activations are not balanced (equalize_activations): {why}", UserWarning)


@typed
def finish(student: nn.Module, prepared: nn.Module, config: PostTrainingConfig) -> nn.Module:
    """Round the weights of ``student`` and correct its biases as configured; before any training.

    Args:
        student: ``hast_cuda.quantize(prepared, ...)``; edited.
        prepared: what :func:`prepare` returned.
        config: which steps.

    Returns:
        ``student`` itself.

    Raises:
        ValueError: see :func:`squant` and :func:`correct_biases`.

    Example:
        >>> import hast_cuda as hc
        >>> from hast_cuda.posttraining import PostTrainingConfig, prepare
        >>> config = PostTrainingConfig(rounding="squant")
        >>> prepared = prepare(hc.load_teacher("digits"), config)
        >>> student = finish(hc.quantize(prepared, 4, 4), prepared, config)
    """
    if config.rounding == "squant":
        squant(student)
    if config.correct_biases:
        correct_biases(student, prepared)  # of the weights as rounded
    return student
