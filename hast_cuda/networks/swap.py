"""Replace modules of a network by type, wherever they are registered."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import nn

_OWN = frozenset(vars(nn.Module()))  # registrations and hooks
_HOOKS = tuple(name for name in _OWN if "hook" in name and "state_dict" not in name)


def swap_modules(model: nn.Module, convert: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """Put ``convert(name, module)`` where it is a module; edits ``model``, returns the new root.

    Children of a replaced module are not visited. A module registered under several names is
    converted once, under its first name, and replaced everywhere: under all names, in lists and
    dicts that a module keeps, and in calls of its hooks.
    """
    done: dict[nn.Module, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> nn.Module:
        if module in done:
            return done[module]
        replacement = convert(name, module)
        done[module] = module if replacement is None else replacement
        if replacement is not None:
            _give_hooks(module, replacement)
        else:
            for key, child in list(module.named_children()):
                visited = visit(f"{name}.{key}" if name else key, child)
                if visited is not child:
                    setattr(module, key, visited)
            # named_children lists a child registered twice only once: catch the other names
            for key, other in module._modules.items():
                if other is not None and done.get(other, other) is not other:
                    setattr(module, key, done[other])
        return done[module]

    root, seen = visit("", model), set[int]()
    for module in root.modules():
        for key, value in vars(module).items():
            if key not in _OWN:
                vars(module)[key] = _renewed(value, done, seen)
    return root


def _give_hooks(old: nn.Module, new: nn.Module) -> None:
    """The very dicts, so that handles still remove what they stand for; a module that is wrapped keeps its own."""
    if not any(old is m for m in new.modules()) and not any(new is m for m in old.modules()):
        for name in _HOOKS:
            setattr(new, name, getattr(old, name))


def _renewed(value: Any, done: dict[nn.Module, nn.Module], seen: set[int]) -> Any:
    """A reference beside the registration, or lists, tuples and dicts of them, to the new modules."""
    if isinstance(value, nn.Module):
        return done.get(value, value)
    if id(value) in seen:
        return value
    if isinstance(value, (list, deque)):
        seen.add(id(value))
        for index, found in enumerate(value):
            value[index] = _renewed(found, done, seen)
    elif isinstance(value, dict):
        seen.add(id(value))
        value.update({key: _renewed(found, done, seen) for key, found in value.items()})
    elif type(value) is tuple:
        return tuple(_renewed(found, done, seen) for found in value)
    elif type(value) in (set, frozenset):
        return type(value)(_renewed(found, done, seen) for found in value)
    return value
