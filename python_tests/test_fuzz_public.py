"""Every public function with one hostile argument: refused by name, or answered.

What the annotation forbids must be refused; what it allows may be. The ops have tests of their own,
which compare the answers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing.calls import EXCLUDED, METHODS, OWN, Case, case, cases, folder, public
from fuzzing.effort import effort
from fuzzing.hostile import drawn, forbidden, odd
from fuzzing.judge import attempt
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")
every = pytest.mark.parametrize("name", cases())


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Relative names lead to a folder that goes away."""
    monkeypatch.chdir(folder())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def texts(values: Iterable[Any]) -> set[str]:
    """Names and paths among ``values`` and the items of lists, which a message may name."""
    flat = [item for v in values for item in (v if isinstance(v, (list, tuple)) else [v])]
    return {str(item) for item in flat if isinstance(item, (str, Path)) and str(item)}


def answers(case: Case, call: dict[str, Any]) -> bool:
    """Whether it gives something; else it refuses properly."""
    # "labels" and "images" are what batches are made of
    names = {"network", "labels", "images", *case.names, *texts(call.values())}
    return attempt(lambda: case.call(call), names)[0]


def test_no_exception_is_stale() -> None:
    names = {part for name, _ in public() for part in (name, name.rpartition(".")[2])}
    assert not set(" ".join(EXCLUDED.values()).split()) - names
    assert not OWN.keys() - {*names, *METHODS, *(name.split(".")[1] for name in METHODS)}


@every
def test_what_is_forbidden_is_refused(name: str) -> None:
    tested = case(name)
    tested.call(tested.good())  # it works
    refuse(tested)


def refuse(tested: Case, **options: bool) -> None:
    """In place of each argument, whatever the others are."""
    for argument in tested.names:
        call = tested.good()
        for value in forbidden(tested.hints[argument], **options):
            assert not answers(tested, {**call, argument: value}), (argument, value)


@every
@effort(2)
@given(data=st.data())
def test_public(name: str, data: st.DataObject) -> None:
    tested = case(name)
    arguments = [name for name in tested.names if odd(tested.hints[name])]
    if arguments:
        argument = data.draw(st.sampled_from(arguments))
        answers(tested, {**tested.good(), argument: data.draw(drawn(tested.hints[argument]))})


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("calibrate", {"batches": torch.zeros(2, 3, 8, 8)}),
        ("shrink_ranges", {"power": 2**70}),
        ("load", {"network": ""}),
    ],
)
def test_what_was_found_by_all_values(name: str, given: dict[str, Any]) -> None:
    answers(case(name), case(name).good() | given)


@pytest.mark.slow
@every
def test_every_value(name: str) -> None:
    tested = case(name)
    refuse(tested, every=True)
    for argument in tested.names:
        for value in odd(tested.hints[argument]):
            answers(tested, {**tested.good(), argument: value})
