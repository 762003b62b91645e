"""What any network gives: a tensor, or several in tuples, lists and dicts; and how far two such outputs are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.values import explained_forward
from hast_cuda.loops.modes import eval_mode

CHUNK = 64  # images per forward pass


def output_tensors(output: Any) -> dict[str, Tensor]:
    """The floating-point tensors of an output, by place: "" of a tensor alone, "boxes", "features.0".

    Whole numbers (labels, counts) and None are left out.

    Raises:
        ValueError: anything else in it, or no such tensor at all.

    Example:
        >>> found = output_tensors({"boxes": (torch.zeros(1, 4), torch.ones(1, 4)), "count": torch.tensor([3])})
        >>> list(found)
        ['boxes.0', 'boxes.1']
    """
    found = {place: value for place, value in _leaves(output, "") if value.is_floating_point()}
    if not found:
        raise ValueError(f"the network gives a {type(output).__name__} without a tensor of floating-point numbers")
    return found


def _leaves(output: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield place, output
    elif isinstance(output, Mapping) or (isinstance(output, Sequence) and not isinstance(output, (str, bytes))):
        for key, value in output.items() if isinstance(output, Mapping) else enumerate(output):
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    elif output is not None:
        where = f" at {place!r}" if place else ""
        raise ValueError(
            f"the network gives a {type(output).__name__}{where}; expected a tensor, or tensors in tuples, lists and "
            "dicts: wrap it in a module whose forward returns them"
        )


def gives_logits(output: Any) -> bool:
    """Whether an output is that of a classifier, [N, classes]."""
    return isinstance(output, Tensor) and output.dim() == 2


def joined(output: Any) -> Tensor:
    """All floating-point numbers of an output, [N, numbers of an image]; logits [N, classes] are as they were."""
    return torch.cat([x.flatten(1) for x in output_tensors(output).values()], 1)


@torch.no_grad()
def gathered(network: nn.Module, images: Tensor, name: str = "images") -> dict[str, Tensor]:
    """:func:`output_tensors` of all images, [N, ...] on the CPU, in eval mode; an error calls the images ``name``."""
    parts = []
    with eval_mode(network), explained_forward(name, images):
        for part in images.split(CHUNK):
            parts.append({place: x.detach().cpu() for place, x in output_tensors(network(part)).items()})
        return {place: torch.cat([part[place] for part in parts]) for place in parts[0]}


def noise_shares(exact: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, float]:
    """By place, ``|found - exact|^2 / |exact|^2``; ValueError for other places or shapes."""
    if exact.keys() != found.keys() or any(x.shape != found[place].shape for place, x in exact.items()):
        shown = [{place: list(x.shape) for place, x in tensors.items()} for tensors in (exact, found)]
        raise ValueError(f"teacher gives {shown[0]} and student {shown[1]}; expected tensors of the same shapes")
    return {
        place: float((found[place].double() - x.double()).square().sum() / x.double().square().sum().clamp(min=1e-30))
        for place, x in exact.items()
    }
