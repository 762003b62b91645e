"""Where the engine's time goes: microseconds of every step, the slowest first, and the bytes of all maps.

Weights are random, one thread, the median of some images. Then, with --threads, how much faster several are on a
batch, by the clock (where other programs run, that is theirs too) and by processor time: what splitting the work costs
where nobody else runs. For the latter threads must sleep when they wait: OMP_WAIT_POLICY=passive.

    OMP_WAIT_POLICY=passive python bench/engine_steps.py mobilenetv2b_w1 --placement integer --threads 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_deploy import NETWORKS, network
from runtimes import Files

from hast_cuda.deploy import Engine, load
from hast_cuda.deploy.file import read_file


def speed_up(engine: Engine, batch: int, threads: int, rounds: int) -> tuple[float, float]:
    """Of several threads over one, medians over rounds: by the clock, and by processor time."""
    images = np.random.default_rng(0).standard_normal((batch, *engine.input_shape)).astype(np.float32)

    def taken(count: int) -> tuple[float, float]:
        clock, processors = time.perf_counter(), time.process_time()
        engine.run(images, threads=count)
        return time.perf_counter() - clock, time.process_time() - processors

    pairs = np.asarray([[taken(1), taken(threads)] for _ in range(rounds + 2)])[2:]
    clock, processors = np.median(pairs[:, 0] / pairs[:, 1], axis=0)
    return float(clock), float(threads * processors)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--placement", default="relu")
    parser.add_argument("--isa", default="")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1, help="how many to compare with one")
    parser.add_argument("--batch", type=int, default=32, help="images that they share")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = Files(network(flags.network), NETWORKS[flags.network], Path(folder))
        path = files.engine(flags.bits, flags.placement)
        engine, content = load(path, isa=flags.isa), read_file(path).content
    image = np.random.default_rng(0).standard_normal(engine.input_shape).astype(np.float32)
    taken = np.median([[seconds for _, seconds in engine.step_seconds(image)] for _ in range(flags.images)], axis=0)
    texts = ["images"]
    for step in content["steps"]:
        shapes = [content["values"][index]["shape"] for index in (*step["inputs"], step["output"])]
        texts.append(f"{step['op']} {step['name']}: {' '.join(map(str, shapes[:-1]))} to {shapes[-1]}")
    for i in np.argsort(-taken):
        print(f"{1e6 * taken[i]:9.1f} us {taken[i] / taken.sum():5.1%}  {texts[i]}")
    memory = f"maps {engine.workspace_bytes} bytes, weights {engine.weight_bytes}"
    print(f"{1e3 * taken.sum():.3f} ms on {engine.isa}; {memory}")
    if flags.threads > 1:
        clock, processors = speed_up(engine, flags.batch, flags.threads, flags.images // 4)
        what = f"{flags.threads} threads, batch {flags.batch}"
        print(f"{what}: {clock:.2f} times one by the clock, {processors:.2f} by processor time")


if __name__ == "__main__":
    main()
