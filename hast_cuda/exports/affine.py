"""An activation grid in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

from hast_cuda.exports.grid import Grid


@dataclass(frozen=True)
class Affine:
    """An activation grid with plain numbers: ``value = step * (code - zero_point)``."""

    bits: int
    step: float
    zero_point: int

    @classmethod
    def of(cls, grid: Grid) -> Affine:
        """Of a grid with one channel."""
        return cls(grid.bits, float(grid.step), int(grid.zero_point))

    @property
    def largest(self) -> int:
        """Largest code."""
        return (1 << self.bits) - 1

    @property
    def contains_zero(self) -> bool:
        """Some code stands for 0."""
        return 0 <= self.zero_point <= self.largest

    @property
    def offset(self) -> float:
        """Value of code 0."""
        return -self.step * self.zero_point

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return self.offset, self.step * (self.largest - self.zero_point)
