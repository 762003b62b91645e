"""Bytes that are no student.hast, or no JSON, are refused, and why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from engine.reading import lines, said
from engine.tiny import FORMAT

from hast_cuda.files.tensors import digest


def raw(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def metadata(**entries: Any) -> bytes:
    return raw({"__metadata__": entries})


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no student.hast, or one cut short: the file has 0 bytes"),
    "seven bytes": (bytes(7), "the file has 7 bytes"),
    "2^62": (raw({}, size=2**62), "the file has 10 bytes, its header claims 4611686018427387904"),
    "2^64 - 1": (raw({}, size=2**64 - 1), "its header claims 18446744073709551615"),
    "17 MB": (raw(b" " * 17_000_000), "the header: it has 17000000 bytes, more than 16777216"),
    "no header": (raw(b""), "no student.hast: the header: no valid JSON at byte 0: a value is missing"),
    "a list": (raw([]), "the header: it is no JSON object"),
    "deep": (raw(b"[" * 200_000), "no valid JSON at byte 65: more than 64 levels"),
    "no UTF-8": (raw(b'"\xff"'), "no valid JSON at byte 1: no valid UTF-8"),
    "entry of a number": (raw({"x": 1}), "tensor 'x': it is no JSON object"),
    "dtype": (raw({"x": entry("F16", [2], 0, 4)}, bytes(4)), "tensor 'x': its dtype is 'F16', not U8, I32, F32 or F64"),
    "negative": (raw({"x": entry("F32", [-1], 0, 4)}, bytes(4)), "tensor 'x': 'shape': an element: is -1"),
    "reversed": (raw({"x": entry("F32", [1], 4, 0)}, bytes(4)), "tensor 'x': its bytes 4 to 0 are not in the file"),
    "outside": (raw({"x": entry("F32", [2], 0, 8)}, bytes(4)), "tensor 'x': its bytes 0 to 8 are not in the file"),
    "overflow": (
        raw({"x": entry("F32", [2**33, 2**33], 0, 16)}, bytes(16)),
        r"tensor 'x': a float32 of shape \[8589934592, 8589934592\] does not have 16 bytes",
    ),
    "overflow to 0": (raw({"x": entry("U8", [2**32, 2**32], 0, 0)}), "does not have 0 bytes"),
    "9 dimensions": (raw({"x": entry("U8", [1] * 9, 0, 1)}, b"x"), "tensor 'x': it has more than 8 dimensions"),
    "three offsets": (
        raw({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"x"),
        "tensor 'x': 'data_offsets' has 3 numbers instead of 2",
    ),
    "a field of a tensor": (raw({"x": {**entry("U8", [1], 0, 1), "order": 1}}, b"x"), "there is a field 'order'"),
    "overlapping": (
        raw({"x": entry("U8", [3], 0, 3), "y": entry("U8", [3], 2, 5)}, bytes(5)),
        "the tensors: two overlap",
    ),
    "gap": (
        raw({"x": entry("U8", [3], 0, 3), "y": entry("U8", [3], 4, 7)}, bytes(7)),
        "the tensors: bytes between two are nobody's",
    ),
    "bytes behind": (raw({"x": entry("U8", [3], 0, 3)}, bytes(5)), "the tensors: they end at byte 3 of 5"),
    "metadata of a list": (raw({"__metadata__": []}), "__metadata__: it is no JSON object"),
    "metadata of numbers": (metadata(format=1), "metadata 'format': it is no text"),
    "no metadata": (raw({}), "no student.hast: its metadata has no entry 'format'"),
    "another format": (metadata(format="x" * 300), f"its format is '{'x' * 100}...', this version reads '{FORMAT}'"),
    "a format cut within ä": (metadata(format="x" + "ä" * 50), f"its format is 'x{'ä' * 49}...', this"),
    "no content": (metadata(format=FORMAT), "its metadata has no entry 'content'"),
    "no checksum": (metadata(format=FORMAT, content="{}"), "its metadata has no entry 'sha256'"),
    "wrong checksum": (
        metadata(format=FORMAT, content="{}", sha256="0" * 64),
        "the file is damaged: its checksum does not fit its contents",
    ),
    "unknown metadata": (
        metadata(format=FORMAT, content="{}", sha256=digest("{}", {}), more="x"),
        "metadata: there is an entry 'more'",
    ),
    "content no JSON": (
        metadata(format=FORMAT, content="{,}", sha256=digest("{,}", {})),
        "content: no valid JSON at byte 1: expected a key",
    ),
    "content a list": (metadata(format=FORMAT, content="[]", sha256=digest("[]", {})), "content: it is no JSON object"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_refused_file(reader: Path, tmp_path: Path, name: str) -> None:
    data, message = FILES[name]
    line = said(reader, tmp_path, data)
    assert re.search(message, line), line


JSON_REFUSED = [
    (b"", "byte 0: a value is missing"),
    (b"{} x", "byte 3: something follows the value"),
    (b"\xef\xbb\xbf{}", "byte 0: a value is missing"),
    (b"nul", "a value is missing"),
    (b"NaN", "a value is missing"),
    (b"-Infinity", "byte 1: a number without digits"),
    (b"01", "a number that begins with 0"),
    (b"1.", "a number without digits"),
    (b".5", "a value is missing"),
    (b"+1", "a value is missing"),
    (b"1e", "a number without digits"),
    (b"1e999", "byte 0: a number beyond double"),
    (b"[1,]", "byte 3: a value is missing"),
    (b"[1 2]", "byte 3: expected ',' or ']'"),
    (b'{"a":1,}', "expected a key"),
    (b"{'a':1}", "expected a key"),
    (b'{"a" 1}', "expected ':'"),
    (b'{"a":1 "b":2}', "expected ',' or '}'"),
    (b'{"a":1,"b":2,"\\u0061":3}', 'has the key "a" twice'),
    (b'"a', "byte 2: a string does not end"),
    (b'"a\n"', "a control character in a string"),
    (b'"\\x"', "an unknown escape"),
    (b'"\\', "an unknown escape"),
    (b'"\\u12g4"', "four hexadecimal digits"),
    (b'"\\ud800"', "half of a surrogate pair"),
    (b'"\\ud800\\u0041"', "half of a surrogate pair"),
    (b'"\\udc00"', "half of a surrogate pair"),
    (b'"\xc0\x80"', "no valid UTF-8"),
    (b'"\xed\xa0\x80"', "no valid UTF-8"),
    (b'"\xf4\x90\x80\x80"', "no valid UTF-8"),
    (b'"\xe2\x82"', "no valid UTF-8"),
    (b'"\xe2', "no valid UTF-8"),
    (b"[" * 66, "more than 64 levels"),
]
JSON_TAKEN = [
    b" [ ] ",
    b"\t{\r\n}",
    b'{"a":[1,-0,0.5e-3,1E+2,true,false,null,-9223372036854775808,9223372036854775808]}',
    b'"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e4\\uD83D\\uDE00\xf0\x9f\x98\x80"',
    b"1e-999",
    b"[" * 64 + b"]" * 64,
]


def test_json(reader: Path, tmp_path: Path) -> None:
    texts = [*JSON_TAKEN, *(text for text, _ in JSON_REFUSED)]
    paths = [tmp_path / str(i) for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text)
    found = lines(reader, "json", paths)
    assert found[: len(JSON_TAKEN)] == ["ok"] * len(JSON_TAKEN)
    for line, (text, message) in zip(found[len(JSON_TAKEN) :], JSON_REFUSED, strict=True):
        assert line.startswith("no valid JSON at byte "), (text, line)
        assert message in line, (text, line)
