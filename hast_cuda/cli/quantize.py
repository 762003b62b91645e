"""``hast-cuda quantize``, ``synthesize``, ``finetune`` and ``evaluate``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import tyro

from hast_cuda.cli.options import Budget, Network, fitting_shape, labelled_images, training_images
from hast_cuda.data import Images
from hast_cuda.data import evaluate as top1
from hast_cuda.data.input_spec import InputSpec
from hast_cuda.loops.execution import Execution
from hast_cuda.methods import Recipe
from hast_cuda.networks import require_batch_norm
from hast_cuda.nn import Override, quantization_table
from hast_cuda.ranks import join
from hast_cuda.report import ACCURACIES
from hast_cuda.run import (
    Bits,
    QuantizationResult,
    RunDirectory,
    check_same_work,
    load_student,
    require_tensorboard,
    zero_shot_quantize,
)
from hast_cuda.run.origins import KEY, fingerprints
from hast_cuda.run.settings import name_for
from hast_cuda.synthesis import ImageStore
from hast_cuda.synthesis import synthesize as make_images

Flat = tyro.conf.arg(name="")  # --model, not --network.model


def quantize(
    network: Annotated[Network, Flat], out: Path, budget: Annotated[Budget, Flat] = Budget(),
    weight_bits: int = 4, act_bits: int = 4, placement: str = "relu",
    full_precision: tuple[str, ...] = (), data: str | None = None, test_limit: int | None = None,
    images: Path | None = None, train_data: str | None = None,
    execution: Annotated[Execution, Flat] = Execution(), tensorboard: bool = False,
) -> None:  # fmt: skip
    """Quantize a pretrained network without its data.

    Args:
        network: what to quantize.
        out: run directory; the same command continues an unfinished run.
        budget: how much to compute.
        weight_bits: 2 to 8.
        act_bits: 2 to 8.
        placement: "relu" (the published code) or "all" (the input of every layer).
        full_precision: name patterns of modules to leave alone, e.g. "output" "features.init*".
        data: labelled test images to report accuracy on: .npz, CIFAR folder, ImageFolder or
            "digits".
        test_limit: use only this many test images.
        images: directory with synthetic images of an earlier run, instead of making new ones.
        train_data: labelled training images, for the method real_data alone.
        execution: how to compute.
        tensorboard: write losses, accuracies and a sheet of images to tensorboard/ of the run
            directory, too.
    """
    if tensorboard:
        require_tensorboard()
    spec = network.spec()
    recipe, world = budget.recipe(spec), join(budget.torch_device())
    test = labelled_images(data, spec, test_limit)
    bits = Bits(weight_bits, act_bits, placement, {name: Override() for name in full_precision})
    with world.first_goes_first():  # weights may have to be downloaded
        teacher = network.load()
    shape = fitting_shape(teacher, spec)
    ready = _ready_images(images, train_data, recipe, spec)
    done = zero_shot_quantize(
        teacher, shape, bits, recipe=recipe, seed=budget.seed, out=out, images=ready,
        test=test, execution=execution, tensorboard=tensorboard, world=world,
        describe=_described(
            network, budget, data, test_limit, None if images is None else name_for(images, out),
            train_data,
        ),
    )  # fmt: skip
    if world.first:
        print(quantization_table(done.student))
        print_accuracies(done, out)


def _ready_images(
    images: Path | None, train_data: str | None, recipe: Recipe, spec: InputSpec
) -> Images | None:
    """Images that need not be made."""
    if train_data is not None:
        if images is not None or recipe.images != "real":
            raise ValueError(
                "train_data is for the method real_data, which takes no synthetic images: every "
                "other method works without data"
            )
        return training_images(train_data, spec)
    return None if images is None else ImageStore(images).load_all()


def _described(
    network: Network, budget: Budget, data: str | None, test_limit: int | None,
    images: str | None, train_data: str | None,
) -> dict[str, object]:  # fmt: skip
    return {
        "method": budget.method,
        "network": network,
        "preset": budget.preset,
        "data": data,
        "test_limit": test_limit,
        "images": images,
        "train_data": train_data,
    }


def print_accuracies(done: QuantizationResult, out: Path) -> None:
    """Print the accuracies and where the rest is."""
    result = done.result
    if result["num_test_images"] is not None:
        print(f"top-1 on {result['num_test_images']} test images")
        for label, key, note in ACCURACIES:
            print(f"  {label:<28}{result[key]:6.2f} %  {note}".rstrip())
    print(f"run directory: {out}")


def synthesize(
    network: Annotated[Network, Flat],
    out: Path,
    budget: Annotated[Budget, Flat] = Budget(),
    execution: Annotated[Execution, Flat] = Execution(),
    tensorboard: bool = False,
) -> None:
    """Make synthetic images from a pretrained network.

    Args:
        network: the teacher.
        out: run directory; images go to its images/ folder.
        budget: how much to compute.
        execution: how to compute.
        tensorboard: as for quantize.
    """
    if tensorboard:
        require_tensorboard()
    spec = network.spec()
    recipe, world = budget.recipe(spec), join(budget.torch_device())
    with world.first_goes_first():
        teacher = network.load()
    require_batch_norm(teacher)
    shape = fitting_shape(teacher, spec)
    config = {
        "network": network,
        "seed": budget.seed,
        "synthesis": recipe.synthesis,
        "execution": execution,
        KEY: fingerprints(teacher),
    }
    check_same_work(world, config, out=str(out), tensorboard=tensorboard)
    run: RunDirectory | None = None  # of rank 0

    def open_directory() -> None:
        nonlocal run
        run = RunDirectory(out, config, world.device, tensorboard=tensorboard, ranks=world.size)

    world.on_first(open_directory)
    store = ImageStore(out / "images")
    with run or nullcontext():
        found = make_images(
            teacher, shape, recipe.synthesis, seed=budget.seed, device=world.device,
            store=store, log=run.log if run is not None else lambda _: None, execution=execution,
            world=world,
        )  # fmt: skip
        if run is not None:
            run.show(found.images)
    world.say(f"{len(found)} images in {store.directory}")


def finetune(
    network: Annotated[Network, Flat], images: Path, out: Path,
    budget: Annotated[Budget, Flat] = Budget(), weight_bits: int = 4, act_bits: int = 4,
    data: str | None = None, execution: Annotated[Execution, Flat] = Execution(),
    tensorboard: bool = False,
) -> None:  # fmt: skip
    """Quantize and fine-tune with synthetic images made before (quantize --images).

    Args:
        network: the teacher.
        images: directory of image shards.
        out: run directory.
        budget: how much to compute.
        weight_bits: 2 to 8.
        act_bits: 2 to 8.
        data: labelled test images to report accuracy on.
        execution: how to compute.
        tensorboard: as for quantize.
    """
    quantize(
        network, out, budget, weight_bits=weight_bits, act_bits=act_bits, data=data, images=images,
        execution=execution, tensorboard=tensorboard,
    )  # fmt: skip


def evaluate(
    network: Annotated[Network, Flat], data: str, run: Path | None = None,
    test_limit: int | None = None, device: str = "auto",
) -> None:  # fmt: skip
    """Top-1 accuracy of a network, or of the quantized one in a run directory.

    Args:
        network: the full-precision network.
        data: labelled images.
        run: run directory whose student is evaluated instead.
        test_limit: use only this many images.
        device: as for quantize.
    """
    spec = network.spec()
    test = labelled_images(data, spec, test_limit)
    assert test is not None
    model = network.load()
    if run is not None:
        model = load_student(model, run)
    accuracy = top1(model, test, device=Budget(device=device).torch_device())
    print(f"{accuracy:.2f} % top-1 on {len(test)} images")


__all__ = ["evaluate", "finetune", "print_accuracies", "quantize", "synthesize"]
