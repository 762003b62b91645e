"""What was exported from a run, two rows per record of its ``exports`` folder."""

from __future__ import annotations

from typing import Any, TypeGuard

from hast_cuda.report.document import Block, Facts, Section, Table, Text
from hast_cuda.report.facts import RunFacts
from hast_cuda.report.words import amount, number, shown

_FILES = ("kind", "file", "size", "of float", "bits per weight", "latency", "float latency", "of its time", "with")
_CHECKS = ("kind", "checked on", "same class, %", "top-1, %", "PyTorch's top-1, %", "cosine", "largest difference")


def exports_section(facts: RunFacts) -> Section | None:
    """Size, checks and latency of every export; None where there is none.

    A record may lack any entry and have others: programs of another version may have written it.
    """
    if not facts.exports:
        return None
    blocks: list[Block] = [
        Table(_FILES, [_file(record) for record in facts.exports], numbers=2),
        Table(_CHECKS, [_check(record) for record in facts.exports], numbers=2),
        Text(
            "Bits per weight are those stored, scales included. Same class, cosine and largest "
            "difference compare the file's outputs with those of the quantized PyTorch network."
        ),
    ]
    nodes = [(shown(record.get("kind")), shown(record.get("nodes"))) for record in facts.exports]
    operators = [pair for pair in nodes if pair[1] != "-"]
    if operators:
        blocks += [Text("Operators of each file:"), Facts(operators)]
    return Section("Exports", blocks)


def fastest(facts: RunFacts) -> list[tuple[str, str, str]]:
    """Size and time (what, how much, of what) of the export that takes the smallest part of full precision's time."""
    timed = [(ratio, record) for record in facts.exports if (ratio := _time_ratio(record)) is not None]
    if not timed:
        return []
    ratio, record = min(timed, key=lambda pair: pair[0])
    latency = _part(record, "latency")
    size = (f"size, {shown(record.get('kind'))}", amount(record.get("bytes")), f"{_size_ratio(record)} of float")
    batch = latency.get("batch")
    each = latency["milliseconds"] / (batch if _is_positive(batch) else 1)
    return [size, ("time of an image", f"{each:.3g} ms", f"{100 * ratio:.0f} % of float")]


def _is_positive(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _time_ratio(record: dict[str, Any]) -> float | None:
    latency = _part(record, "latency")
    own, plain = latency.get("milliseconds"), latency.get("float_milliseconds")
    return own / plain if _is_positive(own) and _is_positive(plain) else None


def _size_ratio(record: dict[str, Any]) -> str:
    size, whole = record.get("bytes"), record.get("float_bytes")
    return f"{100 * size / whole:.1f} %" if _is_positive(size) and _is_positive(whole) else "-"


def _file(record: dict[str, Any]) -> list[str]:
    latency = _part(record, "latency")
    ratio = _time_ratio(record)
    return [
        shown(record.get("kind")),
        shown(record.get("file")),
        amount(record.get("bytes")),
        _size_ratio(record),
        number(record.get("weight_bits")),
        number(latency.get("milliseconds"), ".2f", " ms"),
        number(latency.get("float_milliseconds"), ".2f", " ms"),
        "-" if ratio is None else f"{100 * ratio:.1f} %",
        shown([f"{what} {shown(latency[what])}" for what in ("batch", "threads") if latency.get(what) is not None]),
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
