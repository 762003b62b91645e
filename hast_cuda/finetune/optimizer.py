"""The student's optimizer: SGD, AdamW, or SGD with gradient inundation (AIT); the mean of its last weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hast_cuda.finetune.config import FinetuneConfig
from hast_cuda.nn.quantized_weight import QuantizedWeight

RANGE_FLOOR = 1e-8  # as in the quantizer: a constant channel has a range of 0
BISECTIONS = 5
SECOND_MOMENTUM = 0.999


def make_optimizer(
    config: FinetuneConfig, parameters: list[nn.Parameter], student: nn.Module, rate: Tensor
) -> torch.optim.Optimizer:
    """What ``config`` asks for; reads the 0-d ``rate`` anew at every step, without the host."""
    if config.flip_fraction:
        return InundatedSGD(parameters, student, rate, config)
    momentum, decay = config.momentum, config.weight_decay
    if config.optimizer == "adamw":
        betas, graphs = (momentum, SECOND_MOMENTUM), rate.is_cuda
        return torch.optim.AdamW(parameters, rate, betas, weight_decay=decay, fused=True, capturable=graphs)
    return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0, fused=True)


class OriginalSteps:
    """Steps of a network whose channels were scaled, as long beside its parameters as those of the original.

    Adam's steps have one length whatever a tensor's size is. Weights that give a gain of 5 back are a
    fifth as large as the original's and would go five times too far: a tensor's steps are scaled by the
    ratio g of both sizes (root mean squares), those of SGD, whose gradients are 1/g as large, by g^2.
    Weight decay is scaled as the step is.
    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, original: nn.Module | None, config: FinetuneConfig
    ) -> None:
        self.parameters: list[Tensor] = []
        self.factors: list[float] = []
        if original is None:
            return
        scaled, plain = (dict(network.named_parameters()) for network in (teacher, original))
        for name, parameter in student.named_parameters():
            after, before = scaled.get(name), plain.get(name)
            if after is None or before is None or not parameter.requires_grad:
                continue
            ratio = _size(after) / (_size(before) or 1.0)
            if ratio and ratio != 1:
                self.parameters.append(parameter.detach())
                self.factors.append(ratio if config.optimizer == "adamw" else ratio**2)

    def before(self) -> list[Tensor]:
        """What :meth:`after` needs of the parameters in front of an optimizer's step."""
        return [p.clone() for p in self.parameters]

    def after(self, before: list[Tensor]) -> None:
        """Scale the step that was taken."""
        if before:
            moves = torch._foreach_sub(self.parameters, before)
            torch._foreach_mul_(moves, self.factors)
            torch._foreach_copy_(self.parameters, torch._foreach_add(before, moves))


def _size(tensor: Tensor) -> float:
    """Root mean square; 0 of nothing."""
    return float(tensor.detach().double().square().mean().sqrt()) if tensor.numel() else 0.0


