"""A network in DistributedDataParallel: as one process would do, and one synchronisation."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torch.nn.parallel import DistributedDataParallel

import bptt
from tests.networks import UsersLSTM, flat_gradient, make

T, RANKS = 200, 2
PRELOADED = ["tests.without_compiler", __name__]
KINDS = ("ours", "user's")
WAYS: list[dict[str, Any]] = [
    {},
    {"memory": 130_000},
    {"window": 7, "stride": 7},
    {"window": 7, "stride": 2},
    {"window": 150, "stride": 150, "memory": 130_000},
]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


def network(kind: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    net, y, _ = make("both", "gru", T, RANKS, with_x=False)
    return (UsersLSTM().double() if kind == "user's" else net), y


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    file = f"file://{folder}/meet"
    dist.init_process_group("gloo", init_method=file, rank=rank, world_size=RANKS)
    torch.save({kind: results_of(rank, kind) for kind in KINDS}, f"{folder}/{rank}.pt")
    dist.barrier()
    os._exit(0)  # at the interpreter's own end torch's threads for gloo sometimes abort


def results_of(rank: int, kind: str) -> list[tuple[Tensor, int, int]]:
    """Return for every way the gradient, and how often there was a synchronisation and a pass."""
    net, y = network(kind)
    parallel = DistributedDataParallel(net)
    synchronised = passes = 0

    def count(state, bucket):  # torch wants no annotations that are text
        nonlocal synchronised
        synchronised += 1
        average = bucket.buffer() / RANKS
        dist.all_reduce(average)
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(average)
        return done

    parallel.register_comm_hook(None, count)

    def count_passes(*_: object) -> None:
        nonlocal passes
        passes += torch.is_grad_enabled()

    net.register_forward_hook(count_passes)
    results = []
    for way in WAYS:
        net.zero_grad()
        synchronised = passes = 0
        bptt.backward(parallel, y[:, rank : rank + 1], **way)
        results.append((flat_gradient(net).clone(), synchronised, passes))
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what each process found, of networks of every kind.

    Both are forked from one that has imported torch, which takes most of the time.
    """
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    multiprocessing.start_processes(work, (str(folder),), nprocs=RANKS, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("kind", KINDS)
def test_equals_one_process_and_synchronises_once(kind: str, ranks: list[dict[str, Any]]) -> None:
    net, y = network(kind)
    for i, way in enumerate(WAYS):
        net.zero_grad()
        bptt.backward(net, y, **{k: v for k, v in way.items() if k != "memory"})
        for rank in ranks:
            gradient, synchronised, passes = rank[kind][i]
            assert passes > 2 or not way
            assert synchronised == 1
            torch.testing.assert_close(gradient, flat_gradient(net), rtol=0, atol=1e-14)
