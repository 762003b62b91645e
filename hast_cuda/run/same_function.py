"""Before a run begins: what its loops will compute with is still the network that was given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.checks.values import explained_forward
from hast_cuda.data import InputSpec
from hast_cuda.loops.execution import Execution, convolution_rules
from hast_cuda.loops.modes import copied, frozen_copy, hooked
from hast_cuda.loops.seeding import generator
from hast_cuda.merged import BatchStatistics, FusedBatchNorm2d, merge_batch_norms
from hast_cuda.methods import Recipe
from hast_cuda.networks.compare import TOLERANCE, apart, distance, where_apart
from hast_cuda.networks.outputs import output_tensors
from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.networks.tracing import CannotMergeError
from hast_cuda.nn.layers import quantizers_aside
from hast_cuda.nn.uses import own_weights_only
from hast_cuda.posttraining import replace_relu6

_IMAGES = 2
_UNMERGED = "Execution(merge=False) runs its layers as they are"


def require_same_function(
    teacher: nn.Module,
    prepared: nn.Module,
    student: nn.Module,
    recipe: Recipe,
    shape: InputSpec,
    execution: Execution,
    device: torch.device,
) -> None:
    """ValueError, naming the layer, unless all networks of a run are one function, up to quantization and rounding.

    Two images of noise pass the network that was given, the one that its BatchNorm layers were folded or balanced
    in, those that the loops merge, and the student with its quantizers set aside; without training, in float32,
    and in float64 where float32 may not suffice.
    """
    given = frozen_copy(teacher, device)
    x = torch.randn(_IMAGES, *shape.size, generator=generator(0, "same function")).to(device)
    with _quiet(), convolution_rules(Execution()), torch.no_grad():
        with own_weights_only(given), _own_precision(given), explained_forward("images", seen := x.clone()):
            output = given(seen)
        _require_steady(given, x, seen, output)
        if shape.num_classes:
            _require_no_softmax(output)

        def compare(what: str, make: Callable[[], nn.Module], of: nn.Module, advice: str) -> None:
            try:
                found = make()
            except CannotMergeError:
                return  # the loop says so
            far = distance(of, found, x)
            if not far <= TOLERANCE:
                raise ValueError(
                    f"{what} is another function than the network that was given: outputs differ by {far:.2g} of "
                    f"the largest. It begins {where_apart(of, found, x)}. {advice}"
                )

        optimised = recipe.images == "synthetic"
        if optimised or recipe.images == "generated":
            _require_gradient(given, x)
            if any(has_running_statistics(m) for m in given.modules()):
                images = "the network that images are made with"
                make = lambda: BatchStatistics(copied(given), merge=execution.merge).model  # noqa: E731
                compare(images, make, given, _UNMERGED)
        post, prepared = recipe.posttraining, frozen_copy(prepared, device)
        if not post.absorb_biases and post.keep_relu6:
            before, after = given, prepared
            if post.equalize_activations:  # noise goes beyond the limits that images keep to
                before, after = (replace_relu6(copied(network)) for network in (given, prepared))
            compare("the network after posttraining", lambda: after, before, "Choose a method without posttraining")
        with quantizers_aside(student):
            kept = "Keep that layer in full precision (overrides), or write it so that its module does all"
            with own_weights_only(student), explained_forward("images", x):
                student(x.clone())
            compare("the student, its quantizers set aside,", lambda: student, prepared, kept)
            if execution.merge and recipe.finetune.iterations:
                for what, network in (("the teacher", given), ("the student, its quantizers set aside,", student)):
                    fused = f"{what} as fine-tuning merges it"
                    exactly = given if network is given else prepared
                    compare(fused, lambda n=network: merge_batch_norms(n, FusedBatchNorm2d).model, exactly, _UNMERGED)  # type: ignore[misc]


def _require_steady(given: nn.Module, x: Tensor, seen: Tensor, output: Any) -> None:
    """ValueError unless ``output``, of ``seen``, is finite and comes again."""
    if not torch.equal(seen, x):
        raise ValueError(
            "the network changes its images in place, which images that are trained cannot be: write x = x - mean "
            "instead of x -= mean or x.sub_(mean)"
        )
    if not all(bool(torch.isfinite(found).all()) for found in output_tensors(output).values()):
        raise ValueError("the network gives NaN or infinity for noise of mean 0 and variance 1: check its weights")
    if apart(output, given(x.clone())) > TOLERANCE:
        raise ValueError(
            "the network gives other outputs for the same images in eval mode (dropout without training=self.training, "
            f"random depth, a state that moves). It begins {where_apart(given, given, x)}. Make eval mode deterministic"
        )


def _require_no_softmax(logits: Tensor) -> None:
    """ValueError for probabilities."""
    if logits.shape[1] > 1 and bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError(
            "the network gives probabilities (each row sums to 1), and the losses take the softmax themselves: give "
            "the network without its last softmax"
        )


def _require_gradient(given: nn.Module, x: Tensor) -> None:
    """ValueError unless images can be made from the network."""
    with torch.enable_grad():
        images = x.clone().requires_grad_()
        sums = [found.sum() for found in output_tensors(given(images)).values() if found.requires_grad]
        if not sums:
            raise ValueError(
                "the network's outputs have no gradient for its images, from which images are made: its forward has "
                "torch.no_grad(), inference_mode, detach() or a rounding in it"
            )
        try:
            torch.autograd.grad(sums, images)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"the network cannot be differentiated: {reason}") from error


@contextmanager
def _own_precision(given: nn.Module) -> Iterator[None]:
    """ValueError behind a forward pass, naming the layer, where the network switched to autocast by itself."""
    switched: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
                switched.append(name)

        return note

    handles = [module.register_forward_pre_hook(look(name)) for name, module in given.named_modules() if name]
    with hooked(handles):
        yield
    if switched:
        raise ValueError(
            f"the network has torch.autocast in its forward, in front of {switched[0]!r}: take it out, and choose "
            "Execution(precision=...)"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings that the loops will give again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
