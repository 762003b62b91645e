"""Where quantizers go so that between the layers of a network there are integers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import fx, nn

from hast_cuda.nn.integer_values import (
    ACTIVATION,
    CONCATENATION,
    CONSTANT,
    IMAGE,
    LAYER,
    LOGITS,
    MOVED,
    POOL,
    RELU,
    SAME,
    Values,
)

_NOT_COMPUTED = (CONSTANT, LOGITS, RELU, MOVED, SAME, CONCATENATION)
_ADVICE = "give it a module of its own (nn.Identity behind it is enough)"


@dataclass
class Sites:
    """Modules, by their names in the network, that get a quantizer."""

    inputs: dict[str, bool] = field(default_factory=dict)
    """Layers with one in front; whether it has the bits of activations, not those of sums."""
    outputs: dict[str, bool] = field(default_factory=dict)
    """Modules with one behind."""
    entries: dict[str, bool] = field(default_factory=dict)
    """Blocks with one in front."""
    groups: list[tuple[str, ...]] = field(default_factory=list)
    """Modules whose outputs are joined and share one quantizer; ReLU among them, which has its own."""
    calls: dict[str, int] = field(default_factory=dict)
    """How often a forward pass calls each module."""


def find_sites(model: nn.Module, kept: Callable[[str], bool]) -> Sites:
    """All places for quantizers beside those in the place of ReLU and ReLU6 modules.

    ``kept`` says whose output stays in full precision. ValueError: torch.fx cannot follow the network, or a value has
    no place for a quantizer.
    """
    return _Finder(Values(model), kept).find()


class _Finder:
    def __init__(self, values: Values, kept: Callable[[str], bool]) -> None:
        self.values, self.kept, self.sites = values, kept, Sites(calls=dict(values.calls))

    def find(self) -> Sites:
        values = self.values
        if renamed := values.edited_names():
            raise ValueError(
                f"{self._described(renamed[0])} changes in place a map that is read again, and quantizers stand where "
                "maps are made: give its module inplace=False, or write x = x + y instead of x += y"
            )
        joints = [n for n in values.nodes if values.kinds[n] == CONCATENATION and not values.fused(n)]
        late = [joint for joint in joints if self._quantized_late(joint)]
        done = {value for joint in late for value in values.inputs(joint)}
        for node in values.nodes:
            if values.kinds[node] not in _NOT_COMPUTED and node not in done and not values.fused(node):
                self._place(node)
        for joint in joints:
            if joint in late:
                activations = all(values.kinds[value] == ACTIVATION for value in values.inputs(joint))
                self._in_front(joint, role=activations)
            else:
                self._join([self._joined(root, joint) for root in values.roots(joint)])
        return self.sites

    def _quantized_late(self, joint: fx.Node) -> bool:
        """One quantizer behind ``joint``: where inputs, read by it alone, have no place for theirs."""
        inputs = self.values.inputs(joint)
        alone = all(self.values.users(value) == [joint] for value in inputs)
        placeless = all(value.op != "call_module" and self._block(value) is None for value in inputs)
        return alone and placeless and self._layers_alone(joint)

    def _place(self, node: fx.Node) -> None:
        kind, role = self.values.kinds[node], self.values.kinds[node] == ACTIVATION
        if kind == IMAGE or (kind == POOL and self._layers_alone(node)):
            self._in_front(node, role=role)
        elif node.op == "call_module":
            name = str(node.target)
            if self.values.calls[name] > 1 and not self.kept(name):
                raise ValueError(
                    f"module {name!r} is called {self.values.calls[name]} times, and one range cannot serve all of "
                    "its outputs: give each call a module of its own"
                )
            self._behind(name, role=role)
        elif (block := self._block(node)) is not None:
            self._behind(block, role=role)
        elif self._layers_alone(node):
            self._in_front(node, role=role)
        elif (block := self._entered(node)) is not None:
            if not self.kept(block):
                self.sites.entries[block] = role
        else:
            raise ValueError(f"{self._placeless(node)}, and it is no module's input or output; {_ADVICE}")

    def _behind(self, name: str, *, role: bool) -> None:
        if not self.kept(name):
            self.sites.outputs[name] = role

    def _layers_alone(self, node: fx.Node) -> bool:
        readers = self.values.readers(node)
        return bool(readers) and all(self.values.kinds[reader] == LAYER for reader in readers)

    def _in_front(self, node: fx.Node, *, role: bool) -> None:
        for reader in self.values.readers(node):
            name = str(reader.target)
            if self.values.kinds[reader] != LAYER:
                raise ValueError(f"{self._placeless(node)}; {_ADVICE}")
            if self.values.calls[name] > 1:
                raise ValueError(f"layer {name!r} is called more than once, and its inputs need ranges of their own")
            if not self.kept(name):
                self.sites.inputs[name] = role

    def _block(self, node: fx.Node) -> str | None:
        """The innermost module whose output ``node`` is, and that does not read it itself."""
        found = []
        for name, given in self.values.outputs.items():
            if given == [node] and not any(name in _stack(user) for user in node.users):
                found.append(name)
        return max(found, key=len, default=None)

    def _entered(self, node: fx.Node) -> str | None:
        """The innermost block that takes ``node`` and in which all is that reads it."""
        found = [
            name
            for name, given in self.values.given.items()
            if given == [node] and all(name in _stack(user) for user in node.users) and self._has_parts(name)
        ]
        return max(found, key=len, default=None)

    def _has_parts(self, name: str) -> bool:
        return any(True for _ in self.values.modules[name].children()) if name in self.values.modules else True

    def _joined(self, root: fx.Node, joint: fx.Node) -> str | None:
        """The module whose quantizer ``root`` has; None where it is kept in full precision."""
        values = self.values
        if values.kinds[root] == RELU:
            name = str(root.target)
            return None if self.kept(name) else name
        name = str(root.target) if root.op == "call_module" else self._block(root) or ""
        if self.kept(name):
            return None
        if name not in self.sites.outputs:
            raise ValueError(
                f"{self._described(root)} is joined to others by {joint.name!r} and has no place for the grid "
                f"that they share; {_ADVICE}"
            )
        return name

    def _join(self, names: list[str | None]) -> None:
        joined = {name for name in names if name is not None}
        for group in [g for g in self.sites.groups if joined & set(g)]:
            joined |= set(group)
            self.sites.groups.remove(group)
        if len(joined) > 1:
            self.sites.groups.append(tuple(sorted(joined)))

    def _described(self, node: fx.Node) -> str:
        place = (_stack(node) or [""])[-1]
        return f"value {node.name!r} ({self.values.kinds[node]}) in {f'module {place!r}' if place else 'the forward'}"

    def _placeless(self, node: fx.Node) -> str:
        names = ", ".join(repr(reader.name) for reader in self.values.readers(node))
        return f"{self._described(node)} has no place for a quantizer: {names} read it, not layers alone"


def _stack(node: fx.Node) -> list[str]:
    """Modules in whose forward ``node`` was met."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
