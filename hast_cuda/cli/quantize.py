"""``hast-cuda quantize``, ``synthesize``, ``finetune`` and ``evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from torch import nn

from hast_cuda.checks.values import as_device
from hast_cuda.cli.bits import LayerBits, Measured, Widths
from hast_cuda.cli.network import ANY_NETWORK, Network, opened
from hast_cuda.cli.options import Flat, Task, labelled_images, shape_of, training_images
from hast_cuda.data import Images, InputSpec
from hast_cuda.data import evaluate as top1
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.methods import Recipe
from hast_cuda.networks import require_batch_norm
from hast_cuda.nn import quantization_table
from hast_cuda.ranks import World
from hast_cuda.report import ACCURACIES
from hast_cuda.run import QuantizationResult, estimate, load_student, zero_shot_quantize
from hast_cuda.run.inputs import Asked
from hast_cuda.run.origins import KEY, fingerprints
from hast_cuda.run.plan import make_plan, told
from hast_cuda.run.settings import image_store, name_for
from hast_cuda.run.summary import standard_error
from hast_cuda.run.together import open_together
from hast_cuda.synthesis import ImageStore
from hast_cuda.synthesis import synthesize as make_images

SENSITIVITY_IMAGES = 128  # of each layer at each width


def quantize(
    task: Annotated[Task, Flat],
    widths: Annotated[Widths, Flat] = Widths(),
    layers: Annotated[LayerBits, Flat] = LayerBits(),
    data: str | None = None,
    test_limit: int | None = None,
    images: Path | None = None,
    train_data: str | None = None,
    table: bool = False,
) -> dict[str, Any]:
    """Quantize a pretrained network without its data.

    Args:
        task: the network, and what to make of it.
        widths: bits.
        layers: bits of single layers.
        data: labelled test images to report accuracy on: .npz, CIFAR folder, ImageFolder or
            "digits".
        test_limit: use only this many test images.
        images: directory with synthetic images of an earlier run, instead of making new ones.
        train_data: labelled training images, for the method real_data alone.
        table: print every layer, and the accuracies on the way.
    """
    wanted = wanted_of(task, widths, layers, data, test_limit, images, train_data)
    if task.budget.dry_run:
        plan = estimate(wanted.teacher, wanted.shape, **wanted.arguments)
        wanted.world.say(plan)
        return {"seconds": plan.seconds, "total": plan.total, "memory": plan.memory, "recipe": plan.recipe}
    done = wanted.quantized()
    if wanted.world.first:
        layers_ = quantization_table(done.student)
        print(layers_ if table else f"layers   {layers_.line()} (--table: all of them)")
        print_summary(done, table=table)
    return {**done.result, "run": task.out}


class Wanted(NamedTuple):
    """A run, as its options ask for it."""

    teacher: nn.Module
    shape: InputSpec
    arguments: dict[str, Any]
    """Of :func:`hast_cuda.zero_shot_quantize`."""
    world: World

    def quantized(self) -> QuantizationResult:
        """Do it."""
        return zero_shot_quantize(self.teacher, self.shape, **self.arguments)


def wanted_of(
    task: Task,
    widths: Widths,
    layers: LayerBits,
    data: str | None,
    test_limit: int | None,
    images: Path | None,
    train_data: str | None,
) -> Wanted:
    """The arguments are those of :func:`quantize`."""
    teacher, spec, recipe, changes, world, test, network = task.start(data, test_limit, images)
    ready: Images | None = None
    if train_data is not None:
        if images is not None or recipe.images != "real":
            raise ValueError(
                "train_data is for the method real_data, which takes no synthetic images: every "
                "other method works without data"
            )
        ready = training_images(train_data, spec)
    elif images is not None:
        ready = ImageStore(images).load_all()
    described = {
        "method": task.budget.method,
        "network": network,
        "preset": task.budget.preset,
        "data": data,
        "test_limit": test_limit,
        "images": None if images is None else name_for(images, task.out),
        "train_data": train_data,
    }
    bits = widths.bits(teacher)
    overrides = widths.overrides(bits, teacher, spec)
    measured = None if ready is None else Measured(teacher, ready.images[:SENSITIVITY_IMAGES], bits, world)
    overrides |= layers.overrides(bits, measured, by_hand=bool(overrides))
    arguments: dict[str, Any] = {
        "bits": replace(bits, overrides=overrides),
        "method": task.budget.method,
        "recipe": task.budget.preset,
        "budget": task.budget.budget,
        "changes": changes,
        "out": task.out,
        "images": ready,
        "test": test,
        "execution": task.execution,
        "world": world,
        "seed": task.budget.seed,
        "tensorboard": task.tensorboard,
        "describe": described,
    }
    return Wanted(teacher, shape_of(spec), arguments, world)


def print_summary(done: QuantizationResult, *, table: bool) -> None:
    """Print how good, how small and where; with ``table`` the accuracies on the way, too."""
    result = done.result
    if table and result["num_test_images"] is not None:
        print(f"top-1 on {result['num_test_images']} test images")
        trained = result["finetune_iterations"] > 0
        for label, key, note in ACCURACIES:
            if key in result and (trained or key not in ("quantized_last", "quantized_best_epoch")):
                print(f"  {label:<28}{result[key]:6.2f} %  {note}".rstrip())
    print(done)


def synthesize(task: Annotated[Task, Flat]) -> dict[str, Any]:
    """Make synthetic images from a pretrained network; they go to OUT/images.

    Args:
        task: the network, and what to make of it.
    """
    teacher, spec, recipe, changes, world, _, network = task.start()
    require_batch_norm(teacher)
    given = task.budget
    making = Recipe(recipe.synthesis, FinetuneConfig(iterations=0))  # whatever the method does with the images
    own = {name: value for name, value in changes.items() if name.startswith("synthesis.")}
    asked = Asked(teacher, shape_of(spec), making, world, task.execution, seed=given.seed, out=task.out)
    plan = make_plan(asked, given.budget, own, student=False, estimate=given.dry_run)
    if given.dry_run:
        world.say(plan.estimate)
        return {"seconds": plan.estimate.seconds if plan.estimate else {}}
    told(plan, world)
    settings = plan.recipe.synthesis
    config = {
        "network": network,
        "seed": given.seed,
        "synthesis": settings,
        "execution": task.execution,
        **({} if plan.budget is None else {"budget": plan.budget}),
        KEY: fingerprints(teacher),
    }
    store = ImageStore(task.out / "images")
    with open_together(world, task.out, config, tensorboard=task.tensorboard) as run:
        found = make_images(
            teacher,
            shape_of(spec),
            settings,
            seed=task.budget.seed,
            device=world.device,
            store=store,
            log=(lambda _: None) if run is None else run.log,
            execution=task.execution,
            world=world,
        )
        if run is not None:
            run.show(found.images)
    world.say(f"{len(found)} images in {store.directory}")
    return {"run": task.out, "images": store.directory, "num_images": len(found)}


def finetune(
    task: Annotated[Task, Flat],
    widths: Annotated[Widths, Flat] = Widths(),
    layers: Annotated[LayerBits, Flat] = LayerBits(),
    images: Path | None = None,
    data: str | None = None,
    test_limit: int | None = None,
    table: bool = False,
) -> dict[str, Any]:
    """Quantize and fine-tune with synthetic images made before.

    Args:
        task: the network, and what to make of it.
        widths: bits.
        layers: bits of single layers.
        images: directory of image shards; default: those of --run.
        data: labelled test images to report accuracy on.
        test_limit: use only this many test images.
        table: print every layer, and the accuracies on the way.
    """
    if images is None:
        if task.run is None:
            raise ValueError("there are no images: give --images DIR, or --run with a run that has some")
        images = image_store(task.run).directory
    return quantize(task, widths, layers, data, test_limit, images, table=table)


def evaluate(
    data: str,
    network: Annotated[Network, Flat] = ANY_NETWORK,
    run: Path | None = None,
    test_limit: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Top-1 accuracy of a network, or of the quantized one in a run directory.

    Args:
        data: labelled images.
        network: the full-precision network; that of the run where one is given.
        run: run directory whose student is evaluated instead.
        test_limit: use only this many images.
        device: as for quantize.
    """
    if run is not None:
        _, model, spec = opened(run, network)
        model = load_student(model, run)
    else:
        spec = network.spec()
    test = labelled_images(data, spec, test_limit)
    assert test is not None
    if run is None:
        model = network.load()
    accuracy = top1(model, test, device=as_device(device, auto=True))
    error = standard_error(accuracy, len(test))
    print(f"{accuracy:.2f} +- {error:.2f} % top-1 on {len(test)} images")
    return {"top1": accuracy, "standard_error": error, "num_test_images": len(test)}
