"""One iteration of each training loop in plain PyTorch, from the formulas: what hast_cuda replaces.

By default nothing needless is done: the teacher is frozen, one backward pass gives the gradients of
the student and the image, weights are quantized once, optimizers are fused. ``wasteful`` adds what
the published structure wastes. Neither follows the learning rate, logs, or looks for losses that
are not finite, as hast_cuda's iterations do: what that saves counts in favour of the baseline.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.finetune.objective import loss_weights
from hast_cuda.networks.statistics import has_running_statistics
from hast_cuda.networks.swap import swap_modules
from hast_cuda.nn import FakeQuantActivation, FakeQuantConv2d, FakeQuantLinear
from hast_cuda.ops import reference
from hast_cuda.synthesis.config import SynthesisConfig

Losses = Callable[..., tuple[Tensor, Tensor]]


class _QuantizedInput(torch.autograd.Function):
    """Eq. 1-2 on a given range; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lower: Tensor, upper: Tensor, bits: int) -> Tensor:
        return reference.fake_quantize(x, lower, upper, bits)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None, None, None


class _QuantizedWeight(torch.autograd.Function):
    """Eq. 1-2 on the range of every output channel; the gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int) -> Tensor:
        return reference.fake_quantize_weights([weight], [bits])[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class EagerActivation(nn.Module):
    """Activation and quantizer on the frozen range of ``source``."""

    bounds: Tensor

    def __init__(self, source: FakeQuantActivation) -> None:
        super().__init__()
        self.bits, self.activation = source.bits, source.activation
        self.register_buffer("bounds", source.range_state[:2].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same."""
        y = reference.activate(x, self.activation)
        result: Tensor = _QuantizedInput.apply(y, self.bounds[0], self.bounds[1], self.bits)
        return result


class EagerLayer(nn.Module):
    """Convolution or linear layer with the parameters of ``source`` and a quantized weight."""

    quantized: Tensor | None = None
    """The weight for every forward until it is None again; None quantizes in each forward."""

    def __init__(self, source: FakeQuantConv2d | FakeQuantLinear) -> None:
        super().__init__()
        self.weight, self.bias, self.bits = source.weight, source.bias, source.weight_bits
        self.function: Callable[..., Tensor] = F.linear
        if isinstance(source, FakeQuantConv2d):
            if source.padding_mode != "zeros":
                raise ValueError(f"padding_mode {source.padding_mode!r} is not part of the baseline")
            self.function = functools.partial(
                F.conv2d, stride=source.stride, padding=source.padding, dilation=source.dilation, groups=source.groups
            )

    def forward(self, x: Tensor) -> Tensor:
        """As the layer that it stands for."""
        weight = self.quantized
        if weight is None:
            weight = _QuantizedWeight.apply(self.weight, self.bits)
        return self.function(x, weight, self.bias)


def eager_student(student: nn.Module) -> nn.Module:
    """A copy of a calibrated student from :func:`hast_cuda.quantize` without hast_cuda's ops."""

    def convert(_: str, module: nn.Module) -> nn.Module | None:
        if isinstance(module, FakeQuantActivation):
            return EagerActivation(module)
        if isinstance(module, (FakeQuantConv2d, FakeQuantLinear)):
            return EagerLayer(module)
        return None

    return swap_modules(copy.deepcopy(student), convert).eval()


