from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


def test_the_table_has_every_phase_and_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    monkeypatch.delitem(sys.modules, "bench_estimate", raising=False)
    from bench_estimate import table

    rows = [
        {
            "network": "x",
            "budget": "2m",
            "estimated": {"synthesis": 9.0},
            "taken": {"synthesis": 10.0, "evaluation": 5.0},
        },
        {"network": "demo", "budget": None, "estimated": {}, "taken": {"synthesis": 0.0}},
    ]
    assert table(rows)[2:] == [
        "| x, 2m | synthesis | 9.0 | 10.0 | 0.90 |",
        "| x, 2m | evaluation | 0.0 | 5.0 | 0.00 |",
        "| x, 2m | all | 9.0 | 15.0 | 0.60 |",
        "| demo, its own numbers | synthesis | 0.0 | 0.0 | - |",
        "| demo, its own numbers | all | 0.0 | 0.0 | - |",
    ]
