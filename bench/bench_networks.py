"""One preset on many networks: what is lost at every stage, beside methods without training.

Networks come from a JSON file, a list of objects with the fields of :class:`Network`; a model is a
name or ``module:function``, as for ``hast-cuda quantize --model``. Every run has a directory of its
own under --runs and goes on after a kill; all bits of a network and seed use the same images. The
first --skip test images are left out: choices were made on them.

    python bench/bench_networks.py networks.json --skip 1000 --seeds 3 --methods hast rtn squant dfq
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import correlation, fmean, stdev
from typing import Any

import torch
from provenance import device_label, provenance

from hast_cuda.data import ImageSet, load_images
from hast_cuda.methods import change, recipe
from hast_cuda.methods.budget import apply_budget
from hast_cuda.methods.recipe import dataset_like
from hast_cuda.run import Bits, zero_shot_quantize
from hast_cuda.run.settings import image_store
from hast_cuda.teachers import input_spec, load_teacher

SCHEMA = 1
TRAINED = ("hast",)
MEASURES = ("divergence", "cropped", "same_class")  # of a student without any test image
STAGES = ("full_precision", "start_of_finetuning", "reconstructed", "quantized", "quantized_last")


@dataclass(frozen=True)
class Network:
    """One line of the table."""

    name: str
    model: str
    data: str
    """Test images."""
    weights: str | None = None
    normalization: str | None = None
    size: int | None = None
    """Of the images, where the model does not say."""
    classes: int | None = None
    placement: str = "relu"
    bits: tuple[int, ...] = (3, 4)
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Budget of this network, e.g. {"synthesis.num_images": 128}."""
    images_of: str | None = None
    """Name of an earlier line with the same first bits, the same network placed otherwise: its images serve."""


@dataclass(frozen=True)
class Job:
    """One run."""

    network: Network
    method: str
    bits: int
    seed: int
    budget: str
    skip: int
    runs: Path
    threads: int

    @property
    def folder(self) -> Path:
        """Its directory."""
        return self.runs / f"{self.network.name}-w{self.bits}-{self.method}-seed{self.seed}"


def run(job: Job) -> dict[str, Any]:
    """The result of a job, in a process of its own: the peak memory is its alone."""
    torch.set_num_threads(job.threads)
    network = job.network
    spec = input_spec(
        network.model, normalization=network.normalization, image_size=network.size, num_classes=network.classes
    )
    teacher = load_teacher(network.model, weights=network.weights)
    test = load_images(network.data, spec=spec)
    dataset = dataset_like(spec)
    chosen = apply_budget(recipe(job.method, "default", dataset), job.budget, dataset)
    images = None
    if job.method in TRAINED:
        chosen = change(chosen, network.changes)
        maker = replace(network, name=network.images_of or network.name)
        first = replace(job, network=maker, bits=network.bits[0])
        if first.folder != job.folder:
            images = image_store(first.folder).load_all()  # as made: this run filters them itself, if at all
    done = zero_shot_quantize(
        teacher,
        spec,
        Bits(job.bits, job.bits, network.placement),
        recipe=chosen,
        method=job.method,
        seed=job.seed,
        out=job.folder,
        images=images,
        test=_without_first(test, job.skip),
    )
    # by name: where they lie is this machine's affair
    files = {n: Path(path).name for n in ("data", "weights") if (path := getattr(network, n)) is not None}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        **{n: getattr(job, n) for n in ("method", "bits", "seed", "budget", "skip", "threads")},
        "network": asdict(network) | files,
        "peak_gib": round(peak, 2),
        "looks": looks(job.folder, done.result.get("reconstructed")) if job.method in TRAINED else [],
        **{k: v for k, v in done.result.items() if k not in ("bits", "seed")},
    }


