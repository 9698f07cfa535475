"""Whether a run that is killed at any moment goes on to the same weights, bit for bit.

    python benchmarks/kills.py [--kills 60] [--writes 40] [--terms 20] [--kinds text,ranks]

Seven kinds of run, one of them of two processes, are trained undisturbed, then again with SIGKILL
(--kills of them in all) and SIGTERM (--terms) at random moments, from the start of the process to
its end, and with SIGKILL at a random call that puts something on the disk (--writes): checkpoints,
metrics, config. Of two processes one is drawn that is hit; the first is the one that writes. What
was killed is resumed until it is done. Checkpoint, metrics and the names of the files must be those
of the run that nobody disturbed. The processes are forked from one that has imported everything, so
that few of the moments fall into that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file

from bptt.cli import main as command_line
from bptt.cli.launch import JOIN_SECONDS

SERVER = get_context("forkserver")
SHORT = "--hidden 8 --max-updates 60 --validate-every 6 --seed 1"
KINDS = {
    "text": f"text.txt {SHORT} --batch 8 --window 20",
    "table": f"table.csv {SHORT} --window 20 --target load --inputs wind",
    "sequences": f"sequences.npz {SHORT} --batch 4",
    "task": f"task:order {SHORT} --length 30 --no-stop-when-solved",
    "memory": f"text.txt {SHORT} --batch 4 --window none --memory 64kB --steps-per-update 20",
    "sampling": f"table.csv {SHORT} --cell gru --window 20 --forcing-end 0.2 --dropout 0.1",
    "ranks": f"text.txt {SHORT} --batch 8 --window 20 --dropout 0.1",
}
RANKS = {"ranks": 2}
"""Of how many processes a kind of run is, if not of one."""
PRELOADED = ["__main__", "torch._dynamo", "polars", "bptt.cli.train", "bptt.training.fit"]
PRELOADED += ["bptt.data.tables.table", "bptt.training.progress", "bptt.training.snapshots"]
PRELOADED += ["torch.distributed"]
PUTS = ("fsync", "replace", "link", "unlink")
"""The system's calls between which what is on the disk changes."""
CHAIN = 4
"""How often one run is killed before it is left alone."""
JOIN = 20
"""Seconds that processes wait for each other."""


class Blow(NamedTuple):
    """A signal, after some seconds; or SIGKILL at a call of PUTS, counted from 1."""

    signum: int
    after: float | None = None
    call: int | None = None


@dataclass(frozen=True)
class Run:
    """A run of the command line: its arguments, where it goes, and of how many processes it is."""

    arguments: list[str]
    folder: Path
    ranks: int = 1

    def start(self, blow: Blow | None = None) -> list[ForkServerProcess]:
        """Start it, or go on with it, in processes of their own."""
        resume = ["--resume", str(self.folder)]
        begins = not (self.folder / "config.json").exists()
        arguments = [*self.arguments, "--out", str(self.folder)] if begins else resume
        call = None if blow is None else blow.call
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        processes = []
        for rank, log in enumerate(self.logs):
            names: dict[str, Any] = {"RANK": rank, "WORLD_SIZE": self.ranks, JOIN_SECONDS: JOIN}
            names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment = {} if self.ranks == 1 else {k: str(v) for k, v in names.items()}
            parts = (["train", *arguments], log, environment, call if rank == 0 else None)
            processes.append(SERVER.Process(target=train, args=parts))
            processes[-1].start()
        return processes

    @property
    def logs(self) -> list[Path]:
        """Where its processes print to."""
        return [self.folder.with_suffix(f".{rank}.log") for rank in range(self.ranks)]

    @property
    def printed(self) -> str:
        """What its processes have printed."""
        return "".join(log.read_text() for log in self.logs if log.exists())

    def finish(self) -> int:
        """Let it run to its end; return how many calls of PUTS it made."""
        for process in self.start():
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"{self.folder.name}: {process.exitcode}: {self.printed}")
        return int(self.logs[0].with_suffix(".calls").read_text())

    def disturb(self, blow: Blow, draw: random.Random) -> str | None:
        """Strike one of its processes; return what it was doing, None if it had ended."""
        processes = self.start(blow)
        target = processes[0] if blow.after is None else draw.choice(processes)
        target.join(blow.after)
        if target.exitcode is None:
            assert target.pid is not None
            os.kill(target.pid, blow.signum)
        for process in processes:
            process.join()
        if all(process.exitcode == 0 for process in processes):
            return None
        is_hit = target.exitcode in (-blow.signum, 128 + blow.signum)
        if not is_hit or "Traceback" in self.printed:
            codes = [process.exitcode for process in processes]
            raise SystemExit(f"{self.folder.name}: {codes}: {self.printed}")
        if blow.call is not None:
            return "writing"
        return "training" if (self.folder / "config.json").exists() else "starting"

    def difference(self, other: Run) -> str | None:
        """Return in what the two differ, but for the clock; None if they do not."""
        tensors, others = (
            load_file(run.folder / "checkpoint.safetensors") for run in (self, other)
        )
        if tensors.keys() != others.keys():
            return "the checkpoint's tensors"
        for name, tensor in tensors.items():
            if not torch.equal(tensor, others[name]):
                return name
        if self.rows() != other.rows():
            return "metrics.jsonl"
        names = [sorted(path.name for path in run.folder.iterdir()) for run in (self, other)]
        return None if names[0] == names[1] else f"the files, {names[0]} and {names[1]}"

    def rows(self) -> list[dict[str, float]]:
        """Return its metrics without the clock."""
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [{**json.loads(line), "seconds": 0.0} for line in lines]


