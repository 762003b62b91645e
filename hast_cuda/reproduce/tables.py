"""What each table and figure of the paper compares: its rows as methods with changed values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from hast_cuda.checks.values import check_choice

NETWORKS = {"cifar10": "resnet20_cifar10", "cifar100": "resnet20_cifar100", "imagenet": "resnet18"}
FULL_PRECISION = "full_precision"


@dataclass(frozen=True)
class Row:
    """One line of a table: a method, and what it changes in the method's recipe."""

    name: str
    method: str
    changes: dict[str, Any] = field(default_factory=dict)
    """Recipe values by dotted name, e.g. {"finetune.perturbation": 0.0}."""
    image_share: float = 1.0
    """Synthetic images, as a share of the budget's."""


@dataclass(frozen=True)
class Table:
    """Rows, and what distinguishes them."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Published:
    """The paper's value of one row: top-1 in percent and its spread, where it gives one.

    A method that the paper does not have has the value of its own ``source``.
    """

    top1: float
    spread: float | None = None
    source: str | None = None
    """Another one than the paper."""
    full_precision: float | None = None
    """Of the network of another source."""


NO_HSS = {"synthesis.difficulty_exponent": 0.0}
NO_SDP = {"finetune.perturbation": 0.0}
NO_FA = {"finetune.feature_weight": 0.0}

_COMPARISON = tuple(
    Row(name, name) for name in ("real_data", "squant", "gdfq", "ait", "zeroq_il", "dsg_il", "intraq", "genie", "hast")
)


def _weights(a: float, b: float) -> dict[str, Any]:
    return {"finetune.clean_weight": float(a), "finetune.perturbed_weight": float(b)}


_ABLATIONS = Table(
    "Components: hard-sample synthesis (HSS), difficulty promotion (SDP), feature alignment (FA)",
    (
        Row("none", "zeroq_il"),  # the paper's base has the cross entropy, Eq. 6
        Row("HSS", "hast", {**NO_SDP, **NO_FA}),
        Row("SDP", "hast", {**NO_HSS, **NO_FA}),
        Row("FA", "hast", {**NO_HSS, **NO_SDP}),
        Row("SDP+FA", "hast", NO_HSS),
        Row("HSS+SDP", "hast", NO_FA),
        Row("HSS+FA", "hast", NO_SDP),
        Row("HSS+SDP+FA", "hast"),
    ),
)
# The paper's lambda multiplies terms as they are, beside its alpha; "default" balances them.
_AS_PUBLISHED = {"finetune.balance": "fixed", "finetune.distillation_weight": 20.0}
_SWEEPS = {
    "gamma": ("synthesis.difficulty_exponent", (0.0, 0.5, 1.0, 2.0)),
    "epsilon": ("finetune.perturbation", (0.005, 0.01, 0.02, 0.04)),
    "lambda": ("finetune.feature_weight", (500.0, 1000.0, 2000.0, 4000.0)),
}
_BLOCKS = {"reconstruction.iterations": 1000, "finetune.iterations": 0}
_RECONSTRUCTION = Table(
    "Parts of block reconstruction, each left out alone; no fine-tuning",
    tuple(
        Row(name, "hast", _BLOCKS | changes)
        for name, changes in (
            ("all parts", {}),
            ("channels not balanced", {"posttraining.equalize_activations": False}),
            ("no reconstruction", {"reconstruction.iterations": 0}),
            ("ranges as calibrated", {"reconstruction.search_ranges": False}),
            ("weights' steps stay", {"reconstruction.weight_step_travel": 0.0}),
            ("activations' steps stay", {"reconstruction.act_step_travel": 0.0}),
            ("no QDrop", {"reconstruction.drop_probability": 0.0}),
            ("regulariser / 3", {"reconstruction.regulariser": 1.0}),
        )
    ),
)
_CANDIDATES = Table(
    "One thing changed in HAST's preset",
    tuple(
        Row(name, "hast", changes)
        for name, changes in (
            ("as it is", {}),
            ("no HSS", NO_HSS),
            ("no SDP", NO_SDP),
            ("no FA", NO_FA),
            ("no reconstruction", {"reconstruction.iterations": 0}),
            ("no averaging", {"finetune.average": 0.0}),
            ("means of two images", {"finetune.mix": 0.5}),
            ("low-pass 0.4", {"finetune.low_pass": 0.4}),
            ("CAM for FA", {"finetune.alignment": "cam"}),
            ("temperature 4", {"finetune.temperature": 4.0}),
            ("first and last layer 8 bits", {"posttraining.end_bits": 8}),
        )
    ),
)
TABLES = {
    "table1": Table("Methods on CIFAR-10/100, ResNet-20", _COMPARISON),
    "table2": Table("Methods on ImageNet, ResNet-18", _COMPARISON),
    "table3": Table("Methods on ImageNet, MobileNet", _COMPARISON),
    "table4": _ABLATIONS,
    "table5": Table(
        "Loss whose gradient gives the perturbation (Eq. 10)",
        (
            # Eq. 10 needs a loss with weight: every row aligns features.
            Row("KL", "hast", {"finetune.perturb_by": "distillation"}),
            Row("FA", "hast", {"finetune.perturb_by": "alignment"}),
            Row("KL+FA", "hast", {"finetune.perturb_by": "both"}),
        ),
    ),
    "table6": Table(
        "Weights of clean and perturbed images (Eq. 12), a:b",
        tuple(
            Row(f"{a}:{b}", "hast", _weights(a, b))
            for a, b in ((1, 0), (3, 1), (2, 1), (1, 1), (1, 2), (1, 3), (1, 4), (0, 1))
        ),
    ),
    "table7": Table(
        "Feature alignment: maps (direct) or attention vectors (relaxed, Eq. 13)",
        (
            Row("direct", "hast", {"finetune.alignment": "direct"}),
            Row("relaxed", "hast", {"finetune.alignment": "relaxed"}),
        ),
    ),
    "table8": Table(
        "Number of synthetic images",
        (Row("IntraQ, 5120", "intraq"), *(Row(str(n), "hast", image_share=n / 5120) for n in (256, 1280, 2560, 5120))),
    ),
    "figure5": Table(
        "Sensitivity to gamma (Eq. 8), epsilon (Eq. 10) and lambda (Eq. 12)",
        tuple(
            Row(f"{symbol} {value:g}", "hast", {name: value} | (_AS_PUBLISHED if symbol == "lambda" else {}))
            for symbol, (name, values) in _SWEEPS.items()
            for value in values
        ),
    ),
    "figure2": Table(
        "Training and test accuracy, errors on hard images, difficulty of images",
        tuple(Row(name, name) for name in ("real_data", "intraq", "hast")),
    ),
    "figure4": Table(
        "Inception loss without (IL, Eq. 5) and with (HIL, Eq. 8) the weight of difficulty",
        (Row("IL", "hast", NO_HSS), Row("HIL", "hast")),
    ),
    "figure6": Table("Gradients and curvature of the losses", (Row("intraq", "intraq"), Row("hast", "hast"))),
    "reconstruction": _RECONSTRUCTION,
    "candidates": _CANDIDATES,
}


def paper_source() -> str:
    """Where the paper's figures come from."""
    text: str = _document()["source"]
    return text


