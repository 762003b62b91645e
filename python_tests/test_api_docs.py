from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import api_source
import make_api
import pytest
from api_markdown import full, inline, take_apart, targets

from hast_cuda.cli import VERBS
from hast_cuda.methods import available

DOCS = Path(make_api.__file__).parent
HOMES = make_api.homes()
OWN = [
    (f"{path}.{name}", thing)
    for path, name, thing in make_api.public()
    if HOMES.get(id(thing)) == f"{path}.{name}"
]


def test_the_reference_is_fresh() -> None:
    stale = "docs/api.md is stale; run: python docs/make_api.py"
    assert (DOCS / "api.md").read_text(encoding="utf-8") == make_api.render(), stale


@pytest.mark.parametrize(("home", "thing"), OWN, ids=[home for home, _ in OWN])
def test_public_names_are_documented(home: str, thing: Any) -> None:
    doc = take_apart(api_source.docstring(thing))
    assert doc.summary, f"{home} has no docstring"
    known = doc.entries("Attributes")
    for field in api_source.fields(thing):
        assert field.text or field.name in known, f"{home}.{field.name}: no string below it"
    for member in api_source.members(thing) if inspect.isclass(thing) else ():
        assert member.docstring, f"{home}.{member.signature}: no docstring"
    if dataclasses.is_dataclass(thing):
        fields = [field.name for field in dataclasses.fields(thing)]
        assert [field.name for field in api_source.fields(thing)] == fields
    elif inspect.isfunction(thing):
        assert list(inspect.signature(thing).parameters) == re.findall(
            r"^    \**(\w+)", api_source.signature(thing, "f", wrap_at=0), re.MULTILINE
        )
        unknown = doc.entries("Args").keys() - inspect.signature(thing).parameters.keys()
        assert not unknown, f"{home}: Args names parameters that it does not have"


def test_the_page_has_everything() -> None:
    page = make_api.render()
    headings = re.findall(r"^##+ (.*)$", page, re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) >= {home for home, _ in OWN} | {f"hast-cuda {verb}" for verb in VERBS}
    assert all(f"| `{name}` |" in page for name in available())
    links = re.findall(r"\]\(#([^)]*)\)", page)
    assert set(links) == set(targets(headings).values())
    for link in re.findall(r"\]\(([^#)][^)]*)\)", page):
        assert (DOCS / link).exists(), link
    assert str(Path.home()) not in page
    assert " at 0x" not in page


def test_the_page_does_not_depend_on_the_terminal(tmp_path: Path) -> None:
    command = [sys.executable, str(DOCS / "make_api.py"), "--check"]
    environment = {"COLUMNS": "30", "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_check_refuses_a_stale_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_api, "OUT", tmp_path / "api.md")
    monkeypatch.setattr(make_api, "render", lambda: "new")
    monkeypatch.setattr(sys, "argv", ["make_api.py", "--check"])
    for write in (None, "old"):
        if write is not None:
            make_api.OUT.write_text(write)
        with pytest.raises(SystemExit, match=r"stale; run: python docs/make_api\.py"):
            make_api.main()
    monkeypatch.setattr(sys, "argv", ["make_api.py"])
    make_api.main()
    assert make_api.OUT.read_text() == "new"


@dataclasses.dataclass
class Sample:
    """One."""

    first: tuple[int, int] = (1, 2)
    """Has a text that goes
    on here."""
    second: dict[str, int] = dataclasses.field(default_factory=dict)
    third: str | None = None
    """Last."""

    @property
    def size(self) -> int:
        """Its size."""
        return 1

    def call(self, a: int, /, *rest: int, key: str = "x|y", **others: Any) -> None:
        """Calls."""


def test_source_is_read_as_it_is_written() -> None:
    first, second, third = api_source.fields(Sample)
    assert (first.annotation, first.default) == ("tuple[int, int]", "(1, 2)")
    assert first.text == "Has a text that goes\non here."
    assert (second.default, second.text) == ("dict()", "")
    assert (third.annotation, third.default, third.text) == ("str | None", "None", "Last.")
    size, call = api_source.members(Sample)
    assert size == api_source.Member("size -> int", "Its size.")
    expected = 'call(a: int, /, *rest: int, key: str = "x|y", **others: Any) -> None'
    assert call == api_source.Member(expected, "Calls.")


def test_docstrings_become_markdown() -> None:
    text = (
        "Does :func:`hc.x` to ``a*b``, 2*3 times <all>.\n\nUse it so::\n\n    x(1)\n\nArgs:\n"
        "    a: one\n        and more.\n    **b: two.\n\nReturns:\n    [N],\n    or none.\n\n"
        "Raises:\n    ValueError: no."
    )
    assert full(take_apart(text)) == [
        r"Does `hc.x` to `a*b`, 2\*3 times \<all>.", "Use it so:", "```python\nx(1)\n```",
        "- `a`: one and more.\n- `**b`: two.", "**Returns** [N], or none.",
        "**Raises** ValueError: no.",
    ]  # fmt: skip
    assert inline("a\n  b") == "a b"
    assert targets(["A.b", "a.B", "c d"]) == {"A.b": "ab", "a.B": "ab-1", "c d": "c-d"}
