"""Activation ranges from images: track, freeze, and optionally shrink to the smallest error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_images, check_positive, check_range, check_values, explained_forward
from hast_cuda.data.loaders import pixels_of
from hast_cuda.loops.modes import eval_mode, hooked
from hast_cuda.loops.warn import warn_caller
from hast_cuda.nn.activation import FakeQuantActivation
from hast_cuda.nn.layers import quantized_once
from hast_cuda.nn.uses import own_weights_only
from hast_cuda.ops import fake_quantize, new_range_state
from hast_cuda.ops.reference import activate

SEARCH_IMAGES = 256  # one batch is enough for the error of a range


@typed
def activation_quantizers(model: nn.Module) -> dict[str, FakeQuantActivation]:
    """Every activation quantizer of ``model`` by name.

    Example:
        >>> import hast_cuda as hc
        >>> len(activation_quantizers(hc.quantize(hc.load_teacher("digits"), 4, 4))) > 10
        True
    """
    return {n: m for n, m in model.named_modules() if isinstance(m, FakeQuantActivation)}


@typed
def freeze_ranges(model: nn.Module) -> None:
    """Fix every activation range.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> hc.freeze_ranges(student)
        >>> student.stem[2].observing
        False
    """
    for quantizer in activation_quantizers(model).values():
        quantizer.freeze()


@typed
def unfreeze_ranges(model: nn.Module) -> None:
    """Let every activation range follow the data again.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> hc.unfreeze_ranges(student)
        >>> student.stem[2].observing
        True
    """
    for quantizer in activation_quantizers(model).values():
        quantizer.unfreeze()


@typed
@torch.no_grad()
def calibrate(model: nn.Module, batches: Tensor | Iterable[Tensor | Sequence[Any]]) -> nn.Module:
    """Set the activation ranges of ``model`` from images, then freeze them for ever.

    The moving average starts anew: ranges of an earlier calibration leave no trace.

    Args:
        model: from :func:`hast_cuda.quantize`; runs in eval mode, its mode is restored.
        batches: image batches [N, C, H, W], normalised as the network expects, on its device; each
            makes one update of the moving average. Of batches (images, labels), such as a DataLoader gives,
            the images count; one tensor [N, C, H, W] is one batch.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: no batch, one that the network does not take, a forward that reads weights around the
            layers of ``model``, or a range that is not finite afterwards.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> student = hc.calibrate(student, [torch.randn(16, 1, 8, 8)])
        >>> student.stem[2].frozen
        tensor(True)
    """
    check_values("model", model)
    quantizers = activation_quantizers(model)
    seen = -1
    if isinstance(batches, Tensor):
        if not batches.dim():
            raise ValueError("batches is one number: give tensors [N, C, H, W]")
        batches = [batches] if batches.dim() == 4 else batches
    unfreeze_ranges(model)
    try:
        with eval_mode(model), quantized_once(model):
            for seen, given in enumerate(batches):
                name = f"batches[{seen}]"
                batch = pixels_of(name, given)
                check_images(name, batch)
                if seen == 0:
                    for quantizer in quantizers.values():
                        quantizer.range_state.copy_(new_range_state())
                # the first time it is looked at what forward reads
                with own_weights_only(model) if seen == 0 else nullcontext(), explained_forward(name, batch):
                    model(batch)
    finally:
        freeze_ranges(model)
    if seen < 0:
        raise ValueError("batches is empty: calibration needs at least one batch of images, got none")
    for name, quantizer in quantizers.items():
        if not bool(torch.isfinite(quantizer.range_state).all()):
            raise ValueError(
                f"activation range of {name!r} is not finite after calibration: "
                "the images or the network contain NaN or infinity"
            )
    unreached = [name for name, quantizer in quantizers.items() if float(quantizer.range_state[4]) == 1.0]
    if unreached:
        warn_caller(
            f"no image reached {len(unreached)} of {len(quantizers)} quantizers ({', '.join(map(repr, unreached[:4]))}"
            f"{', ...' if len(unreached) > 4 else ''}): what would pass them later becomes 0. Calibrate with images "
            "that take every way through the network, or keep these in full precision (overrides)",
            UserWarning,
        )
    return model


@typed
@torch.no_grad()
def shrink_ranges(
    model: nn.Module, images: Tensor, *, candidates: int = 40, smallest: float = 0.2, power: float = 2.0
) -> nn.Module:
    """Shrink every frozen activation range to the fraction with the smallest quantization error.

    Layer by layer in the order of execution, so that each search sees its quantized input: the
    range [f*l, f*u] minimising ``mean |x - Q(x)|^power`` over ``candidates`` values f in [smallest,
    1]. A quantizer that is called several times takes, at each call, the f of the smallest sum of
    the errors of its calls so far, all measured from the [l, u] it came with.

    Args:
        model: calibrated, frozen network.
        images: one batch [N, C, H, W] on its device.
        candidates: number of fractions tried.
        smallest: smallest fraction.
        power: norm of the error.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: a range that is not frozen, images that the network does not take, a number out
            of what is allowed.

    Example:
        >>> import hast_cuda as hc
        >>> student = hc.quantize(hc.load_teacher("digits"), 4, 4)
        >>> images = torch.randn(16, 1, 8, 8)
        >>> student = hc.shrink_ranges(hc.calibrate(student, [images]), images)
    """
    check_values("model", model)
    check_images("images", images)
    check_range("candidates", candidates, 1, 10_000)
    check_positive("smallest", smallest)
    check_range("smallest", smallest, 0, 1)
    check_positive("power", power)

    fractions = torch.linspace(1.0, smallest, candidates).tolist()
    given = {q: q.range_state[:2].clone() for q in activation_quantizers(model).values()}
    totals: dict[nn.Module, Tensor] = {}

    def search(quantizer: Any, args: tuple[Tensor, ...]) -> None:
        x, ends, errors = args[0], given[quantizer], []
        bits, activation = quantizer.bits, quantizer.activation
        exact = activate(x.to(torch.float32), activation)
        for fraction in fractions:
            low, high = (ends * fraction).split(1)
            y = fake_quantize(x, low, high, bits, activation=activation)
            errors.append((exact - y).abs_().pow_(float(power)).mean())
        total = totals[quantizer] = torch.stack(errors) + totals.get(quantizer, 0.0)
        best = fractions[int(total.argmin())]
        quantizer.set_range(*(ends * best))

    open_ranges = [n for n, q in activation_quantizers(model).items() if q.observing]
    if open_ranges:
        raise ValueError(f"activation range of {open_ranges[0]!r} is not frozen: calibrate it first")
    hooks = (quantizer.register_forward_pre_hook(search) for quantizer in given)
    with hooked(hooks), eval_mode(model), quantized_once(model), explained_forward("images", images):
        model(images)
    return model
