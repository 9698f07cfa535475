"""Two processes that train one network: as one would, and none waits for one that fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import bptt
from bptt.errors import LostRankError
from bptt.training.fit import whole_module
from bptt.training.interruption import Interrupted
from bptt.training.ranks import Ranks
from bptt.training.runs.run import Run
from bptt.training.updates import Update
from tests.networks import UsersLSTM

RANKS, UPDATES, T = 2, 60, 12
PRELOADED = ["tests.without_compiler", __name__]
SETTINGS = bptt.Settings(max_updates=100, validate_every=10, keep="last", batch=4)
SHORT = replace(SETTINGS, max_updates=30)
STREAMS = replace(SETTINGS, max_updates=UPDATES, window=10)  # about three epochs
LOADED = replace(SHORT, batch=None)
Result = dict[str, Any]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


def network(n: int = 5, **more: Any) -> bptt.Network:
    torch.manual_seed(1)
    return bptt.Network(bptt.Categorical(n), hidden=6, **more).double()


def text(folder: Path) -> bptt.Text:
    return bptt.read_text(folder / "text.txt")


def collection() -> bptt.Collection:
    draw = np.random.default_rng(0)
    return bptt.Collection.of([draw.integers(5, size=draw.integers(5, T)) for _ in range(20)])


def weights(net: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def result(net: nn.Module, done: Any, losses: list[float]) -> Result:
    nll = done.validation_nll
    return {"weights": weights(net), "nll": nll, "losses": losses, "score": done.score}


def trained(net: nn.Module, data: Any, settings: bptt.Settings, **more: Any) -> Result:
    losses: list[float] = []
    listen = {"on_update": lambda update: losses.append(update.train_nll)}
    done = bptt.fit(net, data, settings, progress=False, **{**listen, **more})
    inner = net.module if isinstance(net, DistributedDataParallel) else net
    return result(inner, done, losses)


def streams(folder: Path) -> Result:
    data = text(folder)
    return trained(network(data.vocabulary.size, dropout=0.2), data, STREAMS)


def sgd(folder: Path) -> Result:
    data = text(folder)
    cut = {"window": 7, "stride": 2, "steps_per_update": 20}
    settings = replace(SHORT, optimizer="sgd", learning_rate=0.3, **cut)
    return trained(network(data.vocabulary.size, cell="lstm"), data, settings)


def ragged(folder: Path) -> Result:
    return trained(network(), collection(), replace(SETTINGS, keep="best", patience=9))


def uneven(folder: Path) -> Result:
    return trained(network(cell="gru"), collection(), replace(SHORT, batch=3))


def more_ranks_than_columns(folder: Path) -> Result:
    data = text(folder)
    return trained(network(data.vocabulary.size), data, replace(SHORT, window=10, batch=1))


def bounded(folder: Path) -> Result:
    settings = replace(SHORT, window=None, memory=130_000, steps_per_update=60)
    data = text(folder)
    return trained(network(data.vocabulary.size, cell="gru"), data, settings)


def scheduled(folder: Path) -> Result:
    settings = replace(SETTINGS, forcing=0.8, forcing_end=0.3, feedback="mean")
    return trained(network(recurrence="both"), collection(), settings)


def penalised(folder: Path) -> Result:
    settings = replace(SHORT, omega=0.5, weight_penalty=1e-3, activity_penalty=1e-2)
    return trained(network(), collection(), settings)


def labels(folder: Path) -> Result:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(30, T, 2))
    data = bptt.Labelled.of(list(x), (x.sum((1, 2)) > 0).astype(int))
    torch.manual_seed(1)
    net = bptt.Network(data.likelihood, inputs=2, hidden=6, recurrence="hidden").double()
    return trained(net, data, replace(SHORT, batch=5))


class Numbered(Dataset[Tensor]):
    """Sequences by their number."""

    def __init__(self) -> None:
        self.y = torch.from_numpy(np.random.default_rng(1).integers(5, size=(24, T)))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Tensor:
        return self.y[index]


def loader(folder: Path) -> Result:
    return trained(users(), batches(), LOADED, validation=batches())


def users() -> nn.Module:
    torch.manual_seed(Ranks.here().rank)  # the weights are those of the first
    return UsersLSTM().double()


def batches() -> DataLoader[Tensor]:
    rows, ranks = Numbered(), Ranks.here()
    sampler = None if ranks.is_alone else DistributedSampler(rows, shuffle=False)
    size = 6 // ranks.count
    return DataLoader(rows, size, sampler=sampler, collate_fn=lambda r: torch.stack(r, 1))


def wrapped(folder: Path) -> Result:
    net = users() if Ranks.here().is_alone else DistributedDataParallel(users())
    return trained(net, batches(), LOADED, validation=batches())


CASES: dict[str, Callable[[Path], Result]] = {
    case.__name__: case
    for case in (
        streams,
        sgd,
        ragged,
        uneven,
        more_ranks_than_columns,
        bounded,
        scheduled,
        penalised,
        labels,
        loader,
        wrapped,
    )
}


def stopped_half_way(folder: Path, name: str) -> Result:
    """Begin a run of streams, and stop in the middle of an epoch."""
    data = text(folder)

    def on_update(update: Update) -> None:
        if update.number == 37 and Ranks.here().rank in (1, Ranks.here().count - 1):
            os.kill(os.getpid(), signal.SIGTERM)

    net = network(data.vocabulary.size, cell="lstm")
    try:
        bptt.fit(net, data, STREAMS, out=folder / name, on_update=on_update, progress=False)
    except Interrupted as interrupt:
        return {"update": interrupt.update, "run": interrupt.run is not None}
    return {}


def resumed(folder: Path, name: str) -> Result:
    net, done = bptt.resume(folder / name, progress=False)
    return result(net, done, [])


def failure(folder: Path, rank: int, kind: str) -> str:
    """Return what is raised where one rank is unlike the other, or fails."""
    unlike: Result = {
        "settings": {"settings": replace(SETTINGS, learning_rate=0.1)},
        "data": {"data": replace(collection(), sha256="0" * 64)},
        "early": {"settings": replace(SETTINGS, batch=1000)},
        "hook": {"on_update": fail},
        "loss": {"on_update": lose_the_weights},
        "lost": {"on_update": die},
    }
    arguments: Result = {"data": collection(), "settings": SETTINGS}
    if rank == 1:
        arguments |= unlike.get(kind, {})
    elif kind == "folder":
        (folder / "taken").write_text("")
        arguments["out"] = folder / "taken"
    try:
        bptt.fit(network(), **arguments, progress=False)
    except LostRankError as error:
        return f"lost: {error}"
    except (bptt.BpttError, OSError) as error:
        return str(error)
    return "nothing"


def fail(update: Update) -> None:
    raise OSError("the disk is full")


def lose_the_weights(update: Update) -> None:
    next(update.net.parameters()).data.fill_(torch.nan)


def die(update: Update) -> None:
    os._exit(0)


def unlike_answers(rank: int) -> str:
    with pytest.raises(bptt.BpttError) as raised:
        Ranks.here().agree(rank == 0, "runs/a is there")
    return str(raised.value)


FAILURES = ("settings", "data", "early", "folder", "hook", "loss")


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    place = Path(folder)
    file = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=RANKS)
    results: Result = {name: case(place) for name, case in CASES.items()}
    results["begun by one"] = resumed(place, "one")
    results["stopped"] = stopped_half_way(place, "two")
    dist.barrier()
    if rank == 0:
        os.system(f"cp -r {folder}/two {folder}/two-again")
    dist.barrier()
    results["two"] = resumed(place, "two")
    results["undisturbed"] = undisturbed(place)
    results["failures"] = {kind: failure(place, rank, kind) for kind in FAILURES}
    results["answers"] = unlike_answers(rank)
    torch.save(results, place / f"{rank}.pt")
    lost = failure(place, rank, "lost")
    (place / "lost").write_text(lost)
    os._exit(0)  # at the interpreter's own end torch's threads for gloo sometimes abort


def undisturbed(folder: Path) -> Result:
    data = text(folder)
    return trained(network(data.vocabulary.size, cell="lstm"), data, STREAMS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the folder in which both processes, which one forks, have left what they did."""
    place = tmp_path_factory.mktemp("ranks")
    (place / "text.txt").write_text("to be, or not to be, that is the question: " * 20)
    stopped_half_way(place, "one")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    multiprocessing.start_processes(work, (str(place),), nprocs=RANKS, start_method="forkserver")
    return place


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Result]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("name", CASES)
def test_trains_as_one_process(name: str, folder: Path, ranks: list[Result]) -> None:
    one = CASES[name](folder)
    assert len(one["losses"]) >= 20
    for rank in ranks:
        two = rank[name]
        torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=1e-9)
        assert two["losses"] == pytest.approx(one["losses"], abs=1e-9)
        assert two["nll"] == pytest.approx(one["nll"], abs=1e-9)
        assert two["score"] == one["score"]
    assert torch.equal(ranks[0][name]["weights"], ranks[1][name]["weights"])


