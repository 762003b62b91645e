"""Algorithm 1, second half: the student follows the teacher on images made harder for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hast_cuda.augment import CropStream, resize_crops
from hast_cuda.execution import Execution, convolution_rules
from hast_cuda.failures import FiniteGuard
from hast_cuda.finetune.checkpoint import Checkpoint, CheckpointFile
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.features import feature_layers
from hast_cuda.finetune.objective import loss_weights
from hast_cuda.finetune.step import Step
from hast_cuda.graphs import Replayed
from hast_cuda.seeding import generator

LOG_EVERY = 50  # iterations between reads of the device
Log = Callable[[dict[str, float | int | str]], None]
Evaluate = Callable[[nn.Module], float]


@dataclass
class FinetuneResult:
    """The student (last iteration), and test accuracies seen on the way as (iteration, top-1)."""

    student: nn.Module
    accuracies: list[tuple[int, float]] = field(default_factory=list)


def shuffled(
    count: int, batch_size: int, seed: int, stream: str = "order", start: int = 0
) -> Iterator[Tensor]:
    """Endless batches of indices in a new random order per pass, from batch ``start`` on."""
    size = min(batch_size, count)
    number, skip = divmod(start, -(-count // size))
    while True:
        order = torch.randperm(count, generator=generator(seed, stream, number))
        yield from order.split(size)[skip:]
        number, skip = number + 1, 0


class Iteration:
    """Batch, crops and step for one batch size; a single graph launch where CUDA graphs are on."""

    def __init__(self, step: Step, images: Tensor, size: int, guard: FiniteGuard) -> None:
        device = images.device
        self.step, self.images, self.guard = step, images, guard
        self.chosen = torch.zeros(size, dtype=torch.int64, device=device)
        self.crops = torch.zeros(size, 5, device=device)
        self.terms = tuple(torch.zeros((), device=device) for _ in range(2))
        self.replayed = Replayed(self._run, device, step.execution.cuda_graphs)

    def _run(self) -> None:
        crops = self.crops
        batch = self.images.index_select(0, self.chosen)
        x = resize_crops(batch, crops[:, :4], crops[:, 4])
        terms = self.step(self.step.execution.images(x))
        for kept, term in zip(self.terms, terms, strict=True):
            kept.copy_(term)
        self.guard.observe(terms[0] + terms[1])

    def __call__(self, chosen: Tensor, crops: Tensor, rate: float) -> None:
        """One iteration on the images ``chosen``; its two loss terms are in :attr:`terms`."""
        self.chosen.copy_(chosen, non_blocking=True)
        self.crops.copy_(crops)
        self.step.rate.fill_(rate)
        self.replayed()


class _Training:
    """Iterations in order, whatever their batch size."""

    def __init__(
        self, step: Step, images: Tensor, config: FinetuneConfig, seed: int, start: int
    ) -> None:
        self.step, self.images, self.config, self.seed = step, images, config, seed
        self.guard = FiniteGuard("fine-tuning", images.device)
        self.guard.reset("fine-tuning", start)
        self.start = start
        self.size = min(config.batch_size, len(images))
        self.stream = shuffled(len(images), config.batch_size, seed, start=start)
        self.crops = CropStream(
            self.size, (images.shape[2], images.shape[3]), config.crop_scale,
            config.flip_probability, images.device, seed, "augment",
        )  # fmt: skip
        self.iterations: dict[int, Iteration] = {}
        self.terms: tuple[Tensor, ...] = ()

    def run(self, iteration: int) -> None:
        chosen = next(self.stream)
        size = len(chosen)  # the last batch of a pass may be smaller
        if size not in self.iterations:
            self.iterations[size] = Iteration(self.step, self.images, size, self.guard)
        current = self.iterations[size]
        current(chosen, self.crops.at(iteration)[:size], self.config.rate(iteration))
        self.terms = current.terms

    def check(self, done: int, *results: Tensor) -> None:
        self.guard.check(done - self.start, *results)

    def figures(self, iteration: int) -> dict[str, float | int | str]:
        """Reads the device."""
        weights = loss_weights(self.config)
        distillation, alignment = (w * float(t) for w, t in zip(weights, self.terms, strict=True))
        return {
            "phase": "finetune", "iteration": iteration, "distillation": distillation,
            "alignment": alignment, "learning_rate": self.config.rate(iteration),
        }  # fmt: skip


def finetune(
    teacher: nn.Module, student: nn.Module, images: Tensor, config: FinetuneConfig, *,
    seed: int = 0, device: torch.device | str = "cpu", evaluate: Evaluate | None = None,
    checkpoint: CheckpointFile | None = None, log: Log = lambda _: None,
    layers: list[str] | None = None, execution: Execution | None = None,
) -> FinetuneResult:  # fmt: skip
    """Fine-tune a calibrated student on synthetic images (Algorithm 1, second loop).

    Both networks stay in eval mode: BatchNorm statistics and activation ranges never change.

    Args:
        teacher: full-precision network; copied, never edited.
        student: from :func:`hast_cuda.quantize`, calibrated; trained in place.
        images: [N, C, H, W] float32, normalised.
        config: budget and objective.
        seed: order and augmentation; the state after a resume equals that of an unbroken run.
        device: where to compute.
        evaluate: test top-1 of the student, called ``config.evaluations`` times.
        checkpoint: state kept after every evaluation interval, found again on the next call.
        log: called with a dict of figures every 50 iterations.
        layers: feature layers; default :func:`feature_layers` of the teacher.
        execution: how to compute; default :class:`Execution`.

    Raises:
        FloatingPointError: a loss that is not finite, naming the iteration.
        ValueError: feature layers that the networks do not have, no images.
    """
    if not len(images):
        message = "images is empty: fine-tuning needs at least one image"
        raise ValueError(message)
    device, execution = torch.device(device), execution or Execution()
    frozen = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    frozen = execution.network(frozen)
    student = execution.network(student.to(device).eval().requires_grad_(True))
    layers = layers or feature_layers(frozen)
    if config.feature_weight and not layers:
        message = (
            "the network has no BatchNorm layer to align features at: name layers, or set "
            "feature_weight to 0"
        )
        raise ValueError(message)
    step = Step(frozen, student, layers, config, execution)
    state = Checkpoint(0, []) if checkpoint is None else checkpoint.load(student, step.optimizer)
    interval = max(1, -(-config.iterations // config.evaluations))
    training = _Training(step, images.to(device), config, seed, state.iteration)
    progress = tqdm(
        total=config.iterations, initial=state.iteration, desc="fine-tuning", unit="it",
        disable=None,
    )  # fmt: skip
    try:
        with convolution_rules(execution), progress:
            for iteration in range(state.iteration, config.iterations):
                training.run(iteration)
                progress.update()
                done = iteration + 1
                if iteration % LOG_EVERY == 0 or done == config.iterations:
                    training.check(done)
                    log(training.figures(iteration))
                if done % interval == 0 or done == config.iterations:
                    training.check(done, *step.parameters)
                    if evaluate is not None:
                        state.accuracies.append((done, evaluate(student)))
                        log({"phase": "test", "iteration": done, "top1": state.accuracies[-1][1]})
                    if checkpoint is not None:
                        state.iteration = done
                        checkpoint.save(state, student, step.optimizer)
    finally:
        step.close()
    return FinetuneResult(student, state.accuracies)
