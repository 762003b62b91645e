"""Options from a file: those of the command line win, and nothing is passed over in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from test_cli_report import begun

from hast_cuda.cli import help as reader
from hast_cuda.cli.config import with_config
from hast_cuda.run.origins import KEY
from hast_cuda.run.plan import CHOSEN

OPTIONS = reader.options_of("quantize", "hast_cuda.cli.quantize")
RUN = ("quantize", "--model", "digits", "--device", "cpu", "--method", "squant")


def asked(tmp_path: Path, values: dict[str, Any], *given: str) -> list[str]:
    (file := tmp_path / "options.json").write_text(json.dumps(values))
    return with_config([*given, "--config", str(file)], OPTIONS)


def test_names_with_either_dash_and_every_kind_of_value(tmp_path: Path) -> None:
    values = {"model": "digits", "weight-bits": 3, "act_bits": None, "merge": False, "channels_last": True}
    values |= {"bits": ["a=8", "b=4"], "set": {"finetune.learning_rate": 1e-6, "synthesis.schedule": "plateau"}}
    values |= {"image_size": [6, 10], "data": None}
    flags = ["--model", "digits", "--weight-bits", "3", "--act-bits", "none", "--no-merge", "--channels-last"]
    flags += ["--bits", "a=8", "--bits", "b=4", "--set", "finetune.learning_rate=1e-06", "synthesis.schedule=plateau"]
    assert asked(tmp_path, values) == [*flags, "--image-size", "6", "10"]


def test_the_command_line_wins(tmp_path: Path) -> None:
    values = {
        "weight_bits": 3,
        "merge": False,
        "set": ["finetune.iterations=7", "finetune.momentum=0.5"],
        "bits": "a=8",
    }
    assert asked(tmp_path, values, "--weight_bits=5", "--merge", "--bits", "b=4")[3:] == [
        "b=4",
        "--set",
        *values["set"],
    ]
    given = ("--set", "finetune.momentum=0.1", "--finetune-iterations", "9")
    both = ["--set", "finetune.momentum=0.5", "finetune.momentum=0.1", "--finetune-iterations", "9"]
    assert asked(tmp_path, {"set": values["set"]}, *given) == both
    assert asked(tmp_path, {"set": values["set"]}, "--budget", "small") == [
        "--budget",
        "small",
        "--set",
        "finetune.momentum=0.5",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weigth_bits": 3}, r"'weigth_bits' is no option of this command; did you mean 'weight_bits'\?"),
        ({"qqqq": 3}, "'qqqq' is no option of this command; it may have data, test_limit"),
        ({"merge": "no"}, "merge is 'no'; expected true or false"),
        ({"weight_bits": True}, "weight_bits is True; expected INT"),
        ({"weight_bits": {"a": 1}}, "expected INT"),
        (
            {"model": "os:system"},
            "code that is not run because a file says so; .* give --model os:system beside --config",
        ),
    ],
)
def test_refusals(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(tmp_path, values)


def test_a_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config=none\.json is not a file"):
        with_config(["--config", "none.json"], OPTIONS)
    with pytest.raises(ValueError, match="needs a JSON file behind it"):
        with_config(["--config"], OPTIONS)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        with_config(["--config", str(tmp_path / "a.json")], OPTIONS)


def test_a_run_is_made_again_from_what_it_remembers(hast: Cli, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    first, again, copied = (tmp_path / name for name in ("first", "again", "copied"))
    hast(*RUN, "--act-bits", "none", "--seed", "3", "--out", first)
    hast("quantize", "--config", first, "--device", "cpu", "--out", again)
    (tmp_path / "mine.json").write_text((first / "config.json").read_text())
    hast("quantize", "--config", tmp_path / "mine.json", "--device", "cpu", "--out", copied)
    configs = [json.loads((run / "config.json").read_text()) for run in (first, again, copied)]
    assert configs[0] == configs[1] == configs[2]
    assert configs[0]["bits"]["activations"] is None
    weights = [(run / "student.safetensors").read_bytes() for run in (first, again)]
    assert weights[0] == weights[1]


def test_numbers_of_a_run_give_way_to_those_that_are_given(tmp_path: Path) -> None:
    begun(tmp_path, **{KEY: {}})
    trusted = ("--config", str(tmp_path), "--model", "networks:tiny")
    names = (*trusted, "--num-images", "5")
    assert not any(text.startswith("synthesis.num_images=") for text in with_config(names, OPTIONS))
    whole = with_config(trusted, OPTIONS)
    assert any(text.startswith("synthesis.num_images=") for text in whole)
    assert whole[whole.index("--act-bits") + 1] == "4"
    images = reader.options_of("synthesize", "hast_cuda.cli.quantize")
    assert "--act-bits" not in with_config(names, images)
    left = with_config((*trusted, "--budget", "10%"), OPTIONS)
    assert not {text.partition("=")[0] for text in left} & set(CHOSEN)
