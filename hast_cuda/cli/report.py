"""``hast-cuda report``: a page about a run, or about several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import nn

from hast_cuda.cli.command import command_of, shell
from hast_cuda.cli.network import ANY_NETWORK, Network, network_of, opened
from hast_cuda.cli.options import Flat, labelled_images
from hast_cuda.data import ImageSet, InputSpec
from hast_cuda.data.input_spec import class_names
from hast_cuda.report import Context, write_comparison, write_report
from hast_cuda.report.facts import RunFacts, read_facts
from hast_cuda.report.words import network_name
from hast_cuda.run import load_student

# Why the network that a run names may not be there any more: files, packages, downloads.
_ABSENT = (ValueError, TypeError, OSError, ImportError, RuntimeError)


def report(
    run: tyro.conf.Positional[Path],
    others: tyro.conf.Positional[tuple[Path, ...]] = (),
    network: Annotated[Network, Flat] = ANY_NETWORK,
    out: Path | None = None,
) -> dict[str, Any]:
    """Write a page about a run, finished or not, as HTML and Markdown; or compare several runs.

    The page of one run is RUN/report.html, that of several RUN/report/comparison.html. Beside it
    are the same as Markdown (.md) and a folder of the same name with the pictures.

    Args:
        run: run directory.
        others: run directories to compare it with.
        network: the full-precision network, if it is not the one that the run names.
        out: name of the page, ending with .html.
    """
    given = network.given()
    if not others:
        page = write_page(run, network, out)
    elif given:
        raise ValueError(f"{', '.join(given)}: only for the page of one run; a comparison loads no network")
    else:
        page = write_comparison((run, *others), out)
    print(f"written: {page}")
    return {"report": page}


def write_page(
    run: Path,
    network: Network = ANY_NETWORK,
    out: Path | None = None,
    loaded: tuple[nn.Module, InputSpec] | None = None,
) -> Path:
    """The page of one run.

    Args:
        run: run directory.
        network: replaces what the run names.
        out: of the page.
        loaded: the network and its input, of a caller that has them already.

    Raises:
        As :func:`hast_cuda.report.write_report`; and if a network was given that cannot be loaded
        or is not that of the run. If one that the run names cannot be loaded the page says so.
    """
    facts = read_facts(run)
    teacher, spec, problem = (*loaded, "") if loaded else _teacher(facts, network)
    command, remarks = _command(facts)
    names = () if spec is None else class_names(network_name(facts), spec.num_classes)
    test, missing = _labelled(facts, spec if teacher is not None else None)
    return write_report(run, Context(teacher, problem, spec, command, [*remarks, *missing], test, names), out)


def _labelled(facts: RunFacts, spec: InputSpec | None) -> tuple[ImageSet | None, list[str]]:
    """The test images that the run names, and why there are none though it does."""
    data, limit = facts.config.get("data"), facts.config.get("test_limit")
    if not isinstance(data, str) or spec is None or facts.result is None:
        return None, []
    try:
        return labelled_images(data, spec, limit if isinstance(limit, int) else None), []
    except _ABSENT as error:
        return None, [f"The test images are not there any more, so there are no accuracies by class: {error}"]


def _teacher(facts: RunFacts, network: Network) -> tuple[nn.Module | None, InputSpec | None, str]:
    """The network, what images it takes, and why there is none."""
    try:
        _, teacher, spec = opened(facts.path, network)
        if facts.result is not None:
            load_student(teacher, facts.path)  # refuses another network
    except _ABSENT as error:
        if network.given():
            raise
        print(f"the network of the run could not be loaded, so the page says less: {error}")
        return None, _spec(facts), str(error)
    return teacher, spec, ""


def _spec(facts: RunFacts) -> InputSpec | None:
    """What images a network takes that could not be loaded, as far as its name tells."""
    try:
        return network_of(facts.config).spec()
    except _ABSENT:
        return None


def _command(facts: RunFacts) -> tuple[str | None, list[str]]:
    """The command line, and what to know about it."""
    run, found = facts.path, facts.environment
    again = run.with_name(f"{run.resolve().name}-again") if facts.finished else run
    device = found.get("device")
    try:
        arguments = command_of(run, again, device if isinstance(device, str) else None)
    except _ABSENT as error:
        return None, [f"No command line makes this run: {error}. It was made from Python."]
    remarks = [
        f"Add {flag}: the run does not say where its {images} images were."
        for flag, images, needed in (
            ("--train-data", "training", facts.recipe and facts.recipe.images == "real"),
            ("--data", "test", (facts.result or {}).get("num_test_images")),
        )
        if needed and flag not in arguments
    ]
    if facts.finished:
        threads = found.get("threads")
        number = "not recorded" if threads is None else f"OMP_NUM_THREADS={threads}"
        remarks.append(
            "A new directory, because a finished one gives its result again without work. Equal "
            f"figures need the same versions, kind of device and number of threads ({number})."
        )
    else:
        remarks.append("The same command goes on where the run was stopped.")
    return shell(arguments), remarks
