"""Training: it learns, it can be stopped anywhere and go on, and it says what went wrong."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

import bptt
from bptt.data.batches import streams
from bptt.training.evaluation import evaluate
from bptt.training.optimizers import cosine
from bptt.training.runs.checkpoint import load
from bptt.training.runs.run import Run
from bptt.training.updates import Update

SMALL = bptt.Settings(batch=4, window=10, max_updates=40, validate_every=10)
TEXT = "to be, or not to be, that is the question: " * 40


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def network(text: bptt.Text, **more: object) -> bptt.Network:
    torch.manual_seed(7)
    return bptt.Network(bptt.Categorical(text.vocabulary.size), hidden=8, **more)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoint.safetensors")


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, state and metrics agree bit for bit; only the clock may differ."""
    mine, its = weights(one), weights(other)
    assert mine.keys() == its.keys()
    assert len(mine) > 5
    for name, tensor in mine.items():
        assert torch.equal(tensor, its[name]), name
    rows = [[{**row, "seconds": 0} for row in Run.open(run).metrics()] for run in (one, other)]
    assert rows[0] == rows[1]
    assert rows[0]


def test_learns(text_file: Path) -> None:
    text = bptt.read_text(text_file)
    net = network(text)
    before = evaluate(net, text.validation_batches(4))
    done = bptt.fit(net, text, replace(SMALL, max_updates=150, learning_rate=0.02))
    assert done.updates == 150
    assert done.stopped_by == "updates"
    assert done.validation_nll == pytest.approx(evaluate(net, text.validation_batches(4)))
    assert done.validation_nll < before / 3


