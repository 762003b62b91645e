"""``hast-cuda quantize``, ``synthesize``, ``finetune`` and ``evaluate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from hast_cuda.checks.values import as_device
from hast_cuda.cli.bits import LayerBits, Measured
from hast_cuda.cli.network import ANY_NETWORK, Network, opened
from hast_cuda.cli.options import Flat, Task, labelled_images, shape_of, training_images
from hast_cuda.data import Images
from hast_cuda.data import evaluate as top1
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.agreement import verdict
from hast_cuda.methods import Recipe
from hast_cuda.networks import require_batch_norm
from hast_cuda.networks.ends import end_layers
from hast_cuda.nn import Override, quantization_table
from hast_cuda.nn.override import end_overrides
from hast_cuda.report import ACCURACIES
from hast_cuda.run import Bits, QuantizationResult, estimate, load_student, zero_shot_quantize
from hast_cuda.run.asked import Asked
from hast_cuda.run.inputs import placed
from hast_cuda.run.origins import KEY, fingerprints
from hast_cuda.run.plan import make_plan, told
from hast_cuda.run.settings import image_store, name_for
from hast_cuda.run.together import open_together
from hast_cuda.synthesis import ImageStore
from hast_cuda.synthesis import synthesize as make_images

SENSITIVITY_IMAGES = 128  # of each layer at each width


def quantize(
    task: Annotated[Task, Flat],
    weight_bits: int = 4,
    act_bits: int = 4,
    placement: str = "auto",
    sum_bits: int = 8,
    first_last_bits: int | None = None,
    symmetric_weights: bool = False,
    full_precision: tuple[str, ...] = (),
    layers: Annotated[LayerBits, Flat] = LayerBits(),
    data: str | None = None,
    test_limit: int | None = None,
    images: Path | None = None,
    train_data: str | None = None,
) -> None:
    """Quantize a pretrained network without its data.

    Args:
        task: the network, and what to make of it.
        weight_bits: 2 to 8.
        act_bits: 2 to 8.
        placement: "relu" (outputs of ReLU and ReLU6 modules, the published code), "all" (the input of every
            layer), "integer" (all that an integer runtime stores: inputs and outputs of sums, concatenations
            and pools, too) or "auto" ("relu" if that reaches every activation, else "all").
        sum_bits: of what "integer" quantizes beside activations, 2 to 8.
        first_last_bits: of weights and inputs of the first and the last layer, e.g. 8; the paper quantizes
            them like the rest.
        symmetric_weights: weights have zero point 0, which some integer runtimes ask for.
        full_precision: name patterns of modules to leave alone, e.g. "output" "features.init*".
        layers: bits of single layers.
        data: labelled test images to report accuracy on: .npz, CIFAR folder, ImageFolder or
            "digits".
        test_limit: use only this many test images.
        images: directory with synthetic images of an earlier run, instead of making new ones.
        train_data: labelled training images, for the method real_data alone.
    """
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
    bits = placed(Bits(weight_bits, act_bits, placement, {}, sum_bits, symmetric_weights), teacher)
    overrides: dict[str, Override] = {}
    if first_last_bits is not None:
        overrides = end_overrides(teacher, first_last_bits, bits.placement, end_layers(teacher, spec.size))
    overrides |= {name: Override() for name in full_precision}
    measured = None if ready is None else Measured(teacher, ready.images[:SENSITIVITY_IMAGES], bits, world)
    overrides |= layers.overrides(bits, measured, by_hand=bool(overrides))
    asked: dict[str, Any] = {
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
    }
    if task.budget.dry_run:
        world.say(estimate(teacher, shape_of(spec), **asked))
        return
    done = zero_shot_quantize(
        teacher, shape_of(spec), **asked, seed=task.budget.seed, tensorboard=task.tensorboard, describe=described
    )
    if world.first:
        print(quantization_table(done.student))
        print_accuracies(done, task.out)


def print_accuracies(done: QuantizationResult, out: Path) -> None:
    """Print the accuracies and where the rest is."""
    result = done.result
    if result["num_test_images"] is not None:
        print(f"top-1 on {result['num_test_images']} test images")
        for label, key, note in ACCURACIES:
            if key in result:
                print(f"  {label:<28}{result[key]:6.2f} %  {note}".rstrip())
    if result.get("agreement"):
        print(f"agreement with the original on {result['num_held_out']} images held out:")
        print(f"  the same class for {result['agreement']['same_class']:.1f} %, divergence", end=" ")
        print(f"{result['agreement']['divergence']:.3f} nats")
        noisiest, ratio = min(result["signal_to_noise"].items(), key=lambda found: found[1])
        print(f"  lowest signal-to-noise ratio: {ratio:.1f} dB, at {noisiest}")
        print(f"  {verdict(result['agreement']['same_class'])}")
    for place, share in result.get("output_noise", {}).items():
        named = f"output {place}" if place else "the output"
        print(f"noise in {named} on {result['num_held_out']} images held out: {100 * share:.2f} % of its squares")
    print(f"run directory: {out}")


def synthesize(task: Annotated[Task, Flat]) -> None:
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
        return
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


def finetune(
    task: Annotated[Task, Flat],
    images: Path | None = None,
    weight_bits: int = 4,
    act_bits: int = 4,
    data: str | None = None,
) -> None:
    """Quantize and fine-tune with synthetic images made before.

    Args:
        task: the network, and what to make of it.
        images: directory of image shards; default: those of --run.
        weight_bits: 2 to 8.
        act_bits: 2 to 8.
        data: labelled test images to report accuracy on.
    """
    if images is None:
        if task.run is None:
            raise ValueError("there are no images: give --images DIR, or --run with a run that has some")
        images = image_store(task.run).directory
    quantize(task, weight_bits, act_bits, data=data, images=images)


def evaluate(
    data: str,
    network: Annotated[Network, Flat] = ANY_NETWORK,
    run: Path | None = None,
    test_limit: int | None = None,
    device: str = "auto",
) -> None:
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
    print(f"{accuracy:.2f} % top-1 on {len(test)} images")