def looks(folder: Path, start: float | None) -> list[dict[str, float]]:
    """What fine-tuning saw of the student: on the images held out, and its top-1, ``start`` before training."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seen: dict[str, dict[int, dict[str, Any]]] = {"held out": {}, "test": {0: {"top1": start}}}
    for record in map(json.loads, lines):
        if record.get("phase") in seen:
            seen[record["phase"]][record["iteration"]] = record
    both = seen["held out"].keys() & seen["test"].keys()
    return [
        {name: seen["held out"][i][name] for name in ("iteration", *MEASURES)} | {"top1": seen["test"][i]["top1"]}
        for i in sorted(both)
    ]


def _row(job: Job) -> dict[str, Any]:
    """What :func:`run` says, kept beside the run: read again, it would have another memory."""
    kept = job.folder.with_suffix(".json")
    if not kept.exists():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            found = alone.submit(run, job).result()
        kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
    row: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return row


def _without_first(images: ImageSet, count: int) -> ImageSet:
    read = images.read
    return replace(images, labels=images.labels[count:], read=lambda indices: read([i + count for i in indices]))


def jobs(flags: argparse.Namespace, networks: Sequence[Network]) -> Iterator[Job]:
    """All runs, those that others take images from first; one seed for what is not random."""
    for network in networks:
        for method in flags.methods:
            for seed in range(flags.seeds if method in TRAINED else 1):
                for bits in network.bits:
                    yield Job(network, method, bits, seed, flags.budget, flags.skip, flags.runs, flags.threads)


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown, a line per network and bits: means over the seeds, deviation, seconds, memory."""
    stages = ("full precision", "start", "reconstructed", "final", "deviation", "drop", "last iteration")
    free = sorted({r["method"] for r in rows} - set(TRAINED))
    head = ["network", "bits", stages[0], *free, *stages[1:], "agreement", "seconds", "GiB"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, bits in dict.fromkeys((r["network"]["name"], r["bits"]) for r in rows):
        own = [r for r in rows if (r["network"]["name"], r["bits"]) == (name, bits)]
        tuned = [r for r in own if r["method"] in TRAINED]
        if not tuned:
            continue
        mean = {stage: fmean(r[stage] for r in tuned) for stage in STAGES}
        other = {r["method"]: r["quantized"] for r in own}
        spread = stdev([r["quantized"] for r in tuned]) if len(tuned) > 1 else 0.0
        cells = [f"{mean['full_precision']:.2f}", *(f"{other[m]:.2f}" if m in other else "-" for m in free)]
        cells += [f"{mean[s]:.2f}" for s in ("start_of_finetuning", "reconstructed")]
        cells += [f"**{mean['quantized']:.2f}**", f"{spread:.2f}"]
        cells += [f"{mean['full_precision'] - mean['quantized']:.2f}", f"{mean['quantized_last']:.2f}"]
        cells += [f"{fmean(r['agreement']['same_class'] for r in tuned):.1f}"]
        seconds: dict[str, float] = {}
        for r in tuned:
            for phase, taken in r["seconds"].items():
                seconds[phase] = seconds.get(phase, 0.0) + taken / len(tuned)
        cells += [", ".join(f"{phase} {taken:.0f}" for phase, taken in seconds.items() if taken >= 1)]
        cells += [f"{max(r['peak_gib'] for r in tuned):.1f}"]
        lines.append(f"| {name} | W{bits}A{bits} | " + " | ".join(cells) + " |")
    return lines


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's: 1 where both have one order, -1 where theirs are opposite."""
    ranks = [[fmean(i for i, v in enumerate(sorted(values)) if v == own) for own in values] for values in (one, other)]
    if any(len(set(found)) < 2 for found in ranks):
        return float("nan")
    return correlation(*ranks)


def prediction(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: how well figures that need no test image order the students that a network's runs saw.

    A line per network and bits, and one per network: rank correlations with top-1 over the looks of
    all seeds, signs so that 1 is best.
    """
    lines = ["| network | bits | looks | " + " | ".join(MEASURES) + " |", "|---" * (3 + len(MEASURES)) + "|"]
    tuned = [r for r in rows if r["method"] in TRAINED]
    for name in dict.fromkeys(r["network"]["name"] for r in tuned):
        widths = sorted({r["bits"] for r in tuned if r["network"]["name"] == name})
        for bits in [[b] for b in widths] + ([widths] if len(widths) > 1 else []):
            own = [r for r in tuned if r["network"]["name"] == name and r["bits"] in bits]
            seen = [look for r in own for look in r["looks"] if look["top1"] is not None]
            top1 = [look["top1"] for look in seen]
            cells = []
            for measure in MEASURES:
                sign = 1 if measure == "same_class" else -1
                cells.append(f"{sign * rank_correlation([look[measure] for look in seen], top1):.2f}")
            label = ", ".join(f"W{b}A{b}" for b in bits)
            lines.append(f"| {name} | {label} | {len(seen)} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Run what is missing, print the table, write ``<out>/networks-<device>.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/networks"))
    parser.add_argument("--methods", nargs="+", default=["hast", "rtn", "squant", "dfq"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budget", default="small")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    flags = parser.parse_args()
    listed = json.loads(flags.networks.read_text(encoding="utf-8"))
    networks = [Network(**line) for line in listed]
    rows: list[dict[str, Any]] = []
    for job in jobs(flags, networks):
        rows.append(_row(job))
        kept = {k: rows[-1].get(k) for k in ("full_precision", "reconstructed", "quantized", "kept_iteration")}
        print(job.folder.name, kept, flush=True)
    for line in [*table(rows), "", *prediction(rows)]:
        print(line)
    device = torch.device("cpu")
    document = {"schema": SCHEMA, "stem": "networks", **provenance(device), "rows": rows}
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / f"networks-{device_label(device)}.json"
    path.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
