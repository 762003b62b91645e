"""How a network begins and ends: its first and last layer; a map, its mean over space, and the classifier."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.loops.modes import eval_mode, hooked
from hast_cuda.loops.seeding import generator


@torch.no_grad()
def end_layers(model: nn.Module, size: tuple[int, int, int]) -> tuple[str, str]:
    """Names of the convolutions or linear layers that are called first and last.

    Args:
        model: its forward is called once, in eval mode, on zeros.
        size: (C, H, W) of an image.

    Raises:
        ValueError: no such layer is called.

    Example:
        >>> import hast_cuda as hc
        >>> end_layers(hc.load_teacher("digits"), (1, 8, 8))
        ('stem.0', 'output')
    """
    called: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: called.append(name)

    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    device = next((p.device for p in model.parameters()), None)
    with hooked(module.register_forward_pre_hook(note(name)) for name, module in layers), eval_mode(model):
        model(torch.zeros(1, *size, device=device))
    if not called:
        raise ValueError("the network calls no Conv2d or Linear layer")
    return called[0], called[-1]


PROBES = 4  # images of noise by which the head is found


@dataclass(frozen=True)
class Head:
    """Names of the two modules that class activation maps are made of."""

    feature: str
    """Its output [N, K, ...] is the map whose mean over space the classifier is given."""
    classifier: str
    """Linear layer, or a convolution on a map of one position, that gives the logits."""


@dataclass
class _Seen:
    """What passed the modules of one forward pass, in the order of execution."""

    calls: Counter[str] = field(default_factory=Counter)
    means: list[tuple[str, Tensor]] = field(default_factory=list)
    """Mean over space, [N, K], of every output that is a map: of several positions, or of one if the
    convolution before it gave one, so that no pooling made it."""
    layers: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """(name, input, output) of every layer with a weight of two or more dimensions."""
    positions: int = 0
    """Of the latest of them that gave a map."""

    def note(self, name: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A forward hook, behind its name."""
        self.calls[name] += 1
        if not isinstance(output, Tensor):
            return
        positions = output[0, 0].numel() if output.dim() > 2 else 0
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and args and isinstance(args[0], Tensor):
            self.layers.append((name, args[0].clone(), output.clone()))
            self.positions = positions or self.positions
        if positions > 1 or self.positions == positions == 1:
            self.means.append((name, output.flatten(2).mean(2)))


@torch.no_grad()
def find_head(model: nn.Module, shape: tuple[int, int, int]) -> Head:
    """The head of ``model``, found by what passes it and not by names.

    Of several maps with one mean, the first in the order of execution: the last one that a
    convolution or its activation gave, before any pooling.

    Args:
        model: run once in eval mode, on noise.
        shape: (C, H, W) of an image.

    Raises:
        ValueError: it ends in another way.

    Example:
        >>> import hast_cuda as hc
        >>> find_head(hc.load_teacher("digits"), (1, 8, 8)).classifier
        'output'
    """
    noise = torch.randn(PROBES, *shape, generator=generator(0, "head"))
    noise = noise.to(next(model.parameters(), noise))
    seen = _Seen()
    handles = [m.register_forward_hook(partial(seen.note, name)) for name, m in model.named_modules() if name]
    with hooked(handles), eval_mode(model):
        logits = model(noise)
    if not seen.layers:
        raise _other_end("it calls no layer with a weight")
    name, x, output = seen.layers[-1]
    weight: Any = model.get_submodule(name).weight
    vectors, classes = x.flatten(1), logits.shape[1]
    plain = weight.flatten(1).shape == (classes, vectors.shape[1]) and seen.calls[name] == 1
    if not plain or not _close(output.flatten(1), logits):
        raise _other_end(f"{name!r}, which is called last, is not one linear layer that gives the logits of vectors")
    for feature, mean in seen.means:
        if seen.calls[feature] == 1 and feature != name and _close(mean, vectors):
            return Head(feature, name)
    raise _other_end(f"what {name!r} is given is not the mean over space of a map that a module gives")


def _close(found: Tensor, expected: Tensor) -> bool:
    """Equal up to the rounding of a mean; nothing is known of vectors that are 0."""
    scale = float(expected.abs().max())
    return found.shape == expected.shape and scale > 0 and float((found - expected).abs().max()) < 1e-4 * scale


def _other_end(reason: str) -> ValueError:
    return ValueError(
        "class activation maps need a network that ends with the mean over space of a map and one linear layer; "
        f'of this one {reason}. Set alignment to "relaxed" or "direct"'
    )
