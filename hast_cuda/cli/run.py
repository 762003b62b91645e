"""``hast-cuda run``: an exported network on image files."""

from __future__ import annotations

from pathlib import Path

import tyro

from hast_cuda.deploy.classify import report
from hast_cuda.deploy.engine import load


def run(
    file: tyro.conf.Positional[Path], images: tyro.conf.Positional[tuple[Path, ...]], top: int = 1, threads: int = 0
) -> None:
    """Classify image files with an exported network, on the CPU.

    ``python -m hast_cuda.deploy`` does the same where torch is not installed.

    Args:
        file: student.hast, from hast-cuda export RUN --to engine.
        images: files that Pillow reads; another size than the network's is scaled on its short side
            and cut in the middle.
        top: how many classes to print.
        threads: 0: as many as there are processors.
    """
    if not images:
        raise ValueError("no image file was given")
    for line in report(load(file), images, top=top, threads=threads):
        print(line)
