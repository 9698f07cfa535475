"""The trainer: backpropagation through time over the batches of a text, a table or a collection."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import bptt
from bptt.errors import (
    BpttError,
    require_callable,
    require_kind,
    require_memory,
    require_path,
    require_whole,
)
from bptt.gradient.exact.backward import backward
from bptt.gradient.exact.plan import plan
from bptt.gradient.precision import require_precision
from bptt.gradient.sequences import Penalty
from bptt.model.network import Network
from bptt.model.state import State
from bptt.training import checkpoint
from bptt.training.batches import Data
from bptt.training.claims import claimed, require_files_ours
from bptt.training.data import Text
from bptt.training.evaluation import evaluate
from bptt.training.interruption import Interrupted, postponed
from bptt.training.locks import locked
from bptt.training.penalties import with_settings
from bptt.training.plain_values import as_dataclass
from bptt.training.remedies import Omega, clip_gradient, require_omega
from bptt.training.run import CHECKPOINT, Run, under
from bptt.training.settings import DEFAULT_EPOCHS, DEFAULT_UPDATES, Settings
from bptt.training.tasks import Task
from bptt.training.weights import require_saveable, tied, weights_once

LOG_EVERY = 10
MOST_UPDATES = 2**53
"""Beyond which a float cannot tell one update from the next."""
SECONDS_BETWEEN_SAVES = 60.0


@dataclass(frozen=True)
class Update:
    """What `on_update` is told after each update; losses are in nats per step.

    number: which update it is, from 1; total: the number at which training ends; train_nll: of
    this update's tokens; validation_nll: None unless this update ended with a validation; seconds:
    of training so far. net: the network, as this update has left it; run: None if nothing is saved.
    """

    number: int
    total: int
    train_nll: float
    validation_nll: float | None
    seconds: float
    tokens_per_second: float
    net: Network
    run: Run | None = None


OnUpdate = Callable[[Update], None]


@dataclass(frozen=True)
class Fit:
    """What `fit` returns: where training ended, why, and how good the network then was.

    score: of a task, what its criterion measures on the held-out sequences.
    """

    updates: int
    seconds: float
    validation_nll: float
    stopped_by: Literal["updates", "seconds", "solved"]
    run: Run | None
    score: float | None = None


@dataclass
class Progress:
    """What, besides weights and the optimizer's state, decides how training goes on.

    seed: of all that is drawn while training; each update draws from its own, seed + update.
    """

    update: int = 0
    seconds: float = 0.0
    nll_sum: float = 0.0
    nll_count: int = 0
    seed: int = 0

    def require(self, source: str) -> None:
        """Raise BpttError unless training could have come so far."""
        for name in ("update", "nll_count", "seed"):
            require_whole(f"{source}: {name}", getattr(self, name), 0, MOST_UPDATES)
        if not math.isfinite(self.seconds + self.nll_sum) or self.seconds < 0:
            raise BpttError(
                f"{source}: seconds are {self.seconds} and nll_sum is {self.nll_sum}; expected "
                "finite numbers, the first at least 0"
            )


def fit(
    net: Network,
    data: Data,
    settings: Settings | None = None,
    *,
    out: str | Path | Iterator[Path] | None = None,
    seed: int | None = None,
    on_update: OnUpdate | None = None,
    penalty: Penalty | None = None,
) -> Fit:
    """Train the network on a text, a table or a collection of sequences, in place.

    out: a folder for the run: its configuration, metrics and checkpoints; None saves nothing. Of
    several the first that does not exist yet is made.
    seed: noted in the run (the caller has seeded torch before making the network).
    penalty: what is added to the loss of a step, as in `bptt.backward`; the losses that are noted
    are without it.
    Ctrl-C, SIGTERM and SIGHUP end the current update, save, and raise Interrupted. A loss or
    gradient that is no number raises BpttError, with the last good checkpoint left in place. So
    does a folder that another process trains in.
    """
    require_kind("net", net, Network, "a bptt.Network (and after it the data)")
    kinds = "a Text, a Table, a Collection or a Task: bptt.Collection.of(...) makes one of arrays"
    require_kind("data", data, Data, kinds)
    require_kind("settings", settings, (Settings, NoneType), "bptt.Settings(...)")
    if on_update is not None:
        require_callable("on_update", on_update, "a function of a Update, or None")
    if not isinstance(out, Iterator | NoneType):
        require_path("out", out)
    if seed is not None:
        require_whole("seed", seed, 0)
    settings = settings or Settings()
    if penalty is not None:
        require_callable("penalty", penalty, "a function of an Output, or None")
    trainer = Trainer(net, data, settings, None, on_update, penalty)
    if out is None:
        return trainer.train()
    require_saveable(net)
    with claimed(out) as folder:
        trainer.run = Run(folder, _config(net, data, trainer.settings, seed, penalty))
        trainer.save()
        trainer.run.write_config()
        return trainer.train()


def resume(
    run: str | Path | Run,
    *,
    data: str | Path | None = None,
    max_updates: int | None = None,
    max_seconds: float | None = None,
    on_update: OnUpdate | None = None,
    penalty: Penalty | None = None,
) -> tuple[Network, Fit]:
    """Go on with a run exactly where its checkpoint is; return the network and how it ended.

    data: where its data is now, if that was moved.
    max_updates: a new end for the run, and for its learning rate's schedule.
    max_seconds: how long this call may take; what the run had for itself is not remembered.
    penalty: the one that the run was begun with, if it was with one.
    """
    if data is not None:
        require_path("data", data)
    run = run if isinstance(run, Run) else Run.open(run)
    with locked(run.path):
        run = Run.open(run.path)  # again: another process may have had it until now
        _require_same_penalty(run, penalty)
        dataset = run.read_data(data)
        if max_updates is not None:
            run = run.with_training(max_updates=max_updates, epochs=None)
        settings = replace(run.settings(), max_seconds=max_seconds)
        tensors, notes = run.load()
        require_files_ours(run.path)
        net = run.network(tensors)
        trainer = Trainer(net, dataset, settings, run, on_update, penalty)
        trainer.load(tensors, notes)
        if max_updates is not None:
            if max_updates < trainer.progress.update:
                raise BpttError(
                    f"max_updates is {max_updates}; expected at least {trainer.progress.update}, "
                    "the updates that the run has made already"
                )
            run.write_config()
        return net, trainer.train()


class Trainer:
    """The loop behind `fit` and `resume`."""

    def __init__(
        self,
        net: Network,
        data: Data,
        settings: Settings,
        run: Run | None,
        on_update: OnUpdate | None,
        penalty: Penalty | None = None,
    ) -> None:
        settings = settings.resolved(data.default_window)
        self.batch = settings.batch or data.default_batch
        require_precision(net, "be trained with fit")
        data.require(net, self.batch, settings.reach)
        if settings.omega > 0:
            require_omega(net)
        self.net, self.data, self.settings, self.run = net, data, settings, run
        self.on_update = on_update
        self.penalty = with_settings(penalty, settings, net)
        self.optimizer = _optimizer(net, settings)
        self.progress = Progress(seed=int(torch.randint(2**31, ())))
        self._read_batches()
        self._require_delays()
        self._require_effects()
        self._require_memory()
        self.total = _total_updates(settings, data, len(self.batches))
        self.validate_every = settings.validate_every or self._validation_interval()
        self.carried: State | None = None
        self.last_saved = (-1, -math.inf)
        self.task = data if isinstance(data, Task) else None
        self.score: float | None = None

    @property
    def is_solved(self) -> bool:
        """Whether the last update ended with the task solved."""
        return (
            self.task is not None
            and self.score is not None
            and self.score < self.task.criterion.solved
        )

    def train(self) -> Fit:
        """Make the updates that are left."""
        progress = self.progress
        limit = progress.seconds + (self.settings.max_seconds or math.inf)
        validation_nll = None
        with postponed() as signal_received:
            while progress.update < self.total and progress.seconds < limit:
                update = self.update()
                validation_nll = update.validation_nll
                self._tell(update, signal_received)
                if self.is_solved and self.settings.stop_when_solved:
                    break
            self.save()
        if validation_nll is None:
            validation_nll = self.validate()
        if self.task is not None and self.score is None:
            self.score = self.task.score(self.net)
        why: Literal["updates", "seconds", "solved"] = "seconds"
        if progress.update >= self.total:
            why = "updates"
        elif self.is_solved:
            why = "solved"
        return Fit(progress.update, progress.seconds, validation_nll, why, self.run, self.score)

    def _tell(self, update: Update, signal_received: Callable[[], int | None]) -> None:
        """Call `on_update`; save and raise if it fails, or if a signal has come."""
        try:
            if self.on_update is not None:
                self.on_update(update)
        except BaseException:  # for example because nobody reads what it prints any more
            self.save()
            if signal_received() is None:
                raise
        signum = signal_received()
        if signum is not None:
            self.save()
            raise Interrupted(self.run, update.number, signum)

    def update(self) -> Update:
        """Make one update; validate, log and save when it is time to."""
        progress, began = self.progress, time.perf_counter()
        self.score = None
        train_nll, tokens = self.change_weights()
        updated = time.perf_counter() - began
        progress.update += 1
        progress.nll_sum += train_nll
        progress.nll_count += 1
        is_due = progress.update % self.validate_every == 0 or progress.update == self.total
        validation_nll = self.validate() if is_due else None
        if is_due and self.task is not None:
            self.score = self.task.score(self.net)
        progress.seconds += time.perf_counter() - began
        self._log(validation_nll)
        if is_due or progress.seconds - self.last_saved[1] > SECONDS_BETWEEN_SAVES:
            self.save()
        return Update(
            number=progress.update,
            total=self.total,
            train_nll=train_nll,
            validation_nll=validation_nll,
            seconds=progress.seconds,
            tokens_per_second=tokens / updated,
            net=self.net,
            run=self.run,
        )

    def change_weights(self) -> tuple[float, int]:
        """Change the weights once; return the loss, in nats per step, and how many tokens."""
        batch = self.batches.get(*divmod(self.progress.update, len(self.batches)))
        batch = batch.of(self.net)
        self.net.train()
        self.optimizer.zero_grad()
        weights = None
        if batch.unscored > 0:
            weights = torch.ones(batch.y.shape[:2])
            weights[: batch.unscored] = 0
        B = batch.y.shape[1]
        omega = self.settings.omega_at(self.progress.update)
        remedy = Omega(self.net, omega, sequences=B) if omega > 0 else nullcontext()
        with torch.random.fork_rng(), remedy:
            torch.manual_seed(self.progress.seed + self.progress.update)
            done = backward(
                self.net,
                batch.y,
                x=batch.x,
                state=None if batch.is_start else self.carried,
                window=self.settings.reach,
                stride=self.settings.stride,
                memory=self.settings.memory,
                forcing=self.settings.forcing_at(self.progress.update / max(1, self.total - 1)),
                feedback=self.settings.feedback,
                lengths=batch.lengths,
                loss_weights=weights,
                penalty=self.penalty,
            )
        loss = self._require_number("loss", float(done.loss))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = clip_gradient(parameters, self.settings.clip, self.settings.clip_value)
        self._require_number("gradient's norm", norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate_at(self.progress.update, self.total)
        self.optimizer.step()
        self.carried = done.state
        return loss, done.steps

    def _read_batches(self) -> None:
        steps, seed = self.settings.steps, self.progress.seed
        self.batches = self.data.training_batches(self.batch, steps, seed)
        self.validation = self.data.validation_batches(self.batch)

    def _validation_interval(self) -> int:
        """Return an interval in which validating takes about a tenth of the time, or less.

        There are at most about twenty validations of a short epoch.
        """
        per_update = self.batches.steps / len(self.batches)
        enough = math.ceil(3 * self.validation.steps / per_update)
        return max(min(100, max(len(self.batches), self.total // 20)), enough)

    def _require_effects(self) -> None:
        """Raise BpttError if a setting would do nothing with this network and data."""
        settings, longest, source = self.settings, self.batches.longest, self.data.source
        y, x, *_ = self.batches.get(0, 0)
        is_all = len(self.batches) == 1
        if settings.batch is not None and is_all and y.shape[1] < settings.batch:
            raise BpttError(
                f"batch is {self.batch}; expected at most {y.shape[1]}: {source} has no more "
                "sequences to train on side by side (--batch)"
            )
        if self.data.whole and settings.steps_per_update is not None:
            raise BpttError(
                f"steps_per_update is {settings.steps_per_update}; expected none, since an update "
                f"takes the sequences of {source} from start to end (--steps-per-update)"
            )
        steps = longest if self.data.whole else min(settings.steps or longest, longest)
        reach, stride = settings.reach or steps, settings.stride
        if stride is not None and stride < reach and reach >= steps:
            raise BpttError(
                f"stride is {stride} where an update has {steps} steps and the window is {reach}; "
                "expected more steps than the window, or there are no windows to overlap: take "
                + ("a shorter window" if self.data.whole else "more steps_per_update")
                + (" (--window)" if self.data.whole else " (--steps-per-update)")
            )
        if not settings.is_forced and self.net.feedback_weight(x) is None:
            raise BpttError(
                f'forcing is below 1 in a network of recurrence "{self.net.recurrence}" with '
                "inputs, which feeds nothing back; expected forcing 1, or recurrence "
                '"output" or "both"'
            )

    def _require_memory(self) -> None:
        """Raise BpttError if an update would take more than this machine has, or than allowed."""
        y, x, *_ = self.batches.get(0, 0).of(self.net)
        settings = self.settings
        side_by_side = settings.reach is None or settings.stride is not None
        reach = len(y) if side_by_side else min(settings.reach or len(y), len(y))
        planned = plan(self.net, reach, y.shape[1], settings.memory, y=y, x=x)
        weights = sum(p.numel() for p in self.net.parameters())
        require_memory("training", 4 * 4 * weights + (planned.memory or 0))

    def _require_delays(self) -> None:
        """Raise BpttError if a skip leads back beyond the start of every sequence."""
        skips, steps = self.net.loop.skips, self.batches.longest
        if skips and skips[-1] >= steps:
            raise BpttError(
                f"a skip's delay is {skips[-1]:,}, and the sequences have {steps:,} steps; "
                "expected delays below that"
            )
        if steps < 2:
            raise BpttError(
                f"with a batch of {self.batch} the sequences of {self.data.source} have one step "
                "each; expected at least 2: take a smaller batch (--batch), or more data"
            )

    def validate(self) -> float:
        """Return the loss on the validation part, in nats per step."""
        nll = evaluate(self.net, self.validation)
        return self._require_number("validation loss", nll)

    def save(self) -> None:
        """Replace the run's checkpoint, if there is a run."""
        progress = self.progress
        if self.run is None or self.last_saved[0] == progress.update:
            return
        if not all(bool(p.isfinite().all()) for p in self.net.parameters()):
            self._require_number("largest weight", math.nan)
        parts = {
            "network": weights_once(self.net),
            "optimizer": checkpoint.optimizer_tensors(self.optimizer),
            "carried": {
                str(i): t
                for i, t in enumerate(pytree.tree_leaves(self.carried))
                if isinstance(t, Tensor)
            },
        }
        tensors = {
            f"{part}.{name}": t.cpu() for part, all_ in parts.items() for name, t in all_.items()
        }
        self.run.save(tensors, asdict(progress))
        self.last_saved = (progress.update, progress.seconds)

    def load(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        """Put back what `save` saved, but for the weights, with which the network came."""
        assert self.run is not None
        source = self.run.path / CHECKPOINT
        checkpoint.load_optimizer(self.optimizer, under("optimizer", tensors), source)
        self.progress = as_dataclass(Progress, notes, str(source))
        self.progress.require(str(source))
        self._read_batches()
        self.carried = self._carried(under("carried", tensors), source)
        self.run.forget_after(self.progress.update)
        self.last_saved = (self.progress.update, self.progress.seconds)

    def _carried(self, tensors: dict[str, Tensor], source: Path) -> State | None:
        """Return the state that the next update starts from; None where that is a fresh one."""
        following = self.batches.get(*divmod(self.progress.update, len(self.batches)))
        if following.is_start:
            return None
        B = following.y.shape[1]
        # Its last output is a sample, like y, or a mean; or there is none, as in a fresh state.
        mean = self.net.readout.weight.new_empty(B, self.net.likelihood.encoding.width)
        fresh = self.net.fresh_state(B)
        leaves, structure = pytree.tree_flatten(fresh)
        possible = [[leaf] for leaf in leaves[:-1]] + [[None, fresh.y, mean]]
        carried = [tensors.get(str(i)) for i in range(len(leaves))]
        for tensor, examples in zip(carried, possible, strict=True):
            if not any(_is_like(tensor, example) for example in examples):
                raise BpttError(f"{source} has no state that fits its run; is it of another run?")
        state: State = pytree.tree_unflatten(carried, structure)
        return state

    def _log(self, validation_nll: float | None) -> None:
        progress = self.progress
        if validation_nll is None and progress.update % LOG_EVERY:
            return
        row = {
            "update": progress.update,
            "seconds": round(progress.seconds, 3),
            "train_nll": progress.nll_sum / progress.nll_count,
        }
        if validation_nll is not None:
            row["validation_nll"] = validation_nll
        if self.score is not None:
            row["score"] = self.score
        progress.nll_sum, progress.nll_count = 0.0, 0
        if self.run is not None:
            self.run.log(row)

    def _require_number(self, name: str, value: float) -> float:
        if math.isfinite(value):
            return value
        saved = ""
        if self.run is not None and self.last_saved[0] >= 0:
            number = self.last_saved[0]
            saved = f" {self.run.path} keeps its last good checkpoint, of update {number}."
        raise BpttError(
            f"the {name} became {value} after update {self.progress.update}.{saved} "
            "Try a lower learning rate, a smaller clip, or the tanh cell"
        )


def _is_like(tensor: Tensor | None, example: Tensor | None) -> bool:
    """Return whether a tensor has an example's shape and dtype, and is finite; or both are None."""
    if tensor is None or example is None:
        return tensor is example
    same = (tensor.shape, tensor.dtype) == (example.shape, example.dtype)
    return same and bool(tensor.isfinite().all())


def _optimizer(net: Network, settings: Settings) -> torch.optim.Optimizer:
    trained = [p for p in net.parameters() if p.requires_grad]
    make = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.SGD
    return make(trained, lr=settings.learning_rate)


def _total_updates(settings: Settings, data: Data, updates_per_epoch: int) -> int:
    ends = [] if settings.max_updates is None else [settings.max_updates]
    if settings.epochs is not None:
        ends.append(math.ceil(min(settings.epochs * updates_per_epoch, MOST_UPDATES)))
    least = 0 if isinstance(data, Text) else DEFAULT_UPDATES
    return min(ends or [max(least, math.ceil(DEFAULT_EPOCHS * updates_per_epoch))])


def _require_same_penalty(run: Run, penalty: Penalty | None) -> None:
    """Raise BpttError unless a run goes on with the penalty that it was begun with."""
    begun, now = run.config.get("penalty"), _name_of(penalty)
    if begun != now:
        raise BpttError(
            f"the run was begun with {begun or 'no penalty'}, and penalty is {now}; expected the "
            "same: bptt.resume(run, penalty=...)"
        )


def _name_of(penalty: Penalty | None) -> str | None:
    """Return what a run notes of a penalty: its name, with its numbers if it shows them."""
    return None if penalty is None else getattr(penalty, "__qualname__", None) or repr(penalty)


def _config(
    net: Network, data: Data, settings: Settings, seed: int | None, penalty: Penalty | None
) -> dict[str, Any]:
    return {
        "bptt": bptt.__version__,
        "data": data.config(),
        "network": net.config(),
        "tied": tied(net),
        "trained": [name for name, p in net.named_parameters() if p.requires_grad],
        "training": asdict(settings),
        "seed": seed,
        "penalty": _name_of(penalty),
    }
