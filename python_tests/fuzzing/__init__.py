"""What the fuzz tests share: hostile values, calls that work, the judgement of what happens."""

from __future__ import annotations
