"""Every public function with one hostile argument: refused by name, or answered.

What the annotation forbids must be refused; what it allows may be. The ops have tests of their own,
which compare the answers.
"""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import things
from fuzzing.calls import CALLS, EXCLUDED, public
from fuzzing.effort import effort
from fuzzing.judge import attempt
from fuzzing.pools import dataclass_like, forbidden, odd
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names lead to a folder that goes away."""
    monkeypatch.chdir(things.folder())


def annotations(thing: Callable[..., Any], name: str) -> dict[str, Any]:
    """Parameters and what they may be."""
    target: Any = inspect.unwrap(thing)
    if thing.__name__ == "<lambda>":  # a method, or a constructor with arguments that are given
        path, _, method = name.rpartition(".")
        found = dict(public())
        target = found[name] if name in found else getattr(found.get(path), method, None) or thing
        target = inspect.unwrap(target)
    if inspect.isclass(target) and not dataclass_like(target):
        target = inspect.unwrap(target.__init__)
    return typing.get_type_hints(target)


def hostile(call: dict[str, Any], hints: dict[str, Any]) -> list[tuple[str, bool, Any]]:
    """(argument, whether it must be refused, value) of everything to try in place of one."""
    found: list[tuple[str, bool, Any]] = []
    for argument in sorted(call):
        hint = hints.get(argument, Any)
        found += [(argument, True, value) for value in forbidden(hint)]
        found += [(argument, False, value) for value in odd(hint)]
    return found


def texts(values: Iterable[Any]) -> set[str]:
    """Names and paths among ``values`` and the items of lists, which a message may name."""
    flat = [item for v in values for item in (v if isinstance(v, (list, tuple)) else [v])]
    return {str(item) for item in flat if isinstance(item, (str, Path)) and str(item)}


def test_every_public_name_is_fuzzed_or_excluded_for_a_reason() -> None:
    names = {name for name, _ in public()}
    missing = sorted(names - CALLS.keys() - EXCLUDED.keys())
    assert not missing, f"no hostile call for {missing}: add one to fuzzing/calls_*.py"
    assert not CALLS.keys() & EXCLUDED.keys()
    stale = {n for n in EXCLUDED if n not in names and not n.startswith("hast_cuda.")}
    assert not stale
    for name in CALLS:
        assert any(name == n or name.startswith(f"{n}.") for n in names), f"{name} is not public"


@pytest.mark.parametrize("name", CALLS)
def test_the_good_call_works(name: str) -> None:
    function, good = CALLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**good())


@pytest.mark.parametrize("name", CALLS)
@effort(10)
@given(data=st.data())
def test_public(name: str, data: st.DataObject) -> None:
    function, good = CALLS[name]
    hints = annotations(function, name)
    call = good()
    values = hostile(call, hints)
    if not values:
        return
    # One flat list, so that a campaign comes to its end when it has tried all of it.
    argument, must_refuse, call[argument] = values[data.draw(st.integers(0, len(values) - 1))]
    # "labels" and "images" are what batches are made of
    names = {"network", "labels", "images", *call, *texts(call.values())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answered, _ = attempt(lambda: function(**call), names)
    assert not (answered and must_refuse), f"{argument}={call[argument]!r} was taken"
