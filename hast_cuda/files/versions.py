"""Which version made a file."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("hast_cuda")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0+unknown"
