"""The same data under several settings and seeds, in processes side by side."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bptt
from bptt.data.input_files import parse_json, read_bytes
from bptt.data.tasks.task import Task
from bptt.errors import BpttError, require_whole, shown
from bptt.training.children import Children
from bptt.training.runs import files
from bptt.training.runs.locks import locked
from bptt.training.runs.result import Result
from bptt.training.runs.run import CHECKPOINT, CONFIG, Run
from bptt.training.snapshots import read_snapshots

SPEC, FINISHED = "comparison.json", "finished"
MOST_SPEC = 1 << 24
"""Bytes of a comparison.json, or of a comparison in TOML."""
KEYS = {"data", "seeds", "common", "settings"}


@dataclass(frozen=True)
class Comparison:
    """What to compare: data, as `bptt train` takes it, under several settings and seeds.

    common, settings: flags of `bptt train` with their values, by name; a setting adds its own to
    the common ones.
    """

    data: str | None
    seeds: tuple[int, ...]
    common: dict[str, Any]
    settings: dict[str, dict[str, Any]]

    def __post_init__(self) -> None:
        if not self.settings:
            raise BpttError("there is nothing to compare; expected at least one setting")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise BpttError(f"seeds are {list(self.seeds)}; expected at least one, each once")
        for seed in self.seeds:
            require_whole("seed", seed, 0)
        for name in self.settings:
            if not name or not all(c.isalnum() or c in "-_. +" for c in name) or name[0] == ".":
                raise BpttError(
                    f"a setting is called {name!r}; expected letters, digits, spaces and -_.+"
                )
        for taken in ("seed", "out", "resume", "report"):
            if any(taken in flags for flags in (self.common, *self.settings.values())):
                raise BpttError(f"{taken} is among the flags; expected it to be left to compare")

    def jobs(self, folder: Path) -> list[Job]:
        """Return a job for every seed of every setting."""
        return [
            Job(name, seed, folder / name / f"seed-{seed}", self._arguments(flags, seed))
            for seed in self.seeds
            for name, flags in self.settings.items()
        ]

    def _arguments(self, flags: dict[str, Any], seed: int) -> list[str]:
        arguments = [] if self.data is None else [self.data]
        for name, value in {**self.common, **flags, "seed": seed}.items():
            flag = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                arguments.append(flag if value else f"--no-{name.replace('_', '-')}")
            elif isinstance(value, list):
                arguments += [flag, ",".join(map(str, value))]
            else:
                arguments += [flag, str(value)]
        return arguments


@dataclass(frozen=True)
class Job:
    """One run of a comparison: its setting, seed and folder, and the arguments of bptt train."""

    name: str
    seed: int
    folder: Path
    arguments: list[str]

    @property
    def is_finished(self) -> bool:
        """Whether it has run to its end."""
        files.require_ours(self.folder / FINISHED, files.FINISHED)
        return (self.folder / FINISHED).exists()

    @property
    def is_begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return all((self.folder / name).exists() for name in (CONFIG, CHECKPOINT))

    def run(self, children: Children) -> None:
        """Train, or go on where it was stopped; raise BpttError with what bptt train complained."""
        if self.is_begun:
            arguments = ["--resume", str(self.folder), "--report"]
        else:
            arguments = [*self.arguments, "--out", str(self.folder), "--report"]
        status, errors = children.run(["train", *arguments])
        if status != 0:
            lines = errors.strip().removeprefix("bptt: ").splitlines()
            complaint = lines[-1] if lines else f"it was ended from outside (status {status})"
            raise BpttError(f"{self.name}, seed {self.seed}: {complaint}")
        files.write(self.folder / FINISHED, "bptt compare has trained this run\n", files.FINISHED)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    solved: None where the data is no task. loss: of the weights that are used: of the best
    validation, or the last (--keep), in nats per step.
    updates: until it was solved, or to the end. before, after: the gradient's horizon at the first
    and last update. result: what these weights reach in a measure of the data, if it has one.
    """

    name: str
    seed: int
    solved: bool | None
    loss: float
    updates: int
    seconds: float
    before: int | None
    after: int | None
    result: Result | None = None

    @classmethod
    def of(cls, job: Job) -> Outcome:
        """Read it from the run."""
        run = Run.open(job.folder)
        rows = [row for row in run.metrics() if "validation_nll" in row]
        if not rows:
            raise BpttError(f"{job.folder} has no validation in its metrics; train it again")
        last, solved = rows[-1], None
        end = last
        if run.kind == "task":
            data = run.read_data()
            assert isinstance(data, Task)
            enough = data.criterion.solved
            end = next((row for row in rows if row.get("score", enough) < enough), last)
            solved = end.get("score", enough) < enough
        shots = read_snapshots(run)
        horizons = (shots[0].horizon, shots[-1].horizon) if shots else (None, None)
        updates, seconds = int(end["update"]), float(end["seconds"])
        used = last if run.settings().keep == "last" else run.best_row() or last
        result = Result.read(job.folder)
        if result is not None and result.updates != last["update"]:  # of an earlier end
            result = None
        loss = used["validation_nll"]
        return cls(job.name, job.seed, solved, loss, updates, seconds, *horizons, result)


