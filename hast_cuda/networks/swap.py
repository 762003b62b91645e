"""Replace modules of a network by type, wherever they are registered."""

from __future__ import annotations

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

    root = visit("", model)
    for module in root.modules():
        for key, value in vars(module).items():
            if key not in _OWN:
                vars(module)[key] = _renewed(value, done)
    return root


def _give_hooks(old: nn.Module, new: nn.Module) -> None:
    """The very dicts, so that handles still remove what they stand for."""
    if old is not new:
        for name in _HOOKS:
            setattr(new, name, getattr(old, name))


def _renewed(value: Any, done: dict[nn.Module, nn.Module]) -> Any:
    """A reference beside the registration, or a list, tuple or dict of them, to the new modules."""

    def new(found: Any) -> Any:
        return done.get(found, found) if isinstance(found, nn.Module) else found

    if isinstance(value, list):
        value[:] = [new(found) for found in value]
    elif isinstance(value, dict):
        value.update({key: new(found) for key, found in value.items()})
    elif type(value) is tuple:
        return tuple(new(found) for found in value)
    return new(value)
