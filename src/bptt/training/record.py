"""What a training leaves on the disk: its checkpoints, and the lines of its metrics."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from bptt.data.batches import Batches
from bptt.errors import BpttError
from bptt.gradient.sequences import device_of
from bptt.training.carried import Carried
from bptt.training.ranks import Ranks
from bptt.training.runs.run import CHECKPOINT, Run
from bptt.training.training_state import TrainingState

LOG_EVERY = 10
SECONDS_BETWEEN_SAVES = 60.0


class Record:
    """Writes a training down, on every rank: the first has the run, if there is one.

    carried: what puts the states of all ranks together; None where no state is carried on.
    """

    def __init__(self, state: TrainingState, carried: Carried | None, ranks: Ranks) -> None:
        self.state, self.carried, self.ranks = state, carried, ranks
        self.run: Run | None = None
        self.is_on = False
        self.update, self.seconds = -1, -math.inf  # of the last checkpoint

    def begin(self, run: Run | None) -> None:
        """Write to a run of the first rank's from now on, if it has one; its first checkpoint."""
        self.run = run
        self.is_on = self.ranks.meet(run is not None)[0] > 0
        self.save()

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is a while ago."""
        return self.state.progress.seconds - self.seconds > SECONDS_BETWEEN_SAVES

    def save(self) -> None:
        """Replace the run's checkpoint, if there is a run."""
        progress = self.state.progress
        if not self.is_on or self.update == progress.update:
            return
        if not all(bool(p.isfinite().all()) for p in self.state.net.parameters()):
            self.require_number("largest weight", math.nan)
        carried = None if self.carried is None else self.carried.whole(self.state.carried)
        if self.run is not None:
            self.run.save(*self.state.saved(carried))
        self.update, self.seconds = progress.update, progress.seconds

    def load(self, run: Run, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Put back how far a run is, its optimizer and its schedule; go on to write to it."""
        source = str(run.path / CHECKPOINT)
        self.state.load_optimizer(tensors, notes, source)
        self.state.load_progress(notes, source)
        progress = self.state.progress
        self.run, self.is_on = run if self.ranks.is_first else None, True
        self.update, self.seconds = progress.update, progress.seconds

    def load_carried(
        self, run: Run, tensors: dict[str, Tensor], notes: dict[str, Any], batches: Batches
    ) -> None:
        """Put back what the next update starts from, if that is a state; batches: to train on."""
        if self.carried is not None:
            source = str(run.path / CHECKPOINT)
            following = batches.at(self.state.progress.update)
            carried = self.state.load_carried(tensors, notes, following, source)
            self.state.carried = self.carried.part(carried, following.B)
            self.state.carry_to(device_of(self.state.net))

    def log(self, validation_nll: float | None, score: float | None) -> None:
        """Add a line to the metrics when it is time to."""
        progress = self.state.progress
        if validation_nll is None and progress.update % LOG_EVERY:
            return
        row = {
            "update": progress.update,
            "seconds": round(progress.seconds, 3),
            "train_nll": progress.nll_sum / progress.nll_count,
        }
        if validation_nll is not None:
            row["validation_nll"] = validation_nll
        if score is not None:
            row["score"] = score
        progress.nll_sum, progress.nll_count = 0.0, 0
        if self.run is not None:
            self.run.log(row)

    def require_number(self, name: str, value: float) -> float:
        """Return a value, or raise BpttError unless it is finite."""
        if math.isfinite(value):
            return value
        saved = ""
        if self.run is not None and self.update >= 0:
            saved = f" {self.run.path} keeps its last good checkpoint, of update {self.update}."
        raise BpttError(
            f"the {name} became {value} after update {self.state.progress.update}.{saved} "
            "Try a lower learning rate, a smaller clip, or the tanh cell"
        )
