"""CE, KL and FA of a quantized network in ops that can be differentiated twice (Figure 6b)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hast_cuda.analysis.gradients import copied_pair, hard_label_loss, refuse_maps_of_classes
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import as_device, check_images, explained_forward
from hast_cuda.finetune import FinetuneConfig
from hast_cuda.finetune.objective import direct_alignment, loss_terms
from hast_cuda.loops.modes import copied
from hast_cuda.merged.followed import Followed, follow
from hast_cuda.networks.swap import swap_modules
from hast_cuda.nn import FakeQuantActivation
from hast_cuda.ops import reference
from hast_cuda.ops.hard_sample_loss import check_classes


class EagerActivation(nn.Module):
    """Twin of a frozen :class:`hast_cuda.FakeQuantActivation` with derivatives of every order.

    Same values and same straight-through gradient, in plain PyTorch.
    """

    def __init__(self, quantizer: FakeQuantActivation) -> None:
        super().__init__()
        if quantizer.observing:
            raise ValueError("an activation range is not frozen: calibrate the network first")
        self.quantizer = quantizer

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> same."""
        quantizer = self.quantizer
        lower, upper = quantizer.state_for(x)[:2].split(1)
        exact = (x.clone() if quantizer.inplace else x).to(reference.arithmetic_dtype(x.dtype))
        y = reference.activate(exact, quantizer.activation)
        fixed = y.detach()
        passed = y - fixed  # 0, with the gradient of y
        if quantizer.ste == "clipped":
            passed = passed * reference.fake_quantize_backward(
                torch.ones_like(fixed), fixed, lower, upper, quantizer.bits, clipped=True
            )
        quantized = reference.fake_quantize(fixed, lower, upper, quantizer.bits)
        result = (quantized + passed).to(x.dtype)
        return x.copy_(result) if quantizer.inplace else result


@typed
def twice_differentiable(network: nn.Module) -> nn.Module:
    """A copy of a quantized network whose activation quantizers have a second derivative.

    The fused :class:`hast_cuda.FakeQuantActivation` masks its gradient in a kernel, which autograd
    cannot differentiate; quantized weights pass theirs unchanged and stay as they are.
    """

    def convert(_name: str, module: nn.Module) -> nn.Module | None:
        return EagerActivation(module) if isinstance(module, FakeQuantActivation) else None

    return swap_modules(copied(network), convert)


class StudentLosses:
    """The losses of fine-tuning on one batch, each a function without arguments for ``Hessian``.

    Without their weights: :func:`hast_cuda.finetune.objective.loss_weights` gives those, and an
    eigenvalue of a weighted loss is the weight times that of the loss.

    The fused losses have no second derivative, so the eager twins of :mod:`hast_cuda.ops.reference`
    take their place, on an unmerged network (:func:`twice_differentiable`). Their values are
    compared with those of the objective once.

    Args:
        teacher: full-precision network; copied.
        student: from :func:`hast_cuda.quantize`, calibrated; copied.
        images: one batch [N, C, H, W], normalised.
        labels: [N] int64.
        config: temperature, reduction and attention; default the paper's.
        layers: feature layers; default :func:`hast_cuda.networks.feature_layers` of the teacher.
        device: where to compute.

    Attributes:
        parameters: of the copied student, all of them; what to differentiate by.

    Raises:
        ValueError: no layer to align at, a range that is not frozen.
        RuntimeError: the objective is not the one known here.

    Example:
        >>> import hast_cuda as hc
        >>> teacher, x = hc.load_teacher("digits"), torch.randn(8, 1, 8, 8)
        >>> student = hc.calibrate(hc.quantize(teacher, 4, 4), [x])
        >>> losses = StudentLosses(teacher, student, x, torch.arange(8))
        >>> hessian = hc.analysis.Hessian(losses.cross_entropy, losses.parameters)
    """

    @typed
    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: Tensor,
        labels: Tensor,
        config: FinetuneConfig | None = None,
        *,
        layers: list[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config or FinetuneConfig()
        refuse_maps_of_classes(self.config)
        device = as_device(device)
        check_images("images", images)
        if labels.is_meta:
            raise ValueError("labels is on the meta device, which has no values")
        frozen, fused, layers = copied_pair(teacher, student, layers, device)
        self.student = twice_differentiable(fused)
        self.parameters = list(self.student.parameters())
        self.images, self.labels = images.to(device), labels.to(device)
        known, self._followed = (Followed(m, layers, merge=False, maps=True) for m in (frozen, self.student))
        with torch.no_grad(), explained_forward("images", images):
            seen = known(self.images)
        known.remove()
        self._logits, self._maps = seen.logits, seen.maps
        check_classes(self._logits, self.labels, values=True)
        self._energies = [reference.channel_attention(m) for m in self._maps]
        self._compare(frozen, fused, layers)

    def cross_entropy(self) -> Tensor:
        """CE of the student on the labels (Eq. 6)."""
        return hard_label_loss(self.student(self.images), self.labels)

    def distillation(self) -> Tensor:
        """KL of Eq. 6 at the temperature, without alpha T^2."""
        logits = self.student(self.images)
        loss = reference.distillation_loss(self._logits, logits, self.config.temperature)
        return loss / logits.shape[1] if self.config.distillation_reduction == "mean" else loss

    def alignment(self) -> Tensor:
        """FA of Eq. 13, or of the maps themselves, summed over layers, without lambda."""
        maps = self._followed(self.images).maps
        if self.config.alignment == "direct":
            return direct_alignment(self._maps, maps)
        return reference.energy_loss(
            self._energies,
            [reference.channel_attention(m) for m in maps],
            [m[0, 0].numel() for m in maps],
            normalized=self.config.normalized_attention,
        )

    @torch.no_grad()
    def _compare(self, teacher: nn.Module, student: nn.Module, layers: list[str]) -> None:
        """A twin that has come to differ from the objective must not pass for it."""
        networks = follow((teacher, student), layers, merge=False, maps=self.config.alignment == "direct")
        target = networks[0](self.images)
        output = networks[1](self.images, target)
        unlabelled = replace(self.config, label_weight=0.0)  # the cross entropy is torch's own
        expected = loss_terms(unlabelled, target, output)
        for network in networks:
            network.remove()
        # Logarithms of probabilities have float32 roundings of about 1e-7, however small their KL.
        for name, found, wanted, rounding in (
            ("distillation", self.distillation(), expected[0], 2e-7),
            ("alignment", self.alignment(), expected[1], 1e-6),
        ):
            if not torch.isclose(found, wanted, rtol=1e-2, atol=rounding):
                raise RuntimeError(
                    f"the {name} loss of fine-tuning is {float(wanted):.6g}, its twin with a "
                    f"second derivative {float(found):.6g}: this objective has no Hessian here"
                )
