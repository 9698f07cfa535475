"""How the gradient's reach changes while a network is trained: a line of flow.jsonl at a time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from bptt.data.batches import Batches
from bptt.errors import BpttError, require_whole
from bptt.gradient.analysis.flow import gradient_flow
from bptt.gradient.analysis.snapshot import Snapshot
from bptt.model.network import Network
from bptt.training.runs import files
from bptt.training.runs.plain_values import as_dataclass
from bptt.training.runs.run import FLOW, Run
from bptt.training.runs.run_lines import read_lines
from bptt.training.sample import held_out
from bptt.training.updates import Update

STEPS, SEQUENCES, LINES = 120, 8, 24
MOST_COUNT = 2**53
"""Beyond which a float cannot tell one whole number from the next."""


class Snapshots:
    """What to call after every update, to keep about LINES snapshots in a run's folder.

    batches: held-out data. window: the one that is trained with.
    """

    def __init__(self, batches: Batches, window: int | None) -> None:
        self.window = window
        self.path: Path | None = None  # known when there is a run
        self.sample = held_out(batches, STEPS, SEQUENCES)

    def __call__(self, update: Update) -> None:
        """Look at the gradient now and then: after the first update, and at equal distances."""
        every = max(1, update.total // LINES)
        if update.number != 1 and update.number % every != 0 and update.number != update.total:
            return
        if not isinstance(update.net, Network):
            raise BpttError(
                f"snapshots are given with a {type(update.net).__name__}; expected a bptt.Network: "
                "bptt.watch looks into other modules"
            )
        path = self.path = self.path or _begun(update)
        y, x, lengths, weights = self.sample.of(update.net)
        flow = gradient_flow(
            update.net,
            y,
            x=x,
            window=self.window,
            lengths=lengths,
            loss_weights=weights,
            max_lag=min(len(y) - 1, STEPS),
        )
        row = Snapshot.of(update.number, flow)
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        except OSError as error:
            raise files.cannot_write(path, error) from None


def _begun(update: Update) -> Path:
    """Return the file of a run, with whole lines only, and none of updates that are made again."""
    if update.run is None:
        raise BpttError("snapshots are kept in the folder of a run; expected one (out)")
    path = update.run.path / FLOW
    files.require_ours(path, files.FLOW)
    rows = [row for row in read_snapshots(update.run) if row.update < update.number]
    lines = [json.dumps(asdict(row)) + "\n" for row in rows]
    files.write(path, "".join(lines), files.FLOW)
    return path


def read_snapshots(run: Run) -> list[Snapshot]:
    """Return a run's snapshots; of updates that were made again, the later ones."""
    snapshots: list[Snapshot] = []
    for row in read_lines(run.path / FLOW):
        snapshot = as_dataclass(Snapshot, row.value, row.source)
        for name in ("update", "horizon"):
            require_whole(f"{row.source}: {name}", getattr(snapshot, name) or 0, 0, MOST_COUNT)
        snapshots = [*(one for one in snapshots if one.update < snapshot.update), snapshot]
    return snapshots
