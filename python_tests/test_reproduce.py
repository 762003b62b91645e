from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import tiny

from hast_cuda import methods
from hast_cuda.data import InputSpec
from hast_cuda.methods import change
from hast_cuda.methods.budget import apply_budget
from hast_cuda.nn.placement import PLACEMENTS
from hast_cuda.reproduce import TABLES, Outcome, Published, Row, image_key, lines_of, order_note, published, rows_of
from hast_cuda.reproduce.lines import divergence_notes, source_notes
from hast_cuda.reproduce.written import PLACED
from hast_cuda.synthesis import SynthesisConfig

SHAPE = InputSpec(3, 8, 8, 5)


def outcome(name: str, *top1: float) -> Outcome:
    results = [
        {
            "full_precision": 92.0,
            "quantized": value,
            "quantized_best_epoch": value + 0.5,
            "start_of_finetuning": value - 10,
            "seconds": {"synthesis": 1.5, "finetuning": 2.0},
        }
        for value in top1
    ]
    return Outcome(Row(name, name), results)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("preset", methods.PRESETS)
def test_every_row_is_a_recipe(table: str, preset: str) -> None:
    names = [row.name for row in rows_of(table)]
    assert len(set(names)) == len(names)
    for row in rows_of(table):
        change(methods.recipe(row.method, preset, "cifar10"), row.changes)


@pytest.mark.parametrize(
    ("table", "dataset", "model", "bits", "row", "top1"),
    [
        ("table1", "cifar10", "", 3, "hast", 88.34),
        ("table1", "cifar100", "", 4, "dsg_il", 62.62),
        ("table2", "imagenet", "resnet18", 3, "intraq", 45.51),
        ("table3", "imagenet", "mobilenetv2_w1", 4, "ait", 66.47),
        ("table4", "imagenet", "resnet18", 3, "HSS+SDP+FA", 51.15),
        ("table5", "cifar10", "", 3, "FA", 87.68),
        ("table6", "imagenet", "resnet18", 3, "1:3", 53.12),
        ("table7", "cifar100", "", 3, "direct", 51.50),
        ("table8", "imagenet", "resnet18", 3, "256", 49.17),
        ("table1", "cifar100", "", 3, "synq", 57.28),
    ],
)
def test_paper_figures(table: str, dataset: str, model: str, bits: int, row: str, top1: float) -> None:
    figures = published(table, dataset, model, bits)
    assert figures[row].top1 == top1
    known = {r.name for r in rows_of(table)} | {"full_precision"}
    assert {name for name, figure in figures.items() if figure.source is None} <= known
    assert published(table, dataset, model, 7) == {}


@pytest.mark.parametrize("table", ["reconstruction", "candidates"])
def test_every_other_row_changes_the_first(table: str) -> None:
    first, *others = (change(methods.recipe("hast", "default", "cifar10"), row.changes) for row in rows_of(table))
    assert first.reconstruction.iterations == 1000
    assert all(other != first for other in others)


def test_the_ablations_change_what_they_name() -> None:
    base = methods.recipe("hast", "paper", "cifar10")
    for row in rows_of("table4")[1:]:
        found = change(base, row.changes)
        parts = set(row.name.split("+"))
        assert (found.synthesis.difficulty_exponent > 0) == ("HSS" in parts)
        assert (found.finetune.perturbation > 0) == ("SDP" in parts)
        assert (found.finetune.feature_weight > 0) == ("FA" in parts)


def test_chosen_methods_may_be_others_than_the_tables() -> None:
    rows = rows_of("table1", ("hast", "qimera"))
    assert [row.name for row in rows] == ["hast", "qimera"]
    with pytest.raises(ValueError, match="table is 'table9'; allowed: 'table1'"):
        rows_of("table9")


def test_a_table_says_where_activations_are_quantized() -> None:
    assert {"auto", *PLACED} == set(PLACEMENTS)
    assert len(set(PLACED.values())) == len(PLACED)


