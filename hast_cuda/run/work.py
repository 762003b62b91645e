"""What one run works with, and its phases: images, calibration, fine-tuning, the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, ImageSet, InputSpec, evaluate
from hast_cuda.finetune import FinetuneConfig, finetune
from hast_cuda.finetune.calibration import calibrate_student
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.finetune.processes import spread_student
from hast_cuda.generator import GeneratorTrainer
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.memory import explained_memory
from hast_cuda.methods import Recipe
from hast_cuda.nn import quantize, shrink_ranges
from hast_cuda.posttraining import finish, prepare
from hast_cuda.ranks import World
from hast_cuda.run.directory import RunDirectory, plain
from hast_cuda.run.inputs import Bits, check_images
from hast_cuda.run.origins import KEY, fingerprints
from hast_cuda.run.phases import Phases
from hast_cuda.run.student import load_weights, save_student
from hast_cuda.run.together import open_together
from hast_cuda.synthesis import ImageStore, synthesize

SEARCH_IMAGES = 256  # one batch is enough for the error of a range


@dataclass
class Work:
    """One run, phase by phase; rank 0 alone has the directory, logs and evaluates."""

    teacher: nn.Module
    """Full-precision network; never edited."""
    shape: InputSpec
    bits: Bits
    recipe: Recipe
    described: dict[str, Any]
    """Entries for ``config.json`` and ``result.json``."""
    seed: int
    test: ImageSet | None
    """Real images to report accuracy on."""
    world: World
    execution: Execution
    out: Path | None
    evaluation_batch: int
    """Images per forward pass of an evaluation."""
    run: RunDirectory | None = None
    """Of rank 0, while it is open."""
    trainer: GeneratorTrainer | None = None
    """What makes the images while it is trained, if the recipe has one."""

    def __post_init__(self) -> None:
        self.device, bits = self.world.device, self.bits
        self.prepared = prepare(self.teacher, self.recipe.posttraining)
        self.student = (
            quantize(
                self.prepared,
                bits.weights,
                bits.activations,
                placement=bits.placement,
                overrides=bits.overrides,
                ema=self.recipe.finetune.ema,
                ste=self.recipe.finetune.ste,
            )
            .to(self.device)
            .eval()
        )
        self.phases = Phases(None)
        self.store = None if self.out is None else ImageStore(self.out / "images")

    @contextmanager
    def opened(self, images: Images | None, *, tensorboard: bool) -> Iterator[dict[str, Any] | None]:
        """The run directory is there, and locked; gives the result of a finished run.

        Rank 0's phases go on with those of the attempts before.
        """
        config = {
            **self.described,
            "shape": self.shape.shape(),
            "recipe": self.recipe,
            "execution": self.execution,
            KEY: fingerprints(self.teacher, images, self.test),
        }

        def find() -> dict[str, Any] | None:
            self.phases = Phases(self.run)
            return None if self.run is None else self.run.result()

        with open_together(self.world, self.out, config, tensorboard=tensorboard) as self.run:
            yield self.world.on_first(find)

    def finished(self, images: Images | None) -> Images | None:
        """The student of a run that is over, and its images, those that are damaged made again."""
        store = self.store
        if images is None and self.world.on_first(lambda: store is not None and store.finished()):
            images = self._synthesize()

        def load() -> None:
            assert self.run is not None
            if images is not None:
                self.run.show(images.images)
            load_weights(self.student, self.run.student)

        self.world.on_first(load)
        spread_student(self.student, self.world)
        return images

    def make_images(self, images: Images | None) -> Images | None:
        """Those given, or optimised noise where the recipe has it."""
        with self.phases("synthesis"):
            if images is None and self.recipe.images == "synthetic":
                images = self._synthesize()
                check_images(images, self.shape)
        if self.run is not None and images is not None:
            self.run.show(images.images)
        return images

    def _synthesize(self) -> Images:
        return synthesize(
            self.teacher,
            self.shape,
            self.recipe.synthesis,
            seed=self.seed,
            device=self.device,
            log=self._log,
            store=self.store,
            execution=self.execution,
            world=self.world,
        )

    def calibrate(self, images: Images | None) -> dict[str, float | None]:
        """Find the ranges, and shrink them if the recipe says so; accuracies on the way."""
        recipe, shape = self.recipe, self.shape
        if recipe.images == "generated":
            self.trainer = GeneratorTrainer(
                self.teacher,
                shape.size,
                shape.num_classes,
                recipe.generator,
                batch_size=recipe.finetune.batch_size,
                seed=self.seed,
                device=self.device,
            )

        def find_ranges() -> None:
            calibrate_student(
                self.teacher,
                self.student,
                None if images is None else images.images,
                recipe.finetune,
                num_classes=shape.num_classes,
                seed=self.seed,
                device=self.device,
                trainer=self.trainer,
                width=recipe.posttraining.range_width,
                execution=self.execution,
            )
            finish(self.student, self.prepared.to(self.device), recipe.posttraining)

        with self.phases("calibration"):
            self.world.on_first(find_ranges)
        with self.phases("evaluation"):
            full_precision, rounded = self._accuracy(self.teacher), self._accuracy(self.student)
        start = rounded
        if recipe.finetune.shrink_ranges:
            with self.phases("range search"):
                self.world.on_first(lambda: self._shrink(images))
            with self.phases("evaluation"):
                start = self._accuracy(self.student)
        spread_student(self.student, self.world)
        return {"full_precision": full_precision, "rounded": rounded, "start_of_finetuning": start}

    def _shrink(self, images: Images | None) -> None:
        """Shrink the ranges on a batch of images; a generator takes training steps for it."""
        kept = "Images are kept." if images is not None else "Nothing is kept."
        setting, device = "finetune.shrink_ranges", self.device
        with explained_memory("the range search", SEARCH_IMAGES, setting, kept, device, optional=True):
            if images is not None:
                batch = images.images
            else:
                assert self.trainer is not None  # Recipe refuses a search without images
                steps = -(-SEARCH_IMAGES // self.trainer.batch_size)
                batch = torch.cat([self.trainer.step()[0] for _ in range(steps)])
            shrink_ranges(self.student, batch[:SEARCH_IMAGES].to(device))

    def finetune(self, images: Images | None) -> list[float]:
        """Train the student; accuracies seen on the way, the last one at the end."""
        config, source = self.recipe.finetune, self.trainer if images is None else images.images
        if not config.iterations or source is None:
            return []
        with self.phases("finetuning"):
            done = finetune(
                self.teacher,
                self.student,
                source,
                config,
                labels=labels_for(config, images),
                seed=self.seed,
                device=self.device,
                log=self._log,
                evaluate=None if self.test is None else self._top1,
                checkpoint=None if self.run is None else CheckpointFile(self.run.checkpoint),
                execution=self.execution,
                world=self.world,
            )
        return [top1 for _, top1 in done.accuracies]

    def conclude(self, accuracies: dict[str, float | None], seen: list[float], images: Images | None) -> dict[str, Any]:
        """Write the student and ``result.json``; returns the latter."""

        def write() -> dict[str, Any]:
            start = accuracies["start_of_finetuning"]
            result: dict[str, Any] = plain(
                {
                    **self.described,
                    **accuracies,
                    "quantized": seen[-1] if seen else start,
                    "quantized_best_epoch": max(seen) if seen else start,
                    "num_test_images": None if self.test is None else len(self.test),
                    "num_images": None if images is None else len(images),
                    "synthesis_iterations": self.recipe.synthesis.iterations,
                    "finetune_iterations": self.recipe.finetune.iterations,
                    "seconds": self.phases.seconds,
                }
            )
            if self.run is not None:
                save_student(self.student, self.run.student, self.described)
                self.run.finish(result)
            return result

        return self.world.on_first(write)

    def _log(self, record: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.log(record)
            self.phases.keep()

    def _top1(self, network: nn.Module) -> float:
        assert self.test is not None
        return evaluate(network, self.test, batch_size=self.evaluation_batch, device=self.device)

    def _accuracy(self, network: nn.Module) -> float | None:
        return None if self.test is None else self.world.on_first(lambda: self._top1(network))


def labels_for(config: FinetuneConfig, images: Images | None) -> Tensor | None:
    """Labels of stored images, where the loss counts them."""
    return images.labels if images is not None and config.label_weight else None
