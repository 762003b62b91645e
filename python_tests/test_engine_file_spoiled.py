"""A student.hast that was cut short, damaged or changed on purpose is refused, whatever was changed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from engine.reading import refused
from engine.tiny import tiny, write


def test_cut_short(reader: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "student.hast", *tiny()).read_bytes()
    found = refused(reader, tmp_path, [data[:size] for size in range(0, len(data), 97)])
    assert len(found) > 50
    assert "ok" not in found


def test_any_byte_changed(reader: Path, tmp_path: Path) -> None:
    """No flipped bit stays unseen."""
    whole = write(tmp_path / "student.hast", *tiny()).read_bytes()
    draw, changed = random.Random(0), []
    for _ in range(300):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        changed.append(bytes(data))
    assert "ok" not in refused(reader, tmp_path, changed)


def test_bytes_changed_on_purpose(reader: Path, tmp_path: Path) -> None:
    """Bytes of the content and of tensors change, and the checksum with them."""
    content, tensors = tiny()
    text = json.dumps(content, sort_keys=True)
    draw, contents = random.Random(1), []
    for _ in range(250):
        characters = list(text)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(characters))
            characters[place] = draw.choice(["", draw.choice('0123456789{}[],:"-.e'), characters[place] * 2])
        spoilt = {name: tensor.clone() for name, tensor in tensors.items()}
        for name in draw.sample(sorted(spoilt), draw.randint(0, 2)):
            data = spoilt[name].view(torch.uint8).view(-1)
            data[draw.randrange(len(data))] = draw.randrange(256)
        contents.append(write(tmp_path / "student.hast", "".join(characters), spoilt).read_bytes())
    found = refused(reader, tmp_path, contents)
    assert not [line for line in found if "checksum" in line]
    assert len(set(found)) > 40  # many rules


NUMBERS = [0, -1, 1, 2, 3, 7, 255, 256, 2**24, 2**30, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64, 0.5, 1e39]


def places(found: Any, *path: Any) -> list[tuple[Any, ...]]:
    """Paths of everything within a JSON value."""
    inner = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *(place for key, value in inner for place in places(value, *path, key))]


def test_content_changed_on_purpose(reader: Path, tmp_path: Path) -> None:
    """Fields get other numbers and other types, vanish or take one another's places."""
    draw, contents = random.Random(2), []
    for _ in range(400):
        content, tensors = tiny()
        for _ in range(draw.randint(1, 3)):
            *way, key = draw.choice(places(content)[1:])
            parent: Any = content
            for part in way:
                parent = parent[part]
            other: Any = content
            for part in draw.choice(places(content)):
                other = other[part]
            other = json.loads(json.dumps(other))  # not the content within itself
            what = draw.random()
            if what < 0.1:
                del parent[key]
            else:
                parent[key] = draw.choice(NUMBERS) if what < 0.7 else draw.choice([None, True, "", [], {}, other])
        contents.append(write(tmp_path / "student.hast", content, tensors).read_bytes())
    found = refused(reader, tmp_path, contents)
    assert not [line for line in found if "checksum" in line]
    assert len(set(found)) > 120  # many rules
