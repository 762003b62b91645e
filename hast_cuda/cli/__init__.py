"""The command line: ``hast-cuda <verb>``; every verb is a function of a module of this package.

This module alone imports no torch, so that help and version are there at once.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from hast_cuda.cli import help as reader
from hast_cuda.deploy.terminal import any_terminal
from hast_cuda.files.versions import VERSION

# verb -> (module, first line of its help)
VERBS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "Quantize a small network to 3 bits without its data, and test it on real images."),
    "quantize": ("quantize", "Quantize a pretrained network without its data."),
    "synthesize": ("quantize", "Make synthetic images from a pretrained network; they go to OUT/images."),
    "finetune": ("quantize", "Quantize and fine-tune with synthetic images made before."),
    "evaluate": ("quantize", "Top-1 accuracy of a network, or of the quantized one in a run directory."),
    "compare": ("compare", "Quantize one network by several methods, and say which is best on it."),
    "export": ("export", "Write the network of a finished run for other programs, and prove that it is the same."),
    "run": ("run", "Classify image files with an exported network, on the CPU."),
    "calibration-set": (
        "calibration",
        "Make images from a pretrained network for the quantizers of onnxruntime, OpenVINO and others.",
    ),
    "reproduce": ("reproduce", "Reproduce a table or figure of the paper; goes on where it was killed."),
    "analyze": ("analyze", "Say why a run is as good as it is, and which layer needs which bits."),
    "report": ("report", "Write a page about a run, finished or not, as HTML and Markdown; or compare several runs."),
    "models": ("info", "List names that --model takes."),
    "info": ("info", "Print the build, the devices and the versions."),
}
TOGETHER = ("quantize", "synthesize", "finetune", "demo", "reproduce")  # verbs of several processes
CONFIGURED = ("quantize", "synthesize", "finetune")  # verbs with --config
WITHOUT_JSON = ("run", "reproduce", "analyze", "calibration-set")
CONFIG = reader.Option(
    "config",
    "PATH",
    None,
    "JSON file of these options by name; config.json of a run, or its directory, is one. What is given here counts.",
)
SHARED = (
    reader.Option("quiet", "", False, "Print warnings and errors alone."),
    reader.Option("json", "", False, "Print the result as JSON on stdout, everything else on stderr."),
    reader.Option("help", "", False, "Show this and stop."),
)
SIGTERM = 128 + signal.SIGTERM  # as a shell says it
FIRST_STEPS = """\
hast-cuda demo                                          try it: a minute, nothing to download
hast-cuda models resnet                                 names of networks
hast-cuda quantize --model NAME --out RUN               a 4-bit network without its data
hast-cuda evaluate --run RUN --data IMAGES              how good it is
hast-cuda export RUN --to onnx-ort                      files for other programs
hast-cuda --help, hast-cuda VERB --help                 everything else"""

# Shown as one line: nearly always what a user can mend. A bug of ours may raise them too, so the
# line says how to see the traceback; anything else keeps it.
_EXPECTED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, RuntimeError)


def verb(name: str) -> Callable[..., Any]:
    """The function of a verb; imports torch."""
    function: Callable[..., Any] = getattr(
        importlib.import_module(f"hast_cuda.cli.{VERBS[name][0]}"), name.replace("-", "_")
    )
    return function


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status (0 done, 1 error, 2 bad command line).

    SystemExit(141) where what reads the output has gone.
    """
    try:
        with any_terminal():
            return _main(list(sys.argv[1:] if arguments is None else arguments))
    except _EXPECTED as error:
        if os.environ.get("HAST_CUDA_DEBUG"):
            raise
        who = f"rank {os.environ['RANK']}: " if os.environ.keys() >= {"RANK", "WORLD_SIZE"} else ""
        print(f"hast-cuda: {who}error: {error}", file=sys.stderr)
        print("(HAST_CUDA_DEBUG=1 shows the traceback)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before anything began
        return 130


def _main(given: list[str]) -> int:
    """What needs no verb is said without torch."""
    if not given:
        print(FIRST_STEPS)
        return 0
    name, rest = given[0], given[1:]
    if name == "--version":
        print(f"hast-cuda {VERSION}")
        return 0
    if name in ("--help", "-h"):
        print(_help())
        raise SystemExit(0)
    if name not in VERBS:
        print(f"hast-cuda: there is no {name!r}\n{_help()}", file=sys.stderr)
        raise SystemExit(2)
    if "--help" in rest or "-h" in rest:
        print(_help_of(name, rest))
        raise SystemExit(0)
    try:
        _run(name, rest)
    except KeyboardInterrupt:
        print(f"hast-cuda: stopped; {_goes_on(name, rest)}", file=sys.stderr)
        return 130
    except SystemExit as end:
        if end.code == SIGTERM:
            print(f"hast-cuda: ended by a signal; {_goes_on(name, rest)}", file=sys.stderr)
        raise
    return 0


def _help() -> str:
    lines = "\n".join(f"  {name:<15} {line}" for name, (_, line) in VERBS.items())
    return f"usage: hast-cuda [--version] [--help] VERB ...\n\n{lines}\n\nhast-cuda VERB --help lists its options."


def _help_of(name: str, arguments: Sequence[str]) -> str:
    """Of a verb, or of one below ``analyze``."""
    module = f"hast_cuda.cli.{VERBS[name][0]}"
    if name != "analyze":
        own = (CONFIG,) if name in CONFIGURED else ()
        return reader.help_of(name, name.replace("-", "_"), module, (*own, *SHARED))
    known = reader.sub_verbs(module)
    given = [text for text in arguments if text in known]
    if given:
        return reader.help_of(f"analyze {given[0]}", given[0], module, SHARED)
    lines = "\n".join(f"  {verb:<15} {line}" for verb, line in known.items())
    return f"usage: hast-cuda analyze [--help] VERB ...\n\n{lines}\n\nhast-cuda analyze VERB --help lists its options."


def _goes_on(name: str, arguments: Sequence[str]) -> str:
    """Where the command that was stopped goes on, by what its directory holds."""
    given = [
        text.partition("=")[2] or (arguments[index + 1 : index + 2] or ["."])[0]
        for index, text in enumerate(arguments)
        if text.partition("=")[0] == "--out"
    ]
    if name not in TOGETHER or (name == "reproduce" or not (given or name == "demo")):
        return "the same command goes on with what was not finished" if name == "reproduce" else "nothing was kept"
    found: str = importlib.import_module("hast_cuda.run.directory").goes_on(Path(given[-1] if given else "runs/demo"))
    return found


def _run(name: str, arguments: list[str]) -> None:
    """Parse and call; ``analyze`` has verbs of its own."""
    extras: Any = importlib.import_module("tyro")
    ranks: Any = importlib.import_module("hast_cuda.ranks")
    if ranks.launched() > 1 and name not in TOGETHER:
        raise ValueError(
            f"{name} is the work of one process, and {ranks.launched()} were started: call it "
            f"without torchrun (with it: {', '.join(TOGETHER)})"
        )
    quiet, as_json = (flag in arguments for flag in ("--quiet", "--json"))
    arguments = [text for text in arguments if text not in ("--quiet", "--json")]
    if as_json and name in WITHOUT_JSON:
        raise ValueError(f"{name} has no --json")
    if name in CONFIGURED:
        options = reader.options_of(name, f"hast_cuda.cli.{VERBS[name][0]}")
        arguments = importlib.import_module("hast_cuda.cli.config").with_config(arguments, options)
    with _elsewhere(quiet=quiet, as_json=as_json):
        if name == "analyze":
            verbs = importlib.import_module("hast_cuda.cli.analyze").ANALYSES
            found = extras.extras.subcommand_cli_from_dict(verbs, prog="hast-cuda analyze", args=arguments)
        else:
            found = extras.cli(verb(name), prog=f"hast-cuda {name}", args=arguments)
    if as_json and os.environ.get("RANK", "0") == "0":
        plain: Any = importlib.import_module("hast_cuda.run.directory").plain
        print(json.dumps(plain(found)))


@contextmanager
def _elsewhere(*, quiet: bool, as_json: bool) -> Iterator[None]:
    """What a verb prints goes nowhere, or to stderr where stdout is for JSON."""
    progress: Any = importlib.import_module("hast_cuda.loops.progress")
    with progress.progress_shown(not quiet):
        if quiet:
            with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
                yield
        elif as_json:
            with redirect_stdout(sys.stderr):
                yield
        else:
            yield
