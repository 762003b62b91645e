"""Eigenvalues of a Hessian from products alone: Lanczos, stochastic quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hast_cuda.analysis.hessian import Hessian
from hast_cuda.checks.typed import typed
from hast_cuda.checks.values import check_positive, check_range
from hast_cuda.loops.seeding import generator

MOST = 100_000  # vectors, and steps of each: more have no end, and no memory
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Eigenvalue:
    """An estimate, and a bound on its distance to the nearest eigenvalue in exact arithmetic."""

    value: float
    bound: float


@dataclass(frozen=True)
class Spectrum:
    """Spectral density by stochastic Lanczos quadrature: per start vector, nodes and weights.

    The weights of a vector add up to 1; ``bounds`` are those of :class:`Eigenvalue`.
    """

    nodes: tuple[tuple[float, ...], ...]  # estimated eigenvalues, per start vector
    weights: tuple[tuple[float, ...], ...]  # share of the spectrum at each node
    bounds: tuple[tuple[float, ...], ...]  # of each node's distance to an eigenvalue

    @typed
    def largest(self, count: int = 1) -> list[Eigenvalue]:
        """The ``count`` eigenvalues of largest magnitude, as the first start vector sees them."""
        check_range("count", count, 1)
        if not self.nodes or not self.bounds:
            raise ValueError("nodes and bounds are empty: this spectrum has no start vector")
        found = [Eigenvalue(*pair) for pair in zip(self.nodes[0], self.bounds[0], strict=True)]
        return sorted(found, key=lambda e: -abs(e.value))[:count]

    @typed
    def density(self, points: int = 10_000, variance: float = 1e-5) -> tuple[Tensor, Tensor]:
        """Density ``1/V sum_v sum_i w_vi N(t; node_vi, s^2)`` on a grid of ``points`` values t.

        ``s^2 = variance * extent^2``, extent the distance of the extreme nodes: PyHessian's width
        where that is 1, and the same picture in every unit of the loss. Gives (t, density), float64
        [points] each; the density's integral is 1.
        """
        check_range("points", points, 2, 2**24)
        check_positive("variance", variance)
        if not any(self.nodes):
            raise ValueError("nodes is empty: this spectrum has no start vector")
        nodes, weights = (
            torch.tensor([x for row in rows for x in row], dtype=torch.float64) for rows in (self.nodes, self.weights)
        )
        low, high = float(nodes.min()), float(nodes.max())
        width = math.sqrt(variance) * (high - low or abs(high) or 1.0)
        grid = torch.linspace(low - 4 * width, high + 4 * width, points, dtype=torch.float64)
        density = torch.zeros_like(grid)
        for node, weight in zip(nodes, weights, strict=True):
            density += weight * torch.exp(-(((grid - node) / width) ** 2) / 2)
        return grid, density / (len(self.nodes) * width * math.sqrt(2 * math.pi))


def lanczos(product: Product, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Lanczos' tridiagonal matrix of a symmetric one, with full reorthogonalisation.

    Diagonal [k] and off-diagonal [k], float64 on the CPU; the last off-diagonal is the norm of what
    is left. k < steps where the Krylov space is exhausted. The device is read once.
    """
    steps = min(steps, len(start))
    basis = start.new_zeros(steps, len(start))
    diagonal, residual = start.new_zeros(steps), start.new_zeros(steps)
    tiny = torch.finfo(start.dtype).tiny
    vector = start / torch.linalg.vector_norm(start)
    for step in range(steps):
        basis[step] = vector
        image = product(vector)
        diagonal[step] = image.dot(vector)
        known = basis[: step + 1]
        for _ in range(2):  # once leaves rounding errors that grow to copies of eigenvalues
            image = image - known.T @ (known @ image)
        residual[step] = torch.linalg.vector_norm(image)
        vector = image / residual[step].clamp(min=tiny)
    alphas, betas = diagonal.double().cpu(), residual.double().cpu()
    # Where nothing but rounding is left the space is exhausted: what follows is noise.
    scale = max(float(alphas.abs().max()), float(betas.max()))
    left = betas > 10 * torch.finfo(start.dtype).eps * scale
    kept = steps if bool(left.all()) else int(torch.nonzero(~left)[0]) + 1
    return alphas[:kept], betas[:kept]


@typed
def hessian_spectrum(hessian: Hessian, *, vectors: int = 1, steps: int = 100, seed: int = 0) -> Spectrum:
    """Stochastic Lanczos quadrature: eigenvalues and squared first components of Lanczos' matrix.

    Args:
        hessian: of the loss.
        vectors: random start vectors that are averaged.
        steps: products per vector; memory for so many vectors of all parameters.
        seed: of the start vectors.

    Raises:
        ValueError: vectors or steps below 1. FloatingPointError: a product is not finite.

    Example:
        >>> import hast_cuda as hc
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> spectrum = hessian_spectrum(hc.analysis.Hessian(lambda: (x**3).sum(), [x]))
        >>> round(spectrum.largest()[0].value, 3)
        12.0
    """
    check_range("vectors", vectors, 1, MOST)
    check_range("steps", steps, 1, MOST)
    nodes, weights, bounds = [], [], []
    for index in range(vectors):
        random = generator(seed, "hessian", "spectrum", index)
        signs = torch.randint(0, 2, (hessian.size,), generator=random) * 2 - 1  # on every device
        start = signs.to(hessian.device, hessian.dtype)
        alphas, betas = lanczos(hessian.product, start, steps)
        if not bool(torch.isfinite(alphas).all() and torch.isfinite(betas).all()):
            raise FloatingPointError("a Hessian-vector product is not finite: check the network's weights")
        matrix = torch.diag(alphas) + torch.diag(betas[:-1], 1) + torch.diag(betas[:-1], -1)
        values, modes = torch.linalg.eigh(matrix)
        nodes.append(tuple(values.tolist()))
        weights.append(tuple(modes[0].square().tolist()))
        bounds.append(tuple((betas[-1] * modes[-1].abs()).tolist()))
    return Spectrum(tuple(nodes), tuple(weights), tuple(bounds))
