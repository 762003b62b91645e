"""A network of the user's own: ``module:callable``, or ``file.py:callable``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from hast_cuda.data.input_spec import NORMALIZATIONS, InputSpec
from hast_cuda.teachers.library import Arguments


def names() -> list[str]:
    """None is known before it is imported."""
    return []


def build(name: str, arguments: Arguments, num_classes: int | None = None) -> nn.Module:  # noqa: ARG001
    """What the callable gives, with the weights that it gives.

    Modules are looked for on the path and in the current folder, files from there. ImportError: ``name`` leads
    nowhere. TypeError: to something else than a network.
    """
    place, _, attribute = name.rpartition(":") if ".py:" in name else name.partition(":")
    try:
        target = getattr(_file(Path(place)) if place.endswith(".py") else _module(place), attribute)
    except (ModuleNotFoundError, FileNotFoundError, AttributeError, ValueError, TypeError) as error:
        raise ImportError(
            f"model={name!r} cannot be imported ({error}): write 'package.module:callable' or 'file.py:callable', "
            f"found on PYTHONPATH or in the current folder, {Path.cwd()}"
        ) from error
    if isinstance(target, nn.Module) and not arguments:
        return target
    if not callable(target):
        raise TypeError(f"model={name!r} is a {type(target).__name__}; it must be a callable")
    return as_network(target(**arguments), f"the result of {name}()")


def trained(name: str, arguments: Arguments) -> nn.Module:
    """As ``build``."""
    return build(name, arguments)


def spec(name: str, arguments: Arguments) -> InputSpec:  # noqa: ARG001
    """ValueError: only whoever made the network knows."""
    raise ValueError(
        f"model={name!r} is your own network, whose images are not known: give "
        f"normalization ({', '.join(NORMALIZATIONS)}, or mean/std as numbers) and image_size"
    )


def as_network(value: object, label: str) -> nn.Module:
    """``value``, or TypeError if it is no network."""
    if not isinstance(value, nn.Module):
        found = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{label} must be a torch.nn.Module instance or a name, not {found}")
    return value


def _module(name: str) -> ModuleType:
    _look_in(Path.cwd())
    return importlib.import_module(name)


def _file(path: Path) -> ModuleType:
    """A module from a file, which may import what is beside it; loaded once."""
    path = path.resolve()
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    # A name of its own where another module has the file's.
    name = path.stem if loaded is None else f"{path.stem} of {path.parent}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None or not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    _look_in(path.parent)
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _look_in(folder: Path) -> None:
    """Put a folder at the end of the path, where it hides no installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
