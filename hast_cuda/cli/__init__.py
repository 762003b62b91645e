"""The command line: ``hast-cuda <verb>``; every verb is a function of this package."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import tyro

from hast_cuda.cli.demo import demo
from hast_cuda.cli.info import info
from hast_cuda.cli.quantize import evaluate, finetune, quantize, synthesize
from hast_cuda.cli.reproduce import reproduce

VERBS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "quantize": quantize,
    "synthesize": synthesize,
    "finetune": finetune,
    "evaluate": evaluate,
    "reproduce": reproduce,
    "info": info,
}
# What a user can mend: shown as one line. Anything else is a bug and keeps its traceback.
_EXPECTED = (ValueError, TypeError, OSError, ImportError, FloatingPointError, RuntimeError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status (0 done, 1 error, 2 bad command line)."""
    try:
        tyro.extras.subcommand_cli_from_dict(VERBS, prog="hast-cuda", args=arguments)
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
