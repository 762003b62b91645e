"""What the pickle in a torch file would do, read without doing it.

torch.load(weights_only=True) runs no foreign code, but it allocates whatever a file asks for.
"""

from __future__ import annotations

import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO

_LONGEST = 2**28  # bytes of a pickle; it holds names and sizes, no values
_MAGIC = 0x1950A86A20F9469CFC6C
_PICKLES = 4  # in front of a file of torch before 1.6: magic, protocol, system, state dict


def check_pickles(path: Path) -> None:
    """ValueError for a torch file that asks for more memory than it has contents."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about strings of what is no pickle
        _check_all(path, path.stat().st_size)


def _check_all(path: Path, size: int) -> None:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                raise ValueError("it is compressed, which torch never writes")
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    if entry.file_size > _LONGEST:
                        raise ValueError(f"its pickle has {entry.file_size} bytes")
                    with archive.open(entry) as file:
                        _check(file, None)
        return
    with path.open("rb") as raw:
        for index in range(_PICKLES):
            found = _check(raw, size if index == _PICKLES - 1 else None)
            if index == 0 and found != _MAGIC:
                return  # not of torch, which will say so


def _check(file: IO[bytes], largest: int | None) -> int | None:
    """Read one pickle, and give its last number; ValueError for what no state dict needs.

    ``largest``: number that may be in it: in the old format, how large the tensors are that follow.
    """
    last = None
    for code, value, _ in pickletools.genops(file):
        if isinstance(value, str) and value.split(" ")[-1] == "bytearray":
            raise ValueError("it makes a bytearray of its own, which no tensor needs")
        if isinstance(value, int) and code.name not in ("PROTO", "FRAME"):
            if largest is not None and value > largest:
                raise ValueError(f"it asks for {value} numbers and has {largest} bytes")
            last = value
    return last
