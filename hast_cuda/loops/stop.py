"""Ctrl-C and SIGTERM between two steps of a loop, so that it can save what it has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.number: int | None = None

    def now(self) -> BaseException | None:
        """What to raise, once what is worth it is saved; None: go on."""
        if self.number is None:
            return None
        # as a shell says it of a program that the signal ended
        return KeyboardInterrupt() if self.number == signal.SIGINT else SystemExit(128 + self.number)


@contextmanager
def stop_noticed(*, saves: bool) -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM is noted in what is given; a second one ends the process as ever.

    What the process ignores (SIGINT of a job in the background) it goes on ignoring. Without ``saves``, and in
    every thread but the main one, signals do what they do otherwise.
    """
    stop = Stop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    ours = saves and threading.current_thread() is threading.main_thread() and None not in before.values()

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        stop.number = number
        put_back()

    if ours:
        for number in before:
            signal.signal(number, note)
    try:
        yield stop
    finally:
        if ours and stop.number is None:
            put_back()
    if (end := stop.now()) is not None:  # it came after the last step
        raise end
