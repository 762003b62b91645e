"""Writes tables of the docs from bench/results/*.json, between the markers of a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iteration_tables
import summary
from iteration_tables import line

ROOT = Path(__file__).parents[1]
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


def render(page: str, lines: list[str], part: str = "results") -> str:
    """``page`` with what stands between the markers of a part replaced."""
    start, end = markers(part)
    head, found, rest = page.partition(start)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page needs the markers {start.strip()} and {end.strip()}")
    return head + start + "\n" + "\n".join(lines) + "\n\n" + end + tail


def markers(part: str) -> tuple[str, str]:
    """The lines around a part that is written."""
    return f"<!-- {part}: start -->\n", f"<!-- {part}: end -->\n"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Every results file, by its stem or, of the tables, by its name."""
    found = [*sorted(folder.glob("*.json")), *sorted((folder / "tables").glob("*.json"))]
    documents = {path.stem.removesuffix("-cpu"): json.loads(path.read_text(encoding="utf-8")) for path in found}
    return dict(documents)


def all_tables(documents: dict[str, dict[str, Any]]) -> list[str]:
    """A section per file of ops or iterations; exports, ranks and long runs have pages of their own."""
    sections = [table(d).rstrip("\n") for d in documents.values() if "stem" in d and has_table(d)]
    return "\n\n".join(sections).split("\n")


PARTS: dict[str, tuple[str, Callable[[dict[str, dict[str, Any]]], list[str]]]] = {
    "summary": ("benchmarks.md", summary.summary),
    "methods": ("which-method.md", summary.methods),
    "results": ("benchmarks-history.md", all_tables),
}


def main() -> None:
    """Render all results of a folder into the pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    flags = parser.parse_args()
    documents = read_results(flags.results)
    for part in flags.parts:
        name, lines = PARTS[part]
        path = flags.docs / name
        path.write_text(render(path.read_text(encoding="utf-8"), lines(documents), part), encoding="utf-8")


if __name__ == "__main__":
    main()
