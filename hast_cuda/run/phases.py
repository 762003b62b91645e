"""How long each phase of a run took, over all its attempts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hast_cuda.run.directory import RunDirectory

KEEP_EVERY = 10.0  # seconds of work that a kill may leave uncounted


class Phases:
    """Seconds per phase, summed over the attempts of a run.

    The clock is monotonic: setting the time of day changes nothing. ``progress.json`` keeps the
    sums, so those of a killed attempt count too, as far as :meth:`keep` came.
    """

    def __init__(self, run: RunDirectory | None) -> None:
        self.run = run
        self.seconds: dict[str, float] = {} if run is None else run.recall().get("seconds", {})
        self._name: str | None = None
        self._since = 0.0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._name, self._since = name, time.monotonic()
        try:
            yield
        except BaseException:
            with suppress(OSError):  # a full disk: what is on its way says so, and says more
                self._count()
            raise
        else:
            self._count()
        finally:
            self._name = None

    def keep(self) -> None:
        """Write the sums if that was not done for a while; called as often as one likes."""
        if self._name is not None and time.monotonic() - self._since >= KEEP_EVERY:
            self._count()

    def _count(self) -> None:
        assert self._name is not None
        now = time.monotonic()
        total = self.seconds.get(self._name, 0.0) + now - self._since
        self.seconds[self._name], self._since = round(total, 3), now
        if self.run is not None:
            self.run.remember("seconds", self.seconds)
