"""The live display of a training run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bptt.training.updates import Update


def losses_in(unit: str) -> tuple[str, float]:
    """Return what a loss is measured in for steps of a kind, and how many of these a nat has.

    >>> losses_in("character")[0], losses_in("step")
    ('bits per character', ('nats per step', 1.0))
    """
    if unit in ("step", "label"):
        return f"nats per {unit}", 1.0
    return f"bits per {unit}", 1 / math.log(2)


def clock(seconds: float) -> str:
    """Return a span of time as minutes and seconds, or hours too.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def loss_text(loss: float) -> str:
    """Return a loss in few digits, also that of a run that diverged.

    >>> loss_text(2.0521), loss_text(7.63e30)
    ('2.052', '7.63e+30')
    """
    return f"{loss:.3f}" if abs(loss) < 1e5 else f"{loss:.3g}"


def rate(tokens_per_second: float) -> str:
    """Return how many steps are done in a second.

    >>> rate(455_300), rate(812.4)
    ('455k/s', '812/s')
    """
    thousands = tokens_per_second / 1e3
    return f"{thousands:.0f}k/s" if thousands >= 10 else f"{tokens_per_second:,.0f}/s"


class TrainingDisplay:
    """Shows every Update it is called with, while it is entered.

    unit: what a step is, such as a character.
    max_seconds: when training stops at the latest, for the time left.
    """

    def __init__(self, console: Console, unit: str, max_seconds: float | None = None) -> None:
        self.console = console
        self.measure, self.per_nat = losses_in(unit)
        self.max_seconds = max_seconds or math.inf
        self.first: Update | None = None
        self.smoothed, self.weight, self.validation = 0.0, 0.0, "-"
        self.bar = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[line]}"),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self.task = self.bar.add_task("training", total=None, line="")

    @classmethod
    def here(cls, unit: str, max_seconds: float | None = None) -> TrainingDisplay:
        """Return a display on what Python prints to: a terminal, a notebook or a file."""
        return cls(Console(highlight=False, markup=False, emoji=False), unit, max_seconds)

    def __enter__(self) -> TrainingDisplay:
        """Start the display."""
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the display as it last was."""
        self.bar.stop()

    def __call__(self, update: Update) -> None:
        """Show where training is."""
        self.first = self.first or update
        self.smoothed = 0.95 * self.smoothed + 0.05 * update.train_nll
        self.weight = 0.95 * self.weight + 0.05
        if update.validation_nll is not None:
            self.validation = loss_text(update.validation_nll * self.per_nat)
        training = self.smoothed / self.weight * self.per_nat
        losses = f"training {loss_text(training)}, validation {self.validation}"
        speed = f"{rate(update.tokens_per_second)}, {clock(self._time_left(update))} left"
        line = f"{losses} {self.measure}, {speed}"
        self.bar.update(self.task, total=update.total, completed=update.number, line=line)
        if not self.console.is_terminal and update.validation_nll is not None:
            self.console.print(f"update {update.number} of {update.total}, {line}", soft_wrap=True)

    def _time_left(self, update: Update) -> float:
        assert self.first is not None
        updates, spent = update.number - self.first.number, update.seconds - self.first.seconds
        by_updates = (update.total - update.number) * spent / updates if updates else math.inf
        left = min(by_updates, self.max_seconds - spent)
        return max(0.0, left) if math.isfinite(left) else 0.0
