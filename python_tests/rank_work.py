"""What the ranks of test_ranks.py do; rank_server.py starts them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from edge_networks import METHODS, TINY, small_recipe
from networks import CHANNELS, CLASSES, SIZE, tiny
from rank_faults import every_fault
from test_method_runs import ROWS, SHAPE, setting
from test_run import real_images
from torch import Tensor, nn

import hast_cuda as hc
from hast_cuda.cli import main
from hast_cuda.data import Images
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.batches import StoredBatches
from hast_cuda.finetune.step import FinetuneStep, ReplayedStep
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.methods import Recipe, change
from hast_cuda.networks.ends import Head
from hast_cuda.ranks import World, join
from hast_cuda.ranks import launch as ranks
from hast_cuda.reconstruction import ReconstructionConfig, reconstruct
from hast_cuda.reproduce import run_row, runner
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.synthesis import synthesize
from hast_cuda.synthesis.step import SynthesisStep

COUNT = 9  # images: a pass is a batch of 8, and one of 1, of which all ranks but one have nothing
LAYERS = ["features.1", "features.4"]
# Every way that a loss reduces over the batch, and what is done to the gradients.
LOSSES: dict[str, FinetuneConfig] = {
    "hast": FinetuneConfig(),
    "clipped": FinetuneConfig(max_grad_norm=0.5, learning_rate=0.1),
    "adamw": FinetuneConfig(optimizer="adamw", learning_rate=1e-3),
    "plain": FinetuneConfig(normalized_attention=False, perturbation=0.0),
    "direct": FinetuneConfig(alignment="direct", perturb_by="alignment", clean_weight=0.5),
    "classes": FinetuneConfig(label_weight=1.0, distillation_reduction="mean", perturb_by="distillation"),
    "maps of classes": FinetuneConfig(alignment="cam", label_weight=1.0, label_difficulty=0.7),
    "perturbed": FinetuneConfig(clean_weight=0.0, perturbed_weight=2.0),
    "codes": FinetuneConfig(flip_fraction=0.01, feature_weight=0.0, learning_rate=1e-3),
}


def recipe_of(name: str) -> Recipe:
    """A small run of a method."""
    return change(small_recipe(name), {"synthesis.num_images": COUNT})


def given_images() -> Images:
    """Images for the method that wants real ones, for which every loss of the steps stays finite."""
    random = torch.Generator().manual_seed(3)
    labels = torch.arange(COUNT) % CLASSES
    return Images(torch.randn(COUNT, CHANNELS, SIZE, SIZE, generator=random), labels)


def quantize(name: str, out: Path | None, **changed: Any) -> Any:
    """One run, of which every rank returns the result."""
    recipe = recipe_of(name)
    images = given_images() if recipe.images == "real" else None
    arguments: dict[str, Any] = {"recipe": recipe, "images": images, "test": real_images(), "seed": 1, "out": out}
    return zero_shot_quantize(tiny(), SHAPE, Bits(3, 3), **arguments | changed)


def every_method(folder: Path, device: str = "cpu", backend: str | None = None) -> None:
    """What each rank gets from every kind of method; ``hast`` without a directory too."""
    world = join(device, backend=backend)
    # None: the run joins by itself
    given = {"device": device} if backend is None else {"world": world}
    for name in METHODS:
        keep(quantize(name, folder / name, **given), folder / f"{name}-{world.rank}.pt")
    keep(quantize("hast", None, **given), folder / f"nowhere-{world.rank}.pt")


def keep(done: Any, path: Path) -> None:
    """Write a result for the test to compare."""
    images = None if done.images is None else done.images.images
    state = {k: v.cpu() for k, v in done.student.state_dict().items()}
    figures = {k: v for k, v in done.result.items() if not isinstance(v, (dict, list))}
    torch.save({"images": images, "student": state, "result": figures}, path)


def every_loss(folder: Path) -> None:
    """The largest relative difference of a student's update from that of one process, float64."""
    world = join()
    found = {}
    for name, config in LOSSES.items():
        for soft in (False, True) if config.label_weight else (False,):
            updates = [update(config, soft, own) for own in (world, World())]
            scale = torch.cat([u.flatten() for u in updates[1]]).abs().max()
            gaps = [(a - b).abs().max() for a, b in zip(*updates, strict=True)]
            found[f"{name}, {soft=}"] = float(torch.stack(gaps).max() / scale)
    torch.save(found, folder / f"losses-{world.rank}.pt")


def update(config: FinetuneConfig, soft: bool, world: World) -> list[Tensor]:
    """What three steps, with the order and crops of the loop, do to the parameters."""
    config = replace(config, batch_size=8)
    teacher = tiny().double().requires_grad_(False)
    student = hc.quantize(teacher, 3, 3)
    images = given_images().images.double()
    hc.calibrate(student, [images])
    student.requires_grad_(True)
    before = [p.detach().clone() for p in student.parameters()]
    step = FinetuneStep(teacher, student, LAYERS, config, Execution(), Head("features.5", "output"))
    step.rate = step.rate.double()
    random = torch.Generator().manual_seed(5)
    labels = torch.arange(COUNT) % CLASSES
    probabilities = torch.rand(COUNT, CLASSES, generator=random).softmax(1)
    counted = (probabilities if soft else labels) if config.label_weight else None
    guard = FiniteGuard("test", torch.device("cpu"))
    step_on = ReplayedStep(step, guard, world)
    for iteration, batch in StoredBatches(images, counted, config, 4, world).during(range(3)):
        step.set_rates(iteration)
        step_on(batch)
    guard.check(3)
    step.close()
    return [p.detach() - b for p, b in zip(student.parameters(), before, strict=True)]


