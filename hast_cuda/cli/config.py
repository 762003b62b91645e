"""``--config FILE``: options from a JSON file, such as the ``config.json`` of a run."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hast_cuda.cli.command import command_of
from hast_cuda.cli.help import Option
from hast_cuda.cli.options import NUMBERS
from hast_cuda.files.json_values import read_object
from hast_cuda.run.plan import CHOSEN
from hast_cuda.teachers.names import is_own

FLAG = "--config"
Flags = list[tuple[str, list[str]]]
"""Options and the texts behind each."""
_SET = "--set"
_OF_A_RUN = "fingerprints"
_NO_CODE = (
    "{file} names {model!r}, code that is not run because a file says so; if you trust it, give --model {model} beside "
    "--config"
)


def with_config(arguments: Sequence[str], options: Sequence[Option]) -> list[str]:
    """``arguments`` with what their ``--config FILE`` says in front, but for options that are given.

    Args:
        arguments: behind the verb.
        options: that the verb has.

    Raises:
        ValueError: no file behind ``--config``, unknown keys, values that no option takes, or code that only
            a file names.
    """
    rest, file = _file_of(list(arguments))
    if file is None:
        return rest
    found = read_object(file, "give a JSON file of options by name, or the config.json of a run")
    flags = _of_a_run(file, options) if _OF_A_RUN in found else _of_options(file, found, options)
    kept = [(name, texts) for name, texts in flags if name == _SET or not _given(name, rest)]
    model = dict(kept).get("--model", ["-"])[0]
    if is_own(model):
        raise ValueError(_NO_CODE.format(file=file, model=model))
    for name, texts in kept:
        left = _left(texts, rest) if name == _SET else texts
        if name == _SET and _given(name, rest):  # those of the command line come last, and count
            place = next(i for i, text in enumerate(rest) if text == _SET)
            rest[place + 1 : place + 1] = left
        else:
            rest += [name, *left]
    return rest


def _file_of(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The others, and the file behind ``--config``."""
    for index, text in enumerate(arguments):
        if text == FLAG or text.startswith(f"{FLAG}="):
            named = text.partition("=")[2] or (arguments[index + 1 : index + 2] or [""])[0]
            if not named or named.startswith("--"):
                raise ValueError("--config needs a JSON file behind it")
            path = Path(named)
            path = path / "config.json" if path.is_dir() else path
            if not path.is_file():
                raise FileNotFoundError(f"config={path} is not a file")
            return [*arguments[:index], *arguments[index + (1 if "=" in text else 2) :]], path
    return arguments, None


def _given(name: str, arguments: Sequence[str]) -> bool:
    """Whether the command line has this option, or its opposite."""
    bare = name.removeprefix("--").removeprefix("no-").replace("_", "-")
    names = {f"--{bare}", f"--no-{bare}"}
    return any(text.partition("=")[0].replace("_", "-") in names for text in arguments)


def _left(assignments: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Without values that the command line sets by options of their own, or leaves to a budget."""
    gone = {value for name, values in NUMBERS.items() if _given(f"--{name}", arguments) for value in values}
    gone |= set(CHOSEN) if _given("--budget", arguments) else set()
    return [text for text in assignments if text.partition("=")[0] not in gone]


def _of_a_run(file: Path, options: Sequence[Option]) -> Flags:
    """What makes the run again, as far as the verb has such options."""
    known, found = {f"--{option.name.replace('_', '-')}" for option in options}, list[tuple[str, list[str]]]()
    for text in command_of(file, Path("-"))[1:]:
        if text.startswith("--"):
            found.append((text, []))
        else:
            found[-1][1].append(text)
    return [(name, texts) for name, texts in found if name != "--out" and name.replace("--no-", "--") in known]


def _of_options(file: Path, found: Mapping[str, Any], options: Sequence[Option]) -> Flags:
    """Keys are names of options, with "-" or "_"."""
    known = {option.name: option for option in options if not option.positional}
    flags: list[tuple[str, list[str]]] = []
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it may have {', '.join(known)}"
            raise ValueError(f"{file}: {key!r} is no option of this command{hint}")
        flags += _flag(file, known[name], value)
    return flags


def _flag(file: Path, option: Option, value: Any) -> Flags:
    flag = f"--{option.name.replace('_', '-')}"
    if option.name == "set" and isinstance(value, dict):
        value = [f"{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in value.items()]
    if isinstance(value, dict) or isinstance(value, bool) != (option.kind == "" and value is not None):
        wanted = "true or false" if option.kind == "" else option.kind
        raise ValueError(f"{file}: {option.name} is {value!r}; expected {wanted}")
    if isinstance(value, bool):
        return [(flag if value else flag.replace("--", "--no-"), [])]
    if value is None:
        return [(flag, ["none"])] if "none" in option.kind else []
    texts = [str(item) for item in (value if isinstance(value, list) else [value])]
    return [(flag, [text]) for text in texts] if option.repeated else [(flag, texts)]
