"""One process at a time works in a run directory."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import warnings
import weakref
from pathlib import Path

from hast_cuda.files.whole import explained

if sys.platform != "win32":
    import fcntl

NAME = ".lock"
_LONGEST = 4096  # bytes of a note
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class RunLock:
    """``flock`` on ``<directory>/.lock``, which stays there; the kernel frees it with the process.

    Readers need none: files appear whole.

    Args:
        directory: of the run.

    Raises:
        BlockingIOError: another process, or another object of this one, holds it.
        OSError: the file cannot be opened for writing, or is a link.
    """

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)  # a note overwrites no file
        with explained(directory / NAME):
            number = os.open(directory / NAME, flags, 0o666)
        self._close = weakref.finalize(self, os.close, number)
        try:
            _take(number, directory)
        except BlockingIOError as error:
            holder = _note(number)
            self.release()
            message = (
                f"run directory {directory} is in use by {holder}: wait until it has ended, stop "
                "it, or give --out another name"
            )
            raise BlockingIOError(error.errno, message) from None
        except OSError:
            self.release()
            raise
        note = {"pid": os.getpid(), "host": socket.gethostname()}
        try:
            with explained(directory / NAME):
                os.ftruncate(number, 0)
                os.write(number, json.dumps(note).encode())
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let others in; nothing happens the second time."""
        self._close()


def _take(number: int, directory: Path) -> None:
    if sys.platform == "win32":
        _warn(directory, "this system has no flock")
        return
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _warn(directory, f"its file system has no locks ({error.strerror})")


def _warn(directory: Path, reason: str) -> None:
    warnings.warn(
        f"run directory {directory} is not locked: {reason}. Take care that no other process "
        "works in it",
        RuntimeWarning,
        stacklevel=5,
    )


def _note(number: int) -> str:
    """Who holds the lock, as far as the note tells."""
    try:
        note = json.loads(os.pread(number, _LONGEST, 0))
        return f"process {int(note['pid'])} on {str(note['host'])[:100]!r}"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "another process"  # it has not written its note yet
