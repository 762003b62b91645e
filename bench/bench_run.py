"""A whole CIFAR-10 run of hast_cuda: synthesis, calibration, range search, reconstruction, fine-tuning.

The network has random weights unless --weights names a file: that changes the accuracy, which is
not looked at, and not the time.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from provenance import device_label, keep_freed_memory, provenance
from pytorchcv.model_provider import get_model

from hast_cuda.methods import PRESETS, hast
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.teachers import load_teacher

SCHEMA = 1
NETWORK, SHAPE = "resnet20_cifar10", (3, 32, 32)
FULL = {"images": 5120, "synthesis": 1000, "reconstruction": 1000, "finetune": 29_400}  # the paper's, and ours
REDUCED = {"images": 256, "synthesis": 20, "reconstruction": 10, "finetune": 10}  # a minute or two on a few cores


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--images", type=int, help="default: the paper's, fewer on a CPU")
    parser.add_argument("--synthesis-iterations", type=int, help="per batch; likewise")
    parser.add_argument("--reconstruction-iterations", type=int, help="per block; likewise")
    parser.add_argument("--finetune-iterations", type=int, help="likewise")
    parser.add_argument("--batch", type=int, default=256, help="images per iteration")
    parser.add_argument("--bits", type=int, default=4, help="of weights and activations")
    parser.add_argument("--weights", type=Path, help="state dict of the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    budget = FULL if torch.device(flags.device).type == "cuda" else REDUCED
    flags.images = flags.images or budget["images"]
    flags.synthesis_iterations = flags.synthesis_iterations or budget["synthesis"]
    flags.reconstruction_iterations = flags.reconstruction_iterations or budget["reconstruction"]
    flags.finetune_iterations = flags.finetune_iterations or budget["finetune"]
    return flags


def main() -> None:
    """Run, print seconds and rates, and write ``<out>/run-<device>.json``."""
    flags = _flags()
    device = torch.device(flags.device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(flags.seed)
    teacher = (
        get_model(NETWORK, pretrained=False).eval()
        if flags.weights is None
        else load_teacher(NETWORK, weights=flags.weights)
    )
    chosen = hast.recipe(flags.preset, "cifar10")
    recipe = replace(
        chosen,
        synthesis=replace(
            chosen.synthesis, num_images=flags.images, batch_size=flags.batch, iterations=flags.synthesis_iterations
        ),
        reconstruction=replace(chosen.reconstruction, iterations=flags.reconstruction_iterations)
        if chosen.reconstruction.iterations
        else chosen.reconstruction,
        finetune=replace(chosen.finetune, iterations=flags.finetune_iterations, batch_size=flags.batch),
    )
    start = time.perf_counter()
    result = zero_shot_quantize(
        teacher, SHAPE, Bits(flags.bits, flags.bits), recipe=recipe, seed=flags.seed, device=device
    ).result
    total = time.perf_counter() - start
    seconds = {k: float(v) for k, v in result["seconds"].items() if k != "evaluation"}
    batches = -(-flags.images // flags.batch)
    synthesized, trained = seconds["synthesis"], seconds["finetuning"]
    size = min(flags.batch, flags.images)
    seconds["total"] = round(total, 3)
    rates = {
        "synthesis_images_per_second": flags.images / synthesized,
        "synthesis_steps_per_second": batches * flags.synthesis_iterations / synthesized,
        "finetune_images_per_second": size * flags.finetune_iterations / trained,
        "finetune_steps_per_second": flags.finetune_iterations / trained,
    }
    for phase, value in seconds.items():
        print(f"{phase}: {value:.2f} s")
    for name, value in rates.items():
        print(f"{name.replace('_', ' ')}: {value:.3f}")
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"run-{device_label(device)}.json"
    budget = {k: v for k, v in vars(flags).items() if k not in ("device", "out", "weights")}
    document = {
        "schema": SCHEMA,
        "stem": "run",
        **provenance(device),
        "network": NETWORK,
        "weights": "random" if flags.weights is None else flags.weights.name,
        "threads": torch.get_num_threads(),
        "budget": budget,
        "seconds": seconds,
        "rates": rates,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
