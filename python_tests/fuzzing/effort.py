"""How many inputs to try: few and the same ones in CI, as many as asked for in a campaign."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("HAST_FUZZ", "1"))  # so many times the inputs of CI, drawn at random


def effort(examples: int) -> Any:
    """The hypothesis settings of a test that tries ``examples`` inputs in CI."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,  # fuzzing.judge has one, which also ends what hangs
        print_blob=False,
        # One device or network serves all examples of a test; none changes it.
        suppress_health_check=list(HealthCheck),
    )
