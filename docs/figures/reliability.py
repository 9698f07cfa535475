"""Draws docs/figures/reliability.png: a run that is killed and resumed, beside one that is not."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import plotly.graph_objects as go

from bptt.training.runs.run import Run

UPDATES, KILLS = 4000, 8
ARGUMENTS = ["task:sine", "--length", "40", "--hidden", "32", "--max-updates", str(UPDATES)]


def trained(folder: Path, targets: Sequence[int]) -> tuple[Run, list[int]]:
    """Train to the end, killed at each target, a number of updates; return the run, and where."""
    command = [sys.executable, "-m", "bptt", "train"]
    arguments, at = [*ARGUMENTS, "--no-stop-when-solved", "--out", str(folder)], list[int]()
    while True:
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(at) < len(targets):
            last = updates_of(folder)
            if last >= targets[len(at)] and last > (at[-1] if at else 0):  # it has gone on since
                process.kill()
                at.append(last)
                break
            time.sleep(0.02)
        if process.wait() == 0:
            return Run.open(folder), at
        arguments = ["--resume", str(folder)]


def updates_of(folder: Path) -> int:
    """Return the last update that is written down, 0 if there is none."""
    lines = (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""
    whole = [line for line in lines.splitlines() if line.endswith("}")]
    return int(whole[-1].split(",")[0].split(":")[1]) if whole else 0


def main() -> None:
    """Train both, print whether they are the same, and draw.

    One kill falls at random into each eighth of the run.
    """
    draw, part = random.Random(0), UPDATES // KILLS
    targets = [draw.randrange(k * part, (k + 1) * part) for k in range(KILLS)]
    with tempfile.TemporaryDirectory() as folder:
        whole, _ = trained(Path(folder, "whole"), [])
        killed, at = trained(Path(folder, "killed"), targets)
        if len(at) < KILLS:
            raise SystemExit(f"killed only {len(at)} times, at {at}; expected {targets}")
        same = whole.load()[0].keys() == killed.load()[0].keys() and all(
            bool((tensor == killed.load()[0][name]).all())
            for name, tensor in whole.load()[0].items()
        )
        losses = [
            [(row["update"], row["train_nll"]) for row in run.metrics()] for run in (whole, killed)
        ]
    print(f"killed at {targets}, after updates {at}; the same weights, bit for bit: {same}")
    figure = go.Figure()
    for rows, name, mode in zip(
        losses, ("left alone", "killed and resumed"), ("lines", "markers"), strict=True
    ):
        updates, values = zip(*rows[::5], strict=True)
        figure.add_scatter(x=updates, y=values, name=name, mode=mode, marker={"size": 5})
    for update in at:
        figure.add_vline(x=update, line={"dash": "dot", "color": "#999", "width": 1})
    figure.update_layout(
        template="plotly_white",
        width=760,
        height=360,
        margin={"t": 20, "r": 20},
        xaxis={"title": "update (dotted: killed)"},
        yaxis={"title": "training loss, nats a step"},
        legend={"x": 0.7, "y": 0.98},
    )
    figure.write_image(Path(__file__).with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
