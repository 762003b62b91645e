"""``hast-cuda demo``: the whole method on an embedded network and real handwritten digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hast_cuda.analysis import loss_curves
from hast_cuda.checks.values import as_device
from hast_cuda.cli.network import Network
from hast_cuda.cli.options import labelled_images, shape_of
from hast_cuda.cli.quantize import print_summary
from hast_cuda.cli.report import write_page
from hast_cuda.methods import Recipe, hast
from hast_cuda.ranks import join
from hast_cuda.report import draw_images, draw_loss_curves
from hast_cuda.run import Bits, RunDirectory, estimate, zero_shot_quantize

BITS = 3


def demo_recipe() -> Recipe:
    """The default preset at a budget of about a minute on two CPU cores."""
    recipe = hast.recipe("default", "cifar10")
    return replace(
        recipe,
        synthesis=replace(recipe.synthesis, num_images=512, batch_size=256, iterations=200),
        reconstruction=replace(recipe.reconstruction, iterations=150),
        finetune=replace(recipe.finetune, iterations=150, batch_size=128, evaluations=6),
    )


def demo(
    out: Path = Path("runs/demo"),
    seed: int = 0,
    device: str = "auto",
    tensorboard: bool = False,
    budget: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Quantize a small network to 3 bits without its data, and test it on real images.

    The network was trained on scikit-learn's handwritten digits; none of them is used but those held
    out, at the end, to measure accuracy.

    Args:
        out: run directory; delete it to start over.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        tensorboard: write losses, accuracies and a sheet of images to OUT/tensorboard, too.
        budget: of the preset "default", as for quantize; by default about a minute of two CPU cores.
        dry_run: time a few iterations, print what would be done and how long it would take, and stop.
    """
    network = Network("digits")
    spec = network.spec()
    test = labelled_images("digits", spec)
    world = join(as_device(device, auto=True))
    world.say(f"digits network, {BITS}-bit weights and activations, no training data, on {world.device}")
    asked: dict[str, Any] = {
        "bits": Bits(BITS, BITS),
        "recipe": demo_recipe() if budget is None else hast.recipe("default", "cifar10"),
        "budget": budget,
        "out": out,
        "test": test,
        "world": world,
    }
    if dry_run:
        plan = estimate(network.load(), shape_of(spec), **asked)
        world.say(plan)
        return {"seconds": plan.seconds}
    described = {"method": "hast", "network": network.described(spec), "preset": "default", "data": "digits"}
    done = zero_shot_quantize(
        network.load(), shape_of(spec), **asked, seed=seed, describe=described, tensorboard=tensorboard
    )
    if not world.first:
        return done.result
    assert done.images is not None
    draw_images(done.images.images, done.images.labels, spec, out / "images.png")
    curves = loss_curves(RunDirectory.open(out).read_log())
    draw_loss_curves({"demo": curves}, out / "curves.png")
    print_summary(done, table=True)
    print(f"pictures: {out / 'images.png'}, {out / 'curves.png'}")
    page = write_page(out)
    print(f"report: {page}")
    return {**done.result, "run": out, "report": page}
