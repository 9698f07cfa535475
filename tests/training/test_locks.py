"""One process at a time trains in a folder, and what a kill leaves behind is in nobody's way."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import bptt
from bptt.cli import main
from bptt.training.runs import checkpoint, files
from bptt.training.runs.claims import automatic_folders, claimed
from bptt.training.runs.locks import HOLDER, LOCK, locked
from bptt.training.updates import Update

SETTINGS = bptt.Settings(batch=2, window=5, max_updates=3)
RUN_FILES = {"config.json", "metrics.jsonl", "checkpoint.safetensors", "best.safetensors"}
RUN_FILES |= {"checkpoint-before.safetensors"}


@pytest.fixture
def text(tmp_path: Path) -> bptt.Text:
    (tmp_path / "text.txt").write_text("to be, or not to be, that is the question: " * 20)
    return bptt.read_text(tmp_path / "text.txt")


def fit(text: bptt.Text, out: Any, **more: Any) -> bptt.Run:
    torch.manual_seed(0)
    net = bptt.Network(text.likelihood, hidden=4)
    run = bptt.fit(net, text, replace(SETTINGS, validate_every=1), out=out, **more).run
    assert run is not None
    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_who_comes_second_is_told_who_trains_and_leaves(
    text: bptt.Text, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusals = []

    def come_second(update: Update) -> None:
        for call in (lambda: bptt.resume(tmp_path / "run"), lambda: fit(text, tmp_path / "run")):
            with pytest.raises(bptt.BpttError) as caught:
                call()
            refusals.append(str(caught.value))
        assert main(["train", "--resume", str(tmp_path / "run")]) == 2
        refusals.append(capsys.readouterr().err)
        bptt.Run.open(tmp_path / "run").network()  # reading needs no lock

    fit(text, tmp_path / "run", on_update=come_second)
    assert len(refusals) == 9
    holder = f"run is in use by process {os.getpid()} on {socket.gethostname()} since 20"
    assert all(holder in refusal for refusal in refusals)
    assert names(tmp_path / "run") == RUN_FILES
    assert bptt.resume(tmp_path / "run")[1].updates == 3


def test_reading_a_run_writes_nothing(text: bptt.Text, tmp_path: Path) -> None:
    fit(text, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in [tmp_path / "run", *tmp_path.glob("run/*")]}
    assert main(["generate", str(tmp_path / "run"), "--steps", "2"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


HOLD = """
import sys, time, pathlib, os, signal
from bptt.training.runs import files
from bptt.training.runs.locks import locked
folder = pathlib.Path(sys.argv[1])
with locked(folder), files.replacing(folder / "config.json", files.JSON) as file:
    file.write(b'{"bptt": "half of it')
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_lock_of_a_process_that_was_killed_locks_nobody_out(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", HOLD, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert {LOCK, HOLDER} < left
    assert len(left) == 3
    with locked(tmp_path):
        assert names(tmp_path) == {LOCK, HOLDER}
    assert names(tmp_path) == set()


def test_only_temporary_files_of_ours_whose_process_is_gone_are_swept(tmp_path: Path) -> None:
    gone, alive = 999_999_999, os.getpid()
    swept = {
        f".bptt-{gone}-0123456789abcdef.tmp": b"",
        f".bptt-{gone}-0123456789abcde0.tmp": b'{"bptt": "0.1.0"',
        f".bptt-{gone}-0123456789abcde1.tmp": b'12345678{"__metadata__":{"bptt":"{}"',
    }
    left = {
        f".bptt-{alive}-0123456789abcdef.tmp": b"",
        f".bptt-{gone}-0123456789abcde2.tmp": b"a stranger's",
        f".bptt-{gone}-short.tmp": b"",
        "config.json.tmp": b"",
        ".tmpAbCdEf": b"",
    }
    for name, content in {**swept, **left}.items():
        (tmp_path / name).write_bytes(content)
    files.sweep(tmp_path)
    assert names(tmp_path) == set(left)


def together(count: int, call: Any) -> list[Any]:
    """Return what the calls returned, or the errors that they raised, from threads at once."""
    results: list[Any] = []
    start, end = threading.Barrier(count), threading.Barrier(count)

    def work() -> None:
        start.wait()
        try:
            with call() as result:
                end.wait(20)
        except bptt.BpttError as error:
            result = error
            end.wait(20)
        results.append(result)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_those_that_start_at_once_take_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/some-text-2").mkdir(parents=True)
    folders = together(6, lambda: claimed(automatic_folders(Path("some text.txt"))))
    expected = {Path(f"runs/some-text-{number}") for number in (1, 3, 4, 5, 6, 7)}
    assert set(folders) == expected


def test_of_those_that_want_one_folder_at_once_one_gets_it(tmp_path: Path) -> None:
    results = together(6, lambda: claimed(tmp_path / "run"))
    errors = [result for result in results if isinstance(result, bptt.BpttError)]
    assert len(errors) == 5
    assert all("run is in use by" in str(error) for error in errors)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("failing", range(1, 7))
def test_a_first_checkpoint_that_fails_leaves_no_folder_that_is_taken(
    text: bptt.Text, tmp_path: Path, failing: int, exists: bool
) -> None:
    """The disk is full at each of the writes in turn: holder, checkpoint, config."""
    if exists:
        (tmp_path / "run").mkdir()
    calls, fsync = 0, os.fsync

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with (
        mock.patch("os.fsync", full),
        pytest.raises(bptt.BpttError, match=r"cannot write .*: No space left on device"),
    ):
        fit(text, tmp_path / "run")
    if failing < 6:  # at the sixth, config.json is there already
        assert (tmp_path / "run").exists() == exists
        assert not exists or names(tmp_path / "run") == set()
        fit(text, tmp_path / "run")
    else:
        bptt.resume(tmp_path / "run")
    assert names(tmp_path / "run") == RUN_FILES


def test_what_a_kill_leaves_before_there_is_a_run_is_not_taken(
    text: bptt.Text, tmp_path: Path
) -> None:
    run = fit(text, tmp_path / "run")
    tensors, notes = run.load()
    for update, is_taken in ((0, False), (1, True)):
        folder = tmp_path / f"left-{update}"
        folder.mkdir()
        (folder / LOCK).touch()
        checkpoint.save(folder / "checkpoint.safetensors", tensors, {**notes, "update": update})
        if is_taken:
            with pytest.raises(bptt.BpttError, match=r"checkpoint.safetensors, but no config.json"):
                fit(text, folder)
        else:
            fit(text, folder)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_of_the_umask(text: bptt.Text, tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        fit(text, tmp_path / "run")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").iterdir()}
    assert modes == {0o666 & ~umask}


def test_the_checkpoint_is_read_once(text: bptt.Text, tmp_path: Path) -> None:
    fit(text, tmp_path / "run")
    with mock.patch("bptt.training.runs.checkpoint.load", wraps=checkpoint.load) as spy:
        bptt.resume(tmp_path / "run", max_updates=4)
    read = [call.args[0].name for call in spy.call_args_list]
    assert read.count("checkpoint.safetensors") == 1


def test_a_listener_that_fails_loses_no_update(text: bptt.Text, tmp_path: Path) -> None:
    def fail(update: Update) -> None:
        if update.number == 2:
            raise RuntimeError("the listener's own")

    torch.manual_seed(0)
    net = bptt.Network(text.likelihood, hidden=4)
    with pytest.raises(RuntimeError, match="the listener's own"):
        bptt.fit(net, text, SETTINGS, out=tmp_path / "run", on_update=fail)
    assert bptt.Run.open(tmp_path / "run").load()[1]["update"] == 2
