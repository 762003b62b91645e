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
from hast_cuda.cli.run import run
from hast_cuda.ranks import launched

# Shown as one line: nearly always what a user can mend. A bug of ours may raise them too, so the
# line says how to see the traceback; anything else keeps it.
_EXPECTED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, RuntimeError)


def _run(arguments: list[str]) -> None:
    """Parse and call; ``analyze`` has verbs of its own."""
    verbs, name = (ANALYSES, " analyze") if arguments[:1] == ["analyze"] else (VERBS, "")
    rest = arguments[1:] if name else arguments
    tyro.extras.subcommand_cli_from_dict(verbs, prog=f"hast-cuda{name}", args=rest)


def analyze() -> None:
    """difficulty, statistics, gradients, hessian, sensitivity, allocation or curves of a run."""
    _run(["analyze", "--help"])


VERBS: dict[str, Callable[..., None]] = {
    verb.__name__: verb
    for verb in (*(demo, quantize, synthesize, finetune, evaluate), *(export, run, reproduce, analyze, report, info))
}
TOGETHER = ("quantize", "synthesize", "finetune", "demo", "reproduce")  # verbs of several processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status (0 done, 1 error, 2 bad command line)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        verb = given[0] if given else ""
        if launched() > 1 and verb in VERBS and verb not in TOGETHER:
            raise ValueError(
                f"{verb} is the work of one process, and {launched()} were started: call it "
                f"without torchrun (with it: {', '.join(TOGETHER)})"
            )
        _run(given)
    except _EXPECTED as error:
        if os.environ.get("HAST_CUDA_DEBUG"):
            raise
        who = f"rank {os.environ['RANK']}: " if launched() > 1 else ""
        print(f"hast-cuda: {who}error: {error}", file=sys.stderr)
        print("(HAST_CUDA_DEBUG=1 shows the traceback)", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hast-cuda: stopped; the same command continues where it was", file=sys.stderr)
        return 130
    return 0
