"""Writes the tables of docs/benchmarks.md from bench/results/*.json, between its markers."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
START, END = "<!-- results: start -->\n", "<!-- results: end -->\n"


def table(path: Path) -> str:
    """One Markdown table with its provenance."""
    document = json.loads(path.read_text(encoding="utf-8"))
    build = document["build"]
    measured = (
        f"{document['device']}, {document['threads']} threads, torch {document['torch']}, "
        f"CPU kernels {build['cpu_isa']}, CUDA {build['cuda']}, commit {document['commit']}, "
        f"{document['date']}. Milliseconds at the 20th, 50th and 80th percentile."
    )
    lines = [
        f"### {path.stem}",
        "",
        measured,
        "",
        "| op | case | implementation | p20 | p50 | p80 | GB/s | x eager |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in document["rows"]:
        times = " | ".join(f"{row[f'p{rank}_ms']:.3f}" for rank in (20, 50, 80))
        lines.append(
            f"| {row['op']} | {row['case']} | {row['implementation']} | {times} | "
            f"{row['gigabytes_per_second']:.1f} | {row['speedup_over_eager']:.2f} |"
        )
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """Replace what stands between the markers."""
    page = ROOT / "docs" / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    tables = "".join(table(p) for p in sorted((ROOT / "bench" / "results").glob("*.json")))
    page.write_text(head + START + "\n" + tables + END + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
