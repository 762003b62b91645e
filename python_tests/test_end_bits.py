"""First and last layer at bits of their own because the recipe says so: run, file, report, command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from edge_networks import small_recipe
from networks import CHANNELS, CLASSES, SIZE, pictures, tiny

from hast_cuda.cli.command import command_of
from hast_cuda.data import InputSpec
from hast_cuda.nn import Override
from hast_cuda.posttraining import PostTrainingConfig
from hast_cuda.run import Bits, load_student, read_config, read_recipe, zero_shot_quantize

SHAPE = InputSpec(CHANNELS, SIZE, SIZE, CLASSES)


def run(out: Path | None, bits: Bits, **changed: Any) -> Any:
    return zero_shot_quantize(tiny(), SHAPE, bits, recipe=small_recipe("genie", "paper", **changed), out=out)


def widths(student: Any) -> list[int]:
    return [student.features[0].weight_bits, student.features[3].weight_bits, student.output.weight_bits]


def test_ends_are_wider_and_the_run_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, Bits(3, 3))
    assert widths(done.student) == [8, 3, 8]
    wide = {"weight_bits": 8, "act_bits": 8}
    assert read_config(tmp_path)["bits"]["overrides"] == {"features.0": wide, "output": wide}
    assert done.result["bits"]["overrides"] == {"features.0": wide, "output": wide}
    assert read_recipe(tmp_path).posttraining.end_bits == 8
    loaded = load_student(tiny(), tmp_path)
    assert widths(loaded) == [8, 3, 8]
    x = pictures(3)
    with torch.no_grad():
        assert torch.equal(loaded(x), done.student.eval()(x))
    assert run(tmp_path, Bits(3, 3)).result == done.result  # finds it done


def test_what_was_asked_for_wins() -> None:
    done = run(None, Bits(3, 3, overrides={"output": Override(4, 4)}))
    assert widths(done.student) == [8, 3, 4]
    assert widths(run(None, Bits(3, 3), **{"posttraining.end_bits": 0}).student) == [3, 3, 3]


def test_inputs_of_the_ends_have_their_bits_too() -> None:
    student = run(None, Bits(3, 3, "all")).student
    assert [q.input_quantizer.bits for q in (student.features[0], student.features[3], student.output)] == [8, 3, 8]
    student = run(None, Bits(3, None, "all")).student
    assert student.output.input_quantizer is None


def test_the_command_of_such_a_run_has_its_method_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hast_cuda as hc

    recipe = dataclasses.replace(hc.methods.recipe("rtn"), posttraining=PostTrainingConfig(range_width=4.0, end_bits=8))
    describe = {"method": "rtn", "preset": "default", "network": {"model": "digits"}}
    zero_shot_quantize(hc.load_teacher("digits"), (1, 8, 8), Bits(3, 3), recipe=recipe, out=tmp_path, describe=describe)
    command = command_of(tmp_path, tmp_path / "again")
    assert "posttraining.end_bits=8" in command
    assert "--full-precision" not in command


@pytest.mark.parametrize("bits", [1, 9, -8])
def test_bits_that_cannot_be(bits: int) -> None:
    with pytest.raises(ValueError, match=f"end_bits is {bits}; allowed: 0, or from 2 to 8"):
        PostTrainingConfig(end_bits=bits)


def test_a_size_that_the_network_does_not_take() -> None:
    with pytest.raises(ValueError, match="the network does not take images of shape"):
        zero_shot_quantize(tiny(), InputSpec(CHANNELS + 1, SIZE, SIZE, CLASSES), recipe=small_recipe("genie", "paper"))
