"""The configured steps, before and after the network is quantized."""

from __future__ import annotations

import copy

from torch import nn

from hast_cuda.checks.typed import typed
from hast_cuda.posttraining.bias import absorb_biases, correct_biases
from hast_cuda.posttraining.channels import ensure_bias
from hast_cuda.posttraining.config import PostTrainingConfig
from hast_cuda.posttraining.equalize import equalize
from hast_cuda.posttraining.fold import fold_batch_norms, replace_relu6
from hast_cuda.posttraining.squant import squant


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
    """
    model = fold_batch_norms(teacher) if config.fold else copy.deepcopy(teacher)
    if not config.keep_relu6:
        model = replace_relu6(model)
    if config.equalize:
        equalize(model)
    if config.absorb_biases:
        absorb_biases(model)
    if config.correct_biases:
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                ensure_bias(layer)
    return model


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
    """
    if config.rounding == "squant":
        squant(student)
    if config.correct_biases:
        correct_biases(student, prepared)  # of the weights as rounded
    return student
