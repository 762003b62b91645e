"""Arguments that are not what annotations say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from hast_cuda.checks.typed import check_fields, typed
from hast_cuda.run import RunDirectory, save_student
from hast_cuda.synthesis import ImageStore
from hast_cuda.teachers import load_teacher, load_weights


@typed
def function(
    count: int = 1,
    rate: float = 1.0,
    flag: bool = True,
    path: Path | str = "x",
    shape: tuple[int, int] = (1, 2),
    many: Sequence[Tensor] = (),
    named: Mapping[str, int] | None = None,
    each: Iterable[tuple[int, int]] = (),
    call: Callable[[], None] | None = None,
    which: Literal["a", "b"] = "a",
    network: nn.Module | None = None,
    *others: Tensor,
    **rest: Any,
) -> list[Any]:
    """Looks at every item of ``each``."""
    return [count, rate, flag, path, shape, many, named, list(each), which, rest]


def test_what_annotations_say_is_taken() -> None:
    function(
        2,
        3,
        False,
        Path("x"),
        (3, 4),
        [torch.zeros(1)],
        {"a": 1},
        iter([(1, 2)]),
        print,
        "c",
        nn.Identity(),
        torch.zeros(1),
        anything="x",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": [torch.zeros(2, 3)]}, r"count must be an int, got list \[a tensor \[2, 3\]\]"),
        ({"count": True}, r"count must be an int, got bool True"),
        ({"count": 1.0}, r"count must be an int, got float 1\.0"),
        ({"rate": "1"}, r"rate must be a number, got str '1'"),
        ({"flag": 1}, r"flag must be True or False, got int 1"),
        ({"path": 3}, r"path must be pathlib.Path or a str, got int 3"),
        ({"each": [(1, 2, 3)]}, r"each\[0\] must be tuple\[int, int\], got tuple \(1, 2, 3\)"),
        ({"shape": (1, "2")}, r"shape\[1\] must be an int, got str '2'"),
        ({"many": "abc"}, r"many must be Sequence\[torch\.Tensor\], got str 'abc'"),
        ({"many": [3]}, r"many\[0\] must be a torch.Tensor, got int 3"),
        ({"named": {"a": "x"}}, r"named\['a'\] must be an int"),
        ({"named": {1: 1}}, r"the key 1 of named must be a str"),
        ({"each": [(1, "x")]}, r"each\[0\]\[1\] must be an int"),
        ({"each": torch.zeros(())}, r"each must be Iterable\[tuple\[int, int\]\], got Tensor"),
        ({"each": iter([(1, 2), 3])}, r"each\[1\] must be tuple\[int, int\], got int 3"),
        ({"call": 3}, r"call must be Callable\[\[\], None(Type)?\] or None, got int 3"),
        ({"which": 3}, r"which must be Literal\['a', 'b'\], got int 3"),
        ({"network": nn.Linear}, r"network must be an nn.Module or None, got the class Linear"),
    ],
)
def test_everything_else_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        function(**given)


def test_positional_rest_is_looked_at() -> None:
    with pytest.raises(TypeError, match=r"others\[0\] must be a torch.Tensor"):
        function(1, 1.0, True, "x", (1, 2), (), None, (), None, "a", None, 3)  # type: ignore[arg-type]


def test_lists_stand_for_pairs_where_loaders_give_them() -> None:
    assert function(each=[[1, 2]])[7] == [[1, 2]]  # type: ignore[list-item]


@dataclass(frozen=True)
class Config:
    rates: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        check_fields(self)


def test_fields_are_checked() -> None:
    assert Config((1, 2.0)).rates == (1, 2.0)
    with pytest.raises(TypeError, match=r"rates must be tuple\[float, \.\.\.\], got list"):
        Config([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"rates\[0\] must be a number, got str 'x'"):
        Config(("x",))  # type: ignore[arg-type]


def test_paths_may_be_text(tmp_path: Path) -> None:
    file, network = str(tmp_path / "w.safetensors"), nn.Linear(2, 2)
    save_student(network, file, {})
    again = load_teacher(nn.Linear(2, 2), weights=file)
    load_weights(network, file)
    torch.testing.assert_close(again.state_dict(), network.state_dict(), rtol=0, atol=0)
    assert ImageStore(str(tmp_path)).directory == tmp_path
    with RunDirectory(str(tmp_path / "run"), {}, torch.device("cpu")):
        pass
    assert RunDirectory.open(str(tmp_path / "run")).path == tmp_path / "run"
    with pytest.raises(ValueError, match="path is '', the name of no file or directory"):
        load_weights(network, "")
