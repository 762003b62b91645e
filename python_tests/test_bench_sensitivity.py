"""The bench that compares orders of layers: its figures on layers made by hand."""

from __future__ import annotations

import torch
from bench_sensitivity import choices, correlations, tables
from networks import tiny

import hast_cuda as hc
from hast_cuda.analysis import LayerSensitivity


def test_orders_are_compared_width_by_width() -> None:
    losses = dict(zip("abc", (0.1, 0.2, 0.3), strict=True))
    one = {n: LayerSensitivity({2: loss, 8: loss}, second_order={2: 1 - loss}) for n, loss in losses.items()}
    other = {n: LayerSensitivity({2: 2 * loss, 8: 1 - loss}) for n, loss in losses.items()}
    assert correlations(one, other, "weights") == {2: 1.0, 8: -1.0}
    assert correlations(one, other, "second order") == {2: -1.0}


def test_what_is_chosen_is_judged_on_other_images() -> None:
    network = tiny()
    images = {name: torch.randn(8, 3, 8, 8) for name in ("synthetic", "real")}
    found = {name: hc.sensitivity(network, x, bits=(2, 3, 8)) for name, x in images.items()}
    rows = [choices(network, found, average, torch.randn(16, 3, 8, 8)) for average in (2.5, 3.0, 8.0)]
    assert [set(row) - {"average_bits"} for row in rows] == [
        {"synthetic", "real"},
        {"synthetic", "real", "uniform"},
        {"synthetic", "real", "uniform"},
    ]
    assert rows[0]["synthetic"] > rows[2]["synthetic"] >= 0
    by_width = {kind: {2: 1.0, 8: 0.5} for kind in ("weights", "activations")}
    lines = tables([{"network": "tiny", "correlation": by_width, "chosen": rows}])
    assert lines[2] == "| tiny | weights | 1.00 | 0.50 |"
    assert lines[7].startswith("| tiny | 2.5 | - | ")