@pytest.mark.parametrize("more", [{"recurrence": "output"}, {"cell": "lstm", "layers": 2}])
def test_other_networks_learn_too(text_file: Path, more: dict[str, object]) -> None:
    text = bptt.read_text(text_file)
    net = network(text, **more)
    before = evaluate(net, text.validation_batches(4))
    assert bptt.fit(net, text, replace(SMALL, learning_rate=0.02)).validation_nll < before - 0.3


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ({"window": 10}, 10),
        ({"window": 10, "steps_per_update": 50}, 50),
        ({"window": 10, "steps_per_update": 50, "stride": 2}, 50),
        ({"window": None, "steps_per_update": 50}, 50),
        ({"window": None}, 1000),
        ({"window": None, "memory": "100kB"}, 1000),
    ],
)
def test_sgd_is_the_textbooks_update(text_file: Path, how: dict[str, Any], steps: int) -> None:
    text = bptt.read_text(text_file)
    net, by_hand = network(text), network(text)
    settings = replace(SMALL, optimizer="sgd", max_updates=1, clip=math.inf, **how)
    bptt.fit(net, text, settings)
    columns = streams(text.training, 4)
    updates_per_epoch = math.ceil(len(columns) / steps)
    part = columns[: len(columns) // updates_per_epoch]
    bptt.backward(by_hand, part, window=how["window"], stride=how.get("stride"))
    for mine, its in zip(net.parameters(), by_hand.parameters(), strict=True):
        grad = 0 if its.grad is None else its.grad
        torch.testing.assert_close(mine, its - settings.learning_rate * grad)


def test_an_epoch_reads_every_stream_once_with_carried_state(text_file: Path) -> None:
    text = bptt.read_text(text_file)
    net = network(text)
    settings = replace(SMALL, max_updates=None, epochs=2, validate_every=1000)
    with mock.patch("bptt.training.batch_gradient.backward", wraps=bptt.backward) as spy:
        bptt.fit(net, text, settings)
    read = [call.args[1] for call in spy.call_args_list]
    fresh = [call.kwargs["state"] is None for call in spy.call_args_list]
    columns = streams(text.training, 4)
    assert torch.equal(torch.cat(read), torch.cat([columns, columns]))
    assert fresh == 2 * [True, *(len(read) // 2 - 1) * [False]]
    assert {len(y) for y in read} <= {9, 10}


def test_the_schedule_warms_up_and_comes_down() -> None:
    rates = [cosine(update, 1000) for update in range(1000)]
    peak = 1.0
    assert rates.index(max(rates)) == 99
    assert max(rates) == pytest.approx(peak)
    assert rates[0] == pytest.approx(peak / 100)
    assert rates[-1] == pytest.approx(peak / 10, rel=0.01)
    assert rates[99:] == sorted(rates[99:], reverse=True)


def test_the_run_folder(text_file: Path, tmp_path: Path) -> None:
    text, seen = bptt.read_text(text_file), []
    net = network(text)
    done = bptt.fit(net, text, SMALL, out=tmp_path / "run", seed=7, on_update=seen.append)
    run = Run.open(tmp_path / "run")
    assert done.run is not None
    assert [update.number for update in seen] == list(range(1, 41))
    rows = run.metrics()
    assert [row["update"] for row in rows] == [10, 20, 30, 40]
    assert set(rows[0]) == {"update", "seconds", "train_nll", "validation_nll"}
    assert rows[1]["train_nll"] == pytest.approx(
        sum(update.train_nll for update in seen[10:20]) / 10
    )
    assert rows[-1]["validation_nll"] == done.validation_nll
    assert run.config["data"]["sha256"] == text.sha256
    assert run.vocabulary == text.vocabulary
    again = run.network()
    y = text.validation[:20].unsqueeze(1)
    assert torch.equal(again(y).nll, net(y).nll)


RUN_AND_DIE = """
import tests.without_compiler
import os, signal, sys, torch, bptt
torch.set_num_threads(1)  # more do not survive a fork
torch.manual_seed(7)
text = bptt.read_text(sys.argv[1])
net = bptt.Network(bptt.Categorical(text.vocabulary.size), hidden=8)
settings = bptt.Settings(batch=4, window=10, max_updates=40, validate_every=10)
for last in sys.argv[3:]:
    def die(update):
        if update.number == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()  # from a process that has imported torch, which takes most of the time
    if child == 0:
        bptt.fit(net, text, settings, out=sys.argv[2] + last, seed=7, on_update=die)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
"""


def test_a_killed_run_goes_on_as_if_nothing_had_happened(text_file: Path, tmp_path: Path) -> None:
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "whole", seed=7)
    arguments = [text_file, tmp_path / "killed-", "3", "20", "37"]
    subprocess.run([sys.executable, "-c", RUN_AND_DIE, *arguments], check=True)
    for update in (3, 20, 37):
        _, notes = Run.open(tmp_path / f"killed-{update}").load()
        assert notes["update"] <= update
        _, done = bptt.resume(tmp_path / f"killed-{update}")
        assert done.updates == 40
        assert_same_run(tmp_path / "whole", tmp_path / f"killed-{update}")


@pytest.mark.parametrize("update", [1, 7, 40])
def test_an_interrupted_run_goes_on_from_that_very_update(
    text_file: Path, tmp_path: Path, update: int
) -> None:
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "whole")

    def interrupt(now: Update) -> None:
        if now.number == update:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(bptt.Interrupted, match=f"stopped after update {update}"):
        bptt.fit(network(text), text, SMALL, out=tmp_path / "stopped", on_update=interrupt)
    _, notes = Run.open(tmp_path / "stopped").load()
    assert notes["update"] == update
    bptt.resume(tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_dtype_and_frozen_parameters_survive_a_stop(text_file: Path, tmp_path: Path) -> None:
    text = bptt.read_text(text_file)

    def frozen() -> bptt.Network:
        net = network(text).double()
        net.recurrent.weight_hh_l0.requires_grad_(False)
        return net

    bptt.fit(frozen(), text, SMALL, out=tmp_path / "whole")
    bptt.fit(frozen(), text, replace(SMALL, max_seconds=1e-9), out=tmp_path / "stopped")
    net, _ = bptt.resume(tmp_path / "stopped")
    assert net.readout.weight.dtype == torch.float64
    assert torch.equal(net.recurrent.weight_hh_l0, frozen().recurrent.weight_hh_l0)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_refused_resume_changes_nothing(text_file: Path, tmp_path: Path) -> None:
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "run")
    before = (tmp_path / "run/config.json").read_text()
    for updates, message in (
        (-1, "max_updates is -1"),
        (39, "max_updates is 39; expected at least 40"),
    ):
        with pytest.raises(bptt.BpttError, match=message):
            bptt.resume(tmp_path / "run", max_updates=updates)
    assert (tmp_path / "run/config.json").read_text() == before


def test_max_seconds_only_stops(text_file: Path, tmp_path: Path) -> None:
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "whole")
    hurried = replace(SMALL, max_seconds=1e-9)
    done = bptt.fit(network(text), text, hurried, out=tmp_path / "stopped")
    assert (done.updates, done.stopped_by) == (1, "seconds")
    bptt.resume(tmp_path / "stopped", max_seconds=1000)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_finished_run_can_be_made_longer(text_file: Path, tmp_path: Path) -> None:
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "run")
    _, done = bptt.resume(tmp_path / "run", max_updates=60)
    assert done.updates == 60
    _, done = bptt.resume(tmp_path / "run")
    assert done.updates == 60
    assert [row["update"] for row in Run.open(tmp_path / "run").metrics()][-1] == 60


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(
    text_file: Path, tmp_path: Path, optimizer: str
) -> None:
    text = bptt.read_text(text_file)
    settings = replace(SMALL, optimizer=optimizer, learning_rate=1e30, clip=math.inf)
    with pytest.raises(
        bptt.BpttError, match=r"became (nan|inf) after update .* keeps its last good"
    ):
        bptt.fit(network(text, cell="relu"), text, settings, out=tmp_path / "run")
    kept, _ = Run.open(tmp_path / "run").load()
    assert all(tensor.isfinite().all() for tensor in kept.values())


