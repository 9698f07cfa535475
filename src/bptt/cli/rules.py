"""Which option belongs to what, and what its value may be: all checked here, as it was typed.

An option that would do nothing is refused. Whether it was typed counts, not whether its value
differs from the default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

from cyclopts import App, CycloptsError, UnusedCliTokensError
from cyclopts.argument import Argument, ArgumentCollection

from bptt.cli.table_options import TableOptions
from bptt.cli.train_options import InitialOptions, NetworkOptions
from bptt.errors import BpttError, shown

TEXT, TABLE, SEQUENCES, TASK, TOML = "text", "table", "sequences", "task", "TOML file"
LABELLED, CORPUS = "labelled", "corpus"
TABLE_WITHOUT_INPUTS = "table without inputs"
TABLES = (".csv", ".tsv", ".parquet")
TASK_PREFIX = "task:"
WORDS = {
    TEXT: "texts",
    TABLE: f"tables ({', '.join(TABLES)})",
    SEQUENCES: "collections (.npz)",
    LABELLED: "folders of texts, with a folder or a file for each class",
    CORPUS: "folders of texts",
    TASK: f"tasks ({TASK_PREFIX}NAME)",
    "data": "data with settings as flags",
}
OF_TABLES = tuple(field.name for field in fields(TableOptions))
"""The options of `bptt train` that are for tables alone."""


def flag(name: str) -> str:
    """Return how an option is typed.

    >>> flag("max_updates")
    '--max-updates'
    """
    return f"--{name.replace('_', '-')}"


BELONGS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "--tokens": (TEXT, CORPUS, LABELLED),
        "--corpus": (CORPUS,),
        **dict.fromkeys(map(flag, OF_TABLES), (TABLE,)),
        "--length": (TASK,),
        "--standardise": (SEQUENCES,),
        "--stop-when-solved": (TASK,),
        "--scale": (TABLE, SEQUENCES),
        "--steps-per-update": (TEXT, CORPUS, TABLE),
    },
    "generate": {
        "--prompt": (TEXT,),
        "--temperature": (TEXT,),
        "--out": (TABLE,),
        "--data": (TABLE,),
        "--future": (TABLE,),
        "--quantiles": (TABLE,),
    },
    "flow": {
        "--sequences": (TEXT, SEQUENCES, LABELLED, TASK),
        "--steps": (TEXT, TABLE, SEQUENCES, TASK),
    },
    "compare": {"--setting": ("data",), "--common": ("data",), "--seeds": ("data",)},
    "evaluate": {},
    "bench": {},
}
"""For each command, what those options are for that are not for everything."""

NEEDS: dict[str, tuple[str, ...]] = {
    "--forcing-schedule": ("--forcing-end",),
    "--feedback": ("--forcing", "--forcing-end"),
}
"""Options of `bptt train` that have no effect without one of others."""

BROUGHT = ("--tokens", "--standardise", "--scale") + tuple(  # noqa: RUF005 (else less readable)
    flag(field.name)
    for options in (NetworkOptions, InitialOptions, TableOptions)
    for field in fields(options)
)
"""What a run that is started from has of its own: its network, and how its data is read."""

RESUME = ("--resume", "--max-updates", "--max-seconds", "--tensorboard", "--report", "DATA")
"""What goes with --resume: the rest is the run's own."""


def check(command: str, arguments: ArgumentCollection) -> None:
    """Raise BpttError unless all that was typed has a value that can be, and an effect."""
    typed = {argument.name: argument for argument in arguments if argument.tokens}
    for name, argument in typed.items():
        for token in argument.tokens:
            if isinstance(token.implicit_value, bool):
                continue
            _require_value(name, token.value, argument)
    if command == "train" and "--resume" in typed:
        _require_resumable(typed)
        return
    if command == "train":
        _require_company(typed)
        _require_not_brought(typed)
    restricted = {name: BELONGS[command][name] for name in typed if name in BELONGS[command]}
    subject = _subject(typed)
    if restricted and (command == "train" or subject is not None):
        _require_belonging(command, restricted, subject, corpus=_is_on("--corpus", typed))


def _is_on(flag: str, typed: dict[str, Argument]) -> bool:
    """Return whether a flag was typed, and not its opposite."""
    return flag in typed and typed[flag].tokens[-1].implicit_value is True


def kind_of_data(path: str | None, *, corpus: bool = False) -> str:
    """Return what data is, by its name: a text, a table, sequences, a folder of them, or a task.

    corpus: whether a folder is one text.

    >>> kind_of_data("a.csv"), kind_of_data("task:copy"), kind_of_data(None)
    ('table', 'task', 'text')
    """
    if path is None:
        return TEXT
    if path.startswith(TASK_PREFIX):
        return TASK
    if _is_folder(path):
        return CORPUS if corpus else LABELLED
    ending = Path(path).suffix.lower()
    if ending in TABLES:
        return TABLE
    return SEQUENCES if ending == ".npz" else TEXT


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # what cannot be a path is complained of when it is read
        return False


def _subject(typed: dict[str, Argument]) -> str | None:
    """Return the data, run or file that the command is about."""
    for name in ("RUN", "WHAT", "DATA"):
        if name in typed:
            return typed[name].tokens[0].value
    return None


