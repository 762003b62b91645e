"""One block: what is trained in it, its iterations, and whether they made it better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hast_cuda.finetune.processes import GradientSums
from hast_cuda.loops.execution import Execution
from hast_cuda.loops.finite import FiniteGuard
from hast_cuda.loops.graphs import Replayed
from hast_cuda.loops.seeding import generator
from hast_cuda.nn import activation_quantizers
from hast_cuda.nn.quantized_weight import QuantizedWeight
from hast_cuda.ranks import World
from hast_cuda.reconstruction.config import ReconstructionConfig
from hast_cuda.reconstruction.learned_step import draw_mask_, learned_steps
from hast_cuda.reconstruction.maps import squared_error
from hast_cuda.reconstruction.rounding import SoftRounding
from hast_cuda.reconstruction.step import ReconstructionStep


@dataclass(frozen=True)
class Maps:
    """Of all images, [N, ...] each: what the teacher's block and the student's are given, and what
    the teacher's gives."""

    exact: Tensor
    given: Tensor
    target: Tensor

    @property
    def energy(self) -> float:
        """Mean square of what the teacher's block gives; at least the smallest float."""
        return max(float(self.target.square().mean(dtype=torch.float64)), torch.finfo(torch.float32).tiny)


class BlockBatch:
    """Some images' maps in tensors that stay in place: inputs mixed from both networks (QDrop)."""

    def __init__(self, maps: Maps, size: int, share: float, device: torch.device) -> None:
        self.maps, self.share = maps, share
        self.x = torch.empty(size, *maps.given.shape[1:], device=device, dtype=maps.given.dtype)
        self.mixed = torch.zeros_like(self.x)
        self.target = torch.empty(size, *maps.target.shape[1:], device=device, dtype=maps.target.dtype)

    def fill(self, chosen: Tensor) -> None:
        """Take the images ``chosen`` [size]; where :attr:`mixed` is 1, what the teacher has."""
        exact, given, target = (
            m.index_select(0, chosen.to(m.device)) for m in (self.maps.exact, self.maps.given, self.maps.target)
        )
        torch.lerp(given.to(self.x.device), exact.to(self.x.device), self.mixed, out=self.x)
        self.target.copy_(target)


@dataclass(frozen=True)
class BlockFit:
    """How blocks are trained; a call trains one."""

    originals: dict[QuantizedWeight, Tensor]
    """Full-precision weight of every layer of the student."""
    shared: set[nn.Module]
    """Layers and quantizers that belong to more than one block: they stay as they are."""
    config: ReconstructionConfig
    seed: int
    device: torch.device
    execution: Execution
    world: World

    def __call__(self, name: str, block: nn.Module, maps: Maps, progress: Callable[[], object]) -> tuple[float, float]:
        """Train ``block`` in place; error before and after, as shares of the energy."""
        energy = maps.energy
        before = squared_error(block, maps.given, maps.target, self.device)
        layers = [m for m in block.modules() if isinstance(m, QuantizedWeight) and m not in self.shared]
        if not (layers and before):  # nothing to learn, or from
            return before / energy, before / energy
        kept = _Kept(block)
        try:
            self._train(name, block, layers, maps, max(before, 1e-6 * energy), progress)
        finally:
            for layer in layers:
                layer.cached_weight = None
        after = squared_error(block, maps.given, maps.target, self.device)
        if not after <= before:
            kept.restore()
            after = before
        return before / energy, after / energy

    def _train(
        self,
        name: str,
        block: nn.Module,
        layers: list[QuantizedWeight],
        maps: Maps,
        unit: float,
        progress: Callable[[], object],
    ) -> None:
        config, world, device = self.config, self.world, self.device
        weights = SoftRounding(layers, [self.originals[m] for m in layers], search=config.search_ranges)
        size = min(config.batch_size, len(maps.given))
        own, share = world.part(size)
        batch = BlockBatch(maps, len(range(size)[own]), share, device)
        random = generator(self.seed, "reconstruction drop", name, device=device)
        order = generator(self.seed, "reconstruction order", name)
        drop, learn = config.drop_probability, config.act_step_travel > 0
        with learned_steps(block, drop, learn=learn, shared=self.shared) as steps:
            step = ReconstructionStep(block, weights, steps, config, unit, self.execution)
            step.differentiate(batch.x.zero_(), batch.target.zero_(), share)  # the masks get their shapes
            guard = FiniteGuard(f"reconstruction of {name}", device)
            replay = _replayed(step, batch, guard, world, self.execution)
            masks = [batch.mixed, *(s.kept for s in steps if s.kept is not None)]
            for iteration in range(config.iterations):
                chosen = torch.randint(len(maps.given), (size,), generator=order)[own]
                if drop:
                    for mask in masks:
                        draw_mask_(mask, drop, random, size, own)
                batch.fill(chosen)
                step.set_rates(iteration)
                for part in replay:
                    part()
                progress()
            guard.check(config.iterations, *step.parameters)
            for trained in steps:
                trained.finish()
        weights.harden()


def _replayed(
    step: ReconstructionStep, batch: BlockBatch, guard: FiniteGuard, world: World, execution: Execution
) -> list[Callable[[], None]]:
    """One CUDA graph, or two with the processes' sum between them."""
    sums = GradientSums(step.parameters, 1, world) if world.size > 1 else None

    loss = step.loss if sums is None else next(iter(sums.terms))

    def differentiate() -> None:
        error = step.differentiate(batch.x, batch.target, batch.share)
        if sums is not None:
            sums.put([error], batch.share)
        else:
            loss.copy_(error)

    def update() -> None:
        step.update()
        guard.observe(loss)

    def whole() -> None:
        differentiate()
        update()

    device, mode = batch.x.device, execution.cuda_graphs
    if sums is None:
        return [Replayed(whole, device, mode)]
    return [Replayed(differentiate, device, mode), sums.reduce, Replayed(update, device, mode)]


class _Kept:
    """Weights and ranges of a block as they are now."""

    def __init__(self, block: nn.Module) -> None:
        self._layers = [
            (m, m.weight.detach().clone(), m.weight_range) for m in block.modules() if isinstance(m, QuantizedWeight)
        ]
        self._ranges = [(q, q.range_state.clone()) for q in activation_quantizers(block).values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Have them again."""
        for layer, weight, weight_range in self._layers:
            layer.weight.copy_(weight)
            layer.weight_range = weight_range
        for quantizer, state in self._ranges:
            quantizer.range_state.copy_(state)
