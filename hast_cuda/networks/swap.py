"""Replace modules of a network by type, wherever they are registered."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def swap_modules(
    model: nn.Module, convert: Callable[[str, nn.Module], nn.Module | None]
) -> nn.Module:
    """Put ``convert(name, module)`` where it is a module; edits ``model``, returns the new root.

    Children of a replaced module are not visited. A module registered under several names is
    converted once, under its first name, and replaced everywhere.
    """
    done: dict[nn.Module, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> nn.Module:
        if module in done:
            return done[module]
        replacement = convert(name, module)
        done[module] = module if replacement is None else replacement
        if replacement is None:
            for key, child in list(module.named_children()):
                visited = visit(f"{name}.{key}" if name else key, child)
                if visited is not child:
                    setattr(module, key, visited)
            # named_children lists a child registered twice only once: catch the other names
            for key, other in module._modules.items():
                if other is not None and done.get(other, other) is not other:
                    setattr(module, key, done[other])
        return done[module]

    return visit("", model)
