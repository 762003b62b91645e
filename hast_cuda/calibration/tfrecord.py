"""TFRecord files of images, written without TensorFlow: ``tf.train.Example`` messages, each with its checksums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_POLYNOMIAL = 0x82F63B78  # CRC-32C, reversed
_MASK = 0xA282EAD8  # of TFRecord: a checksum among data that is checksummed itself must not be its own
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def write_tfrecord(path: Path, images: Bytes, labels: Sequence[int] | None) -> None:
    """A record per image of uint8 [N, H, W, C]: ``image`` (bytes), ``height``, ``width``, ``channels``, ``label``."""
    sizes = dict(zip(("height", "width", "channels"), images.shape[1:], strict=True))
    numbers = [sizes if labels is None else {**sizes, "label": label} for label in labels or [0] * len(images)]
    records = [example(image.tobytes(), own) for image, own in zip(images, numbers, strict=True)]
    checks: dict[int, int] = {}  # by number; records of one length are checksummed side by side
    for length in {len(record) for record in records}:
        alike = [index for index, record in enumerate(records) if len(record) == length]
        rows = np.frombuffer(b"".join(records[index] for index in alike), np.uint8).reshape(len(alike), length)
        checks |= dict(zip(alike, crc32c(rows), strict=True))
    with path.open("wb") as file:
        for index, record in enumerate(records):
            length_bytes = len(record).to_bytes(8, "little")
            (check,) = crc32c(np.frombuffer(length_bytes, np.uint8)[None])
            file.write(length_bytes + _masked(check) + record + _masked(checks[index]))


def crc32c(rows: Bytes) -> list[int]:
    """CRC-32C of each row of uint8 [rows, bytes].

    Example:
        >>> [hex(check) for check in crc32c(np.frombuffer(b"123456789", np.uint8)[None])]
        ['0xe3069283']
    """
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(_POLYNOMIAL), table >> 1)
    state = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        state = table[(state ^ column) & 0xFF] ^ state >> 8
    return [int(value) ^ 0xFFFFFFFF for value in state]


def example(image: bytes, numbers: Mapping[str, int]) -> bytes:
    """A ``tf.train.Example`` of the bytes ``image`` and whole numbers of at least 0, by name."""
    features = [("image", _field(1, _field(1, image)))]
    features += [(name, _field(3, _field(1, _varint(number)))) for name, number in numbers.items()]
    return _field(1, b"".join(_field(1, _field(1, name.encode()) + _field(2, value)) for name, value in features))


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes, a string, a message or packed numbers."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def _masked(check: int) -> bytes:
    return ((check >> 15 | check << 17) + _MASK & 0xFFFFFFFF).to_bytes(4, "little")
