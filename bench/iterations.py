"""Whole iterations of both training loops as calls without arguments, by implementation."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from eager_steps import EagerFinetune, EagerSynthesis
from pytorchcv.model_provider import get_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import hast_cuda as hc
from hast_cuda.finetune.batches import StoredBatch
from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.step import FinetuneStep, ReplayedStep
from hast_cuda.loops.crops import CropStream, resize_crops
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.merged import BatchStatistics
from hast_cuda.networks.blocks import feature_layers
from hast_cuda.nn import activation_quantizers
from hast_cuda.synthesis.config import SynthesisConfig
from hast_cuda.synthesis.objective import make_objective
from hast_cuda.synthesis.step import SynthesisStep

Call = Callable[[], object]
SYNTHESIS = SynthesisConfig()
# SGD as published, the gradient's norm clipped; activations pass it. The eager steps do the same.
FINETUNE = FinetuneConfig(max_grad_norm=1000.0)
# The preset default's alignment and optimizer, and what tables call them.
DIRECT = FinetuneConfig(alignment="direct", optimizer="adamw")
ALIGNED = "hast_cuda, maps aligned directly, AdamW"
BITS = 4


@dataclass(frozen=True)
class Setting:
    """A network, with random weights, and the batch it works on."""

    label: str
    network: str  # of pytorchcv
    batch: int
    size: int
    stacked: bool  # whether the published synthesis takes the batch apart and stacks it again

    @property
    def case(self) -> str:
        """As the tables write it."""
        return f"{self.label}, batch {self.batch}"


CIFAR = Setting("ResNet-20", "resnet20_cifar10", 256, 32, stacked=True)
IMAGENET = Setting("ResNet-18", "resnet18", 16, 224, stacked=False)
SETTINGS = {
    "resnet20": CIFAR,
    "resnet18": IMAGENET,
    "mobilenetv2": Setting("MobileNetV2", "mobilenetv2_w1", 8, 224, stacked=False),
}


class Iterations:
    """Makes the iterations of one setting; all work on the same weights and images.

    Weights have ``BITS`` bits; activation ranges of as many bits are frozen.
    """

    def __init__(self, setting: Setting, device: torch.device) -> None:
        torch.manual_seed(0)
        self.setting, self.device = setting, device
        network = get_model(setting.network, pretrained=False)
        self.teacher = network.eval().requires_grad_(False).to(device)
        self.shape = (setting.batch, 3, setting.size, setting.size)
        self.images = torch.randn(self.shape, device=device)
        self.labels = torch.randint(10, (setting.batch,), device=device)
        self.student = hc.quantize(self.teacher, BITS, BITS).eval().requires_grad_(True)
        for quantizer in activation_quantizers(self.student).values():
            quantizer.set_range(0.0, 4.0)
            quantizer.freeze()
        self.layers = feature_layers(self.teacher)
        self.chosen = torch.arange(setting.batch)
        self.crops = CropStream(
            setting.batch, self.shape[2:], FINETUNE.crop_scale, FINETUNE.flip_probability, device, 0, "crops"
        ).at(0)
        # What crops of a size have in common is kept, but not from fake tensors: a real one first.
        first = torch.zeros(1, 1, *self.shape[2:], device=device)
        resize_crops(first, self.crops[:1])

    def synthesis(self, execution: Execution) -> Call:
        """hast_cuda's, on images as they are."""
        teacher = execution.network(copy.deepcopy(self.teacher))
        statistics = BatchStatistics(teacher, merge=execution.merge, segments=execution.checkpoint_segments)
        objective = make_objective(statistics, self.shape, SYNTHESIS, execution, self.device)
        step = SynthesisStep(objective, self.shape, execution, self.device)
        step.start([self.images], self.labels, "benchmark")
        return step

    def finetune(self, execution: Execution, config: FinetuneConfig = FINETUNE) -> Call:
        """hast_cuda's: batch, crops, clean and perturbed loss, update."""
        teacher = execution.network(copy.deepcopy(self.teacher))
        student = execution.network(copy.deepcopy(self.student))
        step = FinetuneStep(teacher, student, self.layers, config, execution)
        update = ReplayedStep(step, FiniteGuard("benchmark", self.device))
        batch = StoredBatch(self.images, self.setting.batch)

        def iteration() -> None:
            batch.fill(self.chosen, self.crops)
            step.set_rates(0)
            update(batch)

        return iteration

    def eager_synthesis(self, *, wasteful: bool = False, mode: str | None = None) -> Call:
        """The baseline's; ``mode`` compiles its forward and loss, and so its backward."""
        stack = wasteful and self.setting.stacked
        step = EagerSynthesis(self.teacher, self.images, self.labels, SYNTHESIS, wasteful=wasteful, stack=stack)
        if mode is None:
            return step
        step.losses = torch.compile(step.losses, fullgraph=True, dynamic=False, mode=mode)
        return self._marked(step, mode)

    def eager_finetune(self, *, wasteful: bool = False, mode: str | None = None) -> Call:
        """The baseline's, with the same batch and crops as hast_cuda's."""
        step = EagerFinetune(self.teacher, self.student, self.layers, FINETUNE, wasteful=wasteful)
        if mode is not None:
            step.losses = torch.compile(step.losses, fullgraph=True, dynamic=False, mode=mode)
            step.quantized = torch.compile(step.quantized, fullgraph=True, dynamic=False, mode=mode)

        def iteration() -> tuple[Tensor, Tensor]:
            batch = self.images.index_select(0, self.chosen.to(self.device, non_blocking=True))
            return step(resize_crops(batch, self.crops))

        return iteration if mode is None else self._marked(iteration, mode)

    @staticmethod
    def _marked(call: Call, mode: str) -> Call:
        if mode != "reduce-overhead":
            return call

        def iteration() -> object:
            torch.compiler.cudagraph_mark_step_begin()  # memory of the last iteration is free
            return call()

        return iteration

    def convolutions(self, iteration: Call) -> Call:
        """Only the convolutions of ``iteration`` and their gradients, on random tensors."""
        found = _Convolutions()
        with found:
            iteration()
        return found.replay(self.device)


@dataclass(frozen=True)
class _Convolution:
    """A call of one of the two operators: shapes and dtype of its tensors, its other arguments."""

    backward: bool
    shapes: tuple[tuple[int, ...] | None, ...]
    dtype: torch.dtype
    rest: tuple[Any, ...]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


class _Convolutions(TorchDispatchMode):
    """Notes every convolution and every gradient of one."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[_Convolution] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in ("aten::convolution", "aten::convolution_backward"):
            shapes = tuple(None if t is None else tuple(t.shape) for t in args[:3])
            backward = name.endswith("backward")
            self.calls[_Convolution(backward, shapes, args[0].dtype, _frozen(args[3:]))] += 1
        return func(*args, **(kwargs or {}))

    def replay(self, device: torch.device) -> Call:
        calls: list[Callable[[], object]] = []
        for call, count in self.calls.items():
            tensors = [
                None if shape is None else torch.randn(shape, dtype=call.dtype, device=device) for shape in call.shapes
            ]
            aten = torch.ops.aten
            function = aten.convolution_backward if call.backward else aten.convolution
            arguments = [list(a) if isinstance(a, tuple) else a for a in call.rest]
            calls += [lambda f=function, t=tensors, a=arguments: f(*t, *a)] * count  # type: ignore[misc]

        def run() -> None:
            with torch.no_grad():
                for one in calls:
                    one()

        return run
