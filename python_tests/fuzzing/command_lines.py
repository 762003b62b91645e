"""Command lines with one hostile value: for every verb what it needs, and what its options get."""

from __future__ import annotations

from collections.abc import Callable

from fuzzing import things

NOT_A_NUMBER = ["", "nan", "inf", "-inf", "1e999", "2.5", "x", "0x10", "1,5", "9" * 30, "-"]
NUMBERS = [*NOT_A_NUMBER, "0", "-1", "-9999999999"]
TEXTS = ["", "x", "ü🙂", "a" * 5000, "--", "'; rm", "%s", "\n", "*"]
DEVICES = ["", "gpu", "cuda:99", "cuda:-1", "meta", "mps", "cpu:x", "ü"]
MODELS = [
    "",
    ":",
    "a:b",
    "os:getcwd",
    "networks:nothing",
    "..x:y",
    "resnet999",
    "ü",
    "x:y:z",
    "os:",
]
NORMS = ["", "x", "/", "1,2,3/0,0,0", "nan,0,0/1,1,1", "1/1", "0.5,0.5/0.1,0.1", "1e999,0,0/1,1,1"]
SETTINGS = [
    "", "=", "x=1", "synthesis=1", "synthesis.x=1", "finetune.iterations=x", "synthesis.margins=1",
    "finetune.learning_rate=nan", "finetune.learning_rate=1e999", "synthesis.margins=[2,1]",
    "finetune.decay_at=[\"x\"]", "finetune.momentum=true", "synthesis.schedule=", "a.b.c=1",
    "synthesis.num_images=" + "9" * 30, "finetune.batch_size=-1",
    "generator.latent_size=" + "9" * 12,
    "posttraining.rounding=up", "finetune.perturbation=[", "synthesis.crop_scale=[NaN,1]",
]  # fmt: skip
_NETWORK = {"model": MODELS, "normalization": NORMS, "image-size": NUMBERS, "num-classes": NUMBERS}
_BUDGET = {
    "num-images": NUMBERS, "synthesis-iterations": NUMBERS, "batch-size": NUMBERS,
    "finetune-iterations": [*NOT_A_NUMBER, "-1"], "seed": NOT_A_NUMBER, "device": DEVICES,
    "set": SETTINGS, "method": TEXTS, "preset": TEXTS,
}  # fmt: skip
_EXECUTION = {
    "cuda-graphs": TEXTS, "precision": TEXTS, "checkpoint-segments": [*NOT_A_NUMBER, "-1"],
}  # fmt: skip
_BITS = {"weight-bits": [*NUMBERS, "1", "9"], "act-bits": [*NUMBERS, "1", "9"]}


def bad_paths() -> list[str]:
    """Files where directories are wanted, and the other way round."""
    directory, file = things.fresh(), things.fresh(".txt")
    directory.mkdir()
    file.write_text("{not json")
    odd = ["", "/dev/null", "/proc/self/mem", "nowhere/x", "ü 🙂/x", "a" * 300, "a/" * 3000]
    return [*odd, str(directory), str(file), str(file / "x")]


def bad_places() -> list[str]:
    """Where no run directory can be made."""
    file = things.fresh(".txt")
    file.write_text("x")
    return ["/dev/null", "/proc/nothing", "a" * 300, str(file), str(file / "x")]


OWN = [
    "--model", "networks:tiny", "--normalization", "cifar10", "--image-size", "8",
    "--num-classes", "5",
]  # fmt: skip
SMALL = ["--num-images", "8", "--synthesis-iterations", "1", "--batch-size", "8", "--device", "cpu"]
TUNING = [
    "--finetune-iterations", "1", "--set", "finetune.calibration_updates=1",
    "finetune.calibration_batch_size=8", "finetune.evaluations=1", "finetune.shrink_ranges=false",
]  # fmt: skip
Options = dict[str, list[str]]


