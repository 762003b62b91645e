"""Bits within a budget: exactly the best, and what a student of mixed widths is good for."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_networks import SHAPE, Residual
from hypothesis import example, given, settings
from hypothesis import strategies as st
from networks import tiny

import hast_cuda as hc
from hast_cuda.analysis import LayerSensitivity, bit_curve
from hast_cuda.analysis.allocation import uniform
from hast_cuda.analysis.knapsack import choose
from hast_cuda.exports import load_packed, save_packed

pytest.importorskip("scipy")
LAYERS = {
    "a": LayerSensitivity({2: 0.4, 4: 0.1, 8: 0.0}, {2: 0.3, 4: 0.1, 8: 0.0}, 100, 5000, 64),
    "b[0]": LayerSensitivity({2: 0.1, 4: 0.05, 8: 0.0}, {}, 300, 600),
    "c": LayerSensitivity({}, {2: 0.9, 4: 0.2, 8: 0.1}, values=32, sums=True),
}

numbers = st.integers(2, 8)
items = st.dictionaries(numbers, st.tuples(st.floats(0, 5), st.integers(0, 10**7)), min_size=1, max_size=4)


@settings(max_examples=60)
@example([{2: (5e-324, 1), 3: (0.0, 2)}], 1.0)
@given(st.lists(items, min_size=1, max_size=5), st.floats(0, 1))
def test_choices_are_the_best(given_items: list[dict[int, tuple[float, int]]], share: float) -> None:
    losses = [{k: loss for k, (loss, _) in item.items()} for item in given_items]
    costs = [{k: cost for k, (_, cost) in item.items()} for item in given_items]
    least, most = (sum(end(item.values()) for item in costs) for end in (min, max))
    budget = least + int(share * (most - least))

    def total(of: list[Any], taken: tuple[int, ...] | list[int]) -> Any:
        return sum(options[choice] for options, choice in zip(of, taken, strict=True))

    allowed = [t for t in itertools.product(*losses) if total(costs, t) <= budget]
    best = min(total(losses, taken) for taken in allowed)
    found = choose(losses, costs, budget)
    assert total(costs, found) <= budget
    assert total(losses, found) == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_budgets() -> None:
    chosen = hc.allocate_bits(LAYERS, average_bits=3.5, act_bits=3, sum_bits=6)
    assert chosen == {"a": hc.Override(8, 3), "b[[]0]": hc.Override(2, 3)}
    assert hc.allocate_bits(LAYERS, size=175, act_bits=None)["a"] == hc.Override(8, None)
    assert hc.allocate_bits(LAYERS, size=174)["a"].weight_bits == 4
    assert hc.allocate_bits(LAYERS, bit_operations=2 * 5000 + 8 * 600)["b[[]0]"].weight_bits == 8
    own = hc.allocate_bits(LAYERS, average_bits=2, average_act_bits=3.5)
    assert [own[name].act_bits for name in ("a", "c")] == [2, 4]
    assert hc.allocate_bits(LAYERS, average_bits=4, widths=(4,))["a"].weight_bits == 4


def test_sums_keep_their_bits() -> None:
    layers = {"a": LayerSensitivity({2: 0.1}, {2: 0.1}, 10, sums=True)}
    assert hc.allocate_bits(layers, average_bits=2, act_bits=3)["a"] == hc.Override(2, 8)


@pytest.mark.parametrize(
    ("given_budget", "message"),
    [
        ({}, "one budget of average_bits, size, bit_operations, seconds; given: none"),
        ({"average_bits": 4.0, "size": 10}, "given: average_bits, size"),
        ({"average_bits": 1.9}, "average_bits is 1.9; the smallest possible is 2, with 2 bits everywhere"),
        ({"size": 99}, "size is 99; the smallest possible is 100, with 2 bits"),
        ({"bit_operations": 11199}, "the smallest possible is 11200"),
        ({"average_bits": 3.0, "widths": (4, 8)}, "the smallest possible is 4, with 4 bits"),
        ({"average_bits": 3.0, "average_act_bits": 1.0}, "average_act_bits is 1; the smallest possible is 2"),
        ({"average_bits": 3.0, "widths": (3,)}, "widths is [3]; every layer was measured at [2, 4, 8]"),
        ({"average_bits": float("nan")}, "average_bits is nan"),
        ({"average_bits": 3.0, "act_bits": 9}, "act_bits is 9; allowed: 2 to 8"),
    ],
)
def test_refused(given_budget: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        hc.allocate_bits(LAYERS, **given_budget)


def test_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="no layer with weights"):
        hc.allocate_bits({"c": LAYERS["c"]}, average_bits=3)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'hast_cuda[allocation]'")):
        hc.allocate_bits(LAYERS, average_bits=4)


def test_the_curve_is_never_above_one_width_for_all() -> None:
    curve, alike = bit_curve(LAYERS), uniform(LAYERS)
    assert [point.size for point in alike] == [100, 200, 400]
    assert curve[0] == alike[0]
    assert curve[-1] == alike[-1]
    assert [p.divergence for p in curve] == sorted((p.divergence for p in curve), reverse=True)
    for point in alike:
        assert min(p.divergence for p in curve if p.size <= point.size) <= point.divergence


@pytest.mark.parametrize("placement", ["relu", "all", "integer"])
def test_mixed_widths_run_everywhere(placement: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = Residual().eval(), torch.randn(8, *SHAPE)
    found = hc.sensitivity(network, x, bits=(2, 3, 4, 8), placement=placement)
    chosen = hc.allocate_bits(found, average_bits=3.5, average_act_bits=4)
    student = hc.calibrate(hc.quantize(network, 4, 4, placement=placement, overrides=chosen), [x]).eval()
    rows = hc.quantization_table(student).rows
    weights = [(row.weight_bits, found[row.name].parameters) for row in rows if row.weight_bits]
    assert len({bits for bits, _ in weights}) > 1
    assert sum(b * n for b, n in weights) <= 3.5 * sum(n for _, n in weights)
    assert {r.name: r.act_bits for r in rows if r.act_bits} == {
        name: chosen[name].act_bits for name, layer in found.items() if layer.activations
    }
    with torch.no_grad():
        expected = student(x)
    save_packed(student, tmp_path / "packed.safetensors", {})
    assert torch.equal(load_packed(tmp_path / "packed.safetensors", network)(x), expected)
    if placement == "relu":  # the files of one width have all
        return
    pytest.importorskip("onnx")
    from hast_cuda.deploy import load
    from hast_cuda.exports import save_engine

    save_engine(student, tmp_path / "student.hast", SHAPE)
    assert (load(tmp_path / "student.hast").run(x.numpy()).argmax(1) == expected.argmax(1).numpy()).all()
    if placement == "all":
        return
    runtime = pytest.importorskip("onnxruntime")
    hc.exports.save_onnx(student, tmp_path / "s.onnx", SHAPE)
    session = runtime.InferenceSession(str(tmp_path / "s.onnx"), providers=["CPUExecutionProvider"])
    logits = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1).numpy())


def test_a_budget_of_seconds() -> None:
    timed = {
        "a": LayerSensitivity({2: 0.4, 8: 0.0}, parameters=100, seconds={2: 1e-4, 8: 3e-4}),
        "b": LayerSensitivity({2: 0.3, 8: 0.0}, parameters=100, seconds={2: 1e-4, 8: 1.5e-4}),
    }
    assert hc.allocate_bits(timed, seconds=2.5e-4) == {"a": hc.Override(2, 4), "b": hc.Override(8, 4)}
    assert hc.allocate_bits(timed, seconds=4e-4)["a"].weight_bits == 8
    with pytest.raises(ValueError, match=r"seconds is 0\.0001; the smallest possible is 0\.0002, with 2 bits"):
        hc.allocate_bits(timed, seconds=1e-4)
    with pytest.raises(ValueError, match=r"time of layer 'a' at \[2, 4, 8\] bits was not measured"):
        hc.allocate_bits(LAYERS, seconds=1.0)


@pytest.mark.parametrize("cost", ["size", "bit_operations", "seconds"])
def test_curves_of_every_cost(cost: str) -> None:
    layers = {
        str(i): LayerSensitivity(
            {w: (i + 1) / 4**w for w in (2, 4, 8)}, {}, 100 + i, 10**i, seconds={2: i, 4: i, 8: 2 * i}
        )
        for i in range(1, 4)
    }
    curve = bit_curve(layers, cost=cost, points=9)
    spent = [getattr(point, cost) for point in curve]
    assert spent == sorted(spent)
    assert [point.divergence for point in curve] == sorted((point.divergence for point in curve), reverse=True)
    assert set(curve[-1].widths.values()) == {8}
    for point in curve:
        other = hc.allocate_bits(layers, **{cost: getattr(point, cost)})
        assert sum(layers[n].weights[o.weight_bits or 0] for n, o in other.items()) <= point.divergence * (1 + 1e-9)


def test_layers_to_keep() -> None:
    kept = hc.analysis.layers_to_keep(LAYERS, 1, bits=2)
    assert [(k.name, k.saved, k.bytes) for k in kept] == [("a", 0.4, 75)]
    assert kept[0].share == pytest.approx(0.8)
    assert [k.name for k in hc.analysis.layers_to_keep(LAYERS, bits=2, kind="activations")] == ["c", "a"]
    with pytest.raises(ValueError, match=r"'a' were measured at \[2, 4, 8\], not at 3 and 8"):
        hc.analysis.layers_to_keep(LAYERS, bits=3)


def test_layers_timed_in_the_engine() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    teacher, images = Residual().eval(), torch.randn(4, *SHAPE)
    found = hc.sensitivity(teacher, images, bits=(4, 8))
    timed = hc.analysis.with_engine_seconds(found, teacher, images, repeats=2)
    weights = {name for name, layer in timed.items() if layer.weights}
    assert {name for name, layer in timed.items() if layer.seconds} == weights
    assert all(set(timed[name].seconds) == {4, 8} and min(timed[name].seconds.values()) > 0 for name in weights)
    everything = sum(max(timed[name].seconds.values()) for name in weights)
    assert hc.allocate_bits(timed, seconds=2 * everything).keys() == weights


def test_within_a_drop() -> None:
    torch.manual_seed(0)
    teacher, images = tiny(), torch.randn(200, 3, 8, 8)
    found = hc.sensitivity(teacher, images, bits=(2, 4, 8))

    def size(chosen: dict[str, hc.Override]) -> int:
        return sum(found[name].parameters * (override.weight_bits or 0) for name, override in chosen.items())

    loose, tight = (hc.analysis.allocate_within_drop(found, teacher, images, drop, act_bits=8) for drop in (100.0, 5.0))
    assert size(loose) < size(tight)
    with pytest.raises(ValueError, match="max_drop is 0; with 8 bits for all weights the class of"):
        hc.analysis.allocate_within_drop(found, teacher, images, 0.0, act_bits=2)
