"""What the docs say can be done: commands are known, Python blocks run, links of the README lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro

import hast_cuda
from hast_cuda.cli import VERBS, verb
from hast_cuda.cli.analyze import ANALYSES
from hast_cuda.run import zero_shot_quantize

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *(ROOT / "docs").glob("*.md")])
# Whose Python blocks need no files; an export takes seconds.
RUN = ("quickstart", "bits", "own-loop", pytest.param("deploy", marks=pytest.mark.slow))
TINY = {
    "synthesis.num_images": 16,
    "synthesis.batch_size": 16,
    "synthesis.iterations": 2,
    "reconstruction.iterations": 2,
    "finetune.iterations": 2,
    "finetune.batch_size": 8,
    "finetune.calibration_updates": 2,
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """Calls of hast-cuda in blocks, whole ones: no "...", "|" or placeholders of one's own."""
    found = []
    for language, text in blocks(page):
        if language not in ("", "bash", "sh", "console"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            _, call, rest = line.partition("hast-cuda ")
            ended = re.split(r"\s#|&&|[|>;]|\.\.\.|\$", rest)
            if call and (len(ended) == 1 or re.search(r"\s#|&&", rest)):
                found.append(shlex.split(ended[0]))
    return found


CALLS = [(page.stem, call) for page in PAGES for call in commands(page) if call and call[0] in VERBS]


def test_there_are_commands_to_check() -> None:
    assert len(CALLS) > 40
    assert {call[0] for _, call in CALLS} >= {"demo", "quantize", "evaluate", "export", "report", "analyze", "run"}


@pytest.mark.filterwarnings("ignore:get_parser:DeprecationWarning")
@pytest.mark.parametrize(
    ("page", "call"), CALLS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_commands_are_known(page: str, call: list[str]) -> None:
    name, *rest = call
    function: Callable[..., Any]
    if name == "analyze":
        function, rest = ANALYSES[rest[0]], rest[1:]
    else:
        function = verb(name)
    tyro.extras.get_parser(function).parse_args(rest)  # SystemExit where an option is unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_python_blocks_are_python(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            ast.parse(text)


@pytest.mark.parametrize("name", RUN)
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "bits":
        pytest.importorskip("scipy")
    if name == "deploy":
        pytest.importorskip("onnxscript")
    if name == "quickstart":
        pytest.importorskip("sklearn")

    def small(*given: Any, budget: str | None = None, **named: Any) -> Any:
        """The numbers of a test in place of a budget."""
        return zero_shot_quantize(*given, **named, changes=None if "method" in named else TINY, progress=False)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hast_cuda, "zero_shot_quantize", small)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    found = [text for language, text in blocks(ROOT / "docs" / f"{name}.md") if language == "python"]
    assert found
    for text in found:
        exec(compile(text, f"{name}.md", "exec"), names)


def test_links_of_the_readme() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"[ -]{re.escape(page.name)}$", text, re.MULTILINE), page.name