def lines() -> dict[str, tuple[Callable[[], list[str]], Options]]:
    """By verb: arguments that work, or come far, and hostile values by option ("" : positional)."""
    paths, places = bad_paths(), bad_places()
    images = str(things.run() / "images")
    run = str(things.run())

    def out() -> list[str]:
        return ["--out", str(things.fresh())]

    return {
        "demo": (lambda: ["demo", "--out", "/dev/null"], {
            "out": places, "seed": NOT_A_NUMBER, "device": DEVICES,
        }),
        "quantize": (lambda: ["quantize", *OWN, *out(), *SMALL, *TUNING], {
            **_NETWORK, **_BUDGET, **_BITS, **_EXECUTION, "out": places, "placement": TEXTS,
            "full-precision": TEXTS, "data": paths, "test-limit": NUMBERS, "images": paths,
            "train-data": paths, "weights": paths,
        }),
        "synthesize": (lambda: ["synthesize", *OWN, *out(), *SMALL], {
            **_NETWORK, **_BUDGET, **_EXECUTION, "out": places, "weights": paths,
        }),
        "finetune": (lambda: ["finetune", *OWN, *out(), *SMALL, *TUNING, "--images", images], {
            **_NETWORK, **_BUDGET, **_BITS, "images": paths, "data": paths,
        }),
        "evaluate": (lambda: ["evaluate", *OWN, "--data", "digits", "--device", "cpu"], {
            **_NETWORK, "data": paths, "run": paths, "test-limit": NUMBERS, "device": DEVICES,
        }),
        "export": (
            lambda: ["export", run, *OWN, "--to", "packed", "--no-report", "--no-latency"],
            {
                **_NETWORK, "": paths, "to": TEXTS, "data": paths, "test-limit": NUMBERS,
                "weights": paths, "batch": NUMBERS,
            },
        ),
        "reproduce": (
            lambda: ["reproduce", "table1", "--dataset", "cifar10", "--bits", "3", "--budget", "1%",
                     *out(), "--data", "nowhere.npz"],
            {
                "": TEXTS, "dataset": TEXTS, "bits": [*NUMBERS, "9"], "seeds": NUMBERS,
                "budget": ["", "%", "x%", "-5%", "nan%", "1e999%", "0%", "101%", "small "],
                "preset": TEXTS, "methods": TEXTS, "rows": TEXTS, "model": MODELS, "data": paths,
                "weights": paths, "train-data": paths, "device": DEVICES, "normalization": NORMS,
                "test-limit": NUMBERS,
            },
        ),
        "report": (lambda: ["report", run, *OWN, "--out", str(things.fresh(".html"))], {
            **_NETWORK, "": paths, "weights": paths, "out": [*places, "x.pdf", ".html", "x"],
        }),
        "info": (lambda: ["info"], {"": TEXTS}),
        "analyze difficulty": (
            lambda: ["analyze", "difficulty", *OWN, "--run", run, "--device", "cpu"],
            {**_NETWORK, "run": paths, "images": paths, "data": paths, "bins": NUMBERS,
             "device": DEVICES},
        ),
        "analyze statistics": (
            lambda: ["analyze", "statistics", *OWN, "--run", run, "--device", "cpu"],
            {**_NETWORK, "run": paths, "images": paths, "data": paths, "device": DEVICES},
        ),
        "analyze gradients": (
            lambda: ["analyze", "gradients", *OWN, "--run", run, "--batches", "1"],
            {**_NETWORK, "run": paths, "images": paths, "batches": NUMBERS, "batch-size": NUMBERS,
             "device": DEVICES},
        ),
        "analyze hessian": (
            lambda: ["analyze", "hessian", *OWN, "--run", run, "--steps", "1", "--batch-size", "4"],
            {**_NETWORK, "run": paths, "images": paths, "steps": NUMBERS, "vectors": NUMBERS,
             "batch-size": NUMBERS, "seed": NOT_A_NUMBER, "device": DEVICES},
        ),
        "analyze curves": (lambda: ["analyze", "curves", "--run", run], {
            "run": paths, "others": paths,
        }),
    }  # fmt: skip


def with_value(line: list[str], option: str, value: str) -> list[str]:
    """``line`` with another value of an option, or of its last positional argument."""
    if not option:
        verb = 2 if line[0] == "analyze" else 1
        return [*line[:verb], value, *line[verb + 1 :]]
    flag = f"--{option}"
    if flag not in line:
        return [*line, flag, value]
    at = line.index(flag)
    return [*line[: at + 1], value, *line[at + 2 :]]
