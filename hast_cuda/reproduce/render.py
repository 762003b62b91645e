"""A reproduced table as Markdown, CSV and HTML, the paper's figures beside ours."""

from __future__ import annotations

import csv
import html
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hast_cuda.reproduce.runner import Outcome
from hast_cuda.reproduce.tables import FULL_PRECISION, Figure

HEADER = (
    "row", "top-1, last iteration", "spread", "seeds", "best seen", "before fine-tuning", "paper",
    "difference", "drop from full precision", "paper's drop", "seconds without images",
)  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A table with what a reader must know to trust it."""

    title: str
    facts: dict[str, str]
    """Network, data, bits, preset, budget, seeds, device, versions."""
    lines: list[list[str]]
    notes: list[str]
    header: tuple[str, ...] = HEADER


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and sample standard deviation where there is more than one value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), spread


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"


def lines_of(outcomes: Sequence[Outcome], paper: dict[str, Figure]) -> list[list[str]]:
    """The table's cells as text, full precision first."""
    done = [o for o in outcomes if o.results]
    full = done[0].results[0]["full_precision"] if done else None
    reference = paper.get(FULL_PRECISION)
    lines = []
    if full is not None:
        lines.append(_line("full precision", [full], {}, reference, None, None))
    for outcome in outcomes:
        figure = paper.get(outcome.row.name)
        if not outcome.results:
            lines.append([outcome.row.name, outcome.absent or "-", *["-"] * 4, _paper(figure),
                          *["-"] * 4])  # fmt: skip
            continue
        drop = None if figure is None or reference is None else reference.top1 - figure.top1
        results = outcome.results
        extra = {
            "best": statistics.fmean(r["quantized_best_epoch"] for r in results),
            "start": statistics.fmean(r["start_of_finetuning"] for r in results),
            "seconds": statistics.fmean(sum(r["seconds"].values()) for r in results),
        }
        lines.append(
            _line(outcome.row.name, [r["quantized"] for r in results], extra, figure, full, drop)
        )
    return lines


def _paper(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    spread = "" if figure.spread is None else f" ± {figure.spread:.2f}"
    return f"{figure.top1:.2f}{spread}"


def _line(
    name: str, values: Sequence[float], extra: dict[str, float], figure: Figure | None,
    full: float | None, paper_drop: float | None,
) -> list[str]:  # fmt: skip
    mean, spread = mean_and_spread(values)
    seconds = extra.get("seconds")
    return [
        name, _number(mean), _number(spread), str(len(values)), _number(extra.get("best")),
        _number(extra.get("start")), _paper(figure),
        _number(None if figure is None else mean - figure.top1, "+"),
        _number(None if full is None else full - mean), _number(paper_drop),
        "-" if seconds is None else f"{seconds:.0f}",
    ]  # fmt: skip


def order_note(outcomes: Sequence[Outcome], paper: dict[str, Figure]) -> str | None:
    """Whether rows come in the paper's order, and which pairs do not."""
    found = {
        o.row.name: statistics.fmean(r["quantized"] for r in o.results)
        for o in outcomes if o.results and o.row.name in paper
    }  # fmt: skip
    if len(found) < 2:
        return None
    ours = sorted(found, key=lambda n: -found[n])
    theirs = sorted(found, key=lambda n: -paper[n].top1)
    turned = [
        f"{a} / {b}" for i, a in enumerate(theirs) for b in theirs[i + 1 :] if found[a] < found[b]
    ]
    pairs = len(found) * (len(found) - 1) // 2
    verdict = "the same order" if not turned else f"{len(turned)} of {pairs} pairs the other way"
    note = f"Order found: {' > '.join(ours)}. The paper's: {' > '.join(theirs)}. So {verdict}"
    return note + (f": {', '.join(turned)}." if turned else ".")


def divergence_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Of every row with runs that have no result: which seeds, and why."""
    return [
        f"{o.row.name}, {'seed' if len(o.diverged) == 1 else 'seeds'} "
        f"{', '.join(map(str, o.diverged))}: {'; '.join(dict.fromkeys(o.diverged.values()))}."
        for o in outcomes if o.diverged
    ]  # fmt: skip


def to_markdown(document: Document) -> str:
    """Title, facts, table and notes."""
    header = document.header
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *document.lines]
    table = "\n".join("| " + " | ".join(_escape_cell(c) for c in row) + " |" for row in rows)
    facts = "\n".join(f"- {key}: {value}" for key, value in document.facts.items())
    notes = "\n\n".join(document.notes)
    return f"# {document.title}\n\n{facts}\n\n{table}\n\n{notes}\n"


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def to_csv(document: Document) -> str:
    """Header and rows; empty cells where nothing was measured."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(document.header)
    writer.writerows([["" if cell == "-" else cell for cell in line] for line in document.lines])
    return buffer.getvalue()


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "div{overflow-x:auto}table{border-collapse:collapse}"
    "th,td{padding:.3rem .7rem;border-bottom:1px solid #ccc;text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
)


def to_html(document: Document) -> str:
    """One self-contained page; everything shown is escaped."""

    def cells(tag: str, row: Sequence[Any]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in row) + "</tr>"

    title = html.escape(document.title)
    facts = "".join(
        f"<li>{html.escape(k)}: {html.escape(v)}</li>" for k, v in document.facts.items()
    )
    body = cells("th", document.header) + "".join(cells("td", line) for line in document.lines)
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in document.notes)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1><ul>{facts}</ul>"
        f"<div><table>{body}</table></div>{notes}</html>\n"
    )
