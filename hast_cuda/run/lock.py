"""One process at a time works in a run directory."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from hast_cuda.files.whole import explained
from hast_cuda.loops.warn import warn_caller

NAME = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def lock_run(directory: Path) -> BaseFileLock:
    """``<directory>/.lock``, held until ``release``; the kernel frees it with the process.

    The file stays. Readers need no lock: files appear whole. BlockingIOError: another process, or another object of
    this one, holds it.
    """
    lock = FileLock(directory / NAME, timeout=0)
    try:
        with explained(directory / NAME):
            lock.acquire()
    except Timeout:
        raise BlockingIOError(
            errno.EWOULDBLOCK,
            f"run directory {directory} is in use by another process, or by this one: wait until "
            "it has ended, stop it, or give --out another name",
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warn_caller(
            f"run directory {directory} is not locked: its file system has no locks. Take care "
            "that no other process works in it",
            RuntimeWarning,
        )
    return lock
