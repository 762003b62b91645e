"""What was exported from a run, two rows per record of its ``exports`` folder."""

from __future__ import annotations

from typing import Any

from hast_cuda.report.document import Block, Section, Table, Text
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.words import amount, number, shown

_FILES = ("kind", "file", "operators", "size", "of float", "bits per weight", "latency", "float latency")
_CHECKS = ("kind", "checked on", "same class, %", "top-1, %", "PyTorch's top-1, %", "cosine", "largest difference")


def exports_section(facts: RunFacts) -> Section | None:
    """Size, checks and latency of every export; None where there is none.

    A record may lack any entry and have others: programs of another version may have written it.
    """
    if not facts.exports:
        return None
    blocks: list[Block] = [
        Table(_FILES, [_file(record) for record in facts.exports], numbers=3),
        Table(_CHECKS, [_check(record) for record in facts.exports], numbers=2),
        Text(
            "Bits per weight are those stored, scales included. Same class, cosine and largest "
            "difference compare the file's outputs with those of the quantized PyTorch network."
        ),
    ]
    return Section("Exports", blocks)


def _file(record: dict[str, Any]) -> list[str]:
    latency = _part(record, "latency")
    size, whole = record.get("bytes"), record.get("float_bytes")
    of_float = "-"
    if isinstance(size, (int, float)) and isinstance(whole, (int, float)) and whole:
        of_float = f"{100 * size / whole:.1f} %"
    return [
        shown(record.get("kind")),
        shown(record.get("file")),
        shown(record.get("nodes")),
        amount(size),
        of_float,
        number(record.get("weight_bits")),
        _latency(latency, "milliseconds"),
        _latency(latency, "float_milliseconds"),
    ]


def _check(record: dict[str, Any]) -> list[str]:
    checks = _part(record, "checks")
    return [
        shown(record.get("kind")),
        _images(checks),
        number(checks.get("top1_agreement")),
        number(checks.get("top1")),
        number(checks.get("student_top1")),
        number(checks.get("cosine"), ".6f"),
        number(checks.get("largest_difference"), ".2g"),
    ]


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _images(checks: dict[str, Any]) -> str:
    if not checks:
        return "not checked"
    return f"{shown(checks.get('images'))} images, {shown(checks.get('source'))}"


def _latency(latency: dict[str, Any], name: str) -> str:
    if (time := number(latency.get(name))) == "-":
        return "-"
    conditions = [
        f"{what} {shown(latency[key])}"
        for key, what in (("batch", "batch"), ("threads", "threads"))
        if latency.get(key) is not None
    ]
    return f"{time} ms" + (f" ({', '.join(conditions)})" if conditions else "")
