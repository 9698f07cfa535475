"""Whether a run that is killed at any moment goes on to the same weights, bit for bit.

    python benchmarks/kills.py [--kills 60] [--terms 20] [--kinds text,table] [--seed 0]

Six kinds of run are trained undisturbed, then again with SIGKILL (--kills of them in all) and
SIGTERM (--terms) at random moments, from the start of the process to its end; what was killed is
resumed until it is done. Checkpoint, metrics and the names of the files must be those of the run
that nobody disturbed. The processes are forked from one that has imported everything, so that few
of the moments fall into that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from bptt.cli import main as command_line

SERVER = get_context("forkserver")
SHORT = "--hidden 8 --max-updates 60 --validate-every 6 --seed 1"
KINDS = {
    "text": f"text.txt {SHORT} --batch 8 --window 20",
    "table": f"table.csv {SHORT} --window 20 --target load --inputs wind",
    "sequences": f"sequences.npz {SHORT} --batch 4",
    "task": f"task:order {SHORT} --length 30 --no-stop-when-solved",
    "memory": f"text.txt {SHORT} --batch 4 --window none --memory 64kB --steps-per-update 20",
    "sampling": f"table.csv {SHORT} --cell gru --window 20 --forcing-end 0.2 --dropout 0.1",
}
PRELOADED = ["__main__", "torch._dynamo", "polars", "bptt.cli.train", "bptt.training.fit"]
PRELOADED += ["bptt.data.tables.table", "bptt.training.progress", "bptt.training.snapshots"]
CHAIN = 4
"""How often one run is killed before it is left alone."""


@dataclass(frozen=True)
class Run:
    """A run of the command line: its arguments, and where it goes."""

    arguments: list[str]
    folder: Path

    def start(self) -> ForkServerProcess:
        """Start it, or go on with it, in a process of its own."""
        resume = ["--resume", str(self.folder)]
        begins = not (self.folder / "config.json").exists()
        arguments = [*self.arguments, "--out", str(self.folder)] if begins else resume
        process = SERVER.Process(target=train, args=(["train", *arguments], self.log))
        process.start()
        return process

    @property
    def log(self) -> Path:
        """Where it prints to."""
        return self.folder.with_suffix(".log")

    def finish(self) -> None:
        """Let it run to its end."""
        process = self.start()
        process.join()
        if process.exitcode != 0:
            raise SystemExit(f"{self.log.stem}: {process.exitcode}: {self.log.read_text()}")

    def disturb(self, signum: int, after: float) -> str | None:
        """Send it a signal after some seconds; return what it was doing, None if it had ended."""
        process = self.start()
        process.join(after)
        if process.exitcode is None:
            assert process.pid is not None
            os.kill(process.pid, signum)
        process.join()
        if process.exitcode == 0:
            return None
        printed = self.log.read_text() if self.log.exists() else ""
        if process.exitcode not in (-signum, 128 + signum) or "Traceback" in printed:
            raise SystemExit(f"{self.log.stem}: {process.exitcode}: {printed}")
        return "training" if (self.folder / "config.json").exists() else "starting"

    def difference(self, other: Run) -> str | None:
        """Return in what the two differ, but for the clock; None if they do not."""
        mine, its = (load_file(run.folder / "checkpoint.safetensors") for run in (self, other))
        if mine.keys() != its.keys():
            return "the checkpoint's tensors"
        for name, tensor in mine.items():
            if not torch.equal(tensor, its[name]):
                return name
        if self.rows() != other.rows():
            return "metrics.jsonl"
        names = [sorted(path.name for path in run.folder.iterdir()) for run in (self, other)]
        return None if names[0] == names[1] else f"the files, {names[0]} and {names[1]}"

    def rows(self) -> list[dict[str, float]]:
        """Return its metrics without the clock."""
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [{**json.loads(line), "seconds": 0.0} for line in lines]


def train(arguments: list[str], log: Path) -> None:
    """Be the process of a run: the command line, printing to a file."""
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(log.parent)
    sys.exit(command_line(arguments))


def write_data(folder: Path) -> None:
    """Write a text, a table and a collection of sequences."""
    (folder / "text.txt").write_text("to be, or not to be, that is the question: " * 60)
    draw = np.random.default_rng(0)
    rows = (f"{i},{a:.3f},{b:.3f}" for i, (a, b) in enumerate(draw.normal(size=(300, 2))))
    (folder / "table.csv").write_text("\n".join(["hour,load,wind", *rows]) + "\n")
    np.savez(folder / "sequences.npz", y=draw.integers(2, size=(30, 24, 3)))


def campaign(
    kind: str, signum: int, count: int, reference: Run, seconds: float, draw: random.Random
) -> Counter[str]:
    """Send a kind of run so many signals; return how many hit it doing what."""
    hits: Counter[str] = Counter()
    for attempt in itertools.count():
        if hits.total() == count:
            return hits
        name = f"{kind}-{signal.Signals(signum).name}-{attempt}"
        run = Run(reference.arguments, reference.folder.with_name(name))
        for _ in range(min(CHAIN, count - hits.total())):
            doing = run.disturb(signum, draw.uniform(0, seconds))
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
    """Disturb every kind of run; print how many signals hit it doing what."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--terms", type=int, default=20)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    SERVER.set_forkserver_preload(PRELOADED)
    kinds, draw = options.kinds.split(","), random.Random(options.seed)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    signals = ((signal.SIGKILL, options.kills), (signal.SIGTERM, options.terms))
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        Run(["--help"], Path(folder) / "warm-up").finish()
        for i, kind in enumerate(kinds):
            reference = Run(KINDS[kind].split(), Path(folder) / f"{kind}-undisturbed")
            began = time.perf_counter()
            reference.finish()
            seconds = time.perf_counter() - began
            for signum, count in signals:
                share = shares(count, len(kinds))[i]
                hits = campaign(kind, signum, share, reference, seconds, draw)
                totals[signum.name] += hits.total()
                counts = ", ".join(f"{number} while {doing}" for doing, number in hits.items())
                print(f"{kind:10} {signum.name}: {counts or 'none'}; same weights", flush=True)
    counts = " and ".join(f"{number} {name}" for name, number in totals.items())
    print(f"{counts}: every run ended with the weights, bit for bit, of one that was left alone")


if __name__ == "__main__":
    main()
