"""Time of whole iterations of both training loops, and of their convolutions alone.

ResNet-20 on batches of CIFAR's size, or --networks on photographs of 224 x 224; 4-bit weights and
activations, frozen ranges. The convolutions are what no fusion removes; what an implementation takes
beyond them is its own. On CUDA hast_cuda replays its iteration as a CUDA graph, as the loops do.

    python bench/bench_step.py --networks mobilenetv2 --threads 1 2 --out bench/results
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from cuda_timing import Candidate
from harness import HAST, SCHEMA, Case, Options, options_of, parser, row
from iterations import ALIGNED, DIRECT, SETTINGS, Call, Iterations
from provenance import device_label, keep_freed_memory, provenance
from timing import Absent, Settings, Timing, measure

from hast_cuda.loops.execution import Execution, convolution_rules

EAGER, COMPILED, CONVOLUTIONS = "eager", "compile", "convolutions"
UNMERGED, CHANNELS_LAST = "hast_cuda, unmerged", "hast_cuda, channels_last"
SECONDS = {"cpu": 30.0, "cuda": 8.0}  # per loop
FEWEST = {"cpu": 3, "cuda": 10}
WARM_UP = {"cpu": 0, "cuda": 5}  # a CUDA graph is captured at the fourth call
EXECUTIONS = {UNMERGED: Execution(merge=False), HAST: Execution(), CHANNELS_LAST: Execution(channels_last=True)}


def _compiled(options: Options, make: Callable[..., Call]) -> Candidate | Absent:
    if not options.compile:
        return Absent("left out with --no-compile")
    return make(mode="reduce-overhead" if options.device.type == "cuda" else "default")


def synthesis(made: Iterations, options: Options) -> Case:
    """Forward, loss, gradient and update of the images."""
    candidates: dict[str, Candidate | Absent] = {
        EAGER: made.eager_synthesis(),
        COMPILED: _compiled(options, made.eager_synthesis),
        **{name: made.synthesis(execution) for name, execution in EXECUTIONS.items()},
        CONVOLUTIONS: made.convolutions(made.eager_synthesis()),
    }
    return Case("synthesis iteration", made.setting.case, candidates, None)


def finetune(made: Iterations, options: Options) -> Case:
    """Crops, clean loss, perturbation, perturbed loss, update of the student."""
    candidates: dict[str, Candidate | Absent] = {
        EAGER: made.eager_finetune(),
        COMPILED: _compiled(options, made.eager_finetune),
        **{name: made.finetune(execution) for name, execution in EXECUTIONS.items()},
        ALIGNED: made.finetune(Execution(), DIRECT),
        CONVOLUTIONS: made.convolutions(made.eager_finetune()),
    }
    return Case("fine-tuning iteration", made.setting.case, candidates, None)


def derived(results: dict[str, Timing | Absent]) -> dict[str, dict[str, float | None]]:
    """By candidate: medians over hast_cuda's, with and without the time of the convolutions."""
    found = {name: r.p50_ms for name, r in results.items() if isinstance(r, Timing)}
    floor, ours = found.pop(CONVOLUTIONS), found[HAST]
    # Below the floor nothing can be said: such a layout has faster convolutions than the floor's.
    left = ours - floor
    return {
        name: {
            "non_convolution_ms": round(ms - floor, 5),
            "over_hast": round(ms / ours, 4),
            "non_convolution_over_hast": round((ms - floor) / left, 4) if left > 0 else None,
        }
        for name, ms in found.items()
    }


def timed(case: Case, options: Options) -> Iterator[dict[str, object]]:
    """Rows of the file: every number of threads."""
    kind = options.device.type
    torch._dynamo.reset()
    for threads in options.threads:
        if kind == "cpu":
            torch.set_num_threads(threads)
        settings = Settings(
            options.device,
            threads,
            options.rounds,
            options.seconds,
            min(FEWEST[kind], options.rounds),
            WARM_UP[kind],
            graphs=False,  # the loops have their own
        )
        required = (EAGER, HAST, CONVOLUTIONS)
        results, rounds = measure(case.candidates, None, settings, required)
        ratios = derived(results)
        _show(case, settings, results, ratios)
        yield {**row(case, settings, results, rounds), "derived": ratios}


def main() -> None:
    """Both loops, every number of threads; writes ``<out>/step-<device>.json`` as it goes."""
    arguments = parser(__doc__)
    arguments.add_argument("--batch", type=int, help="images per iteration")
    arguments.add_argument("--networks", nargs="+", choices=SETTINGS, default=["resnet20"])
    arguments.set_defaults(seconds=None)
    flags = arguments.parse_args()
    kind = torch.device(flags.device).type
    # Iterations take seconds on a CPU: all threads only, unless others are asked for.
    flags.threads = flags.threads or [torch.get_num_threads()]
    flags.seconds = SECONDS[kind] if flags.seconds is None else flags.seconds
    options = options_of(flags)
    if kind == "cpu":
        keep_freed_memory()
    document = {"schema": SCHEMA, "stem": "step", **provenance(options.device)}
    rows: list[dict[str, object]] = []
    which = "" if flags.networks == ["resnet20"] else f"{'-'.join(flags.networks)}-"
    path: Path = options.out / f"step-{which}{device_label(options.device)}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    loops = [make for make in (synthesis, finetune) if options.only in make.__name__]
    with convolution_rules(Execution()):
        for network in flags.networks:
            setting = SETTINGS[network]
            made = Iterations(replace(setting, batch=flags.batch or setting.batch), options.device)
            for make in loops:
                rows += timed(make(made, options), options)
                gc.collect()
                text = json.dumps({**document, "rows": rows}, indent=1) + "\n"
                path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


def _show(
    case: Case, settings: Settings, results: dict[str, Timing | Absent], ratios: dict[str, dict[str, float | None]]
) -> None:
    print(f"{case.op}, {case.case}, {settings.threads} threads, {settings.clock}:")
    for name, result in results.items():
        if isinstance(result, Absent):
            print(f"  {name}: absent, {result.reason}")
            continue
        more = ""
        if name in ratios:
            ratio = ratios[name]
            more = f", without convolutions {ratio['non_convolution_ms']:.1f} ms"
            more += f", {ratio['over_hast']:.2f}x hast_cuda"
        print(
            f"  {name}: {result.p50_ms:.1f} ms ({result.p20_ms:.1f} to {result.p80_ms:.1f}), "
            f"peak {result.peak_bytes / 1e6:.0f} MB{more}",
            flush=True,
        )


if __name__ == "__main__":
    main()
