"""Which library a name of a network belongs to, and its keyword arguments."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from typing import Any

from hast_cuda.checks.values import LARGEST_CLASSES, check_range
from hast_cuda.data.image_set import DIGITS
from hast_cuda.teachers import digits, from_pytorchcv, from_timm, from_torchvision, own
from hast_cuda.teachers.library import Arguments, Library

LIBRARIES: dict[str, Library] = {"pytorchcv": from_pytorchcv, "torchvision": from_torchvision, "timm": from_timm}
# Which weights are loaded is said by ``weights``, and nothing is unpickled.
_RESERVED = ("pretrained", "root", "checkpoint_path", "cache_dir", "pretrained_cfg", "pretrained_cfg_overlay")


def is_own(model: str) -> bool:
    """Whether a name is an import path, which runs the code of a user."""
    library, colon, _ = model.partition(":")
    return bool(colon) and library not in LIBRARIES and not model.startswith(from_timm.HUB)


def find(model: str, arguments: Arguments) -> tuple[Library, str]:
    """The library of a network, and the name that it has there; ValueError: none has it, or its weights are chosen."""
    if is_own(model):
        return own, model
    reserved = [name for name in _RESERVED if name in arguments]
    if reserved:
        raise ValueError(f"model_args={', '.join(reserved)}: which weights are loaded is said by weights alone")
    if "num_classes" in arguments:
        check_range("num_classes", arguments["num_classes"], 1, LARGEST_CLASSES)
    if model.startswith(from_timm.HUB):
        return from_timm, model
    if model == DIGITS:
        return digits, model
    label, name = model.split(":", 1) if ":" in model else ("pytorchcv", model)
    library = LIBRARIES[label]
    known = library.names()
    tagless = name.partition(".")[0] if library is from_timm else name  # resnet18.a1_in1k
    if tagless not in known:
        if library is from_timm and not known:
            from_timm.build(name, {})  # says that timm is missing
        raise ValueError(_unknown(model, known))
    return library, name


def names(library: str | None = None) -> list[str]:
    """Every name that ``find`` knows, of one library or of all, sorted; pytorchcv's need no prefix.

    Example:
        >>> "torchvision:resnet18" in names("torchvision")
        True
    """
    found = [] if library else [DIGITS]
    for label, module in LIBRARIES.items():
        if library in (None, label):
            prefix = "" if module is from_pytorchcv else f"{label}:"
            found += [f"{prefix}{name}" for name in module.names()]
    return sorted(found)


def parse_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """Keyword arguments from ``name=value``; a value that is no literal of Python is a text.

    Example:
        >>> parse_arguments(["width=0.5", "blocks=(2, 2)", "act=relu"])
        {'width': 0.5, 'blocks': (2, 2), 'act': 'relu'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"model_args hold a {type(text).__name__}; expected texts like width=0.5")
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"model_args {text!r}: expected NAME=VALUE, such as width=0.5")
        if name in found:
            raise ValueError(f"model_args {text!r}: {name} is given twice")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[name] = value
    return found


def _unknown(model: str, known: Iterable[str]) -> str:
    """What to say of a name: those that are near it, and the same of another library."""
    label, colon, name = model.rpartition(":")
    near = [] if colon else [other for other in names() if other.endswith(f":{name}")]
    near += [f"{label}{colon}{other}" for other in difflib.get_close_matches(name, known, n=5)]
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return (
        f"model={model!r} is not a classifier of {label or 'pytorchcv'}, nor 'digits', 'torchvision:NAME', "
        f"'timm:NAME', 'hf-hub:OWNER/NAME', 'package.module:callable' or 'file.py:callable'{hint}"
    )
