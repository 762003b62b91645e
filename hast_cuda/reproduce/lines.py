"""The lines of a reproduced table, the paper's values beside ours, and notes on them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hast_cuda.report.words import number
from hast_cuda.reproduce.runner import Outcome
from hast_cuda.reproduce.tables import FULL_PRECISION, Published

HEADER = (
    "row",
    "top-1, quantized",
    "spread",
    "seeds",
    "best seen",
    "before fine-tuning",
    "paper",
    "difference",
    "drop from full precision",
    "paper's drop",
    "seconds without images",
)


def lines_of(outcomes: Sequence[Outcome], paper: dict[str, Published]) -> list[list[str]]:
    """The table's cells as text, full precision first."""
    full = next((o.results[0]["full_precision"] for o in outcomes if o.results), None)
    reference = paper.get(FULL_PRECISION)
    lines = [] if full is None else [_line("full precision", [full], {}, reference, None, None)]
    for outcome in outcomes:
        name, results, value = outcome.row.name, outcome.results, paper.get(outcome.row.name)
        if not results:
            lines.append([name, outcome.absent or "-", *["-"] * 4, _paper(value), *["-"] * 4])
            continue
        drop = _drop(value, None if reference is None else reference.top1)
        extra = {
            "best": statistics.fmean(r["quantized_best_epoch"] for r in results),
            "start": statistics.fmean(r.get("reconstructed", r["start_of_finetuning"]) for r in results),
            "seconds": statistics.fmean(sum(r["seconds"].values()) for r in results),
        }
        lines.append(_line(name, [r["quantized"] for r in results], extra, value, full, drop))
    return lines


def _drop(value: Published | None, full: float | None) -> float | None:
    """From the full precision of the paper, or of the source that the value has instead."""
    full = full if value is None or value.source is None else value.full_precision
    return None if value is None or full is None else full - value.top1


def _paper(value: Published | None) -> str:
    if value is None:
        return "-"
    spread = "" if value.spread is None else f" ± {value.spread:.2f}"
    return f"{value.top1:.2f}{spread}{'' if value.source is None else ' *'}"


def _line(
    name: str,
    top1: Sequence[float],
    extra: dict[str, float],
    value: Published | None,
    full: float | None,
    paper_drop: float | None,
) -> list[str]:
    mean, best, start = statistics.fmean(top1), extra.get("best"), extra.get("start")
    return [
        name,
        number(mean),
        number(statistics.stdev(top1) if len(top1) > 1 else None),
        str(len(top1)),
        number(best),
        number(start),
        _paper(value),
        number(None if value is None else mean - value.top1, "+.2f"),
        number(None if full is None else full - mean),
        number(paper_drop),
        number(extra.get("seconds"), ".0f"),
    ]


def order_note(outcomes: Sequence[Outcome], paper: dict[str, Published]) -> str | None:
    """Whether rows come in the paper's order, and which pairs do not."""
    found = {
        o.row.name: statistics.fmean(r["quantized"] for r in o.results)
        for o in outcomes
        if o.results and o.row.name in paper and paper[o.row.name].source is None
    }
    if len(found) < 2:
        return None
    ours = sorted(found, key=lambda n: -found[n])
    theirs = sorted(found, key=lambda n: -paper[n].top1)
    turned = [f"{a} / {b}" for i, a in enumerate(theirs) for b in theirs[i + 1 :] if found[a] < found[b]]
    pairs = len(found) * (len(found) - 1) // 2
    verdict = "the same order" if not turned else f"{len(turned)} of {pairs} pairs the other way"
    note = f"Best first: {'; '.join(ours)}. The paper's: {'; '.join(theirs)}. So {verdict}"
    return note + (f": {', '.join(turned)}." if turned else ".")


def source_notes(outcomes: Sequence[Outcome], paper: dict[str, Published]) -> list[str]:
    """Of every row that the paper does not have, where its figure is from."""
    found = {name: paper[name].source for name in (o.row.name for o in outcomes) if name in paper}
    return [f"* {name} is not in the paper: {source}." for name, source in found.items() if source is not None]


def divergence_notes(outcomes: Sequence[Outcome]) -> list[str]:
    """Of every row with runs that have no result: which seeds, and why."""
    return [
        f"{o.row.name}, {'seed' if len(o.diverged) == 1 else 'seeds'} "
        f"{', '.join(map(str, o.diverged))}: {'; '.join(dict.fromkeys(o.diverged.values()))}."
        for o in outcomes
        if o.diverged
    ]
