"""Published methods as configurations."""

from __future__ import annotations

from hast_cuda.methods.hast import DATASETS, PRESETS, Recipe, preset

__all__ = ["DATASETS", "PRESETS", "Recipe", "preset"]
