"""Public names at their former places, for one release, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def moved_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for ``package``; ``homes`` are modules, or module and new name."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, last = homes[name].rpartition(".")
        module, new = (home, last) if last[0].isupper() else (homes[name], name)
        found = getattr(importlib.import_module(module), new)
        warnings.warn(
            f"{package}.{name} is {module}.{new} now; the old name ends with this release",
            DeprecationWarning,
            stacklevel=2,
        )
        return found

    return find


def moved_module(name: str, home: str, public: tuple[str, ...]) -> None:
    """Let ``name``, a module that is no more, be imported: its ``public`` names are in ``home``."""
    alias = ModuleType(name, f"Moved to :mod:`{home}`.")
    alias.__getattr__ = moved_names(name, dict.fromkeys(public, home))  # type: ignore[method-assign]
    sys.modules[name] = alias
