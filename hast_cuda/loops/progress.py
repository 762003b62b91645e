"""Progress of a loop: a bar in a terminal or a notebook, elsewhere a line a minute, both on stderr; lines of a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from typing_extensions import Self

SECONDS = 60.0  # between two lines
Watch = Callable[[str], None]
_how: ContextVar[bool | Watch] = ContextVar("how progress is shown", default=True)


def duration(seconds: float) -> str:
    """Seconds, or minutes or hours where there are many."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def tell(text: str) -> None:
    """A line on stderr, unless progress is switched off."""
    if _how.get() is True:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_shown(how: bool | Watch) -> Iterator[None]:
    """Loops inside show their progress, or not, or call ``how`` with their name at every step.

    What an outer block switched off stays off, but for a watch.
    """
    token = _how.set(how if callable(how) or _how.get() is True else _how.get())
    try:
        yield
    finally:
        _how.reset(token)


class Lines:
    """What a loop says where no terminal is: how much is done, and how long the rest will take."""

    def __init__(self, name: str, total: int, done: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.total, self.done, self.clock = name, total, done, clock
        self._began_with, self._began = done, clock()
        self._said = False
        self._next = self.clock() + SECONDS

    def update(self, count: int = 1) -> None:
        """``count`` more steps are done."""
        self.done += count
        over = self.done >= self.total and self._said
        if over or self.clock() >= self._next:
            self._say()
            self._next = self.clock() + SECONDS

    def _say(self) -> None:
        spent, made = self.clock() - self._began, self.done - self._began_with
        left = duration(spent / made * (self.total - self.done)) + " left" if self.done < self.total else "done"
        tell(f"{self.name}: {100 * self.done // self.total} % ({self.done} of {self.total}), {left}")
        self._said = True

    def close(self) -> None:
        """Nothing is left to say."""


class _Watched:
    """Every step is told to ``watch``."""

    def __init__(self, name: str, watch: Watch) -> None:
        self.name, self.watch = name, watch

    def update(self, count: int = 1) -> None:
        for _ in range(count):
            self.watch(self.name)

    def close(self) -> None:
        pass


def _redraws() -> bool:
    """Whether stderr shows a line anew after a carriage return: terminals do, and cells of notebooks."""
    cell = type(sys.stderr).__module__.startswith("ipykernel.")
    return cell or (sys.stderr is not None and sys.stderr.isatty())


class Progress:
    """Of ``total`` steps of one loop, ``done`` of them by an earlier attempt; nothing is shown if ``quiet``."""

    def __init__(self, name: str, total: int, *, done: int = 0, quiet: bool = False, leave: bool = True) -> None:
        how = _how.get()
        self._shown: Any = None
        if callable(how):
            self._shown = _Watched(name, how)
        elif how and not quiet:
            self._shown = (
                tqdm(desc=name, total=total, initial=done, leave=leave) if _redraws() else Lines(name, total, done)
            )

    def update(self, count: int = 1) -> None:
        """``count`` more steps are done."""
        if self._shown is not None:
            self._shown.update(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.close()


MOST_LINES = 2000  # of a phase, at every multiple of the interval


def look_interval(iterations: int, most: int) -> int:
    """Iterations of a phase between two looks at the device: ``most``, or a twentieth of a short phase."""
    return max(1, min(most, iterations // 20))


def log_interval(total: int, shortest: int) -> int:
    """Iterations between two lines of a log of ``total`` iterations, all batches together.

    A multiple of ``shortest``, the interval of short phases: how often the loop reads the device.
    """
    return shortest * max(1, -(-total // (shortest * MOST_LINES)))