def compare(
    what: Comparison,
    folder: str | Path,
    *,
    cores: int | None = None,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Train every setting with every seed, as many at once as there are cores; return the outcomes.

    folder: for the runs. If it holds the same comparison, interrupted at any point, that goes on;
    if it holds another, BpttError is raised. on_outcome: called with each as it comes.
    """
    cores = (os.cpu_count() or 1) if cores is None else cores
    require_whole("cores", cores, 1)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise files.cannot_write(folder, error) from None
    with locked(folder):
        _claim(folder, what)
        return _run_jobs(what.jobs(folder), cores, on_outcome)


def _run_jobs(
    jobs: Sequence[Job], cores: int, on_outcome: Callable[[Outcome], None] | None
) -> list[Outcome]:
    outcomes = dict[Path, Outcome]()

    def finish(job: Job) -> None:
        outcomes[job.folder] = Outcome.of(job)
        if on_outcome is not None:
            on_outcome(outcomes[job.folder])

    for job in jobs:
        if job.is_finished:
            finish(job)
    children = Children()
    pool = ThreadPoolExecutor(cores)
    waiting = {pool.submit(job.run, children): job for job in jobs if job.folder not in outcomes}
    try:
        for future in as_completed(waiting):
            future.result()
            finish(waiting[future])
    except (KeyboardInterrupt, SystemExit):  # after other errors those that run go on to their end
        children.stop()
        raise
    finally:
        _await(pool, children)
    return [outcomes[job.folder] for job in jobs]


def _await(pool: ThreadPoolExecutor, children: Children) -> None:
    """Wait for the runs that are going on; a second Ctrl-C ends them at once."""
    try:
        pool.shutdown(cancel_futures=True)
    except BaseException:
        children.kill()
        raise


def _claim(folder: Path, what: Comparison) -> None:
    """Write down what is compared, or raise BpttError if that is something else already."""
    path, asked = folder / SPEC, json.loads(json.dumps(asdict(what)))
    files.require_ours(path, files.JSON)
    if path.exists():
        before = parse_json(read_bytes(path, "a comparison", MOST_SPEC), str(path))
        if not isinstance(before, dict) or {**before, "bptt": None} != {**asked, "bptt": None}:
            raise BpttError(
                f"{folder} holds a comparison with other settings; give another folder with "
                "out (--out), or the same settings to go on with it"
            )
        return
    spec = {"bptt": bptt.__version__, **asked}
    files.write(path, json.dumps(spec, indent=2) + "\n", files.JSON)


def read_comparison(path: str | Path) -> Comparison:
    """Read a comparison from a TOML file.

    data = "task:order"        # as bptt train takes it
    seeds = [0, 1, 2]
    [common]                   # flags of bptt train
    length = 100
    [settings.plain]
    [settings.regularised]
    omega = 0.5
    """
    try:
        spec = tomllib.loads(read_bytes(path, "a comparison in TOML", MOST_SPEC).decode())
    except RecursionError:
        raise BpttError(f"{path} is no comparison: it is nested too deeply") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BpttError(f"{path} is no TOML: {error}") from None
    if unknown := sorted(set(spec) - KEYS):
        raise BpttError(f"{path} has {', '.join(unknown)}; expected {', '.join(sorted(KEYS))}")
    settings = spec.get("settings", {})
    tables = (spec.get("common", {}), settings, *(settings.values() if settings else ()))
    if not all(isinstance(table, dict) for table in tables):
        raise BpttError(f"{path}: expected [common] and [settings.NAME], tables of flags")
    flags = [value for table in tables if table is not settings for value in table.values()]
    if wrong := [value for value in flags if not isinstance(value, str | int | float)]:
        raise BpttError(f"{path} has {wrong[0]!r} for a flag; expected a text, a number or true")
    data = spec.get("data")
    if data is not None and not isinstance(data, str):
        raise BpttError(f"{path}: data is {data!r}; expected a text, as bptt train takes it")
    seeds = spec.get("seeds", [0, 1, 2])
    if not isinstance(seeds, list):
        raise BpttError(f"{path}: seeds are {seeds!r}; expected a list, such as [0, 1, 2]")
    data = spec.get("data")
    if not isinstance(data, str | None):
        raise BpttError(f'{path}: data is {shown(data)}; expected a text, such as "task:order"')
    return Comparison(data, tuple(seeds), spec.get("common", {}), settings)


def comparison_of_flags(
    data: str | None, settings: Sequence[str], common: str, seeds: int
) -> Comparison:
    """Return a comparison as the command line has it: settings as in "regularised: --omega 0.5"."""
    named: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, colon, flags = setting.partition(":")
        if not colon:
            raise BpttError(f"a setting is {setting!r}; expected NAME: and its flags, if any")
        if name.strip() in named:
            raise BpttError(f"there are two settings {shown(name.strip())}; name each differently")
        named[name.strip()] = _flags(flags)
    return Comparison(data, tuple(range(seeds)), _flags(common), named)


def _flags(text: str) -> dict[str, Any]:
    """Return flags with their values; one without a value is true."""
    flags: dict[str, Any] = {}
    name = None
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BpttError(f"the flags {shown(text)} cannot be read: {error}") from None
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name in flags:
                raise BpttError(f"the flags have --{name} twice; expected it once")
            flags[name] = value if equals else True
        elif name is None or flags[name] is not True:
            raise BpttError(f"the flags have {word!r}; expected --FLAG VALUE")
        else:
            flags[name] = word
    return flags


def summary(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return a table: heads, and a row a setting, medians over the seeds; no column is empty.

    What runs reach in a measure of their data has columns, and each simple method a row for these.
    """
    measured = [(one, result) for one in outcomes if (result := one.result) is not None]
    by_head = {id(one): result.by_head() for one, result in measured}
    heads = list(dict.fromkeys(head for numbers in by_head.values() for head in numbers))
    left = ["setting", "runs", "solved", "loss"]
    right = ["updates to success", "horizon before", "and after"]
    rows = [[*left, *heads, *right]]
    for name in dict.fromkeys(one.name for one in outcomes):
        runs = [one for one in outcomes if one.name == name]
        solved = [one for one in runs if one.solved]
        numbers = [by_head[id(one)] for one in runs if id(one) in by_head]
        rows.append(
            [
                name,
                str(len(runs)),
                "" if runs[0].solved is None else f"{len(solved)} of {len(runs)}",
                f"{statistics.median(one.loss for one in runs):.4g}",
                *(
                    _median([each[head].value for each in numbers if head in each])
                    for head in heads
                ),
                f"{statistics.median(one.updates for one in solved):,.0f}" if solved else "",
                _horizon([one.before for one in runs]),
                _horizon([one.after for one in runs]),
            ]
        )
    for method in dict.fromkeys(result.method for _, result in measured if result.method):
        numbers = [by_head[id(one)] for one, result in measured if result.method == method]
        cells = [_span([each[head].simple for each in numbers if head in each]) for head in heads]
        rows.append([method, *[""] * (len(left) - 1), *cells, *[""] * len(right)])
    filled = [k for k in range(len(rows[0])) if any(row[k] for row in rows[1:])]
    return [[row[k] for k in filled] for row in rows]


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.4g}" if values else ""


def _span(values: list[float | None]) -> str:
    """Return what all runs have, or from where to where it reaches."""
    texts = [f"{value:.4g}" for value in sorted(value for value in values if value is not None)]
    if not texts:
        return ""
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _horizon(values: list[int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.0f}" if known else ""
