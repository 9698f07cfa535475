"""The trainer: one update after another, over the batches of some data."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bptt.data.batches import Batches, Data
from bptt.errors import BpttError
from bptt.model.network import Network
from bptt.training.batch_gradient import BatchGradient, Moment
from bptt.training.best import Best
from bptt.training.carried import Carried
from bptt.training.checks import require_alike, require_effects
from bptt.training.evaluation import evaluate
from bptt.training.functions import Functions
from bptt.training.interruption import Interrupted, postponed
from bptt.training.optimizers import Descent
from bptt.training.ranks import Ranks
from bptt.training.record import Record
from bptt.training.remedies import clip_gradient
from bptt.training.runs.run import Run
from bptt.training.settings import DEFAULT_EPOCHS, Settings
from bptt.training.training_state import TrainingState
from bptt.training.updates import MOST_UPDATES, Fit, OnUpdate, Progress, Update

UPDATES_BETWEEN_VALIDATIONS = 100
"""At most, and where it is not known how long validating takes."""


class Trainer:
    """The loop behind `fit` and `resume`, on every rank the same."""

    def __init__(
        self,
        net: nn.Module,
        data: Data,
        settings: Settings,
        functions: Functions | None = None,
        *,
        on_update: OnUpdate | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        settings = settings.resolved(data.default_window)
        require_alike(net, data, settings)
        self.net, self.data, self.settings = net, data, settings
        self.functions, self.on_update = functions or Functions(), on_update
        self.gradient = BatchGradient(net, settings, self.functions, self.ranks)
        self.batch = settings.batch or data.default_batch
        seed = int(torch.randint(2**31, ()))
        (seed,) = map(int, self.ranks.meet(seed if self.ranks.is_first else 0))
        self._read_batches(seed)
        require_effects(net, data, self.batches, settings, self.ranks)
        self.total = _total_updates(settings, data, self.batches)
        trained = [p for p in net.parameters() if p.requires_grad]
        makers = self.functions.optimizer, self.functions.schedule
        descent = Descent(trained, settings, self.total, *makers)
        self.state = TrainingState(net, descent, Progress(seed=seed))
        carries = self.batches.carries
        carried = Carried(self.gradient.scored, self.batches, self.ranks) if carries else None
        self.record = Record(self.state, carried, self.ranks)
        self._require_validation()
        self.validate_every = settings.validate_every or self._validation_interval()
        self.score: float | None = None
        self.best = Best(net)
        self.is_interrupted = False
        self.signal_received: Callable[[], int | None] = lambda: None

    @property
    def progress(self) -> Progress:
        """How far training is."""
        return self.state.progress

    @property
    def run(self) -> Run | None:
        """Where the first rank writes, if there is a run."""
        return self.record.run

    @property
    def is_solved(self) -> bool:
        """Whether the last update ended with the task solved."""
        criterion = self.data.criterion
        return criterion is not None and self.score is not None and self.score < criterion.solved

    def train(self) -> Fit:
        """Make the updates that are left."""
        self.ranks.meet()
        progress = self.progress
        limit = progress.seconds + (self.settings.max_seconds or math.inf)
        with postponed() as self.signal_received:
            while progress.update < self.total and progress.seconds < limit and not self.is_stale:
                self._tell(self.update())
                if self.is_solved and self.settings.stop_when_solved:
                    break
            self.record.save()
        why = self._stopped_by()
        best, nll, score = progress.best, progress.best_nll, progress.best_score
        if self.settings.keep == "last" or nll is None:
            best, nll, score = progress.update, self.validate(), self._score()
        elif best < progress.update:
            self.best.use(self.run)
        return Fit(progress.update, progress.seconds, nll, why, self.run, score, best)

    def _stopped_by(self) -> Literal["updates", "seconds", "solved", "patience"]:
        if self.progress.update >= self.total:
            return "updates"
        if self.is_solved:
            return "solved"
        return "patience" if self.is_stale else "seconds"

    @property
    def is_stale(self) -> bool:
        """Whether the validations have not become better for as long as patience allows."""
        return self.settings.patience is not None and self.progress.worse >= self.settings.patience

    def _tell(self, update: Update) -> None:
        """Call `on_update`; save and raise if it fails, or if a signal has come."""
        try:
            if self.on_update is not None:
                self.on_update(update)
        except BaseException:  # for example because nobody reads what it prints any more
            if not self.ranks.is_alone:  # the others are not here to save
                raise
            self.record.save()
            if self.signal_received() is None:
                raise
        signum = self.signal_received()
        if not self.ranks.is_alone:
            signum = (signum or signal.SIGTERM) if self.is_interrupted else None
        if signum is not None:
            self.record.save()
            raise Interrupted(self.run, update.number, signum)

    def update(self) -> Update:
        """Make one update; validate, log and save when it is time to."""
        progress, began = self.progress, self.ranks.seconds()
        rate = self.state.descent.learning_rate
        train_nll, tokens, norm = self.change_weights()
        updated = self.ranks.seconds() - began
        progress.update += 1
        progress.nll_sum += train_nll
        progress.nll_count += 1
        is_due = progress.update % self.validate_every == 0 or progress.update == self.total
        validation_nll = self.validate() if is_due else None
        if validation_nll is not None:
            self.state.descent.validated(validation_nll)
        self.score = self._score() if is_due else None
        if validation_nll is not None:
            by_score = self.data.is_best_by_score
            is_best = progress.compare(validation_nll, self.score, by_score=by_score)
            if is_best and self.settings.keep == "best":
                self.best.hold(progress, self.run)
        progress.seconds += self.ranks.seconds() - began
        self.record.log(validation_nll, self.score)
        if is_due or self.record.is_due:
            self.record.save()
        return Update(
            number=progress.update,
            total=self.total,
            train_nll=train_nll,
            validation_nll=validation_nll,
            seconds=progress.seconds,
            tokens_per_second=tokens / updated,
            gradient_norm=norm,
            learning_rate=rate,
            net=self.net,
            optimizer=self.state.descent.optimizer,
            run=self.run,
            score=self.score,
        )

    def change_weights(self) -> tuple[float, int, float]:
        """Change the weights once; return the loss in nats per step, the steps, and ‖gradient‖."""
        state, settings, number = self.state, self.settings, self.progress.update
        self.net.train()
        state.descent.optimizer.zero_grad()
        moment = Moment(number, number / max(1, self.total - 1), self.progress.seed + number)
        done = self.gradient.add(
            self.batches.at(number),
            state.carried,
            moment,
            state.descent.parameters,
            is_interrupted=self.signal_received() is not None,
        )
        self.is_interrupted = done.is_interrupted
        loss = self.record.require_number("loss", done.loss)
        norm = clip_gradient(state.descent.parameters, settings.clip, settings.clip_value)
        self.record.require_number("gradient's norm", norm)
        state.descent.step()
        state.carried = done.state if self.batches.carries else None
        return loss, done.steps, norm

    def validate(self) -> float | None:
        """Return the loss on the validation part, in nats per step, if there is one."""
        if self.validation is None:
            return None
        loss = evaluate(self.gradient.scored, self.validation, self.ranks)
        return self.record.require_number("validation loss", loss)

    def _score(self) -> float | None:
        """Return what the data's criterion measures of a Network, on the first rank."""
        if self.data.criterion is None or not isinstance(self.net, Network):
            return None
        score = self.data.score(self.net) if self.ranks.is_first else 0.0
        assert score is not None
        return self.ranks.meet(score)[0]

    def load(self, run: Run, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Put back what was saved, but for the weights, with which the network came.

        The first rank goes on to save to the run.
        """
        self.record.load(run, tensors, notes)
        self._read_batches(self.progress.seed)
        self.record.load_carried(run, tensors, notes, self.batches)
        if self.settings.keep == "best":
            self.best.find(self.progress, run, is_ours=self.ranks.is_first)
        if self.run is not None:
            self.run.forget_after(self.progress.update)

    def _read_batches(self, seed: int) -> None:
        self.batches = self.data.training_batches(self.batch, self.settings.steps, seed)
        self.validation = self.data.validation_batches(self.batch)

    def _require_validation(self) -> None:
        """Raise BpttError where settings need a validation, and there is nothing to validate on."""
        wants = [] if self.settings.patience is None else [f"patience is {self.settings.patience}"]
        if self.state.descent.goes_by_loss:
            wants.append("the schedule goes by the validation's loss")
        if self.validation is None and wants:
            raise BpttError(
                f"{wants[0]}, and there is nothing to validate on; expected a validation: "
                "bptt.fit(..., validation=...)"
            )

    def _validation_interval(self) -> int:
        """Return an interval in which validating takes about a tenth of the time, or less.

        There are at most about twenty validations of a short epoch.
        """
        batches, validation, most = self.batches, self.validation, UPDATES_BETWEEN_VALIDATIONS
        if not batches.is_sized:
            return most
        usual = min(most, max(len(batches), self.total // 20))
        if batches.steps is None or validation is None or validation.steps is None:
            return usual
        per_update = batches.steps / len(batches)
        return max(usual, math.ceil(3 * validation.steps / per_update))


def _total_updates(settings: Settings, data: Data, batches: Batches) -> int:
    """Return how many updates there will be, or raise BpttError where that is not known."""
    ends = [] if settings.max_updates is None else [settings.max_updates]
    if not batches.is_sized and (settings.epochs is not None or not ends):
        raise BpttError(
            f"{data.source} does not say how many batches it has; expected max_updates in the "
            "settings, and no epochs"
        )
    if settings.epochs is not None:
        ends.append(math.ceil(min(settings.epochs * len(batches), MOST_UPDATES)))
    return min(ends or [max(data.least_updates, math.ceil(DEFAULT_EPOCHS * len(batches)))])
