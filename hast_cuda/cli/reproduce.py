"""``hast-cuda reproduce``: a table or figure of the paper, our values beside the paper's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from hast_cuda.checks.values import as_device, check_range
from hast_cuda.cli.network import Network, find
from hast_cuda.cli.options import Flat, Method, labelled_images, shape_of, training_images
from hast_cuda.loops.execution import Execution
from hast_cuda.ranks import join, launched
from hast_cuda.report.canvas import pyplot
from hast_cuda.reproduce import (
    FIGURES,
    NETWORKS,
    Outcome,
    Setting,
    published,
    rows_of,
    run_row,
    write_figure,
    write_table,
)
from hast_cuda.reproduce.runner import widths
from hast_cuda.teachers.names import is_own

TableName = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "table7",
    "table8",
    "figure2",
    "figure4",
    "figure5",
    "figure6",
    "reconstruction",
    "candidates",
]
IMAGES = {"cifar10": (32, 10), "cifar100": (32, 100), "imagenet": (224, 1000)}  # pixels, classes


def reproduce(
    table: tyro.conf.Positional[TableName],
    dataset: Literal["cifar10", "cifar100", "imagenet"],
    bits: int,
    activation_bits: int | None = None,
    budget: str = "full",
    preset: Literal["default", "paper", "released"] | None = None,
    methods: tuple[Method, ...] = (),
    rows: tuple[str, ...] = (),
    seeds: int = 1,
    model: str | None = None,
    weights: Path | None = None,
    normalization: str | None = None,
    placement: Literal["relu", "all", "integer"] = "relu",
    data: str | None = None,
    train_data: str | None = None,
    test_limit: int | None = None,
    out: Path | None = None,
    device: str = "auto",
    execution: Annotated[Execution, Flat] = Execution(),
) -> None:
    """Reproduce a table or figure of the paper; goes on where it was killed.

    Files not named are looked for in $HAST_CUDA_DATA: DATASET_test.npz, DATASET_train.npz,
    MODEL.safetensors and weights/MODEL.safetensors; weights not found are downloaded by pytorchcv.

    Args:
        table: table1 to table8; figure2, figure4, figure5, figure6 (a table and pictures); two of
            our own, what reconstruction is made of and what else "default" could be.
        dataset: hyper-parameters, network and images.
        bits: of weights and activations.
        activation_bits: of activations, where they have others (W4A8: --bits 4 --activation-bits 8).
        budget: "full" (as published), "small" (about half an hour for table1 on two CPU cores) or a
            share such as "10%".
        preset: "paper", "released" or "default" (every method's losses under our training, of which
            HAST has more than the others: docs/methods.md); by default "paper" at the full budget,
            else "default", whose rates suit few steps.
        methods: only these methods, and methods that the table lacks (zeroq, qimera, ...).
        rows: only these rows.
        seeds: runs per row, seeds 0, 1, ...
        model: a name as for quantize instead of the paper's network; of module:callable give the
            normalization too.
        weights: of the network.
        normalization: of its images, where it is not that of the model.
        placement: "relu" (the published code); "all" (the input of every layer), for networks whose
            activations are not modules; "integer" (all that an integer runtime stores).
        data: labelled test images.
        train_data: labelled training images, for the row real_data.
        test_limit: use only this many test images.
        out: directory; default runs/TABLE-DATASET-wBITS-PRESET-BUDGET.
        device: "auto", "cpu", "cuda".
        execution: how to compute.
    """
    check_range("bits", bits, 2, 8)
    if activation_bits is not None:
        check_range("activation_bits", activation_bits, 2, 8)
    check_range("seeds", seeds, 1)
    if table.startswith("figure"):
        pyplot()  # refused before any work where it is not installed
    if table in FIGURES and launched() > 1:
        raise ValueError(f"{table} is measured by one process, and {launched()} were started: call it without torchrun")
    preset = preset or ("paper" if budget == "full" else "default")
    model = model or NETWORKS[dataset]
    # of a network of the user's own nothing else says what images it takes
    size, classes = IMAGES[dataset] if is_own(model) else (None, None)
    weights = weights or _found(f"{model}.safetensors", f"weights/{model}.safetensors")
    network = Network(model, weights, normalization, size, classes)
    spec, name = network.spec(), f"{dataset}_test.npz"
    images = data or _found(name)
    if images is None:
        raise FileNotFoundError(f"{name} is neither here nor in $HAST_CUDA_DATA; give --data")
    test = labelled_images(str(images), spec, test_limit)
    assert test is not None
    train = train_data or _found(f"{dataset}_train.npz")
    world = join(as_device(device, auto=True))
    with world.first_goes_first():  # weights may have to be downloaded
        teacher = network.load()
    name = f"{table}-{dataset}-{widths(bits, activation_bits)}-{preset}-{budget.replace('%', 'pct')}"
    setting = Setting(
        teacher=teacher,
        model=model,
        shape=shape_of(spec),
        dataset=dataset,
        bits=bits,
        activation_bits=activation_bits,
        preset=preset,
        budget=budget,
        world=world,
        out=out or Path("runs") / name,
        test=test,
        train=training_images(None if train is None else str(train), spec),
        describe={"network": network.described(spec)},
        execution=execution,
        placement=placement,
    )
    known = rows_of(table, methods)
    chosen = [row for row in known if not rows or row.name in rows]
    unknown = set(rows) - {row.name for row in chosen}
    if unknown or not chosen:
        names = ", ".join(row.name for row in known)
        raise ValueError(f"{table} has no rows {sorted(unknown)}; it has: {names}")
    if table in FIGURES:
        drawing = FIGURES[table](chosen, setting, range(seeds), world.say)
        world.say(write_figure(table, drawing, setting, seeds))
        files = ", ".join(sorted(drawing.pictures))
        world.say(f"written: {setting.out / table}.md, .csv, .html, .json; {files}")
        return
    paper = published(table, dataset, model, bits) if activation_bits in (None, bits) else {}
    outcomes: list[Outcome] = []
    for row in chosen:
        outcomes.append(run_row(row, setting, range(seeds), world.say))
        if world.first:
            text = write_table(table, outcomes, setting, seeds, paper)
    if world.first:
        world.say(text)
    world.say(f"written: {setting.out / 'table.md'}, table.csv, table.html, table.json")


def _found(*names: str) -> Path | None:
    """The first of these that is here or in $HAST_CUDA_DATA."""
    return next((path for path in map(Path, map(find, names)) if path.exists()), None)