@pytest.mark.parametrize("tear", ["cut", "flipped", "gone"])
def test_a_torn_checkpoint_gives_way_to_the_one_before(
    text_file: Path, tmp_path: Path, tear: str
) -> None:
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    path = tmp_path / "torn/checkpoint.safetensors"
    whole = path.read_bytes()
    if tear == "gone":
        path.unlink()
    else:
        ends = {"cut": whole[:-40], "flipped": whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]}
        path.write_bytes(ends[tear])
    torn = tmp_path / "torn"
    with (
        pytest.warns(bptt.errors.BpttWarning, match=r"; the one before, of update 30, is taken"),
        mock.patch(
            "bptt.training.runs.checkpoint.serialize", side_effect=OSError("the disk is full")
        ),
        pytest.raises(OSError, match="full"),
    ):
        bptt.resume(torn)  # what it has taken is not lost by what it cannot write
    assert Run.open(torn).load()[1]["update"] == 30
    _, done = bptt.resume(torn)
    assert done.updates == 40
    assert_same_run(tmp_path / "whole", tmp_path / "torn")
    for name in ("checkpoint.safetensors", "checkpoint-before.safetensors"):
        (tmp_path / "torn" / name).write_bytes(whole[:200])
    with pytest.raises(bptt.BpttError, match=r"/checkpoint.safetensors is no checkpoint, or dam"):
        bptt.resume(tmp_path / "torn")


def test_the_checkpoint_before_is_there_where_files_have_one_name(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "run")
    tensors, notes = load(tmp_path / "run/checkpoint-before.safetensors")
    assert (len(tensors) > 5, notes["update"]) == (True, 30)


def test_another_run_is_never_overwritten(text_file: Path, tmp_path: Path) -> None:
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "run")
    before = (tmp_path / "run/checkpoint.safetensors").read_bytes()
    with pytest.raises(bptt.BpttError, match="holds a run already"):
        bptt.fit(network(text), text, SMALL, out=tmp_path / "run")
    assert (tmp_path / "run/checkpoint.safetensors").read_bytes() == before


