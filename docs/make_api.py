"""Writes docs/api.md, the reference of the public names, from signatures and docstrings.

python docs/make_api.py          # write it
python docs/make_api.py --check  # fail if it is stale
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import api_source as source
from api_markdown import anchor, cell, flat, full, inline, take_apart, targets

from hast_cuda import methods
from hast_cuda.cli import VERBS
from hast_cuda.cli.analyze import ANALYSES
from hast_cuda.cli.options import Budget, Network
from hast_cuda.loops.execution import Execution

OUT = Path(__file__).parent / "api.md"
COMMAND = "python docs/make_api.py"
MODULES = (
    "hast_cuda", "hast_cuda.run", "hast_cuda.methods", "hast_cuda.synthesis", "hast_cuda.finetune",
    "hast_cuda.posttraining", "hast_cuda.exports", "hast_cuda.nn", "hast_cuda.analysis",
    "hast_cuda.data", "hast_cuda.data.accuracy", "hast_cuda.teachers.zoo", "hast_cuda.ranks",
)  # fmt: skip
OPTIONS = {"Network": Network, "Budget": Budget, "Execution": Execution}  # of the verbs
HEAD = f"""# API reference

Made by `{COMMAND}` from signatures and docstrings; a test holds the two together.
How the parts work together: [architecture.md](architecture.md); the methods:
[methods.md](methods.md); programs that use them: [examples](../examples/README.md).
"""


def public() -> Iterator[tuple[str, str, Any]]:
    """(module, name, object) of every exported name, as often as it is exported."""
    for path in MODULES:
        module = importlib.import_module(path)
        for name in module.__all__:
            yield path, name, getattr(module, name)


def documented(thing: Any) -> bool:
    """Whether it has an entry of its own: constants and modules have none."""
    return inspect.isclass(thing) or inspect.isfunction(thing)


def homes() -> dict[int, str]:
    """Where an object has its entry: the first module that exports it, and its name."""
    found: dict[int, str] = {}
    for path, name, thing in public():
        if documented(thing):
            found.setdefault(id(thing), f"{path}.{name}")
    return found


def entry(heading: str, thing: Any) -> list[str]:
    """The blocks of one class or function."""
    doc = take_apart(source.docstring(thing))
    name = heading.rpartition(".")[2]
    blocks = [f"### {heading}", f"```python\n{source.signature(thing, name)}\n```"]
    known = doc.entries("Attributes")
    given = source.fields(thing)
    blocks += full(doc, attributes=not given)
    if given:
        rows = [
            (f"`{f.name}`", f"`{f.annotation}`", "" if f.default is None else f"`{f.default}`",
            inline(f.text or known.get(f.name, "")))
            for f in given
        ]  # fmt: skip
        blocks.append(table(("field", "type", "default", "meaning"), rows))
    members = list(source.members(thing)) if inspect.isclass(thing) else []
    if members:
        lines = [f"- `{m.signature}`: {flat(take_apart(m.docstring))}" for m in members]
        blocks += ["Methods and properties:", "\n".join(lines)]
    return blocks


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *(tuple(map(cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section(path: str, home: dict[int, str]) -> list[str]:
    """One module: what it is, its constants, its entries, and what has its entry elsewhere."""
    module = importlib.import_module(path)
    things = {name: getattr(module, name) for name in module.__all__}
    doc = take_apart(inspect.cleandoc(module.__doc__ or ""))
    blocks = [f"## {path}", *full(doc)]
    constants = [
        f"- `{name}`: " + ", ".join(f"`{value!r}`" for value in thing)
        for name, thing in things.items()
        if isinstance(thing, (tuple, dict))
    ]
    if constants:
        blocks.append("\n".join(constants))
    if path == "hast_cuda.methods":
        blocks.append(methods_table())
    own = {n: t for n, t in things.items() if home.get(id(t)) == f"{path}.{n}"}
    other = [home[id(t)] for n, t in things.items() if documented(t) and n not in own]
    if other:
        blocks.append("Also here: " + ", ".join(link(name) for name in sorted(other)) + ".")
    for name, thing in own.items():
        blocks += entry(f"{path}.{name}", thing)
    return blocks


def methods_table() -> str:
    """One line per method, from its module."""
    rows = []
    for name in methods.available():
        doc = inspect.cleandoc(getattr(methods, name).__doc__ or "")
        rows.append((f"`{name}`", inline(take_apart(doc).summary)))
    return table(("method", "what it is"), rows)


def link(heading: str) -> str:
    """To an entry."""
    return f"[`{heading}`](#{anchor(heading)})"


def command_line() -> list[str]:
    """Every verb, and the options that several have."""
    blocks = ["## Command line", "`hast-cuda VERB --help` shows the same with all defaults."]
    for name, function in (*VERBS.items(), *((f"analyze {n}", f) for n, f in ANALYSES.items())):
        blocks += verb(f"hast-cuda {name}", function)
    for name, options in OPTIONS.items():
        rows = [
            (f"`--{f.name.replace('_', '-')}`", "" if f.default is None else f"`{f.default}`",
            inline(f.text))
            for f in source.fields(options)
        ]  # fmt: skip
        blocks += [f"### {name} options", table(("option", "default", "meaning"), rows)]
    return blocks


def verb(heading: str, function: Callable[..., Any]) -> list[str]:
    """What it does, and its own options."""
    doc = take_apart(source.docstring(function))
    meaning = doc.entries("Args")
    rows: list[tuple[str, ...]] = []
    shared = []
    for name, annotation, default in source.arguments(function):
        kind = next((k for k in OPTIONS if annotation.startswith(f"Annotated[{k},")), None)
        if kind is not None:
            shared.append(f"[{kind} options](#{anchor(kind + ' options')})")
            continue
        flag = f"--{name.replace('_', '-')}"
        written = f"`{name.upper()}`" if "Positional" in annotation else f"`{flag}`"
        rows.append((written, "" if default is None else f"`{default}`", inline(meaning[name])))
    prose = full(doc)
    blocks = [f"### {heading}", *prose[: len(doc.paragraphs)]]
    if rows:
        blocks.append(table(("option", "default", "meaning"), rows))
    return blocks + ([f"And: {', '.join(shared)}."] if shared else [])


def contents(blocks: list[str]) -> str:
    """Links to every heading, one item per section."""
    lines: list[str] = []
    headings = [block.partition(" ") for block in blocks if block.startswith(("## ", "### "))]
    target = targets([heading for _, _, heading in headings])
    for level, _, heading in headings:
        if level == "##":
            lines.append(f"- **[{heading}](#{target[heading]})**")
        else:
            name = heading.rpartition(".")[2].removeprefix("hast-cuda ")
            lines[-1] += f" · [{name}](#{target[heading]})"
    return "\n".join(lines)


def render() -> str:
    """The whole page."""
    home = homes()
    blocks = [block for path in MODULES for block in section(path, home)] + command_line()
    return "\n\n".join([HEAD.strip(), contents(blocks), *blocks]) + "\n"


def main() -> None:
    """Write the page, or compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if it is stale")
    if not parser.parse_args().check:
        OUT.write_text(render(), encoding="utf-8")
    elif not OUT.exists() or OUT.read_text(encoding="utf-8") != render():
        raise SystemExit(f"{OUT.name} is stale; run: {COMMAND}")


if __name__ == "__main__":
    main()
