"""Arguments and fields that are what their annotations say, or a TypeError that names them.

Public functions that do long or coarse work are decorated by :func:`typed`, configurations call
:func:`check_fields`. The ops have checks of their own, which cost less
(:mod:`hast_cuda.checks.tensors`); values are checked by :mod:`hast_cuda.checks.values`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import operator
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn

LATER = {"later": True}
"""Metadata of a field that earlier versions did not have: its default is not written to ``config.json``."""
P = ParamSpec("P")
R = TypeVar("R")
_WORDS: dict[Any, str] = {
    int: "an int",
    float: "a number",
    bool: "True or False",
    str: "a str",
    types.NoneType: "None",
    nn.Module: "an nn.Module",
    Tensor: "a torch.Tensor",
}
_SHORT = (str, bytes, int, float, complex, types.NoneType, tuple, list)


class _Written(reprlib.Repr):
    def repr_Tensor(self, tensor: Tensor, _level: int) -> str:
        """Not its numbers, which take longer to write than anybody looks at them."""
        return f"a tensor {list(tensor.shape)}"


_WRITTEN = _Written()


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which then refuses arguments that are not what its annotations say.

    Items of sequences and mappings are looked at too, those of an iterable when it gives them.
    """

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = _checked_call(function, args, kwargs)
        return function(*bound.args, **bound.kwargs)

    return checked


def arguments_as(other: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Makes a function take the arguments of ``other``: it gets all of them by keyword, checked as ``other`` does."""

    def decorate(function: Callable[..., R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = _checked_call(other, args, kwargs)
            bound.apply_defaults()
            return function(**bound.arguments)

        called.__wrapped__ = other  # whose signature and annotations these are
        return called

    return decorate


def _checked_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.BoundArguments:
    signature, hints = _signature(function), _hints(function)
    bound = signature.bind(*args, **kwargs)
    for name, value in bound.arguments.items():
        kind, hint = signature.parameters[name].kind, hints.get(name, Any)
        if kind is kind.VAR_POSITIONAL:
            hint = types.GenericAlias(tuple, (hint, ...))
        if kind is not kind.VAR_KEYWORD:
            bound.arguments[name] = checked_value(name, value, hint)
    return bound


def check_fields(config: Any) -> None:
    """Every field of a dataclass has a value that its annotation allows."""
    kind: Any = type(config)
    for field in dataclasses.fields(config):
        checked_value(field.name, getattr(config, field.name), _hints(kind)[field.name])


@functools.cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


@functools.cache
def _hints(thing: Any) -> dict[str, Any]:
    return typing.get_type_hints(thing)


def checked_value(name: str, value: Any, hint: Any) -> Any:
    """``value``, or if only its items can be looked at, an iterable that looks at them."""
    if isinstance(hint, TypeVar):
        hint = hint.__bound__ or Any
    if hint is Any or hint is object:
        return value
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _one_of(name, value, inner)
    # which of a Literal's it is, the function itself knows best
    kind = type(inner[0]) if origin is typing.Literal else origin
    if not _is(value, kind):
        raise _refusal(name, value, hint)
    if kind is Iterable and not isinstance(value, Sequence):
        return _Items(name, value, inner[0])
    for where, item, each in _items(name, value, kind, inner):
        checked_value(where, item, each)
    return value


def _one_of(name: str, value: Any, hints: tuple[Any, ...]) -> Any:
    deeper = None
    for hint in hints:
        try:
            return checked_value(name, value, hint)
        except TypeError as error:
            if not str(error).startswith(f"{name} must"):
                deeper = deeper or error
    raise (deeper or _refusal(name, value, *hints)) from None


def _is(value: Any, kind: Any) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind in (Sequence, Iterable) and isinstance(value, (str, bytes)):
        return False  # whose items are letters
    if kind is Iterable and isinstance(value, Tensor) and not value.dim():
        return False  # a number, though its class has items
    return isinstance(value, (int, float) if kind is float else kind)


@dataclasses.dataclass
class _Items:
    """An iterable whose items are checked when they come."""

    name: str
    values: Iterable[Any]
    hint: Any

    def __iter__(self) -> Iterator[Any]:
        for index, item in enumerate(self.values):
            checked_value(f"{self.name}[{index}]", _as_tuple(item), self.hint)
            yield item

    def __length_hint__(self) -> int:
        return operator.length_hint(self.values)


def _as_tuple(item: Any) -> Any:
    """A DataLoader gives its pairs as lists."""
    return tuple(item) if isinstance(item, list) else item


def _items(name: str, value: Any, kind: Any, inner: tuple[Any, ...]) -> Iterator[tuple[str, Any, Any]]:
    """(name, item, annotation) of everything in a container."""
    if kind in (dict, Mapping):
        for key, item in value.items():
            yield f"the key {key!r} of {name}", key, inner[0]
            yield f"{name}[{key!r}]", item, inner[1]
    elif kind is tuple and inner[-1:] != (...,):
        if len(value) != len(inner):
            if "[" in name:  # a loop would unpack an item
                raise _refusal(name, value, types.GenericAlias(tuple, inner))
            return  # of an argument the length is a matter of its value
        for index, (item, hint) in enumerate(zip(value, inner, strict=True)):
            yield f"{name}[{index}]", item, hint
    elif kind in (tuple, list, Sequence, Iterable):
        for index, item in enumerate(value):
            yield f"{name}[{index}]", _as_tuple(item) if kind is Iterable else item, inner[0]


def _refusal(name: str, value: Any, *hints: Any) -> TypeError:
    wanted = " or ".join(_WORDS.get(hint) or inspect.formatannotation(hint) for hint in hints)
    kind = type(value).__name__
    found = f"{kind} {_WRITTEN.repr(value)}" if isinstance(value, _SHORT) else kind
    found = f"the class {value.__name__}" if isinstance(value, type) else found
    return TypeError(f"{name} must be {wanted.replace('collections.abc.', '')}, got {found}")