def test_a_run_on_the_built_in_text_goes_on(tmp_path: Path) -> None:
    text = bptt.read_text()
    settings = bptt.Settings(batch=32, window=10, max_updates=1)
    bptt.fit(network(text), text, settings, out=tmp_path / "run", progress=False)
    _, done = bptt.resume(tmp_path / "run", max_updates=2, progress=False)
    assert done.updates == 2


def test_what_cannot_be_resumed_says_why(text_file: Path, tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(bptt.BpttError, match=message):
            bptt.resume(tmp_path / "run")

    refused("run holds no run; expected a folder with a config.json")
    text = bptt.read_text(text_file)
    bptt.fit(network(text), text, SMALL, out=tmp_path / "run")
    checkpoint = tmp_path / "run/checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    (tmp_path / "run/checkpoint-before.safetensors").unlink()  # which would stand in for it

    checkpoint.write_bytes(whole[: len(whole) // 2])
    refused("is no checkpoint, or damaged")
    checkpoint.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    refused("is damaged: its contents do not match their checksum")
    save_file({"a": torch.zeros(1)}, checkpoint)
    refused("is no checkpoint, or damaged")
    checkpoint.unlink()
    refused("has no checkpoint.safetensors")
    checkpoint.write_bytes(whole)

    text_file.write_text(TEXT.replace("question", "answer"))
    refused("is not the data that .*run was trained on")
    text_file.unlink()
    refused("no such file")
    text_file.write_text(TEXT)
    config = tmp_path / "run/config.json"
    whole_config = config.read_text()
    config.write_text(json.dumps({"network": 1}))
    refused("config.json has no bptt; expected a text")
    config.write_text(whole_config.replace('"batch"', '"bach"'))
    refused("config.json has training.bach, which is unknown")
    config.write_text("{")
    refused("config.json cannot be read")


def test_what_cannot_be_trained_says_why(text_file: Path) -> None:
    text = bptt.read_text(text_file)
    with pytest.raises(bptt.BpttError, match=r"1548 characters.* 100 · 100 = 10000"):
        bptt.fit(network(text), text, bptt.Settings(batch=100, window=100))
    wrong = bptt.Network(bptt.Categorical(3), hidden=8)
    with pytest.raises(bptt.BpttError, match=r"likelihood is Categorical\(3\); expected"):
        bptt.fit(wrong, text, SMALL)
    with pytest.raises(bptt.BpttError, match="the network expects x, Features"):
        bptt.fit(network(text, inputs=3), text, SMALL, out=text_file.parent / "run")
    with pytest.raises(bptt.BpttError, match="memory is 1,000 bytes; expected at least"):
        bptt.fit(network(text), text, replace(SMALL, memory="1kB"), out=text_file.parent / "run")
    assert not (text_file.parent / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch is 0; expected a whole number from 1"),
        ({"window": -5}, "window is -5"),
        ({"window": None, "stride": 2}, "stride is 2 without a window"),
        ({"stride": 101}, "stride is 101; expected a whole number from 1 to 100"),
        ({"memory": "much"}, "memory is 'much'; expected bytes, such as"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; expected a number above 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf; expected a finite number"),
        ({"epochs": math.inf}, "epochs is inf; expected a finite number"),
        ({"clip": math.nan}, "clip is nan; expected a number"),
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of 'adam', 'adamw', 'sgd'"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected one of 'cosine', 'constant'"),
        ({"momentum": 0.9}, "momentum is given with optimizer adam; expected sgd or rmsprop"),
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum is 1.0; expected a number from 0"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; expected a number of at least 0"),
        ({"steps_per_update": 5}, "steps_per_update is 5; expected at least the window, 100"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.Settings(**settings)
