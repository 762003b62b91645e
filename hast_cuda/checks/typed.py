"""Arguments and fields that are what their annotations say, or a TypeError that names them.

Public functions that do long or coarse work are decorated by :func:`typed`, configurations call
:func:`check_fields`. The ops have checks of their own, which cost less
(:mod:`hast_cuda.checks.tensors`); values are checked by :mod:`hast_cuda.checks.values`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
_NAMES = {
    nn.Module: "nn.Module",
    Tensor: "torch.Tensor",
    types.NoneType: "None",
    Path: "pathlib.Path",
}
_UNIONS = (typing.Union, types.UnionType)


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which then refuses arguments that are not what its annotations say.

    Items of sequences and mappings are looked at too, those of an iterable when it gives them.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        hints = _hints(function)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if name not in hints or kind is kind.VAR_KEYWORD:
                continue
            if kind is kind.VAR_POSITIONAL:
                for index, item in enumerate(value):
                    checked_value(f"{name}[{index}]", item, hints[name])
            else:
                bound.arguments[name] = checked_value(name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return checked


def check_fields(config: Any) -> None:
    """Every field of a dataclass has a value that its annotation allows."""
    kind: Any = type(config)
    hints = _hints(kind)
    for field in dataclasses.fields(config):
        checked_value(field.name, getattr(config, field.name), hints[field.name])


def checked_value(name: str, value: Any, hint: Any) -> Any:
    """``value``, or if only its items can be looked at, an iterable that looks at them.

    Raises:
        TypeError: it is not what ``hint`` says; names it, its type and what is allowed.
    """
    wrong = _wrong(name, value, hint)
    if wrong is not None:
        where, found, wanted = wrong
        message = f"{where} must be {_words(wanted)}, got {_shown(found)}"
        raise TypeError(message)
    if typing.get_origin(hint) is collections.abc.Iterable and not isinstance(value, Sequence):
        return _Items(name, value, *typing.get_args(hint))
    return value


class _Items(Iterable[Any]):
    """An iterable whose items are checked when they come."""

    def __init__(self, name: str, values: Iterable[Any], hint: Any) -> None:
        self.name, self.values, self.hint = name, values, hint

    def __iter__(self) -> Iterator[Any]:
        for index, value in enumerate(self.values):
            checked_value(f"{self.name}[{index}]", _as_tuple(value), self.hint)
            yield value


def _as_tuple(item: Any) -> Any:
    """A DataLoader gives its pairs as lists."""
    return tuple(item) if isinstance(item, list) else item


@functools.cache
def _hints(thing: Any) -> dict[str, Any]:
    return typing.get_type_hints(thing)


def _wrong(name: str, value: Any, hint: Any) -> tuple[str, Any, Any] | None:
    """(where, what is there, what was expected) of the first thing that is not as ``hint`` says."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, TypeVar):
        return _wrong(name, value, hint.__bound__ or Any)
    if hint is Any or hint is object:
        return None
    if origin in _UNIONS:
        found = [_wrong(name, value, part) for part in inner]
        if None in found:
            return None
        deeper = [w for w in found if w is not None and w[0] != name]
        return deeper[0] if deeper else (name, value, hint)
    if origin is typing.Literal:
        # which of them it is, the function itself knows best
        return None if isinstance(value, type(inner[0])) else (name, value, hint)
    if not _is(value, origin or hint):
        return name, value, hint
    return _wrong_items(name, value, origin, inner)


def _is(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (Sequence, Iterable) and isinstance(value, (str, bytes)):
        return False  # whose items are letters
    if kind is Iterable and isinstance(value, Tensor) and not value.dim():
        return False  # a number, though its class has items
    return isinstance(value, kind)


def _wrong_items(
    name: str, value: Any, origin: Any, inner: tuple[Any, ...]
) -> tuple[str, Any, Any] | None:
    if origin is tuple and inner[-1:] != (...,):
        if len(value) != len(inner):
            # of an argument the length is a matter of its value; a loop would unpack an item
            whole = types.GenericAlias(tuple, inner)
            return (name, value, whole) if "[" in name else None
        items = list(zip(value, inner, strict=True))
    elif origin in (tuple, list, Sequence) or (origin is Iterable and isinstance(value, Sequence)):
        each = _as_tuple if origin is Iterable else lambda item: item
        items = [(each(item), inner[0]) for item in value]
    elif origin in (dict, Mapping):
        keys = (_wrong(f"the key {key!r} of {name}", key, inner[0]) for key in value)
        values = (_wrong(f"{name}[{key!r}]", item, inner[1]) for key, item in value.items())
        return next((w for w in (*keys, *values) if w is not None), None)
    else:
        return None
    found = (_wrong(f"{name}[{index}]", item, hint) for index, (item, hint) in enumerate(items))
    return next((w for w in found if w is not None), None)


def _words(hint: Any) -> str:
    """What an annotation allows, to be read by people."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        return " or ".join(_words(part) for part in inner)
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple and inner[-1:] != (...,):
        return f"a tuple of {len(inner)}: {', '.join(_words(part) for part in inner)}"
    if origin in (dict, Mapping):
        return f"a mapping of {_words(inner[0])} to {_words(inner[1])}"
    if origin is collections.abc.Callable:
        return "a function"
    if origin is not None:
        return f"{_article(origin.__name__.lower())} of which each item is {_words(inner[0])}"
    if hint is types.NoneType:
        return "None"
    if hint is bool:
        return "True or False"
    if hint is float:
        return "a number"
    if hint is Any:
        return "anything"
    return _article(_NAMES.get(hint, hint.__qualname__))


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeio' or name.startswith('nn.') else 'a'} {name}"


def _shown(value: Any) -> str:
    """A value and its type, in a few characters."""
    kind = type(value).__name__
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (str, bytes, int, float, complex, types.NoneType, tuple, list)):
        text = repr(value)
        return f"{kind} {text if len(text) <= 60 else text[:57] + '...'}"
    return kind
