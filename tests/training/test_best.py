"""Which weights a training leaves: the best validated or the last, here and in its folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bptt
from bptt.cli import main
from bptt.training.evaluation import evaluate
from bptt.training.runs.run import BEST, Run
from bptt.training.updates import Progress, Update

SETTINGS = bptt.Settings(max_updates=60, validate_every=4, batch=4, learning_rate=0.03)


def noise() -> bptt.Collection:
    """Return sequences of which nothing can be learnt that holds for others."""
    draws = np.random.default_rng(0)
    return bptt.Collection.of([draws.integers(4, size=20) for _ in range(20)])


def network() -> bptt.Network:
    torch.manual_seed(1)
    return bptt.Network(bptt.Categorical(4), hidden=16)


def weights(net: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def trained(**more: Any) -> tuple[bptt.Network, Any, list[tuple[Update, Tensor]]]:
    """Return a network, how its training ended, and every update with the weights then."""
    net, seen = network(), list[tuple[Update, Tensor]]()
    settings = replace(SETTINGS, **{k: v for k, v in more.items() if k != "out"})
    done = bptt.fit(
        net,
        noise(),
        settings,
        out=more.get("out"),
        on_update=lambda update: seen.append((update, weights(net))),
        progress=False,
    )
    return net, done, seen


def validations(seen: list[tuple[Update, Tensor]]) -> dict[int, float]:
    return {u.number: u.validation_nll for u, _ in seen if u.validation_nll is not None}


def test_the_network_is_left_with_the_best_weights(tmp_path: Path) -> None:
    net, done, seen = trained()
    losses = validations(seen)
    best = min(losses, key=losses.__getitem__)
    assert best < 60, "the noise was learnt"
    assert torch.equal(weights(net), seen[best - 1][1])
    assert (done.updates, done.best_update, done.validation_nll) == (60, best, losses[best])
    assert evaluate(net, noise().validation_batches(4)) == pytest.approx(losses[best])
    in_folder, done, _ = trained(out=tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert torch.equal(weights(in_folder), weights(net))
    assert torch.equal(weights(run.network()), weights(net))
    assert torch.equal(weights(run.network(last=True)), seen[-1][1])
    assert done.best_update == best == run.best_row()["update"]


def test_the_last_weights_where_they_are_asked_for(tmp_path: Path) -> None:
    net, done, seen = trained(keep="last", out=tmp_path / "run")
    assert torch.equal(weights(net), seen[-1][1])
    assert (done.best_update, done.validation_nll) == (60, validations(seen)[60])
    assert not (tmp_path / "run" / BEST).exists()
    assert torch.equal(weights(Run.open(tmp_path / "run").network()), seen[-1][1])


def test_patience_ends_training(tmp_path: Path) -> None:
    net, done, seen = trained(patience=3, out=tmp_path / "run")
    losses = validations(seen)
    assert (done.stopped_by, done.updates) == ("patience", done.best_update + 3 * 4)
    assert min(losses, key=losses.__getitem__) == done.best_update
    again, more = _resume(Run.open(tmp_path / "run"))
    assert (more.updates, more.stopped_by) == (done.updates, "patience")
    assert torch.equal(weights(again), weights(net))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "read_data", lambda *_: noise())
        _, more = bptt.resume(tmp_path / "run", max_updates=100, progress=False)
    assert more.updates == done.updates + 3 * 4  # as patient as before, from there


@pytest.mark.parametrize("stop", [2, 7, 30, 40])
def test_a_stop_and_a_start_find_the_same_best(tmp_path: Path, stop: int) -> None:
    whole, done, _ = trained(out=tmp_path / "whole", patience=9)
    net = network()

    def end(update: Update) -> None:
        if update.number == stop:
            raise OSError("the disk is full")

    settings = replace(SETTINGS, patience=9)
    with pytest.raises(OSError, match="full"):
        bptt.fit(net, noise(), settings, out=tmp_path / "parts", on_update=end, progress=False)
    if stop > 20:  # as if it was killed between the two files: the best is newer than the last
        run = Run.open(tmp_path / "parts")
        run.save_best({k: v + 1 for k, v in net.state_dict().items()}, {})
        if done.best_update <= stop:
            run.save_best(whole.state_dict(), {})
    source = tmp_path / "songs.npz"
    np.savez(source, y=noise().y)
    run = Run.open(tmp_path / "parts")
    again, more = _resume(run)
    assert torch.equal(weights(again), weights(whole))
    assert replace(more, seconds=0, run=None) == replace(done, seconds=0, run=None)


def _resume(run: Run) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "read_data", lambda *_: noise())
        return bptt.resume(run, progress=False)


def test_of_a_task_the_score_decides(tmp_path: Path) -> None:
    progress = Progress(update=1)
    assert progress.compare(2.0, 0.5, by_score=True)
    progress.update = 2
    assert not progress.compare(1.0, 0.6, by_score=True)
    assert progress.compare(3.0, 0.4, by_score=True)
    assert (progress.best, progress.best_nll, progress.best_score, progress.worse) == (2, 3, 0.4, 0)
    task = bptt.Task.parse("task:order", "10")
    torch.manual_seed(0)
    net = bptt.Network(task.likelihood, inputs=task.inputs, hidden=8, recurrence="hidden")
    settings = bptt.Settings(max_updates=40, validate_every=10, learning_rate=0.01)
    done = bptt.fit(net, task, settings, out=tmp_path / "run", progress=False)
    assert done.score == task.score(net)
    scores = [row["score"] for row in Run.open(tmp_path / "run").metrics() if "score" in row]
    assert done.score == min(scores)


def test_patience_needs_a_validation() -> None:
    y = [torch.randint(4, (5, 3)) for _ in range(3)]
    with pytest.raises(bptt.BpttError, match="patience is 2, and there is nothing to validate on"):
        bptt.fit(network(), y, bptt.Settings(max_updates=3, patience=2))
    done = bptt.fit(network(), y, bptt.Settings(max_updates=3), progress=False)
    assert (done.validation_nll, done.best_update) == (None, 3)


def test_a_run_whose_best_weights_were_deleted_goes_on_without(tmp_path: Path) -> None:
    _, done, _ = trained(max_updates=20, out=tmp_path / "run")
    (tmp_path / "run" / BEST).unlink()
    run = Run.open(tmp_path / "run").with_training(max_updates=40)
    run.write_config()
    net, more = _resume(run)
    assert more.best_update > done.best_update
    assert torch.equal(weights(net), weights(Run.open(tmp_path / "run").network()))


def test_a_damaged_file_of_the_best_is_one_line(tmp_path: Path) -> None:
    trained(out=tmp_path / "run")
    whole = (tmp_path / "run" / BEST).read_bytes()
    (tmp_path / "run" / BEST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(bptt.BpttError, match=r"best.safetensors is no checkpoint, or damaged"):
        Run.open(tmp_path / "run").network()
    assert Run.open(tmp_path / "run").network(last=True) is not None
    with pytest.raises(bptt.BpttError, match=r"best.safetensors is no checkpoint, or damaged"):
        _resume(Run.open(tmp_path / "run"))


TEXT = "to be, or not to be, that is the question: " * 30
SMALL = ["--hidden", "8", "--batch", "4", "--window", "10", "--max-updates", "20"]
Says = Callable[..., tuple[int, str, str]]


@pytest.fixture
def says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Says:
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i},{i % 7},{i % 3}\n" for i in range(200))
    (tmp_path / "a.csv").write_text("day,load,wind\n" + rows)
    (tmp_path / "b.csv").write_text("day,load,wind\n" + rows.replace(",6,", ",9,"))
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text(TEXT[::-1])

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()

    return run


@pytest.mark.parametrize("kind", ["txt", "csv"])
def test_a_run_begins_with_the_network_of_another(says: Says, tmp_path: Path, kind: str) -> None:
    options = [*SMALL, *(["--target", "load"] if kind == "csv" else [])]
    assert says("train", f"a.{kind}", *options, "--out", "first")[0] == 0
    more = ["--batch", "4", "--window", "10", "--max-updates", "0"]
    status, _, err = says("train", f"b.{kind}", "--from", "first", *more, "--out", "then")
    assert (status, err) == (0, "")
    first, then = (Run.open(tmp_path / name) for name in ("first", "then"))
    assert torch.equal(weights(first.network()), weights(then.network()))
    if kind == "txt":
        (tmp_path / "b.txt").write_text("é" + TEXT[::-1])
        status, out, _ = says("train", "b.txt", "--from", "first", *more)
        assert status == 0
        assert "0.1% of the characters in b.txt are unknown to first" in out
        (tmp_path / "b.txt").write_text(TEXT[::-1])
    for key in ("characters", "columns", "measures"):
        assert first.config["data"].get(key) == then.config["data"].get(key)
    assert then.config["data"]["path"].endswith(f"b.{kind}")
    assert says("train", "--resume", "then", "--max-updates", "5")[0] == 0


def test_a_run_that_cannot_begin_so_says_why(says: Says, tmp_path: Path) -> None:
    assert says("train", "a.txt", *SMALL, "--out", "first")[0] == 0
    (tmp_path / "c.txt").write_text(TEXT.upper())
    net, batches = bptt.Network(bptt.Categorical(3), hidden=4), [torch.zeros(5, 2).long()]
    bptt.fit(net, batches, bptt.Settings(max_updates=1), out=tmp_path / "batches")
    for arguments, message in (
        (
            ["c.txt", "--from", "first"],
            "of the characters in c.txt are unknown to first, whose vocabulary is kept; exp",
        ),
        (
            ["a.csv", "--from", "first"],
            "was trained on a text, and a.csv is of tables (.csv, .tsv, .parquet); expected",
        ),
        (
            ["b.txt", "--from", "batches"],
            "batches was trained on batches of a loader, and b.txt is of texts; expected the same",
        ),
        (["b.txt", "--from", "first", "--hidden", "3"], "--from brings the network and how its d"),
        (["b.txt", "--from", "nowhere"], "nowhere holds no run; expected a folder"),
    ):
        status, _, err = says("train", *arguments, "--batch", "4", "--window", "10")
        assert status == 2, arguments
        assert err.count("\n") == 1
        assert message in err
