"""Train a network in one call, and go on with a run in another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import bptt
from bptt.data.batches import Data
from bptt.errors import (
    BpttError,
    require_callable,
    require_flag,
    require_kind,
    require_path,
    require_whole,
    shown,
)
from bptt.gradient.sequences import Penalty
from bptt.model.network import Network
from bptt.training.functions import Functions
from bptt.training.loaders import Loader
from bptt.training.loss import Loss
from bptt.training.optimizers import MakeOptimizer, MakeSchedule, require_makers
from bptt.training.progress import TrainingDisplay
from bptt.training.ranks import Ranks
from bptt.training.runs.claims import claimed, require_files_ours
from bptt.training.runs.locks import locked
from bptt.training.runs.run import CONFIG, Run
from bptt.training.runs.weights import require_saveable, tied
from bptt.training.settings import Settings
from bptt.training.trainer import Trainer
from bptt.training.updates import Fit, OnUpdate

SHARDED = ("DTensor", "FlatParameter")
"""What torch's FSDP makes of weights."""
DATA = "a Text, a Table, a Collection or a Task, or an iterable of batches such as a DataLoader"


def fit(
    net: nn.Module,
    data: Data | Iterable[Any],
    settings: Settings | None = None,
    *,
    validation: Iterable[Any] | None = None,
    optimizer: str | MakeOptimizer | None = None,
    schedule: str | MakeSchedule | None = None,
    loss: Loss | None = None,
    penalty: Penalty | None = None,
    on_update: OnUpdate | None = None,
    out: str | Path | Iterator[Path] | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Fit:
    """Train a network, in place.

    net: a Network, or any module that `bptt.backward` takes; with a loss any module that is called
    as torch's recurrent layers are, net(x, state) -> (outputs, state).
    data: a text, a table, a collection of sequences or a task; or an iterable of batches, time
    first: y (T, B, ...), a tuple (y, x, lengths, loss_weights, resets) or less of it, or a dict of
    these. validation: of an iterable, another one to validate on.
    optimizer, schedule: in place of those that the settings name, other names, or functions: from a
    list of parameters to a torch optimizer, and from that to a torch scheduler, which takes a step
    after each update (a ReduceLROnPlateau after each validation). The learning rates of an
    optimizer of one's own are its own, and stay, unless there is a schedule too.
    loss: a function of what the net returned and y, (T, B, ...), to the loss of each step, (T, B).
    penalty: what is added to the loss of a step, as in `bptt.backward`; the losses that are noted
    are without it.
    on_update: called with an `Update` after each.
    out: a folder for the run: its configuration, metrics and checkpoints; None saves nothing. Of
    several the first that does not exist yet is made.
    seed: noted in the run (the caller has seeded torch before making the network).
    progress: whether it shows on the console how far it is.

    In a process group of torch.distributed every process calls this alike, and all train the one
    network together: a batch is cut into columns, one part a process; of an iterable each has its
    own batches (a DistributedSampler), and the update is of all of them. The first process alone
    writes `out` and shows how far it is, and the others' Fit has no run.

    Ctrl-C, SIGTERM and SIGHUP end the current update, save, and raise Interrupted. A loss or
    gradient that is no number raises BpttError, with the last good checkpoint left in place. So
    does a folder that another process trains in.
    """
    ranks = Ranks.here()
    with ranks.together(), ExitStack() as stack:
        net = whole_module(net, ranks)
        source = _as_data(data, validation)
        require_kind("settings", settings, (Settings, NoneType), "bptt.Settings(...)")
        _require_hooks(on_update, penalty, progress)
        if not isinstance(out, Iterator | NoneType):
            require_path("out", out)
        if seed is not None:
            require_whole("seed", seed, 0)
        settings, make, plan = require_makers(settings or Settings(), optimizer, schedule)
        functions = Functions(make, plan, loss, penalty)
        trainer = Trainer(net, source, settings, functions, on_update=on_update, ranks=ranks)
        _agree(trainer)
        if progress and ranks.is_first:
            stack.enter_context(_showing(trainer))
        run = None
        if out is not None:
            require_saveable(net)
            if ranks.is_first:
                run = Run(stack.enter_context(claimed(out)), _config(trainer, seed))
        trainer.record.begin(run)
        if run is not None:
            run.write_config()
        return trainer.train()


def resume(
    run: str | Path | Run,
    *,
    data: str | Path | Iterable[Any] | None = None,
    validation: Iterable[Any] | None = None,
    net: nn.Module | None = None,
    max_updates: int | None = None,
    max_seconds: float | None = None,
    optimizer: MakeOptimizer | None = None,
    schedule: MakeSchedule | None = None,
    loss: Loss | None = None,
    penalty: Penalty | None = None,
    on_update: OnUpdate | None = None,
    progress: bool = True,
) -> tuple[Any, Fit]:
    """Go on with a run exactly where its checkpoint is; return the network and how it ended.

    data: where its data is now, if that was moved; or its batches, if they came from an iterable.
    net: the module that was trained, if it was no Network: its weights become those of the run.
    max_updates: a new end for the run, and for its learning rate's schedule.
    max_seconds: how long this call may take; what the run had for itself is not remembered.
    optimizer, schedule, loss, penalty, validation: those that the run was begun with, if it was.
    """
    _require_hooks(on_update, penalty, progress)
    for name, one in (("optimizer", optimizer), ("schedule", schedule)):
        if isinstance(one, str):
            raise BpttError(
                f"{name} is {one!r}; expected the function that the run was begun with, or none: "
                "names are in the run's settings"
            )
    ranks = Ranks.here()
    with ranks.together(), ExitStack() as stack:
        module = None if net is None else whole_module(net, ranks)
        run = run if isinstance(run, Run) else Run.open(run)
        if ranks.is_first:
            stack.enter_context(locked(run.path))
        ranks.meet()
        run = Run.open(run.path)  # again: another process may have had it until now
        functions = Functions(optimizer, schedule, loss, penalty)
        _require_same(run, functions)
        source = _data_of(run, data, validation)
        if max_updates is not None:
            run = run.with_training(max_updates=max_updates, epochs=None)
        settings, *_ = require_makers(run.settings(), optimizer, schedule)
        settings = replace(settings, max_seconds=max_seconds)
        tensors, notes = _checkpoint(run, ranks)
        module = run.network(tensors) if module is None else run.load_into(module, tensors)
        trainer = Trainer(module, source, settings, functions, on_update=on_update, ranks=ranks)
        trainer.load(run, tensors, notes)
        _agree(trainer)
        if max_updates is not None:
            trainer.progress.worse = 0  # who asks for more has the patience anew
            if max_updates < trainer.progress.update:
                raise BpttError(
                    f"max_updates is {max_updates}; expected at least {trainer.progress.update}, "
                    "the updates that the run has made already"
                )
            if ranks.is_first:
                run.write_config()
        if progress and ranks.is_first:
            stack.enter_context(_showing(trainer))
        return net or module, trainer.train()


def _checkpoint(run: Run, ranks: Ranks) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a run's checkpoint: the first rank, which may have to mend it, reads it first."""
    if ranks.is_first:
        checkpoint = run.load(to_go_on=True)
        require_files_ours(run.path)
    ranks.meet()
    return checkpoint if ranks.is_first else run.load()


def _agree(trainer: Trainer) -> None:
    """Raise BpttError unless all ranks are to train alike; give them the first one's weights."""
    if trainer.ranks.is_alone:
        return
    config, net = _config(trainer, None), trainer.net
    config["data"].pop("path", None)  # each machine may have it elsewhere
    weights = {name: [str(p.dtype), list(p.shape)] for name, p in net.named_parameters()}
    parts = {part: config.pop(part) for part in ("data", "network", "training")}
    trainer.ranks.require_same(
        {
            **config,
            **{
                f"{part}.{name}": value
                for part, its in parts.items()
                for name, value in its.items()
            },
            **{f"the weight {name}": kind for name, kind in weights.items()},
            "the number of updates": trainer.total,
            "the updates made": trainer.progress.update,
            "validate_every": trainer.validate_every,
        }
    )
    trainer.ranks.share_weights(net)


def is_begun(
    folder: Path, net: nn.Module, data: Data, settings: Settings, seed: int | None
) -> bool:
    """Return whether a folder has the run that `fit` would begin with these."""
    if not (folder / CONFIG).exists():
        return False
    config = _config(Trainer(net, data, settings), seed)
    return bool(json.loads(json.dumps(config)) == Run.open(folder).config)


def _showing(trainer: Trainer) -> TrainingDisplay:
    """Return a display that the trainer tells of each update, before a user's hook."""
    display = TrainingDisplay.here(trainer.data.unit, trainer.settings.max_seconds)
    users = trainer.on_update

    def on_update(update: Any) -> None:
        display(update)
        if users is not None:
            users(update)

    trainer.on_update = on_update
    return display


def whole_module(net: nn.Module, ranks: Ranks) -> nn.Module:
    """Return the module to train, or raise BpttError.

    Of a DistributedDataParallel it is the one inside: ranks add up gradients by themselves.
    """
    kinds = "a bptt.Network, or a module that bptt.backward takes (and after it the data)"
    require_kind("net", net, nn.Module, kinds)
    if isinstance(net, DistributedDataParallel):
        net = net.module
    sharded = [name for name, p in net.named_parameters() if type(p).__name__ in SHARDED]
    if not ranks.is_alone and sharded:
        raise BpttError(
            f"{sharded[0]} is cut into shards, as by fully_shard; expected every weight whole on "
            "every rank: fit adds up the gradients of ranks by itself"
        )
    return net


def _as_data(data: object, validation: object) -> Data:
    """Return what to train on, or raise BpttError."""
    if validation is not None and not _is_iterable(validation):
        raise BpttError(f"validation is {shown(validation)}; expected an iterable of batches")
    if isinstance(data, Data):
        if validation is not None:
            raise BpttError(
                f"validation is given with {data.source}, which has a validation part of its own; "
                "expected none"
            )
        return data
    if not _is_iterable(data):
        raise BpttError(
            f"data is {shown(data)}; expected {DATA}: bptt.Collection.of(...) makes one"
        )
    return Loader(data, validation)  # type: ignore[arg-type]


def _is_iterable(batches: object) -> bool:
    """Return whether this can be gone through for batches: a text, or one batch, cannot."""
    is_one_batch = hasattr(batches, "shape") or isinstance(batches, str | bytes | dict | nn.Module)
    return isinstance(batches, Iterable) and not is_one_batch


def _data_of(run: Run, data: Any, validation: Any) -> Data:
    """Return what a run was trained on, read again or as it is given."""
    if run.kind == "loader" and data is not None:
        begun = run.config.get("validated", False)
        if begun != (validation is not None):
            raise BpttError(
                f"the run was begun {'with' if begun else 'without'} a validation; expected the "
                "same: bptt.resume(run, validation=...)"
            )
        return _as_data(data, validation)
    if validation is not None and run.kind != "loader":
        raise BpttError(
            f"validation is given, and {run.path} has a validation part of its own; expected none"
        )
    if data is not None:
        require_path("data", data)
    return run.read_data(data)


def _require_hooks(on_update: object, penalty: object, progress: object) -> None:
    if on_update is not None:
        require_callable("on_update", on_update, "a function of an Update, or None")
    if penalty is not None:
        require_callable("penalty", penalty, "a function of an Output, or None")
    require_flag("progress", progress)


def _require_same(run: Run, functions: Functions) -> None:
    """Raise BpttError unless a run goes on with the functions that it was begun with."""
    for name, now in functions.names().items():
        begun = run.config.get(name)
        if begun != now:
            raise BpttError(
                f"the run was begun with {begun or f'no {name}'}, and {name} is {now}; expected "
                f"the same: bptt.resume(run, {name}=...)"
            )


def _config(trainer: Trainer, seed: int | None) -> dict[str, Any]:
    net = trainer.net
    module = f"{type(net).__module__}.{type(net).__qualname__}"
    return {
        "bptt": bptt.__version__,
        "data": trainer.data.config(),
        "network": net.config() if isinstance(net, Network) else {"module": module},
        "tied": tied(net),
        "trained": [name for name, p in net.named_parameters() if p.requires_grad],
        "training": asdict(trainer.settings),
        "seed": seed,
        "validated": trainer.validation is not None,
        **trainer.functions.names(),
    }
