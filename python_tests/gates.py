"""Tests that need a tool: skipped without it, but failed where skipping would hide something."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def cannot_run(reason: str) -> NoReturn:
    """Skip with ``reason``; fail if HAST_REQUIRE_GATES says that this machine has every tool."""
    if os.environ.get("HAST_REQUIRE_GATES"):
        pytest.fail(f"HAST_REQUIRE_GATES is set, but {reason}")
    pytest.skip(reason)