def published(table: str, dataset: str, model: str, bits: int) -> dict[str, Published]:
    """The paper's top-1 by row; empty where it does not have this table for these images or bits.

    With those of methods that were published elsewhere, on the same network and bits.
    """
    document, column = _document(), model if table == "table3" else dataset
    figures = document["tables"].get(table, {}).get(column, {}).get(str(bits), {})
    found = {name: Published(*values) for name, values in figures.items()}
    for name, other in document["elsewhere"].items():
        values = other["tables"].get(table, {}).get(column, {})
        if str(bits) in values:
            found[name] = Published(values[str(bits)], None, other["source"], values[FULL_PRECISION])
    return found


def rows_of(table: str, methods: tuple[str, ...] = ()) -> tuple[Row, ...]:
    """Rows of a table; with ``methods``, only theirs, and those methods that it lacks.

    Raises:
        ValueError: an unknown table.
    """
    check_choice("table", table, tuple(TABLES))
    rows = TABLES[table].rows
    if not methods:
        return rows
    kept = tuple(row for row in rows if row.method in methods or row.name in methods)
    known = {row.method for row in kept} | {row.name for row in kept}
    return kept + tuple(Row(name, name) for name in methods if name not in known)


def _document() -> dict[str, Any]:
    path = files("hast_cuda.reproduce") / "paper.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document
