"""What a reproduced table or figure leaves on disk."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hast_cuda.files.whole import replace_file
from hast_cuda.report.canvas import themed
from hast_cuda.report.document import Document, Facts, Picture, Pictures, Table, Text
from hast_cuda.report.markdown import to_markdown
from hast_cuda.report.page import to_html
from hast_cuda.reproduce.figures import PICTURES
from hast_cuda.reproduce.lines import HEADER, divergence_notes, lines_of, order_note, source_notes
from hast_cuda.reproduce.runner import Drawing, Outcome, Setting
from hast_cuda.reproduce.tables import TABLES, Published, paper_source
from hast_cuda.run import Bits
from hast_cuda.run.directory import environment

READING = (
    "Last iteration: nothing is chosen by test accuracy; best seen is, and is shown because "
    "published figures often are. Differences to the paper compare other weights and another "
    "budget unless both are the paper's; the drops from full precision compare better."
)

PLACED = {
    "relu": "",
    "all": ', the input of every layer (placement="all")',
    "integer": ', all that an integer runtime stores (placement="integer")',
}


def _said(bits: Bits) -> str:
    if bits.weights == bits.activations:
        return f"{bits.weights} for weights and activations"
    return f"{bits.weights} for weights, {bits.activations} for activations"


def facts_of(setting: Setting, seeds: int) -> dict[str, str]:
    """What a reader must know to compare: network, data, bits, budget, seeds, device, versions."""
    where, ranks = environment(setting.device), setting.world.size
    processes = "" if ranks == 1 else f" in each of {ranks} processes"
    facts = {
        "network": setting.model,
        "test images": f"{len(setting.test)} of {setting.dataset}",
        "bits": _said(setting.bits_of_both) + PLACED[setting.placement],
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
    table: str, outcomes: Sequence[Outcome], setting: Setting, seeds: int, paper: dict[str, Published]
) -> str:
    """Write the rows so far in every format, and their picture; returns the Markdown."""
    order = order_note(outcomes, paper)
    notes = [*([] if order is None else [order]), *source_notes(outcomes, paper), *divergence_notes(outcomes), READING]
    cells = Table(HEADER, lines_of(outcomes, paper))
    rows = {o.row.name: o.results or o.absent for o in outcomes}
    draws: dict[str, Callable[[Path], None]] = {}
    if table in PICTURES and any(outcome.results for outcome in outcomes):
        draws[f"{table}.png"] = lambda path: PICTURES[table](outcomes, path)
    return _write("table", table, cells, notes, rows, setting, seeds, draws)


def write_figure(figure: str, drawing: Drawing, setting: Setting, seeds: int) -> str:
    """Write the table of a figure in every format, and its pictures; returns the Markdown."""
    cells = Table(drawing.header, drawing.lines)
    return _write(figure, figure, cells, drawing.notes, drawing.data, setting, seeds, drawing.pictures)


def _write(
    stem: str,
    table: str,
    cells: Table,
    notes: Sequence[str],
    rows: dict[str, Any],
    setting: Setting,
    seeds: int,
    draws: Mapping[str, Callable[[Path], None]],
) -> str:
    """Each file whole or not at all; empty cells of the CSV are what was not measured. The page has the pictures."""
    setting.out.mkdir(parents=True, exist_ok=True)
    pictures = [_drawn(setting.out / name, draw) for name, draw in draws.items()]
    title, facts = f"{table}: {TABLES[table].title}", facts_of(setting, seeds)
    notes = [*notes, f"Paper: {paper_source()}"]
    shown = [Pictures(pictures)] if pictures else []
    document = Document(title, [Facts(list(facts.items())), cells, *shown, *map(Text, notes)], [])
    buffer = io.StringIO()
    lines = [cells.header, *([c if c != "-" else "" for c in row] for row in cells.rows)]
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    raw = {"title": title, "facts": facts, "notes": notes, "rows": rows}
    texts = {
        "md": to_markdown(document, setting.out),
        "html": to_html(document),
        "csv": buffer.getvalue(),
        "json": json.dumps(raw, indent=1, default=str) + "\n",
    }
    for ending, text in texts.items():
        with replace_file(setting.out / f"{stem}.{ending}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return texts["md"]


def _drawn(path: Path, draw: Callable[[Path], None]) -> Picture:
    """A picture as the file that it is asked for, and beside it as an SVG in the colours of the page."""
    draw(path)
    with themed():
        draw(path.with_suffix(".svg"))
    return Picture(path.with_suffix(".svg"), path.stem, path.stem)
