"""What may happen to a hostile call: a right answer, or an error that the package itself wrote."""

from __future__ import annotations

import re
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import hast_cuda
from hast_cuda.networks import CannotMergeError

PACKAGE = Path(hast_cuda.__file__).parent
DOCUMENTED = (ValueError, TypeError, RuntimeError, OSError, ImportError, FloatingPointError, CannotMergeError)
SECONDS = 20  # no call here has work for longer
ROOM = 2**31  # bytes that a call may take beyond what the process has
outcomes: Counter[str] = Counter()  # of all calls of the session


class HungError(BaseException):
    """The call did not come back; not an Exception, so that no handler swallows it."""


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise HungError(f"no answer after {SECONDS} s")


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, a call that hangs is interrupted, and one that allocates wildly fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _ring)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def attempt(call: Callable[[], Any], names: Iterable[str]) -> tuple[bool, Any]:
    """(True, result) of ``call``, or (False, the error) if it refused its arguments properly.

    Raises:
        AssertionError: it failed in another way than by an error of the documented types, written
            by this package, whose message has one of ``names``.
    """
    with guarded():
        try:
            result = call()
        except Exception as error:
            outcomes["refused"] += 1
            _check(error, set(names))
            return False, error
    outcomes["answered"] += 1
    return True, result


def _check(error: Exception, names: set[str]) -> None:
    text = str(error)
    assert isinstance(error, DOCUMENTED), _report(error, "not of a documented type")
    assert not isinstance(error, NotImplementedError), _report(error, "not of a documented type")
    if isinstance(error, OSError) and error.errno:
        return  # the system's word, about a file
    assert PACKAGE in Path(_origin(error.__traceback__)).parents, _report(error, "not written by this package")
    assert len(text) >= 12, _report(error, "its message says nothing")
    said = [name for name in names if name in text]  # most are not, and patterns cost time
    assert any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in said), _report(
        error, f"its message names none of {sorted(names)}"
    )


def _origin(trace: TracebackType | None) -> str:
    """The file whose line raised."""
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename


def _report(error: Exception, what: str) -> str:
    where = "".join(traceback.format_tb(error.__traceback__)[-3:])
    return f"{type(error).__name__}: {error}\n{what}; raised at\n{where}"
