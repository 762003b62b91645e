"""Starts the ranks of test_ranks.py.

It imports once and forks the ranks of every launch, which saves most of the time. Launches come as
JSON lines: {"ranks": 2, "work": "methods losses", "folder": ..., "values": [], "environment": {}};
a line for each has the ranks' exit codes and the seconds. Their output is in the folder.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch._dynamo  # the first optimizer of a process imports it: here once for all ranks
from rank_work import WORK

from hast_cuda.ranks import launch as ranks


def rank(number: int, port: int, launch: dict[str, Any]) -> NoReturn:
    """One process of a launch, with the variables that torchrun sets."""
    folder = Path(launch["folder"])
    with (folder / f"output-{number}.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if launch["ranks"] > 1:
        os.environ |= {
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(launch["ranks"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **launch["environment"],
        }
    code = 1
    try:
        for name in launch["work"].split():
            WORK[name](folder, *launch["values"])
        code = 0
    except Exception:
        traceback.print_exc()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        ranks._leave()  # as at the end of a process
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what the parent would do at its end is not for its children


def run(launch: dict[str, Any]) -> dict[str, Any]:
    """Fork the ranks and wait; one that stands still is killed once all others have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    ranks = {os.fork() or rank(i, port, launch): i for i in range(launch["ranks"])}
    running, codes = set(ranks), {}
    while running:
        process, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            running.remove(process)
        else:
            codes[ranks[process]] = os.waitstatus_to_exitcode(status)
            running.discard(process)
    seconds = time.monotonic() - start
    for process, number in ranks.items():
        if number not in codes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return {"codes": [codes.get(i) for i in range(launch["ranks"])], "seconds": seconds}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
