"""What one run works with, and its phases: images, calibration, fine-tuning, the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hast_cuda.data import Images, evaluate
from hast_cuda.exports.grid import float_bytes
from hast_cuda.exports.packed_weight import packed_bytes
from hast_cuda.finetune import FinetuneResult, finetune
from hast_cuda.finetune.batches import hold_out
from hast_cuda.finetune.calibration import calibrate_student
from hast_cuda.finetune.checkpoint import CheckpointFile
from hast_cuda.finetune.processes import spread_student
from hast_cuda.generator import GeneratorTrainer
from hast_cuda.loops.memory import explained_memory
from hast_cuda.methods import Recipe
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.networks.origin import remember
from hast_cuda.nn import quantization_table, shrink_ranges
from hast_cuda.nn.calibrate import SEARCH_IMAGES
from hast_cuda.nn.table import NOT_QUANTIZED
from hast_cuda.posttraining import finish, prepare
from hast_cuda.reconstruction import ReconstructionFile, reconstruct
from hast_cuda.run.directory import RunDirectory, plain
from hast_cuda.run.inputs import Asked, check_images, quantize_to
from hast_cuda.run.origins import KEY, fingerprints
from hast_cuda.run.phases import Phases
from hast_cuda.run.results import hold_biases, student_figures, unlabelled_figures
from hast_cuda.run.settings import labels_for, shown
from hast_cuda.run.student import load_weights, save_student
from hast_cuda.run.together import open_together
from hast_cuda.synthesis import ImageStore, synthesize


@dataclass
class Work(Asked):
    """One run, phase by phase; rank 0 alone has the directory, logs and evaluates."""

    described: dict[str, Any] = field(default_factory=dict)
    """Entries for ``config.json`` and ``result.json``."""
    run: RunDirectory | None = None
    """Of rank 0, while it is open."""
    trainer: GeneratorTrainer | None = None
    """What makes the images while it is trained, if the recipe has one."""

    @classmethod
    def of(cls, asked: Asked, recipe: Recipe) -> Work:
        """The phases of what was asked for, by the numbers of ``recipe``."""
        return cls(**{**vars(asked), "recipe": recipe})

    def __post_init__(self) -> None:
        self.device, tuning = self.world.device, self.recipe.finetune
        self.prepared = prepare(self.teacher, self.recipe.posttraining)
        self.student = quantize_to(self.bits, self.prepared, ema=tuning.ema, ste=tuning.ste).to(self.device).eval()
        remember(self.student, posttraining=plain(self.recipe.posttraining))
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
        images = None if images is None else shown(images, self.recipe.finetune)

        def load() -> None:
            assert self.run is not None
            if images is not None:
                self.run.show(images.images)
            load_weights(self.student, self.run.student)

        self.world.on_first(load)
        spread_student(self.student, self.world)
        return images

    def make_images(self, images: Images | None) -> Images | None:
        """Those given, or optimised noise where the recipe has it, as the student sees them."""
        with self.phases("synthesis"):
            if images is None and self.recipe.images == "synthetic":
                images = self._synthesize()
                check_images(images, self.shape)
            images = None if images is None else shown(images, self.recipe.finetune)
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
                size=shape.size,
                num_classes=shape.num_classes,
                seed=self.seed,
                device=self.device,
                trainer=self.trainer,
                width=recipe.posttraining.range_width,
                narrow=recipe.posttraining.narrow_ranges,
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

    def reconstruct(self, images: Images | None) -> dict[str, float | None]:
        """Fit the student block by block; its accuracy then, where that was done."""
        config = self.recipe.reconstruction
        if not config.iterations or images is None:
            return {}
        with self.phases("reconstruction"):
            reconstruct(
                self.prepared,
                self.student,
                self.split(images)[0].images,
                config,
                seed=self.seed,
                device=self.device,
                log=self._log,
                checkpoint=None if self.run is None else ReconstructionFile(self.run.reconstruction),
                execution=self.execution,
                world=self.world,
            )
        with self.phases("evaluation"):
            return {"reconstructed": self._accuracy(self.student)}

    def split(self, images: Images) -> tuple[Images, Tensor | None]:
        """Images to train on, and those held out if there are any: the last ones."""
        pixels, labels, held_out = hold_out(images.images, images.labels, self.recipe.finetune.held_out)
        assert labels is not None  # images have them
        return Images(pixels, labels, images.real), held_out

    def finetune(self, images: Images | None) -> FinetuneResult:
        """Train the student; what was seen on the way."""
        config = self.recipe.finetune
        own, held_out = (None, None) if images is None else self.split(images)
        source = self.trainer if own is None else own.images
        if not config.iterations or source is None:
            return FinetuneResult(self.student)
        with self.phases("finetuning"):
            return finetune(
                self.prepared,  # whose channels have the student's scales
                self.student,
                source,
                config,
                layers=feature_layers(self.teacher),
                original=self.teacher if self.recipe.posttraining.equalize_activations else None,
                labels=labels_for(config, own),
                held_out=held_out,
                seed=self.seed,
                device=self.device,
                log=self._log,
                evaluate=None if self.test is None else self._top1,
                checkpoint=None if self.run is None else CheckpointFile(self.run.checkpoint),
                execution=self.execution,
                world=self.world,
            )

    def conclude(
        self, accuracies: dict[str, float | None], tuned: FinetuneResult, images: Images | None
    ) -> dict[str, Any]:
        """Write the student and ``result.json``; returns the latter."""
        held_out = None if images is None else self.split(images)[1]

        def write() -> dict[str, Any]:
            table = quantization_table(self.student)
            figures, biases = student_figures(accuracies, tuned, self.recipe.finetune), None
            if self.bits.placement == "integer":  # before anything is said of the student
                with self.phases("evaluation"):
                    biases = hold_biases(self.student, self.shape.size)
                    if biases["moved"] and self.test is not None:
                        figures["quantized"] = self._top1(self.student)
            result: dict[str, Any] = plain(
                {
                    **self.described,
                    **accuracies,
                    **figures,
                    "integer_biases": biases,
                    **unlabelled_figures(self.teacher, self.prepared, self.student, held_out, self.shape.num_classes),
                    "activation_quantizers": table.quantized_activations,
                    "full_precision_layers": {row.name: row.note.removeprefix(NOT_QUANTIZED) for row in table.left},
                    "num_held_out": 0 if held_out is None else len(held_out),
                    "num_test_images": None if self.test is None else len(self.test),
                    "num_images": None if images is None else len(images),
                    "synthesis_iterations": self.recipe.synthesis.iterations,
                    "finetune_iterations": self.recipe.finetune.iterations,
                    "bytes": packed_bytes(self.student),
                    "float_bytes": float_bytes(self.student),
                    "seconds": self.phases.seconds,
                }
            )
            if self.run is not None:
                save_student(self.student, self.run.student, self.described)
                self.run.finish(result)
            return result

        result = self.world.on_first(write)
        if self.bits.placement == "integer":
            spread_student(self.student, self.world)
        return result

    def _log(self, record: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.log(record)
            self.phases.keep()

    def _top1(self, network: nn.Module) -> float:
        assert self.test is not None
        return evaluate(network, self.test, batch_size=self.evaluation_batch, device=self.device)

    def _accuracy(self, network: nn.Module) -> float | None:
        return None if self.test is None else self.world.on_first(lambda: self._top1(network))
