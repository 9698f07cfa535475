from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bptt
from bptt.data.batches import Padded, Streams
from bptt.training.diagnosis import Sample, diagnose, diagnose_run
from bptt.training.runs.run import FLOW
from bptt.training.sample import held_out
from bptt.training.snapshots import Snapshots, read_snapshots
from bptt.training.updates import Update

TEXT = "to be, or not to be, that is the question: " * 100


def test_a_sample_goes_over_several_batches_of_the_same_streams():
    series = torch.arange(400)
    sample = held_out(Streams(series, None, 4, 16), 50, 4)
    assert torch.equal(sample.y, series.view(4, 100).t()[:50])
    assert sample.lengths is None
    assert sample.loss_weights is None


def test_a_sample_has_no_losses_where_the_state_is_only_brought_up():
    y = np.arange(300, dtype=np.float32)[:, None]
    sample = held_out(Streams(y, y + 1, 1, 40, warm_up=30), 80, 1)
    assert sample.y.shape == (80, 1, 1)
    assert torch.equal(sample.x, sample.y + 1)
    assert sample.loss_weights[:, 0].tolist() == [0.0] * 30 + [1.0] * 50
    short = held_out(Streams(y, None, 1, 40, warm_up=130), 20, 1)
    assert short.y[:, 0, 0].tolist() == list(range(120, 140))
    assert short.loss_weights[:, 0].tolist() == [0.0] * 10 + [1.0] * 10


def test_a_sample_of_whole_sequences_is_one_batch():
    y, lengths = np.zeros((9, 5), dtype=np.int64), np.array([9, 3, 4, 8, 9])
    sample = held_out(Padded(y, None, lengths, range(5), 3), 6, 3)
    assert sample.y.shape in ((4, 3), (6, 3))
    assert int(sample.lengths.max()) <= len(sample.y)


def test_a_sample_has_no_more_sequences_than_asked_for():
    task = bptt.Task.parse("adding", 30)
    whole = held_out(task.validation_batches(8), 30, 10_000)
    assert whole.y.shape[1] > 8
    some = held_out(task.validation_batches(8), 30, 8)
    for part, its in zip(some, whole, strict=True):
        assert part is its is None or torch.equal(part, its[:, :8])
    y, lengths = np.zeros((9, 5), dtype=np.int64), np.array([9, 3, 4, 8, 9])
    ragged = held_out(Padded(y, None, lengths, range(5), 3), 6, 2)
    assert ragged.y.shape[1] == len(ragged.lengths) == 2


def network(**how: object) -> bptt.Network:
    torch.manual_seed(0)
    return bptt.Network(bptt.Categorical(5), **{"hidden": 8, **how}).double()


def test_windows_are_measured_as_they_are_trained():
    net, y = network(), torch.randint(5, (60, 3))
    found = diagnose(net, Sample(y), window=12, stride=6)

    def gradient(**how: int) -> torch.Tensor:
        net.zero_grad()
        bptt.backward(net, y, **how)
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    exact = gradient()
    horizon = found.flow.horizon()
    assert [(one.window, one.stride) for one in found.others] == [
        (horizon, horizon),
        (2 * horizon, horizon),
    ]
    for one in (found.trained, *found.others):
        cut = gradient(window=one.window, stride=one.stride)
        assert one.error == pytest.approx(float((cut - exact).norm() / exact.norm()), rel=1e-9)
        assert one.memory > 0
    assert found.others[0].memory < found.others[1].memory
    assert found.flow.window == 12


def test_a_diagnosis_leaves_the_network_alone():
    net = network()
    diagnose(net, Sample(torch.randint(5, (60, 3))), window=12)
    assert all(p.grad is None for p in net.parameters())


def test_what_makes_no_sense_is_left_out():
    forced = diagnose(network(recurrence="output"), Sample(torch.randint(5, (60, 3))), window=9)
    assert (forced.jacobians, forced.lyapunov, forced.spectrum) == (None, None, None)
    assert forced.flow.verdict == "no path through time"
    assert forced.others == ()
    lengths = torch.tensor([60, 4, 33])
    ragged = diagnose(network(cell="gru"), Sample(torch.randint(5, (60, 3)), None, lengths))
    assert ragged.flow.closed_by == "gates"
    assert (ragged.exposure, ragged.lyapunov, ragged.spectrum, ragged.trained) == (None,) * 4
    full = diagnose(network(cell="tanh"), Sample(torch.randint(5, (60, 3))))
    assert None not in (full.exposure, full.lyapunov, full.spectrum, full.jacobians)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    text = bptt.read_text(folder / "text.txt")
    net = bptt.Network(text.likelihood, hidden=8)
    watch = Snapshots(text.validation_batches(4), 10)
    settings = bptt.Settings(max_updates=30, window=10, batch=4)
    bptt.fit(net, text, settings, out=folder / "run", on_update=watch)
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> bptt.Run:
    """Return a copy, for tests that change it."""
    return bptt.Run.open(shutil.copytree(trained, tmp_path / "run"))


def test_snapshots_show_the_flow_while_it_is_trained(run: bptt.Run):
    kept = read_snapshots(run)
    assert [one.update for one in kept] == list(range(1, 31))
    assert kept[0].by_lag != kept[-1].by_lag
    y, *_ = held_out(run.read_data().validation_batches(4), 120, 4)
    flow = bptt.gradient_flow(run.network(), y)
    np.testing.assert_allclose(kept[-1].by_lag, flow.by_lag, rtol=1e-3)
    assert kept[-1].horizon == flow.horizon()


def test_snapshots_of_updates_that_were_made_again_and_of_a_line_cut_off(run: bptt.Run):
    again = {"update": 12, "horizon": None, "growth": None, "by_lag": [1.0]}
    with (run.path / FLOW).open("a") as file:
        file.write(json.dumps(again) + '\n{"update": 13, "hor')
    kept = read_snapshots(run)
    assert [one.update for one in kept] == list(range(1, 13))
    assert kept[-1].by_lag == [1.0]


def test_snapshots_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").touch()
    net = bptt.Network(bptt.Categorical(3), hidden=4)
    watch = Snapshots(Streams(torch.zeros(99).long(), None, 2, 10), None)
    optimizer = torch.optim.Adam(net.parameters())
    update = Update(1, 9, 0.0, None, 0.0, 0.0, 1.0, 0.1, net, optimizer)
    with pytest.raises(bptt.BpttError, match="cannot write"):
        watch(replace(update, run=bptt.Run(tmp_path / "file", {})))
    with pytest.raises(bptt.BpttError, match="in the folder of a run; expected one"):
        watch(update)
    with pytest.raises(bptt.BpttError, match="snapshots are given with a Linear; expected a bptt"):
        watch(replace(update, net=torch.nn.Linear(2, 2)))


def test_a_run_is_looked_at_on_its_held_out_data(run: bptt.Run):
    found = diagnose_run(run, sequences=2, steps=64, max_lag=40)
    assert found.name == "run"
    assert found.flow.norms.shape == (64, 41)
    assert (found.trained.window, found.trained.stride) == (10, 10)
    assert len(found.metrics) == len(run.metrics()) > 0
    assert len(found.snapshots) == 30
    by_path = diagnose_run(run.path, sequences=2, steps=64, max_lag=40)
    assert by_path.flow.growth == found.flow.growth


@pytest.mark.parametrize("how", [{"steps": 0}, {"sequences": 0}, {"max_lag": -1}, {"max_lag": 999}])
def test_bad_arguments(run: bptt.Run, how: dict[str, int]):
    with pytest.raises(bptt.BpttError, match=next(iter(how))):
        diagnose_run(run, **how)