class EagerSynthesis:
    """One iteration on a batch of images (Eq. 3-9), which stay in place with their gradient.

    Args:
        teacher: copied.
        images: [N, C, H, W], where the first iteration starts; copied.
        labels: [N] int64.
        config: the objective and the (constant) learning rate.
        wasteful: gradients of the teacher's parameters that nobody reads, Adam operator by
            operator.
        stack: cut the batch into images and stack them again, as published for CIFAR; by default
            if ``wasteful``.
    """

    def __init__(
        self,
        teacher: nn.Module,
        images: Tensor,
        labels: Tensor,
        config: SynthesisConfig,
        *,
        wasteful: bool = False,
        stack: bool | None = None,
    ) -> None:
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(wasteful)
        self.images = images.detach().clone().requires_grad_()
        self.labels, self.config, self.wasteful = labels, config, wasteful
        self.stack = wasteful if stack is None else stack
        self.found: list[tuple[Tensor, Tensor]] = []
        self.layers: list[Any] = [m for m in self.teacher.modules() if has_running_statistics(m)]
        for layer in self.layers:
            layer.register_forward_pre_hook(self._record)
        self.losses: Losses = self._losses  # may be replaced by its compiled form
        rules: dict[str, Any] = {"foreach": False} if wasteful else {"fused": True}
        on_cuda = images.device.type == "cuda"  # where the count of steps then stays too
        self.optimizer = torch.optim.Adam([self.images], lr=config.learning_rate, capturable=on_cuda, **rules)

    def _record(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        dims = [d for d in range(args[0].dim()) if d != 1]
        var, mean = torch.var_mean(args[0], dim=dims, correction=0)
        self.found.append((mean, var))

    def _losses(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 3 and Eq. 8."""
        self.found.clear()
        logits = self.teacher(x)
        match = reference.match_loss(
            [mean for mean, _ in self.found],
            [var for _, var in self.found],
            [layer.running_mean for layer in self.layers],
            [layer.running_var for layer in self.layers],
            reduction=self.config.match_reduction,
        )
        self.found.clear()
        label, _ = reference.hard_sample_loss(
            logits / self.config.label_temperature,
            self.labels,
            self.config.difficulty_exponent,
            detach=self.config.detach_difficulty,
        )
        return match, label

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Update the images; returns the two terms of Eq. 9."""
        x: Tensor = self.images
        if self.stack:
            x = torch.stack([x[index] for index in range(len(x))])
        match, label = self.losses(x)
        loss = torch.add(match, label, alpha=self.config.label_weight)
        if self.wasteful:
            self.images.grad = None
            self.teacher.zero_grad(set_to_none=True)
            loss.backward()
        else:
            (self.images.grad,) = torch.autograd.grad(loss, self.images)
        self.optimizer.step()
        return match.detach(), label.detach()


class EagerFinetune:
    """One iteration of fine-tuning (Eq. 10, 12); gradients are left in the student's parameters.

    Args:
        teacher: copied.
        student: from :func:`hast_cuda.quantize`, calibrated; copied.
        layers: whose outputs are aligned.
        config: the objective and the (constant) learning rate; perturbed images are always used.
        wasteful: gradients of the teacher, weights quantized in every forward, the image's gradient
            in a pass of its own, maps cloned before they are looked at, optimizer and clipping
            tensor by tensor.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        layers: Sequence[str],
        config: FinetuneConfig,
        *,
        wasteful: bool = False,
    ) -> None:
        self.config, self.wasteful = config, wasteful
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(wasteful)
        self.student = eager_student(student).requires_grad_(True)
        self.parameters = list(self.student.parameters())
        self.layers = [m for m in self.student.modules() if isinstance(m, EagerLayer)]
        self.maps = [self._watch(network, layers) for network in (self.teacher, self.student)]
        self.losses: Losses = self._losses  # may be replaced by its compiled form,
        self.quantized: Callable[[], list[Tensor]] = self._quantized  # and so may this
        rules: dict[str, Any] = {"foreach": False} if wasteful else {"fused": True}
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
            **rules,
        )

    def _watch(self, network: nn.Module, layers: Sequence[str]) -> list[tuple[Tensor, int]]:
        found: list[tuple[Tensor, int]] = []

        def record(_module: nn.Module, _args: Any, output: Tensor) -> None:
            if self.wasteful:
                output = output.clone()
            found.append((reference.channel_attention(output), output[0, 0].numel()))

        for name in layers:
            network.get_submodule(name).register_forward_hook(record)
        return found

    @torch.no_grad()
    def _quantized(self) -> list[Tensor]:
        return [_QuantizedWeight.apply(layer.weight, layer.bits) for layer in self.layers]

    def _losses(self, x: Tensor, teacher_grad: bool) -> tuple[Tensor, Tensor]:
        """The two terms of Eq. 12, without their weights."""
        for found in self.maps:
            found.clear()
        with torch.set_grad_enabled(teacher_grad):
            target = self.teacher(x)
        output = self.student(x)
        theirs, ours = ([vector for vector, _ in found] for found in self.maps)
        energy = reference.energy_loss(
            theirs, ours, [positions for _, positions in self.maps[1]], normalized=self.config.normalized_attention
        )
        for found in self.maps:
            found.clear()
        return reference.distillation_loss(target, output, self.config.temperature), energy

    def _total(self, terms: tuple[Tensor, Tensor], weight: float) -> Tensor:
        """``weight`` times Eq. 12."""
        first, second = (weight * factor for factor in loss_weights(self.config))
        return torch.add(terms[0] * first, terms[1], alpha=second)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Update the student on the batch ``x``; returns the two terms of the clean loss."""
        run = self._run_wasteful if self.wasteful else self._run
        terms = run(x.detach().requires_grad_())
        if self.config.max_grad_norm:
            self._clip()
        self.optimizer.step()
        return terms[0].detach(), terms[1].detach()

    def _harder(self, x: Tensor, towards: Tensor) -> Tensor:
        return torch.add(x.detach(), towards.sign(), alpha=self.config.perturbation)  # Eq. 10

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The gradient of a weight is that of its quantized form, which both passes share as a leaf.
        leaves: dict[int, Tensor] = {id(p): p for p in self.parameters}
        for layer, weight in zip(self.layers, self.quantized(), strict=True):
            leaves[id(layer.weight)] = layer.quantized = weight.requires_grad_()
        wanted = list(leaves.values())
        terms = self.losses(x, True)
        total = self._total(terms, self.config.clean_weight)
        *gradients, towards = torch.autograd.grad(total, [*wanted, x])
        again = self.losses(self._harder(x, towards), False)
        total = self._total(again, self.config.perturbed_weight)
        torch._foreach_add_(gradients, torch.autograd.grad(total, wanted))
        for layer in self.layers:
            layer.quantized = None
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        return terms

    def _run_wasteful(self, x: Tensor) -> tuple[Tensor, Tensor]:
        terms = self.losses(x, True)
        clean = self._total(terms, self.config.clean_weight)
        (towards,) = torch.autograd.grad(clean, x, retain_graph=True)
        again = self.losses(self._harder(x, towards), True)
        self.student.zero_grad(set_to_none=True)
        self.teacher.zero_grad(set_to_none=True)
        (clean + self._total(again, self.config.perturbed_weight)).backward()
        return terms

    def _clip(self) -> None:
        if self.wasteful:
            nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm, foreach=False)
            return
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, (self.config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
