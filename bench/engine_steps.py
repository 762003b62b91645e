"""Where the engine's time goes: microseconds of every step, the slowest first, and the bytes of all maps.

Weights are random, one thread, the median of some images.

    python bench/engine_steps.py mobilenetv2b_w1 --placement integer
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bench_deploy import NETWORKS, network
from runtimes import Files

from hast_cuda.deploy import load
from hast_cuda.deploy.file import read_file


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--placement", default="relu")
    parser.add_argument("--isa", default="")
    parser.add_argument("--images", type=int, default=40)
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


if __name__ == "__main__":
    main()
