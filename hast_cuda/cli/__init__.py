"""The command line: ``hast-cuda <verb>``; every verb is a function of this package."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import tyro

from hast_cuda.cli.analyze import ANALYSES
from hast_cuda.cli.demo import demo
from hast_cuda.cli.export import export
from hast_cuda.cli.info import info
from hast_cuda.cli.quantize import evaluate, finetune, quantize, synthesize
from hast_cuda.cli.report import report
from hast_cuda.cli.reproduce import reproduce

# What a user can mend: shown as one line. Anything else is a bug and keeps its traceback.
_EXPECTED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, RuntimeError)


def _run(arguments: list[str]) -> None:
    """Parse and call; ``analyze`` has verbs of its own."""
    if arguments[:1] == ["analyze"]:
        tyro.extras.subcommand_cli_from_dict(ANALYSES, prog="hast-cuda analyze", args=arguments[1:])
    else:
        tyro.extras.subcommand_cli_from_dict(VERBS, prog="hast-cuda", args=arguments)


def analyze() -> None:
    """difficulty, gradients, hessian or curves of a finished run; see analyze --help."""
    _run(["analyze", "--help"])


VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "quantize": quantize,
    "synthesize": synthesize,
    "finetune": finetune,
    "evaluate": evaluate,
    "export": export,
    "reproduce": reproduce,
    "analyze": analyze,
    "report": report,
    "info": info,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status (0 done, 1 error, 2 bad command line)."""
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
    except _EXPECTED as error:
        if os.environ.get("HAST_CUDA_DEBUG"):
            raise
        print(f"hast-cuda: error: {error}", file=sys.stderr)
        print("(HAST_CUDA_DEBUG=1 shows the traceback)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hast-cuda: stopped; the same command continues where it was", file=sys.stderr)
        return 130
    return 0
