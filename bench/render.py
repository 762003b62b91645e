"""Writes the tables of docs/benchmarks.md from bench/results/*.json, between its markers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import iteration_tables
from iteration_tables import line

ROOT = Path(__file__).parents[1]
START, END = "<!-- results: start -->\n", "<!-- results: end -->\n"
HAST, COPY = "hast_cuda", "copy"
Row = dict[str, Any]


def table(document: dict[str, Any]) -> str:
    """The section of one results file: its provenance, then its tables."""
    build, versions = document["build"], document["versions"]
    names = ("python", "torch", "nvidia-modelopt", "brevitas", "triton")
    parts = [document["device"], f"{document['cores']} cores"]
    parts += [f"driver {document['driver']}"] if document["driver"] else []
    parts += [f"{name} {versions[name]}" for name in names if name in versions]
    parts += [f"{build.get('compiler')}, CPU kernels {build.get('cpu_isa')}"]
    parts += [f"CUDA {build.get('cuda')}", f"commit {document['commit']}", document["date"]]
    lines = [f"### {document['stem']}: {document['device']}", "", ", ".join(parts) + ".", ""]
    if document["malloc"]:
        settings = " ".join(f"{name}={value}" for name, value in document["malloc"].items())
        lines += [f"Allocator: `{settings}`.", ""]
    lines += [f"`{document['command']}`", ""]
    tables = iteration_tables.TABLES.get(document["stem"], _ops)
    return "\n".join([*lines, *tables(document)]) + "\n"


def has_table(document: dict[str, Any]) -> bool:
    """Whether it holds timings of ops or iterations."""
    rows = document.get("rows") or [{}]
    return document["stem"] in iteration_tables.TABLES or "op" in rows[0]


def _ops(document: dict[str, Any]) -> list[str]:
    """A table per op, threads and clock."""
    lines: list[str] = []
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in document["rows"]:
        groups.setdefault((row["op"], row["threads"], row["clock"]), []).append(row)
    for (op, threads, clock), rows in groups.items():
        lines += _group(op, threads, clock, rows)
    return lines


def _group(op: str, threads: int, clock: str, rows: list[Row]) -> list[str]:
    names = [name for name in rows[0]["results"] if name != HAST]
    shown = [n for n in names if any("absent" not in r["results"][n] for r in rows)]
    cuda = clock.startswith("cuda")
    where = clock if cuda else f"{threads} thread{'s' if threads > 1 else ''}, {clock}"
    head = ["case", "hast_cuda", "spread", "% of copy", *(n for n in shown if n != COPY)]
    head += ["peak MB", *(["loop", "called", "launches"] if cuda else [])]
    lines = [f"**{op}** ({where})", "", line(head), line(["---"] * len(head))]
    for row in rows:
        results = row["results"]
        ours = results[HAST]
        cells = [row["case"], f"{ours['p50_ms']:.3f} ms"]
        limit = ours["copy_percent"]
        cells += [f"{ours['p20_ms']:.3f} to {ours['p80_ms']:.3f}", "" if limit is None else f"{limit:.0f}"]
        cells += [_ratio(results[n], ours) for n in shown if n != COPY]
        cells += [f"{ours['peak_bytes'] / 1e6:.1f}"]
        cells += [f"{ours['loop_ms']:.3f}", f"{ours['eager_ms']:.3f}", str(ours["launches"])] if cuda else []
        lines.append(line(cells))
    reasons: dict[str, set[str]] = {}
    for row in rows:
        for name in names:
            if "absent" in row["results"][name]:
                reasons.setdefault(f"{name}: {row['results'][name]['absent']}", set()).add(row["case"])
    absent = [
        reason if len(cases) == len(rows) else f"{reason} ({', '.join(sorted(cases))})"
        for reason, cases in reasons.items()
    ]
    return [*lines, "", *([f"Absent: {'; '.join(absent)}.", ""] if absent else [])]


def _ratio(other: dict[str, Any], ours: dict[str, Any]) -> str:
    if "absent" in other:
        return "absent"
    ratio = other["p50_ms"] / ours["p50_ms"]
    text = f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"
    return text if ratio >= 1 else f"**{text}**"


def render(page: str, documents: list[dict[str, Any]]) -> str:
    """``page`` with what stands between the markers replaced."""
    head, start, rest = page.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        raise ValueError(f"the page needs the markers {START.strip()} and {END.strip()}")
    return head + START + "\n" + "\n".join(map(table, documents)) + "\n" + END + tail


def main() -> None:
    """Render all results of a folder into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    flags = parser.parse_args()
    found = sorted(flags.results.glob("*.json"))
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in found]
    # Exports, ranks and long runs have their place in the pages about them.
    documents = [document for document in documents if has_table(document)]
    text = render(flags.page.read_text(encoding="utf-8"), documents)
    flags.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
