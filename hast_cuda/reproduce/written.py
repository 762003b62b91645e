"""What a reproduced table or figure leaves on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from hast_cuda.files.whole import replace_file
from hast_cuda.reproduce.drawing import Drawing
from hast_cuda.reproduce.figure5 import draw_figure5
from hast_cuda.reproduce.render import (
    Document,
    divergence_notes,
    lines_of,
    order_note,
    to_csv,
    to_html,
    to_markdown,
)
from hast_cuda.reproduce.runner import Outcome, Setting
from hast_cuda.reproduce.tables import TABLES, Figure, paper_source
from hast_cuda.run import environment

READING = (
    "Last iteration: nothing is chosen by test accuracy; best seen is, and is shown because "
    "published figures often are. Differences to the paper compare other weights and another "
    "budget unless both are the paper's; the drops from full precision compare better."
)


def facts_of(setting: Setting, seeds: int) -> dict[str, str]:
    """What a reader must know to compare: network, data, bits, budget, seeds, device, versions."""
    where, ranks = environment(setting.device), setting.world.size
    processes = "" if ranks == 1 else f" in each of {ranks} processes"
    everywhere = ', the input of every layer (placement="all")'
    facts = {
        "network": setting.model,
        "test images": f"{len(setting.test)} of {setting.dataset}",
        "bits": f"{setting.bits} for weights and activations"
        + (everywhere if setting.placement == "all" else ""),
        "preset": setting.preset,
        "budget": setting.budget,
        "seeds": ", ".join(map(str, range(seeds))),
        "device": f"{where['device_name']}, {where['threads']} threads{processes}",
        "versions": f"hast_cuda {where['hast_cuda']}, torch {torch.__version__}",
    }
    if setting.train is not None:
        facts["training images of real_data"] = str(len(setting.train))
    return facts


def write_table(
    table: str, outcomes: Sequence[Outcome], setting: Setting, seeds: int,
    paper: dict[str, Figure],
) -> Document:  # fmt: skip
    """Write the rows so far in every format, and the curves of figure5; returns the table."""
    notes = [*divergence_notes(outcomes), READING, f"Paper: {paper_source()}"]
    order = order_note(outcomes, paper)
    document = Document(
        f"{table}: {TABLES[table].title}", facts_of(setting, seeds), lines_of(outcomes, paper),
        notes if order is None else [order, *notes],
    )  # fmt: skip
    _write("table", document, {o.row.name: o.results or o.absent for o in outcomes}, setting)
    if table == "figure5" and any(outcome.results for outcome in outcomes):
        draw_figure5(outcomes, setting.out / "figure5.png")
    return document


def write_figure(figure: str, drawing: Drawing, setting: Setting, seeds: int) -> Document:
    """Write the table of a figure in every format, and its pictures; returns the table."""
    document = Document(
        f"{figure}: {TABLES[figure].title}", facts_of(setting, seeds), drawing.lines,
        [*drawing.notes, f"Paper: {paper_source()}"], drawing.header,
    )  # fmt: skip
    _write(figure, document, drawing.data, setting)
    for name, draw in drawing.pictures.items():
        draw(setting.out / name)
    return document


def _write(stem: str, document: Document, rows: dict[str, Any], setting: Setting) -> None:
    """Whole or not at all."""
    raw = {
        "title": document.title, "facts": document.facts, "notes": document.notes, "rows": rows,
    }  # fmt: skip
    texts = {
        "md": to_markdown(document), "csv": to_csv(document), "html": to_html(document),
        "json": json.dumps(raw, indent=1, default=str) + "\n",
    }  # fmt: skip
    setting.out.mkdir(parents=True, exist_ok=True)
    for ending, text in texts.items():
        with replace_file(setting.out / f"{stem}.{ending}") as temporary:
            temporary.write_text(text, encoding="utf-8")