def test_a_run_goes_on_with_other_processes(folder: Path, ranks: list[Result]) -> None:
    whole = undisturbed(folder)
    again = resumed(folder, "two-again")
    for rank, one in enumerate(ranks):
        assert one["stopped"] == {"update": 38, "run": rank == 0}
        for parts in (again, one["begun by one"], one["two"]):
            torch.testing.assert_close(parts["weights"], whole["weights"], rtol=0, atol=1e-9)
            assert parts["nll"] == pytest.approx(whole["nll"], abs=1e-9)
        assert torch.equal(one["two"]["weights"], one["undisturbed"]["weights"])
    rows = Run.open(folder / "two").metrics()
    assert [row["update"] for row in rows] == list(range(10, UPDATES + 1, 10))


def test_an_error_on_one_stops_all(folder: Path, ranks: list[Result]) -> None:
    first, second = (rank["failures"] for rank in ranks)
    of_settings = "training.learning_rate is 0.1 on rank 1 and 0.005 on rank 0; expected the same"
    assert first["settings"] == second["settings"]
    assert of_settings in first["settings"]
    assert first["data"] == second["data"]
    assert first["data"].startswith('data.sha256 is "000')
    words = {
        "early": "batch is 1000; expected at most",
        "hook": "the disk is full",
        "loss": "the loss became nan after update 1. ",
    }
    for kind, why in words.items():
        assert second[kind].startswith(why)
        assert first[kind].startswith(f"rank 1 of 2 stopped: {why}")
    assert first["folder"].startswith("cannot write a run to")
    assert all(rank["answers"].startswith("runs/a is there on 1 of 2 ranks;") for rank in ranks)
    assert second["folder"] == f"rank 0 of 2 stopped: {first['folder']}"


def test_a_process_that_is_gone_is_told_of_in_a_line(folder: Path, ranks: list[Result]) -> None:
    lost = (folder / "lost").read_text()
    assert lost.startswith("lost: rank 0 of 2 lost another (")
    assert "goes on with bptt.resume (bptt train --resume)" in lost
    assert "\n" not in lost


def test_weights_in_shards_are_refused() -> None:
    kind = type("DTensor", (nn.Parameter,), {})
    net = nn.Linear(2, 2)
    net.weight = kind(torch.zeros(2, 2))
    with pytest.raises(bptt.BpttError, match="weight is cut into shards, as by fully_shard"):
        whole_module(net, Ranks(0, 2))
