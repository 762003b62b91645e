"""What one run works with, and its phases: images, calibration, fine-tuning, the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, ImageSet, InputSpec, evaluate
from hast_cuda.finetune import finetune
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
from hast_cuda.run.bits import Bits
from hast_cuda.run.directory import RunDirectory, plain
from hast_cuda.run.inputs import check_images
from hast_cuda.run.origins import KEY, fingerprints
from hast_cuda.run.phases import Phases
from hast_cuda.run.sources import SEARCH_IMAGES, labels_for, make_trainer, search_images
from hast_cuda.run.student import load_weights, save_student
from hast_cuda.run.together import check_same_work
from hast_cuda.synthesis import ImageStore, synthesize

Source = Tensor | GeneratorTrainer | None


class Work:
    """One run, phase by phase; rank 0 alone has the directory, logs and evaluates.

    Args:
        teacher: full-precision network; never edited.
        shape: its input and classes.
        bits: widths and placement.
        recipe: all other choices.
        described: entries for ``config.json`` and ``result.json``.
        seed: of everything random.
        test: real images to report accuracy on, or None.
        world: the processes, and the device.
        execution: how to compute.
        out: run directory, or None.
        evaluation_batch: images per forward pass of an evaluation.
    """

    run: RunDirectory | None = None  # of rank 0, while it is open
    trainer: GeneratorTrainer | None = None

    def __init__(
        self, teacher: nn.Module, shape: InputSpec, bits: Bits, recipe: Recipe,
        described: dict[str, Any], *, seed: int, test: ImageSet | None, world: World,
        execution: Execution, out: Path | None, evaluation_batch: int,
    ) -> None:  # fmt: skip
        self.teacher, self.shape, self.bits, self.recipe = teacher, shape, bits, recipe
        self.described, self.seed, self.test, self.world = described, seed, test, world
        self.execution, self.out, self.evaluation_batch = execution, out, evaluation_batch
        self.device: torch.device = world.device
        self.prepared = prepare(teacher, recipe.posttraining)
        self.student = quantize(
            self.prepared, bits.weights, bits.activations, placement=bits.placement,
            overrides=bits.overrides, ema=recipe.finetune.ema, ste=recipe.finetune.ste,
        ).to(self.device).eval()  # fmt: skip
        self.phases = Phases(None)
        self.store = None if out is None else ImageStore(out / "images")

    @contextmanager
    def opened(self, images: Images | None, *, tensorboard: bool) -> Iterator[None]:
        """The run directory is there, and locked; all processes have been asked for the same."""
        config = {
            **self.described, "shape": self.shape.shape(), "recipe": self.recipe,
            "execution": self.execution, KEY: fingerprints(self.teacher, images, self.test),
        }  # fmt: skip
        out = None if self.out is None else str(self.out)
        check_same_work(self.world, config, out=out, tensorboard=tensorboard)

        def open_directory() -> None:
            if self.out is not None:
                self.run = RunDirectory(
                    self.out, config, self.device, tensorboard=tensorboard, ranks=self.world.size
                )

        self.world.on_first(open_directory)
        with self.run or nullcontext():
            yield

    def look(self) -> dict[str, Any] | None:
        """The result of a finished run; else None, and what earlier attempts left is gone on with.

        Rank 0's phases go on with those of the attempts before.
        """

        def find() -> dict[str, Any] | None:
            self.phases = Phases(self.run)
            return None if self.run is None else self.run.result()

        return self.world.on_first(find)

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
            self.teacher, self.shape, self.recipe.synthesis, seed=self.seed, device=self.device,
            log=self._log, store=self.store, execution=self.execution, world=self.world,
        )  # fmt: skip

    def calibrate(self, images: Images | None) -> dict[str, float | None]:
        """Find the ranges, and shrink them if the recipe says so; accuracies on the way."""
        config = self.recipe.finetune
        self.trainer = make_trainer(
            self.recipe, self.teacher, self.shape, seed=self.seed, device=self.device
        )

        def find_ranges() -> None:
            calibrate_student(
                self.teacher, self.student, None if images is None else images.images, config,
                num_classes=self.shape.num_classes, seed=self.seed, device=self.device,
                trainer=self.trainer, width=self.recipe.posttraining.range_width,
                execution=self.execution,
            )  # fmt: skip
            finish(self.student, self.prepared.to(self.device), self.recipe.posttraining)

        def shrink() -> None:
            kept = "Images are kept." if images is not None else "Nothing is kept."
            with explained_memory(
                "the range search", SEARCH_IMAGES, "finetune.shrink_ranges", kept, self.device,
                optional=True,
            ):  # fmt: skip
                shrink_ranges(self.student, search_images(images, self.trainer).to(self.device))

        with self.phases("calibration"):
            self.world.on_first(find_ranges)
        with self.phases("evaluation"):
            full_precision, rounded = self._accuracy(self.teacher), self._accuracy(self.student)
        start = rounded
        if config.shrink_ranges:
            with self.phases("range search"):
                self.world.on_first(shrink)
            with self.phases("evaluation"):
                start = self._accuracy(self.student)
        spread_student(self.student, self.world)
        return {"full_precision": full_precision, "rounded": rounded, "start_of_finetuning": start}

    def finetune(self, images: Images | None) -> list[float]:
        """Train the student; accuracies seen on the way, the last one at the end."""
        config, source = self.recipe.finetune, self._source(images)
        if not config.iterations or source is None:
            return []
        with self.phases("finetuning"):
            done = finetune(
                self.teacher, self.student, source, config, labels=labels_for(config, images),
                seed=self.seed, device=self.device, log=self._log,
                evaluate=None if self.test is None else self._top1,
                checkpoint=None if self.run is None else CheckpointFile(self.run.checkpoint),
                execution=self.execution, world=self.world,
            )  # fmt: skip
        return [top1 for _, top1 in done.accuracies]

    def conclude(
        self, accuracies: dict[str, float | None], seen: list[float],
        images: Images | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Write the student and ``result.json``; returns the latter."""

        def write() -> dict[str, Any]:
            start = accuracies["start_of_finetuning"]
            result: dict[str, Any] = plain({
                **self.described,
                **accuracies,
                "quantized": seen[-1] if seen else start,
                "quantized_best_epoch": max(seen) if seen else start,
                "num_test_images": None if self.test is None else len(self.test),
                "num_images": None if images is None else len(images),
                "synthesis_iterations": self.recipe.synthesis.iterations,
                "finetune_iterations": self.recipe.finetune.iterations,
                "seconds": self.phases.seconds,
            })  # fmt: skip
            if self.run is not None:
                save_student(self.student, self.run.student, self.described)
                self.run.finish(result)
            return result

        return self.world.on_first(write)

    def _source(self, images: Images | None) -> Source:
        return self.trainer if images is None else images.images

    def _log(self, record: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.log(record)
            self.phases.keep()

    def _top1(self, network: nn.Module) -> float:
        assert self.test is not None
        return evaluate(
            network, self.test, batch_size=self.evaluation_batch, device=self.device
        )  # fmt: skip

    def _accuracy(self, network: nn.Module) -> float | None:
        if self.test is None:
            return None
        return self.world.on_first(lambda: self._top1(network))
