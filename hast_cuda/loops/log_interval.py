"""How often a loop logs: enough to see what it does, bounded for any number of iterations."""

from __future__ import annotations

MOST_LINES = 2000  # of a phase, at every multiple of the interval


def log_interval(total: int, shortest: int) -> int:
    """Iterations between two lines of a log of ``total`` iterations, all batches together.

    A multiple of ``shortest``, the interval of short phases: how often the loop reads the device.
    """
    return shortest * max(1, -(-total // (shortest * MOST_LINES)))
