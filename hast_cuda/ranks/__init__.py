"""Several processes: how they meet, and all that passes between them."""

from __future__ import annotations

from hast_cuda.ranks.launch import join, launched
from hast_cuda.ranks.world import RankLostError, World

__all__ = ["RankLostError", "World", "join", "launched"]
