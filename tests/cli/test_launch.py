"""bptt train in several processes: they meet or say who is missing, and a lost one comes back."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from bptt.cli import main
from bptt.cli.launch import JOIN_SECONDS
from bptt.training.runs.run import Run

RANKS, RESTARTS = 2, "TORCHELASTIC_RESTART_COUNT"
OPTIONS = "--hidden 8 --batch 3 --window 20 --max-updates 120 --validate-every 20 --dropout 0.1"
PRELOADED = ["tests.without_compiler", __name__, "bptt.cli.train", "bptt.training.fit"]
PRELOADED += ["bptt.training.progress"]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("to be, or not to be, that is the question: " * 40)
    return path


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be the first of two processes, of which the other never comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    names = {"RANK": 0, "WORLD_SIZE": RANKS, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**names, JOIN_SECONDS: 1}.items():
        monkeypatch.setenv(name, str(value))


def agent(text: Path, out: Path, is_killed: bool) -> None:
    """Be torchrun's agent, with two workers that it starts again once."""
    places = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": out.name}
    counts = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": RANKS, "max_restarts": 1}
    config = LaunchConfig(**places, **counts, start_method="fork", monitor_interval=0.05)
    elastic_launch(config, worker)(text, out, is_killed)


def worker(text: Path, out: Path, is_killed: bool) -> None:
    """Train; or in the middle of that kill itself, if it is the second one, for the first time."""
    log = out.with_name(f"{out.name}-{os.environ['RANK']}-{os.environ[RESTARTS]}.log")
    with log.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    torch.set_num_threads(1)
    if is_killed and os.environ["RANK"] == "1" and os.environ[RESTARTS] == "0":
        threading.Thread(target=end_half_way, args=(out / "metrics.jsonl",), daemon=True).start()
    if status := main(["train", str(text), *OPTIONS.split(), "--out", str(out)]):
        sys.exit(status)


def end_half_way(log: Path) -> None:
    while not log.exists() or log.read_text().count("\n") < 4:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_comes_back_to_the_same_weights(text: Path) -> None:
    server = get_context("forkserver")
    server.set_forkserver_preload(PRELOADED)
    runs = [text.with_name(name) for name in ("killed", "undisturbed")]
    for run in runs:
        process = server.Process(target=agent, args=(text, run, run == runs[0]))
        process.start()
        process.join()
        assert process.exitcode == 0
    printed = {log.stem: log.read_text() for log in text.parent.glob("*.log")}
    assert set(printed) == {"killed-0-0", "killed-1-0", "killed-0-1", "killed-1-1"} | {
        "undisturbed-0-0",
        "undisturbed-1-0",
    }
    assert "Traceback" not in printed["killed-0-0"]  # it may have been told to end before it knew
    for name in ("killed-0-1", "undisturbed-0-0"):
        assert "The run is in" in printed[name]
    assert printed["killed-1-1"] == printed["undisturbed-1-0"] == ""
    mine, its = (load_file(run / "checkpoint.safetensors") for run in runs)
    assert mine.keys() == its.keys()
    assert all(torch.equal(tensor, its[name]) for name, tensor in mine.items())
    rows = [[{**row, "seconds": 0} for row in Run.open(run).metrics()] for run in runs]
    assert rows[0] == rows[1]


def test_who_does_not_come_is_named(
    launched: None, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(text)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bptt: 1 process of 2 did not come within 1 s: rank 1; expected")
    assert error.count("\n") == 1


def test_one_that_does_not_reach_the_first_says_so(
    launched: None, text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["train", str(text)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bptt: rank 1 of 2 did not reach the first one at 127.0.0.1:")


@pytest.mark.parametrize("command", ["generate", "flow", "compare", "bench"])
def test_other_commands_are_for_one_process(
    command: str,
    launched: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main([command, "runs/topics-1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bptt: bptt {command} is for one process, and WORLD_SIZE is 2")
    monkeypatch.setenv("RANK", "1")
    assert main([command, "runs/topics-1"]) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("WORLD_SIZE=two", "WORLD_SIZE is 'two' in the environment; expected a whole number"),
        ("RANK=2", "RANK is '2' in the environment; expected a whole number from 0 to 1"),
        ("MASTER_PORT=", "MASTER_PORT is '' in the environment"),
        (f"{JOIN_SECONDS}=0", f"{JOIN_SECONDS} is '0' in the environment"),
    ],
)
@pytest.mark.usefixtures("launched")
def test_an_environment_that_cannot_be_is_refused(
    setting: str,
    message: str,
    text: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(*setting.split("="))
    assert main(["train", str(text)]) == 2
    assert capsys.readouterr().err.startswith(f"bptt: {message}")