def train(
    arguments: list[str], log: Path, environment: dict[str, str], last_call: int | None
) -> None:
    """Be the process of a run: the command line, printing to a file.

    last_call: the call of PUTS at which it kills itself.
    """
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(environment)
    os.chdir(log.parent)
    calls = itertools.count(1)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            if next(calls) == last_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counting

    for name in PUTS:
        setattr(os, name, counted(getattr(os, name)))
    status = command_line(arguments)
    log.with_suffix(".calls").write_text(str(next(calls) - 1))
    sys.exit(status)


def write_data(folder: Path) -> None:
    """Write a text, a table and a collection of sequences."""
    (folder / "text.txt").write_text("to be, or not to be, that is the question: " * 60)
    draw = np.random.default_rng(0)
    rows = (f"{i},{a:.3f},{b:.3f}" for i, (a, b) in enumerate(draw.normal(size=(300, 2))))
    (folder / "table.csv").write_text("\n".join(["hour,load,wind", *rows]) + "\n")
    np.savez(folder / "sequences.npz", y=draw.integers(2, size=(30, 24, 3)))


def campaign(
    reference: Run, count: int, draw: random.Random, blows: Callable[[], Blow]
) -> Counter[str]:
    """Strike runs so many times; return how many blows hit them doing what."""
    hits: Counter[str] = Counter()
    for attempt in itertools.count():
        if hits.total() == count:
            return hits
        name = f"{reference.folder.name}-{blows.__name__}-{attempt}"
        run = Run(reference.arguments, reference.folder.with_name(name), reference.ranks)
        for _ in range(min(CHAIN, count - hits.total())):
            doing = run.disturb(blows(), draw)
            if doing is None:
                break
            hits[doing] += 1
        run.finish()
        if (difference := run.difference(reference)) is not None:
            raise SystemExit(f"{name} ended otherwise than undisturbed: {difference}")
    raise AssertionError


def shares(total: int, parts: int) -> list[int]:
    """Return whole numbers that add up to the total, as equal as can be."""
    return [total // parts + (i < total % parts) for i in range(parts)]


def main() -> None:
    """Disturb every kind of run; print how many blows hit it doing what."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--writes", type=int, default=40)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    SERVER.set_forkserver_preload(PRELOADED)
    kinds, draw = options.kinds.split(","), random.Random(options.seed)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        Run(["--help"], Path(folder) / "warm-up").finish()
        for i, kind in enumerate(kinds):
            reference = Run(KINDS[kind].split(), Path(folder) / kind, RANKS.get(kind, 1))
            began = time.perf_counter()
            calls = reference.finish()
            seconds = time.perf_counter() - began

            def kill(seconds: float = seconds) -> Blow:
                return Blow(signal.SIGKILL, after=draw.uniform(0, seconds))

            def kill_at_a_write(calls: int = calls) -> Blow:
                return Blow(signal.SIGKILL, call=draw.randint(1, calls))

            def end(seconds: float = seconds) -> Blow:
                return Blow(signal.SIGTERM, after=draw.uniform(0, seconds))

            asked = (
                ("SIGKILL", kill, options.kills),
                ("SIGKILL", kill_at_a_write, options.writes),
                ("SIGTERM", end, options.terms),
            )
            for name, blows, count in asked:
                hits = campaign(reference, shares(count, len(kinds))[i], draw, blows)
                totals[name] += hits.total()
                counts = ", ".join(f"{number} while {doing}" for doing, number in hits.items())
                print(f"{kind:10} {name}: {counts or 'none'}; same weights", flush=True)
    counts = " and ".join(f"{number} {signals}" for signals, number in totals.items())
    print(f"{counts}: every run ended with the weights, bit for bit, of one that was left alone")


if __name__ == "__main__":
    main()
