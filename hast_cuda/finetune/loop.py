"""Algorithm 1, second half: the student follows the teacher on images made harder for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from hast_cuda.augment import random_crop_flip
from hast_cuda.failures import FiniteGuard
from hast_cuda.finetune.checkpoint import Checkpoint, CheckpointFile
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.features import FeatureTap, feature_layers
from hast_cuda.finetune.objective import finetune_loss
from hast_cuda.nn import quantized_once
from hast_cuda.seeding import deterministic_convolutions, generator

LOG_EVERY = 50  # iterations between reads of the device
Log = Callable[[dict[str, float | int | str]], None]
Evaluate = Callable[[nn.Module], float]


@dataclass
class FinetuneResult:
    """The student (last iteration), and test accuracies seen on the way as (iteration, top-1)."""

    student: nn.Module
    accuracies: list[tuple[int, float]] = field(default_factory=list)


def shuffled(
    images: Tensor, batch_size: int, seed: int, stream: str = "order", start: int = 0
) -> Iterator[Tensor]:
    """Endless batches in a new random order per pass, from batch number ``start`` on."""
    size = min(batch_size, len(images))
    number, skip = divmod(start, -(-len(images) // size))
    while True:
        order = torch.randperm(len(images), generator=generator(seed, stream, number))
        for chosen in order.split(size)[skip:]:
            yield images[chosen.to(images.device)]
        number, skip = number + 1, 0


class Step:
    """One iteration: clean loss, perturbation, perturbed loss, update (Eq. 10 and 12)."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module, layers: list[str], config: FinetuneConfig
    ) -> None:
        self.teacher, self.student, self.config = teacher, student, config
        wanted = layers if config.feature_weight else []
        self.taps = FeatureTap(teacher, wanted), FeatureTap(student, wanted)
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=config.learning_rate, momentum=config.momentum,
            nesterov=config.momentum > 0, weight_decay=config.weight_decay,
        )  # fmt: skip

    def losses(self, x: Tensor, *, teacher_grad: bool) -> tuple[Tensor, Tensor]:
        """The two terms of Eq. 12 on ``x``."""
        for tap in self.taps:
            tap.active = True
        with torch.set_grad_enabled(teacher_grad):
            target = self.teacher(x)
        output = self.student(x)
        maps = [tap.take() for tap in self.taps]
        for tap in self.taps:
            tap.active = False
        return finetune_loss(self.config, target, output, *maps)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Update the student on the batch ``x``; returns the two terms of the clean loss."""
        config = self.config
        self.optimizer.zero_grad(set_to_none=True)
        x = x.detach().requires_grad_(config.perturbation > 0)
        with quantized_once(self.student):
            terms = self.losses(x, teacher_grad=x.requires_grad)
            clean = terms[0] + terms[1]
            # One backward pass gives the student's gradient and the image's (through both
            # networks).
            wanted = self.parameters if config.clean_weight else []
            scale = config.clean_weight or 1.0
            torch.autograd.backward(
                scale * clean, inputs=[*wanted, *([x] if x.requires_grad else [])]
            )
            if config.perturbation and config.perturbed_weight:
                assert x.grad is not None
                harder = (x + config.perturbation * x.grad.sign()).detach()  # Eq. 10, one step
                again = self.losses(harder, teacher_grad=False)
                torch.autograd.backward(
                    config.perturbed_weight * (again[0] + again[1]), inputs=self.parameters
                )
        if config.max_grad_norm:
            nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        self.optimizer.step()
        return terms[0].detach(), terms[1].detach()

    def close(self) -> None:
        """Take the hooks out of both networks."""
        for tap in self.taps:
            tap.remove()


@deterministic_convolutions()
def finetune(
    teacher: nn.Module, student: nn.Module, images: Tensor, config: FinetuneConfig, *,
    seed: int = 0, device: torch.device | str = "cpu", evaluate: Evaluate | None = None,
    checkpoint: CheckpointFile | None = None, log: Log = lambda _: None,
    layers: list[str] | None = None,
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

    Raises:
        FloatingPointError: a loss that is not finite, naming the iteration.
        ValueError: feature layers that the networks do not have, no images.
    """
    if not len(images):
        message = "images is empty: fine-tuning needs at least one image"
        raise ValueError(message)
    device = torch.device(device)
    frozen = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    student = student.to(device).eval().requires_grad_(True)
    layers = layers or feature_layers(frozen)
    if config.feature_weight and not layers:
        message = (
            "the network has no BatchNorm layer to align features at: name layers, or set "
            "feature_weight to 0"
        )
        raise ValueError(message)
    step = Step(frozen, student, layers, config)
    state = Checkpoint(0, []) if checkpoint is None else checkpoint.load(student, step.optimizer)
    interval = max(1, -(-config.iterations // config.evaluations))
    guard = FiniteGuard("fine-tuning", device)
    images = images.to(device)
    stream = shuffled(images, config.batch_size, seed, start=state.iteration)
    try:
        with tqdm(
            total=config.iterations, initial=state.iteration, desc="fine-tuning", unit="it",
            disable=None,
        ) as progress:  # fmt: skip
            for iteration in range(state.iteration, config.iterations):
                for group in step.optimizer.param_groups:
                    group["lr"] = config.rate(iteration)
                random = generator(seed, "augment", iteration, device=device)
                terms = step(
                    random_crop_flip(
                        next(stream),
                        config.crop_scale,
                        random,
                        flip_probability=config.flip_probability,
                    )
                )
                guard.observe(terms[0] + terms[1], iteration)
                progress.update()
                done = iteration + 1
                if iteration % LOG_EVERY == 0 or done == config.iterations:
                    guard.check()
                    log({
                        "phase": "finetune", "iteration": iteration,
                        "distillation": float(terms[0]), "alignment": float(terms[1]),
                        "learning_rate": config.rate(iteration),
                    })  # fmt: skip
                if done % interval == 0 or done == config.iterations:
                    guard.check(*step.parameters)
                    if evaluate is not None:
                        state.accuracies.append((done, evaluate(student)))
                        log({"phase": "test", "iteration": done, "top1": state.accuracies[-1][1]})
                    if checkpoint is not None:
                        state.iteration = done
                        checkpoint.save(state, student, step.optimizer)
    finally:
        step.close()
    return FinetuneResult(student, state.accuracies)
