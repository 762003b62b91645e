"""The pages of runs, as HTML and Markdown, with their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from hast_cuda.checks.typed import check_fields, typed
from hast_cuda.checks.values import as_path
from hast_cuda.data import ImageSet, InputSpec
from hast_cuda.files.whole import replace_file
from hast_cuda.report.bits_section import bits_section
from hast_cuda.report.canvas import themed
from hast_cuda.report.classes import classes_section
from hast_cuda.report.compare import comparison
from hast_cuda.report.distributions import distributions_section
from hast_cuda.report.document import Block, Code, Document, Section, Text
from hast_cuda.report.exports import exports_section
from hast_cuda.report.facts import RunFacts, read_facts
from hast_cuda.report.layer_section import layer_section
from hast_cuda.report.markdown import to_markdown
from hast_cuda.report.page import to_html
from hast_cuda.report.pictures import analyses_section, curves_section, difficulty_section, images_section
from hast_cuda.report.results import accuracy_section
from hast_cuda.report.setup import seconds_section, setup_section
from hast_cuda.report.verdict import agreement_section, headline
from hast_cuda.report.words import bits_name, method_name, network_name


@dataclass(frozen=True)
class Context:
    """What a page needs and a run directory does not hold."""

    teacher: nn.Module | None = None
    """The full-precision network, in eval mode."""
    problem: str = "none was given"
    """Why there is no teacher."""
    spec: InputSpec | None = None
    """What images it takes."""
    command: str | None = None
    """The command line that makes the run again."""
    remarks: Sequence[str] = ()
    """What to know before running it, or why there is none."""
    test: ImageSet | None = None
    """Labelled images as it takes them, for accuracy by class."""
    names: Sequence[str] = ()
    """Of its classes; empty: they are numbers."""

    def __post_init__(self) -> None:
        check_fields(self)


@typed
def write_report(run: Path | str, context: Context | None = None, out: Path | None = None) -> Path:
    """Write a page about one run, its Markdown twin and their pictures.

    Args:
        run: run directory, finished or not.
        context: the network and the command; without it the page says what it lacks.
        out: of the page, NAME.html; default ``<run>/report.html``. NAME.md and a folder NAME with
            the pictures are beside it.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: not a run directory. ValueError: a corrupt file, a network of another
            run, or an ``out`` that is not .html. ImportError: no matplotlib.
    """
    facts, context = read_facts(as_path("run", run)), context or Context()
    page = _page(out or facts.path / "report.html")
    with themed():
        document = _document(facts, context, page.with_suffix(""))
    return _write(document, page)


@typed
def write_comparison(runs: Sequence[Path | str], out: Path | None = None) -> Path:
    """Write a page that compares runs; default ``<first run>/report/comparison.html``.

    Raises:
        ValueError: fewer than two runs, and as :func:`write_report`, also for the other errors.
    """
    if len(runs) < 2:
        raise ValueError(f"runs has {len(runs)} directories; a comparison needs at least 2")
    found = [read_facts(as_path("runs", run)) for run in runs]
    page = _page(out or found[0].path / "report" / "comparison.html")
    with themed():
        document = comparison(found, page.with_suffix(""))
    return _write(document, page)


def _page(path: Path) -> Path:
    """``path``, with the folder for its pictures beside it."""
    path = as_path("out", path)
    if path.suffix != ".html":
        raise ValueError(f"out is {path}; expected a name that ends with .html")
    path.with_suffix("").mkdir(parents=True, exist_ok=True)
    return path


def _write(document: Document, page: Path) -> Path:
    texts = {page: to_html(document), page.with_suffix(".md"): to_markdown(document, page.parent)}
    for path, text in texts.items():
        with replace_file(path) as temporary:
            # A file name that is no text must not cost the page.
            temporary.write_text(text, encoding="utf-8", errors="replace")
    return page


def _document(facts: RunFacts, context: Context, folder: Path) -> Document:
    layers = layer_section(facts, context.teacher, context.problem)  # refuses another network
    sections = (
        accuracy_section(facts, folder),
        agreement_section(facts),
        classes_section(facts, context.teacher, context.test, context.names, folder),
        exports_section(facts),
        setup_section(facts),
        images_section(facts, context.spec, context.names, folder),
        curves_section({facts.name: facts}, folder),
        layers,
        bits_section(facts, folder),
        distributions_section(facts, context.teacher, folder),
        difficulty_section(facts, context.teacher, folder),
        analyses_section(facts),
        seconds_section(facts),
        _command_section(facts, context),
    )
    title = ", ".join(part for part in (network_name(facts), method_name(facts), bits_name(facts)) if part != "-")
    return Document(title, headline(facts), [s for s in sections if s is not None])


def _command_section(facts: RunFacts, context: Context) -> Section:
    blocks: list[Block] = [] if context.command is None else [Code(context.command)]
    if context.command is None and not context.remarks:
        blocks = [Text("The page was made without the command line of the run.")]
    blocks += [Text(remark) for remark in context.remarks]
    return Section("Run it again" if facts.finished else "Go on with it", blocks)
