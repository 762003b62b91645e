"""Several runs on one page: accuracies, curves, and the settings in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hast_cuda.files.json_values import flat
from hast_cuda.loops.progress import duration
from hast_cuda.report.document import Block, Document, Section, Table, Text, Warn
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.pictures import curves_section
from hast_cuda.report.verdict import drop_of, missing
from hast_cuda.report.words import bits_name, method_name, network_name, number, shown

_TEXTS = 4  # columns


def comparison(runs: Sequence[RunFacts], folder: Path) -> Document:
    """The page of several runs; pictures go to ``folder``."""
    named = _named(runs)
    unfinished = [
        Warn(f"{name} is not finished. {' '.join(missing(facts))}")
        for name, facts in named.items()
        if not facts.finished
    ]
    tests = {name: _test(facts) for name, facts in named.items() if facts.result is not None}
    notes: list[Block] = [
        Text("Kept is the result of a run; best seen was chosen by test accuracy. Drop: full precision minus kept.")
    ]
    if len(set(tests.values())) > 1:
        notes.append(Warn("The runs were not tested on the same images: compare drops with care."))
    rows = [_row(name, facts) for name, facts in named.items()]
    table = Table(tuple(rows[0]), [tuple(row.values()) for row in rows], numbers=_TEXTS)
    return Document(
        f"{len(runs)} runs compared",
        unfinished,
        [Section("Runs", [table, *notes]), curves_section(named, folder), _settings(named)],
    )


def _named(runs: Sequence[RunFacts]) -> dict[str, RunFacts]:
    """By the name of the directory, or the whole path where that is not enough; ValueError: one that is given twice."""
    count = Counter(facts.name for facts in runs)
    named = {(f.name if count[f.name] == 1 else str(f.path)): f for f in runs}
    if len(named) < len(runs) or len({f.path.resolve() for f in runs}) < len(runs):
        raise ValueError(f"a run is given twice: {', '.join(str(f.path) for f in runs)}")
    return named


def _test(facts: RunFacts) -> str:
    """What tells sets of test images apart, as far as the run says."""
    return shown([facts.config.get("data"), (facts.result or {}).get("num_test_images")])


def _row(name: str, facts: RunFacts) -> dict[str, str]:
    """Cells by column."""
    result = facts.result or {}
    return {
        "run": name,
        "network": network_name(facts),
        "method": method_name(facts),
        "bits": bits_name(facts),
        "full precision, %": number(result.get("full_precision")),
        "rounded, %": number(result.get("rounded")),
        "kept, %": number(result.get("quantized")),
        "best seen, %": number(result.get("quantized_best_epoch")),
        "drop, points": number(drop_of(facts)),
        "test images": number(result.get("num_test_images"), ".0f"),
        "time": duration(sum(facts.seconds.values())) if facts.seconds else "-",
    }


def _settings(named: Mapping[str, RunFacts]) -> Section:
    """Every value of config.json, and of the environment, that is not the same in all runs."""
    found = [flat(facts.config) | flat(facts.environment, "environment") for facts in named.values()]
    keys = dict.fromkeys(key for values in found for key in values)
    rows = [(key, *(shown(values[key]) if key in values else "-" for values in found)) for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return Section("Settings that differ", [Text("None: the runs have the same settings.")])
    table = Table(("setting", *named), rows, numbers=len(named) + 1)
    return Section("Settings that differ", [table])