def _require_belonging(
    command: str, restricted: dict[str, tuple[str, ...]], subject: str | None, *, corpus: bool
) -> None:
    """Raise BpttError if an option is for other kinds of data or runs."""
    kind, name = _kind_of(command, subject, corpus=corpus)
    for option, kinds in restricted.items():
        if option == "--future" and kind == TABLE_WITHOUT_INPUTS:
            raise BpttError(
                f"--future gives the inputs of the steps ahead; {name} has none: leave it out"
            )
        if kind.removesuffix(" without inputs") not in kinds:
            words = " and ".join(WORDS[one] for one in kinds)
            none = "none" if len(kinds) == 1 else "none of these"
            raise BpttError(f"{option} is for {words}; {name} is {none}")


def _kind_of(command: str, subject: str | None, *, corpus: bool) -> tuple[str, str]:
    """Return what kind of data or run it is, and what to call it."""
    if command == "train":
        return kind_of_data(subject, corpus=corpus), subject or "the built-in text"
    assert subject is not None
    if command == "compare":
        is_toml = subject.endswith(".toml")
        return (TOML if is_toml else "data"), f"{subject}, which has its own settings and seeds,"
    from bptt.training.runs.run import Run  # noqa: PLC0415 (torch comes with it)

    run = Run.open(subject)
    without = run.kind == TABLE and not run.inputs
    return (TABLE_WITHOUT_INPUTS if without else run.kind), f"what {subject} was trained on"


def _require_resumable(typed: Iterable[str]) -> None:
    """Raise BpttError if --resume comes with a setting that belongs to the run."""
    if others := sorted(set(typed) - set(RESUME)):
        raise BpttError(
            f"--resume goes on with the run's own settings, but got {', '.join(others)}; "
            "leave that out, or start a new run"
        )


def _require_not_brought(typed: Iterable[str]) -> None:
    """Raise BpttError if --from comes with what the run that it names has of its own."""
    if "--from" in typed and (others := sorted(set(typed) & set(BROUGHT))):
        raise BpttError(
            f"--from brings the network and how its data is read, but got {', '.join(others)}; "
            "leave that out, or start a new network without --from"
        )


def _require_company(typed: Iterable[str]) -> None:
    """Raise BpttError if an option comes without the one that it says more about."""
    for option in typed:
        others = NEEDS.get(option, ())
        if others and not set(others) & set(typed):
            raise BpttError(f"{option} has no effect without {' or '.join(others)}; expected both")


def _require_value(name: str, text: str, argument: Argument) -> None:
    """Raise BpttError unless a value is of the kind that the option takes, to the letter.

    The library would round 8.9 to a whole number.
    """
    if "\0" in text:
        raise BpttError(f"{name} has a NUL character in it; expected none")
    hints = _members(argument.hint)
    if any(hint is Path for hint in hints) and not text:
        raise BpttError(f"{name} is empty; expected a path")
    checks = [(words, is_one) for hint in hints for words, is_one in [_reader(hint)]]
    if not any(is_one(text) for _, is_one in checks):
        words = [words for words, _ in checks]
        expected = " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
        raise BpttError(f"{name} is {shown(text)}; expected {expected}")


def _members(hint: object) -> list[object]:
    is_union = get_origin(hint) in (Union, UnionType)
    return [member for part in get_args(hint) for member in _members(part)] if is_union else [hint]


def _reader(hint: object) -> tuple[str, Callable[[str], bool]]:
    """Return what a type is called, and what says whether a text is one."""
    if hint is int:
        return "a whole number", lambda text: bool(re.fullmatch(r"[+-]?\d{1,99}", text, re.ASCII))
    if hint is float:
        return "a number", _is_number
    if hint is NoneType:
        return "none", lambda text: text.lower() == "none"
    if hint is bool:
        return "no value: it is on, or with --no- before it off", lambda text: False
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return ", ".join(choices), lambda text: text in choices
    return "a text", lambda text: True


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def complaint(error: Exception, command: str, app: App) -> str:
    """Return in one line what was wrong, with every option as the command has it."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        extra = ", ".join(map(shown, error.unused_tokens))
        text = f"got {extra} too many; 'bptt {command} --help' says what is expected"
    elif isinstance(error, CycloptsError):
        text = str(error).replace("parameter ", "")
    else:
        text = str(error)
    return " ".join(_with_commands(text, command, app).split())


def _with_commands(text: str, command: str, app: App) -> str:
    """Say of options in brackets that they are another command's, where they are.

    Messages name an option, as in (--fill), without knowing which command will show them.
    """
    option = re.compile(r"\((--[a-z][a-z-]*)")
    if command not in BELONGS or option.search(text) is None:
        return text
    has, trains = (
        {name for one in app[which].assemble_argument_collection() for name in one.names}
        for which in (command, "train")
    )

    def spelt(match: re.Match[str]) -> str:
        is_elsewhere = match[1] not in has and match[1] in trains
        return f"(bptt train {match[1]}" if is_elsewhere else match[0]

    return option.sub(spelt, text)