class IntegerCodes:
    """Integer codes (Eq. 1) of several weights as one vector [E], each channel in its own range."""

    def __init__(self, layers: Sequence[QuantizedWeight]) -> None:
        weights = [layer.weight for layer in layers]
        device = weights[0].device
        self.sizes = [w.numel() for w in weights]
        self.channels = [w.shape[0] for w in weights]
        counts = torch.tensor(self.channels, device=device)
        self.numbers = torch.tensor(self.sizes, device=device)
        bits = torch.tensor([layer.weight_bits for layer in layers], device=device)
        real = torch.tensor([layer.zero_point == "real" for layer in layers], device=device)
        self.weight = _owners(counts)  # of every channel
        self.channel = _owners((self.numbers // counts)[self.weight])  # of every element
        self.levels = (2.0**bits - 1)[self.weight]
        self.half = (2.0 ** (bits - 1))[self.weight]
        self.real = real[self.weight]

    def __call__(self, flat: Tensor) -> Tensor:
        """``clamp(round(S*w - z))``, [E] -> [E] of the same dtype."""
        parts = zip(flat.split(self.sizes), self.channels, strict=True)
        ranges = [part.view(rows, -1).aminmax(dim=1) for part, rows in parts]
        lower, upper = torch.cat([r.min for r in ranges]), torch.cat([r.max for r in ranges])
        scale = self.levels / (upper - lower).clamp(min=RANGE_FLOOR)
        zero = scale * lower
        zero = torch.where(self.real, zero, zero.round()) + self.half
        codes = (scale[self.channel] * flat - zero[self.channel]).round()
        half = self.half[self.channel]
        return codes.clamp(-half, half - 1)

    def spread(self, factors: Tensor) -> Tensor:
        """One value per weight [T] as one per element [E]."""
        return factors[self.weight][self.channel]

    def changed(self, before: Tensor, after: Tensor) -> Tensor:
        """Fraction of each weight's codes that differ, [T]."""
        return torch.stack([c.sum() for c in (before != after).split(self.sizes)]) / self.numbers


def _owners(counts: Tensor) -> Tensor:
    """[0, 0, 1, 1, 1, ...]: each index as often as ``counts`` says."""
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


def smallest_factor(reached: Callable[[Tensor], Tensor], count: int, largest: float, device: torch.device) -> Tensor:
    """For each of ``count`` weights the factor in [1, ``largest``] from which on ``reached``, [T].

    1 is doubled until it suffices, then five bisections approach the smallest that does; where
    nothing does, ``largest``. All that could be needed is computed: nothing reads the device.
    """
    low = high = torch.ones(count, device=device)
    enough = reached(high)
    for _ in range(math.ceil(math.log2(largest))):
        low = torch.where(enough, low, high)
        high = torch.where(enough, high, (2 * high).clamp(max=largest))
        enough = reached(high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        enough = reached(middle)
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high


class InundatedSGD(torch.optim.Optimizer):
    """SGD with Nesterov momentum that enlarges the steps of quantized weights (AIT).

    A weight w with Nesterov gradient g becomes ``w - a * lr * g``, a in [1, ``largest_step``] the
    :func:`smallest_factor` found at which the fraction :attr:`goal`, 0-d, of its integer codes
    changes; the codes of every candidate follow its own new range. Momentum and all other
    parameters are those of SGD. Nothing reads the device.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], student: nn.Module, rate: Tensor | float, config: FinetuneConfig
    ) -> None:
        defaults = {"lr": rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
        super().__init__(list(parameters), defaults)
        (group,) = self.param_groups
        trained = {id(p): index for index, p in enumerate(group["params"]) if p.numel()}
        layers = {  # a shared weight once
            id(m.weight): m for m in student.modules() if isinstance(m, QuantizedWeight) and id(m.weight) in trained
        }
        if not layers:
            raise ValueError("no quantized weight is trained: flip_fraction counts their integer codes")
        self.positions = [trained[key] for key in layers]
        self.codes = IntegerCodes(list(layers.values()))
        self.largest_step = config.largest_step
        self.goal = torch.full((), config.flip_goal(0), device=self.codes.numbers.device)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; a parameter whose ``grad`` is None stays."""
        if closure is not None:
            raise TypeError("InundatedSGD takes no closure: compute the gradients before step()")
        parameters = self.param_groups[0]["params"]
        moves = self._moves(parameters)
        self._enlarge(parameters, moves)
        pairs = [(p, move) for p, move in zip(parameters, moves, strict=True) if move is not None]
        torch._foreach_sub_([p for p, _ in pairs], [move for _, move in pairs])

    def _moves(self, parameters: list[nn.Parameter]) -> list[Tensor | None]:
        """``lr * g`` of every parameter that has a gradient; updates the momentum buffers."""
        (group,) = self.param_groups
        moving: list[Tensor] = [p for p in parameters if p.grad is not None]
        steps = [p.grad for p in moving if p.grad is not None]
        if group["weight_decay"]:
            steps = list(torch._foreach_add(steps, moving, alpha=group["weight_decay"]))
        if group["momentum"]:
            for p in moving:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers = [self.state[p]["momentum_buffer"] for p in moving]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, steps)
            steps = list(torch._foreach_add(steps, buffers, alpha=group["momentum"]))
        found = iter(torch._foreach_mul(steps, group["lr"]))
        return [None if p.grad is None else next(found) for p in parameters]

    def _enlarge(self, parameters: list[nn.Parameter], moves: list[Tensor | None]) -> None:
        """Multiply the moves of the quantized weights, in ``moves``."""
        weights = [parameters[i] for i in self.positions]
        own = [moves[i] for i in self.positions]
        flat = torch.cat([w.flatten() for w in weights])
        found = [torch.zeros_like(w) if m is None else m for w, m in zip(weights, own, strict=True)]
        move = torch.cat([m.flatten() for m in found])
        codes, before = self.codes, self.codes(flat)

        def reached(factors: Tensor) -> Tensor:
            after = codes(flat - codes.spread(factors) * move)
            return codes.changed(before, after) >= self.goal

        factors = smallest_factor(reached, len(weights), self.largest_step, flat.device)
        enlarged = (codes.spread(factors) * move).split(codes.sizes)
        for index, part in zip(self.positions, enlarged, strict=True):
            if moves[index] is not None:
                moves[index] = part.view_as(parameters[index])


class WeightAverage:
    """Means of ``parameters`` over the fraction ``config.average`` of the iterations, the last ones.

    Latent weights near the middle between two codes go to and fro from step to step, and every
    evaluation sees another student; their mean says to which side they belong (Izmailov et al.,
    "Averaging Weights Leads to Wider Optima", UAI 2018, arXiv:1803.05407).
    """

    def __init__(self, parameters: Sequence[Tensor], config: FinetuneConfig) -> None:
        self.parameters = [p.detach() for p in parameters]
        self.start = config.iterations - round(config.average * config.iterations)
        self.means: list[Tensor] = []

    def add(self, iteration: int) -> None:
        """Count the parameters as they are after a step, numbered from 0."""
        if iteration < self.start:
            return
        if not self.means:
            self.means = [p.clone() for p in self.parameters]
        torch._foreach_lerp_(self.means, self.parameters, 1.0 / (iteration - self.start + 1))

    def forget(self) -> None:
        """Begin again."""
        self.means = []

    def finish(self) -> None:
        """Put the means in the place of the parameters."""
        if self.means:
            torch._foreach_copy_(self.parameters, self.means)

    def state(self) -> dict[str, Tensor]:
        """The means by number, for a checkpoint."""
        return {str(index): mean for index, mean in enumerate(self.means)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from :meth:`state`; ValueError if it is not that of these parameters."""
        found = [state[str(index)] for index in range(len(state))]
        if found and [m.shape for m in found] != [p.shape for p in self.parameters]:
            raise ValueError("the checkpoint's averages are of other parameters; delete it to start fine-tuning again")
        self.means = [m.to(p.device).clone() for m, p in zip(found, self.parameters, strict=False)]
