"""Do two losses pull the student the same way: the cosine of their gradients (Figure 6a)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast_cuda.checks import tensors as _checks
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_images, check_values, explained_forward
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.objective import loss_terms
from hast_cuda.loops.modes import copied, frozen_copy
from hast_cuda.merged.followed import Followed, follow
from hast_cuda.networks import feature_layers
from hast_cuda.nn import quantized_once
from hast_cuda.ops.hard_sample_loss import check_classes
from hast_cuda.ops.reference import arithmetic_dtype


@typed
def flat_gradient(loss: Tensor, parameters: Sequence[Tensor], *, retain_graph: bool = False) -> Tensor:
    """Gradient of a 0-d loss, flattened, [P]; 0 for parameters that it does not depend on."""
    if loss.dim() != 0 or not loss.requires_grad:
        raise ValueError(f"loss has shape {list(loss.shape)}; expected a scalar, [], that has a gradient")
    if not parameters or not all(p.requires_grad for p in parameters):
        raise ValueError("parameters must be at least one tensor, and all must require a gradient")
    found = torch.autograd.grad(loss, list(parameters), retain_graph=retain_graph, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in found])


@typed
def cosine(first: Tensor, second: Tensor) -> Tensor:
    """``a.b / (|a| |b|)`` of two vectors [P], 0-d float64; NaN if one of them is 0."""
    _checks.floating("first", first)
    _checks.floating("second", second)
    _checks.same_device("second", second, "first", first)
    if first.dim() != 1 or first.shape != second.shape:
        raise ValueError(f"first has shape {list(first.shape)} and second {list(second.shape)}; expected [P]")
    a, b = first.double(), second.double()
    result: Tensor = a.dot(b) / (torch.linalg.vector_norm(a) * torch.linalg.vector_norm(b))
    return result


@typed
def gradient_cosines(
    teacher: nn.Module,
    student: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    config: FinetuneConfig | None = None,
    *,
    layers: list[str] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, list[float]]:
    """Cosines of the student's gradients of CE and KL, and of FA and KL, batch by batch.

    The gradients are those of all parameters of the student; weights of the losses do not matter
    to a cosine. CE is the student's cross entropy on the labels, KL and FA are the two terms of
    :func:`hast_cuda.finetune.objective.loss_terms`.

    Args:
        teacher: full-precision network; copied.
        student: from :func:`hast_cuda.quantize`, calibrated; copied.
        batches: (images [N, C, H, W] normalised, labels [N] int64 or None).
        config: temperature and kind of alignment; default the paper's.
        layers: feature layers; default :func:`hast_cuda.networks.feature_layers` of the teacher.
        device: where to compute.

    Returns:
        "cross_entropy_distillation" (absent without labels) and "alignment_distillation", one
        value per batch.

    Raises:
        ValueError: no batches, labels for some batches only, no layer to align at, or a gradient
            that is 0 or not finite, which has no direction.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, x = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> student = hc.calibrate(hc.quantize(teacher, 4, 4), [x])
        >>> list(gradient_cosines(teacher, student, [(x, None)]))
        ['alignment_distillation']
    """
    config, device = config or FinetuneConfig(), as_device(device)
    refuse_maps_of_classes(config)
    frozen, tuned, layers = copied_pair(teacher, student, layers, device)
    networks = follow((frozen, tuned), layers, merge=False, maps=config.alignment == "direct")
    parameters = list(tuned.parameters())
    found: list[dict[str, Tensor]] = []
    for images, labels in batches:
        target = None if labels is None else labels.to(device)
        check_images("batches: images", images)
        with quantized_once(tuned), explained_forward("batches: images", images):
            terms = _terms(networks, images.to(device), target, config)
            gradients = {k: flat_gradient(t, parameters, retain_graph=True) for k, t in terms.items()}
        kl = gradients.pop("distillation")
        found.append({f"{name}_distillation": cosine(g, kl) for name, g in gradients.items()})
    return _collected(found)


def copied_pair(
    teacher: nn.Module, student: nn.Module, layers: list[str] | None, device: torch.device
) -> tuple[nn.Module, nn.Module, list[str]]:
    """Copies in eval mode, of which the student's has gradients, and the layers to align at."""
    check_values("student", student)
    frozen = frozen_copy(teacher, device)
    tuned = copied(student).to(device).eval().requires_grad_(True)
    layers = layers or feature_layers(frozen)
    if not layers:
        raise ValueError("the network has no BatchNorm layer to align features at: name layers")
    return frozen, tuned, layers


def refuse_maps_of_classes(config: FinetuneConfig) -> None:
    """ValueError where FA would be a distance of class activation maps: Figure 6 has none of it."""
    if config.uses_maps_of_classes:
        raise ValueError(
            'alignment is "cam": class activation maps have no cosines and no Hessian here; give a config whose '
            'alignment is "relaxed" or "direct"'
        )


def hard_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """CE of Eq. 6 in the precision of the losses, from logits [N, classes] and labels [N]."""
    return F.cross_entropy(logits.to(arithmetic_dtype(logits.dtype)), labels)


def _terms(networks: list[Followed], x: Tensor, labels: Tensor | None, config: FinetuneConfig) -> dict[str, Tensor]:
    teacher, student = networks
    with torch.no_grad():
        target = teacher(x)
    output = student(x, target)
    # The cross entropy on labels is taken below, whether or not this student was trained with it.
    terms = loss_terms(replace(config, label_weight=0.0), target, output)
    named = {"distillation": terms[0]}
    if labels is not None:
        check_classes(output.logits, labels, values=True)
        named["cross_entropy"] = hard_label_loss(output.logits, labels)
    named["alignment"] = terms[1]
    return named


def _collected(found: list[dict[str, Tensor]]) -> dict[str, list[float]]:
    """Values per pair of losses, read from the device once."""
    if not found:
        raise ValueError("batches is empty: there is no gradient to compare")
    if any(batch.keys() != found[0].keys() for batch in found):
        raise ValueError("some batches have labels and some have none; give labels for all or for none")
    result = {}
    for pair in found[0]:
        values = torch.stack([batch[pair] for batch in found])
        broken = torch.nonzero(~values.isfinite()).flatten().tolist()
        if broken:
            raise ValueError(
                f"the cosine of {pair.replace('_distillation', '')} and distillation does not "
                f"exist for batch {broken[0]}: a gradient is 0 or not finite"
            )
        result[pair] = values.tolist()
    return result
