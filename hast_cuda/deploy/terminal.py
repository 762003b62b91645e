"""What a terminal, or the program behind a pipe, does not take."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

READER_GONE = 141  # as a shell says it of a program that SIGPIPE ended


@contextmanager
def any_terminal() -> Iterator[None]:
    """Print what the encoding has, "?" for the rest; SystemExit(141), without a word, once nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here and not at the interpreter's end, where nobody can catch it
    except BrokenPipeError:
        if not any(map(_reader_gone, (sys.stdout, sys.stderr))):
            raise  # another pipe
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        raise SystemExit(READER_GONE) from None


def _reader_gone(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # errors alone
    return bool(poll.poll(0))
