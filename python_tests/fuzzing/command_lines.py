"""Command lines with one hostile value: for every verb what it needs, for every option values."""

from __future__ import annotations

import functools

from fuzzing.calls import fresh, run
from hast_cuda.cli import CONFIGURED, VERBS
from hast_cuda.cli import help as reader

_NUMBERS = [
    "",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "2.5",
    "x",
    "0x10",
    "1,5",
    "9" * 30,
    "-",
    "0",
    "-1",
    "-9999999999",
    "1",
    "9",
]
_TEXTS = ["", "x", "ü🙂", "a" * 5000, "--", "'; rm", "%s", "\n", "*"]
_MODELS = ["", ":", "a:b", "os:getcwd", "networks:nothing", "..x:y", "resnet999", "ü", "x:y:z", "os:"]
_NORMS = ["", "x", "/", "1,2,3/0,0,0", "nan,0,0/1,1,1", "1/1", "0.5,0.5/0.1,0.1", "1e999,0,0/1,1,1"]
_SETTINGS = [
    "",
    "=",
    "x=1",
    "synthesis=1",
    "synthesis.x=1",
    "finetune.iterations=x",
    "synthesis.margins=1",
    "finetune.learning_rate=nan",
    "finetune.learning_rate=1e999",
    "synthesis.margins=[2,1]",
    'finetune.decay_at=["x"]',
    "finetune.momentum=true",
    "synthesis.schedule=",
    "a.b.c=1",
    "synthesis.num_images=" + "9" * 30,
    "finetune.batch_size=-1",
    "finetune.perturbation=[",
    "generator.latent_size=" + "9" * 12,
    "posttraining.rounding=up",
    "synthesis.crop_scale=[NaN,1]",
]
_TINY = "--model networks:tiny --normalization cifar10 --image-size 8 --num-classes 5"
_SMALL = f"{_TINY} --num-images 8 --synthesis-iterations 1 --batch-size 8 --device cpu --out NEW"
_TUNED = f"""{_SMALL} --reconstruction-iterations 1 --finetune-iterations 1 --set finetune.calibration_updates=1
    finetune.calibration_batch_size=8 finetune.evaluations=1 finetune.shrink_ranges=false"""
# By verb: arguments that work, or come far.
LINES = {
    "demo": "--out /dev/null",
    "quantize": _TUNED,
    "synthesize": _SMALL,
    "finetune": f"{_TUNED} --images RUN/images",
    "evaluate": f"{_TINY} --data digits --device cpu",
    "compare": f"{_TINY} --methods rtn --device cpu --out NEW",
    "export": f"RUN {_TINY} --to packed --no-report --no-latency",
    "reproduce": "table1 --dataset cifar10 --bits 3 --budget 1% --out NEW --data nowhere.npz",
    "calibration-set": f"{_TINY} --num-images 8 --iterations 1 --batch-size 8 --device cpu --out NEW",
    "run": "NOWHERE.hast NOWHERE.png",
    "report": f"RUN {_TINY} --out NEW.html",
    "models": "resnet20_cifar10",
    "info": "",
    "analyze difficulty": f"{_TINY} --run RUN --device cpu",
    "analyze statistics": f"{_TINY} --run RUN --device cpu",
    "analyze gradients": f"{_TINY} --run RUN --batches 1",
    "analyze hessian": f"{_TINY} --run RUN --steps 1 --batch-size 4",
    "analyze sensitivity": f"{_TINY} --run RUN --limit 2 --device cpu",
    "analyze allocation": "--run RUN",
    "analyze curves": "--run RUN",
}
POSITIONAL = {"reproduce": "method", "info": "method", "models": "method"}
POSITIONAL |= dict.fromkeys(("export", "run", "report"), "images")


@functools.cache
def values() -> dict[str, list[str]]:
    """Hostile ones by option."""
    directory, file = fresh(), fresh(".txt")
    directory.mkdir()
    file.write_text("{not json")
    # Files where directories are wanted, and the other way round; where no directory can be made.
    places = ["/dev/null", "/proc/nothing", "a" * 300, str(file), str(file / "x")]
    paths = [*places, "", "/proc/self/mem", "nowhere/x", "ü 🙂/x", "a/" * 3000, str(directory)]
    by_kind = [
        (
            _NUMBERS,
            """image-size num-classes num-images iterations synthesis-iterations batch-size seed
            bits reconstruction-iterations finetune-iterations checkpoint-segments weight-bits act-bits first-last-bits
            sum-bits test-limit top threads batch seeds bins batches steps vectors
            average-bits average-act-bits limit points keep max-drop activation-bits""",
        ),
        (
            _TEXTS,
            """method preset cuda-graphs precision placement full-precision to dataset methods
            rows model-args size bit-operations time cost""",
        ),
        (["", "gpu", "cuda:99", "cuda:-1", "meta", "mps", "cpu:x", "ü"], "device"),
        (["", "%", "x%", "-5%", "nan%", "1e999%", "0%", "101%", "small "], "budget"),
        (paths, "data images train-data weights run others sensitivity config"),
        (places, "out"),
        (_MODELS, "model"),
        (_NORMS, "normalization"),
        (_SETTINGS, "set"),
    ]
    return {option: found for found, options in by_kind for option in options.split()}


@functools.cache
def options(verb: str) -> list[str]:
    """Those of a verb that take a value, as its help names them; "" is its positional argument."""
    name, module = verb.rsplit(maxsplit=1)[-1], VERBS[verb.split(maxsplit=1)[0]][0]
    known = reader.options_of(name.replace("-", "_"), f"hast_cuda.cli.{module}")
    named = {option.name.replace("_", "-") for option in known if option.kind and not option.positional}
    named |= {""} if verb in POSITIONAL else set()
    return sorted(named | {"config"} if verb in CONFIGURED else named)


def hostile(verb: str) -> list[tuple[str, str]]:
    """(option, value) of everything to try."""
    found = [(o, v) for o in options(verb) for v in values()[o or POSITIONAL[verb]]]
    return [*found, *(("out", name) for name in ("x.pdf", ".html", "x") if verb == "report")]


def line(verb: str, option: str, value: str) -> list[str]:
    """The verb with another value of an option, or of its positional argument."""
    made = LINES[verb].replace("RUN", str(run())).replace("NEW", str(fresh())).split()
    if not option:
        return [*verb.split(), value, *made[1:]]
    flag = f"--{option}"
    if flag not in made:
        return [*verb.split(), *made, flag, value]
    at = made.index(flag) + 1
    return [*verb.split(), *made[:at], value, *made[at + 1 :]]