def test_budgets() -> None:
    full = methods.recipe("gdfq", "paper", "cifar10")
    assert apply_budget(full, "full") is full
    tenth = apply_budget(full, "10%")
    assert (tenth.synthesis.num_images, tenth.synthesis.iterations) == (512, 100)
    assert (tenth.finetune.iterations, tenth.generator.warmup) == (7920, 80)
    for name in methods.available():
        small = apply_budget(methods.recipe(name), "small")
        assert small.synthesis.num_images <= 512
        assert small.finetune.iterations in (0, 150)
    free = apply_budget(methods.recipe("squant"), "1%")
    assert free.finetune.iterations == 0


@pytest.mark.parametrize("budget", ["tiny", "0%", "101%", "-5%", "5", "nan%"])
def test_budget_errors(budget: str) -> None:
    with pytest.raises(ValueError, match="budget is"):
        apply_budget(methods.recipe("hast"), budget)


def test_image_key_follows_what_makes_images() -> None:
    config = SynthesisConfig()
    key = image_key(tiny(), SHAPE, config, 0)
    assert key == image_key(tiny(), SHAPE, config, 0)
    changed = tiny()
    with torch.no_grad():
        changed.output.bias[0] += 1
    others = {
        image_key(changed, SHAPE, config, 0),
        image_key(tiny(), SHAPE, replace(config, iterations=999), 0),
        image_key(tiny(), SHAPE, config, 1),
        image_key(tiny(), replace(SHAPE, height=4), config, 0),
    }
    assert key not in others
    assert len(others) == 4


def test_lines() -> None:
    paper = {"full_precision": Published(94.0), "hast": Published(88.34, 0.06), "gdfq": Published(71.1)}
    absent = Outcome(Row("gdfq", "gdfq"), [], "no training images given")
    lines = lines_of([absent, outcome("hast", 80.0, 82.0)], paper)
    assert lines[0][:2] == ["full precision", "92.00"]
    assert lines[1][:2] == ["gdfq", "no training images given"]
    assert lines[1][6] == "71.10"
    expected = ["hast", "81.00", "1.41", "2", "81.50", "71.00", "88.34 ± 0.06", "-7.34", "11.00", "5.66", "4"]
    assert lines[2] == expected


def test_a_method_of_another_paper_is_marked() -> None:
    paper = published("table1", "cifar10", "", 4)
    outcomes = [outcome("hast", 80.0), outcome("synq", 82.0), outcome("intraq", 70.0)]
    (line,) = (line for line in lines_of(outcomes, paper) if line[0] == "synq")
    assert line[6:8] == ["92.76 *", "-10.76"]
    assert line[9] == "1.13"  # from the full precision of its own source
    (note,) = source_notes(outcomes, paper)
    assert note.startswith("* synq is not in the paper: Kim et al.")
    order = order_note(outcomes, paper)
    assert order is not None
    assert "synq" not in order
    assert source_notes([outcome("hast", 80.0)], paper) == []


def test_diverged_runs_are_named() -> None:
    lost = Outcome(Row("ait", "ait"), [], "diverged", {0: "the loss is not finite", 2: "the loss"})
    part = replace(outcome("hast", 80.0), diverged={1: "fine-tuning: the loss is not finite"})
    lines = lines_of([lost, part], {})
    assert lines[1][:4] == ["ait", "diverged", "-", "-"]
    assert lines[2][:4] == ["hast", "80.00", "-", "1"]
    assert divergence_notes([lost, part, outcome("intraq", 1.0)]) == [
        "ait, seeds 0, 2: the loss is not finite; the loss.",
        "hast, seed 1: fine-tuning: the loss is not finite.",
    ]


def test_order() -> None:
    paper = {"a": Published(90), "b": Published(80), "c": Published(70)}
    same = order_note([outcome(n, v) for n, v in (("a", 50), ("b", 40), ("c", 30))], paper)
    assert same is not None
    assert same.endswith("So the same order.")
    turned = order_note([outcome(n, v) for n, v in (("a", 50), ("b", 20), ("c", 30))], paper)
    assert turned is not None
    assert turned.endswith("So 1 of 3 pairs the other way: b / c.")
    assert order_note([outcome("a", 1)], paper) is None