def reconstructed(folder: Path) -> None:
    """A student's blocks, of which every rank has a part of each batch."""
    world, images = join(), given_images().images
    student = hc.calibrate(hc.quantize(tiny(), 3, 3), [images])
    config = ReconstructionConfig(iterations=8, batch_size=8)
    errors = reconstruct(tiny(), student, images, config, seed=2, world=world)
    found = {"errors": [(e.name, e.before, e.after) for e in errors], "student": student.state_dict()}
    torch.save(found, folder / f"reconstructed-{world.rank}.pt")


def refusals(folder: Path) -> None:
    """What the ranks say to work that differs; they go on together afterwards."""
    world = join()

    def other_weights() -> nn.Module:
        network = tiny()
        network.output.weight.data += world.rank
        return network

    attempts: dict[str, Callable[[], Any]] = {
        "seed": lambda: quantize("hast", folder / "none", seed=world.rank),
        "recipe": lambda: quantize(
            "hast", None, recipe=change(recipe_of("hast"), {"finetune.momentum": world.rank / 4})
        ),
        "out": lambda: quantize("hast", folder / f"none{world.rank}"),
        "weights": lambda: zero_shot_quantize(other_weights(), SHAPE, recipe=recipe_of("hast")),
        "images": lambda: quantize(
            "real_data", None, images=Images(given_images().images + world.rank, given_images().labels)
        ),
        "synthesis": lambda: synthesize(tiny(), SHAPE, recipe_of("hast").synthesis, seed=world.rank, world=world),
        "steps": lambda: finetune(
            tiny(), hc.quantize(tiny()), given_images().images + world.rank, LOSSES["hast"], world=world
        ),
        "broken directory": lambda: quantize("hast", folder / "file"),
    }
    if world.first:
        (folder / "file").touch()
    said = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except (ValueError, OSError) as error:
            said[name] = str(error)
    torch.save(said, folder / f"refusals-{world.rank}.pt")


def interrupted(folder: Path, where: str) -> None:
    """A run of which the last rank kills or stops itself, at one place."""
    if where == "never" and ranks.launched() > 1:
        dist.init_process_group("gloo")  # a script may have one of its own
    world = join()
    end_last(where)
    recipe = change(
        recipe_of("hast"), {"synthesis.num_images": 28, "finetune.iterations": 6, "finetune.evaluations": 2}
    )
    keep(quantize("hast", folder / "run", recipe=recipe), folder / f"whole-{world.rank}.pt")


def end_last(where: str) -> None:
    """Let the last rank kill or stop itself in a phase; "never" does nothing."""
    phase, _, action = where.partition("-")
    if phase == "never" or int(os.environ["RANK"]) < ranks.launched() - 1:
        return
    kind = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[action]
    calls = iter(range(1000))

    def ended(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            if next(calls) == 4:  # in fine-tuning one step after the first checkpoint
                os.kill(os.getpid(), kind)
            return original(*given)

        return call

    if phase == "synthesis":
        SynthesisStep.__call__ = ended(SynthesisStep.__call__)  # type: ignore[method-assign]
    else:
        ReplayedStep.__call__ = ended(ReplayedStep.__call__)  # type: ignore[method-assign]


def command(folder: Path, where: str, verb: str, *more: str) -> None:
    """The command line; "RANK" in its last words is the rank."""
    end_last(where)
    words = [word.replace("RANK", os.environ["RANK"]) for word in more]
    budget = "--num-images 4 --batch-size 4 --synthesis-iterations 2 --finetune-iterations 8"
    settings = "--reconstruction-iterations 2 --set finetune.calibration_updates=2 finetune.calibration_batch_size=4"
    given = f"--model digits {budget} {settings} --device cpu --out".split()
    if main([verb, *given, str(folder / "run"), *words]):
        raise SystemExit(1)


def torchrun(folder: Path, *arguments: str) -> None:
    """Torchrun's own launch of ``python -m hast_cuda`` in two processes, forked from this one."""
    from torch.distributed.run import main as run

    script = str(Path(hc.__file__).with_name("__main__.py"))
    run(["--standalone", "--nproc-per-node=2", "--start-method=fork", "--run-path", script, *arguments])


def rows(folder: Path) -> None:
    """Two rows of a table, which share their images."""
    world = join()

    def limited(recipe: Recipe, *_: str) -> Recipe:
        steps = {"reconstruction.iterations": 3, "finetune.iterations": 3}
        return change(recipe, TINY | {"synthesis.num_images": COUNT} | steps)

    runner.apply_budget = limited
    given, found = setting(folder, world=world), {}
    for row in ROWS:
        (result,) = run_row(row, given, [0], world.say).results
        found[row.name] = {k: v for k, v in result.items() if isinstance(v, (int, float, str))}
    torch.save(found, folder / f"rows-{world.rank}.pt")


def budget(folder: Path) -> None:
    """A run at a share of its recipe, which rank 0 measures."""
    keep(quantize("hast", folder / "run", budget="50%"), folder / f"run-{os.environ['RANK']}.pt")


WORK: dict[str, Callable[..., None]] = {
    "methods": every_method,
    "losses": every_loss,
    "reconstructed": reconstructed,
    "refusals": refusals,
    "interrupted": interrupted,
    "command": command,
    "torchrun": torchrun,
    "rows": rows,
    "budget": budget,
    "faults": every_fault,
}
