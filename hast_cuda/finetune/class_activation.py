"""Class activation maps (Grad-CAM), and how far those of student and teacher are apart (SynQ)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hast_cuda.merged.followed import ForwardResult
from hast_cuda.ops.arithmetic import arithmetic_dtype


def class_activation_map(feature: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """``ReLU(sum_k alpha_k A_k)`` of each image's class, [N, positions].

    ``alpha_k``, the mean over space of ``d y_c / d A_k``, is ``w_ck / positions`` where the logits
    are ``y = W mean(A) + b``: no second backward pass, and gradients of every order.

    Args:
        feature: the map A, [N, K, ...].
        weight: W [classes, K].
        chosen: probabilities [N, classes], 1 for the class: the maps are those of ``sum_c p_c y_c``.
    """
    wide = arithmetic_dtype(feature.dtype)
    maps = feature.to(wide).flatten(2)
    # A product with ones and zeros: the gradient of selected rows has no fixed order on a GPU.
    alphas = (chosen / maps.shape[2]) @ weight.to(wide)
    return torch.bmm(alphas.unsqueeze(1), maps).squeeze(1).relu()


def activation_map_distance(teacher: ForwardResult, student: ForwardResult, labels: Tensor) -> Tensor:
    """Mean squared error, over images and positions, of the two networks' maps; 0-d.

    ``labels`` are [N] int64, or probabilities [N, classes].
    """
    found, logits = [], student.logits
    if labels.dim() == 1:
        labels = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    chosen = labels.to(arithmetic_dtype(logits.dtype))
    for result in (teacher, student):
        assert result.classifier is not None  # a network that is followed for this has it
        found.append(class_activation_map(result.maps[0], result.classifier, chosen))
    return F.mse_loss(found[1], found[0])
