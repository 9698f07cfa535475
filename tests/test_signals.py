"""Ctrl-C, SIGTERM, SIGHUP, a terminal or a pipe that is closed: saved, quiet, and with a status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import bptt
from bptt.cli import main
from bptt.training.interruption import SIGNALS, Ended, ending
from bptt.training.progress import TrainingDisplay
from bptt.training.updates import Fit, Update

QUICK = ["--hidden", "4", "--batch", "2", "--window", "5", "--max-updates", "6"]
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(autouse=True)
def _handlers_are_restored() -> Iterator[None]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


@pytest.fixture(autouse=True)
def _hang_up_is_not_ignored() -> Iterator[None]:
    """Undo what `nohup` does, which the processes that are started here would inherit."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def text(tmp_path: Path) -> bptt.Text:
    (tmp_path / "text.txt").write_text("to be, or not to be, that is the question: " * 20)
    return bptt.read_text(tmp_path / "text.txt")


def fit(text: bptt.Text, out: Path, on_update: Callable[[Update], None]) -> Fit:
    torch.manual_seed(0)
    net = bptt.Network(text.likelihood, hidden=4)
    settings = bptt.Settings(batch=2, window=5, max_updates=6)
    return bptt.fit(net, text, settings, out=out, on_update=on_update)


def send(number: int, times: int = 1) -> Callable[[Update], None]:
    """Return an `on_update` that sends this process a signal after the third update."""

    def on_update(update: Update) -> None:
        if update.number == 3:
            for _ in range(times):
                os.kill(os.getpid(), number)

    return on_update


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_training_with_its_update_saved(
    text: bptt.Text, tmp_path: Path, number: int
) -> None:
    with pytest.raises(bptt.Interrupted, match="stopped after update 3") as caught:
        fit(text, tmp_path / "run", send(number))
    assert caught.value.signum == number
    assert bptt.Run.open(tmp_path / "run").load()[1]["update"] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_one_of_a_supervisor_changes_nothing(
    text: bptt.Text, tmp_path: Path, number: int
) -> None:
    with pytest.raises(bptt.Interrupted, match="stopped after update 3"):
        fit(text, tmp_path / "run", send(number, times=3))


@pytest.mark.parametrize("number", SIGNALS)
def test_the_command_line_says_how_to_go_on_and_ends_with_the_status(
    text: bptt.Text,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    monkeypatch.setattr(TrainingDisplay, "__call__", lambda _, update: send(number)(update))
    run = str(tmp_path / "run")
    assert main(["train", str(text.path), *QUICK, "--out", run]) == STATUS[number]
    out, err = capsys.readouterr()
    assert (err, out.splitlines()[-1]) == (
        "",
        f"Stopped and saved. To go on: bptt train --resume {run}",
    )
    monkeypatch.undo()
    assert main(["train", "--resume", run]) == 0


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_ignored_stays_ignored(text: bptt.Text, tmp_path: Path, number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert fit(text, tmp_path / "run", send(number)).updates == 6
        with ending():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_somebodys_handler_is_called(text: bptt.Text, tmp_path: Path, number: int) -> None:
    received = []
    before = signal.signal(number, lambda signum, _: received.append(signum))
    try:
        assert fit(text, tmp_path / "run", send(number)).updates == 6
    finally:
        signal.signal(number, before)
    assert received == [number]


def test_in_another_thread_training_goes_on(text: bptt.Text, tmp_path: Path) -> None:
    updates = []
    thread = threading.Thread(
        target=lambda: updates.append(fit(text, tmp_path / "run", lambda _: None).updates)
    )
    thread.start()
    thread.join()
    assert updates == [6]


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_no_training_ends_at_once(number: int) -> None:
    def work() -> None:
        with ending():
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(Ended) as caught:
        work()
    assert caught.value.signum == number


@pytest.mark.parametrize("module", ["cyclopts", "torch"])
@pytest.mark.parametrize("number", SIGNALS)
def test_during_imports_it_is_quiet(tmp_path: Path, number: int, module: str) -> None:
    lines = [
        "import os, time",
        "try:",
        f"    os.kill(os.getpid(), {int(number)})",
        "    time.sleep(5)",
        "except BaseException as error:",
        "    raise ImportError('as extension modules do') from error",
    ]
    (tmp_path / f"{module}.py").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "bptt", "train", "text.txt"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (STATUS[number], "", "")


LONG = [*QUICK[:-1], "1000000", "--validate-every", "2"]


def test_a_reader_that_goes_away_ends_training_saved(text: bptt.Text, tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -m bptt train {text.path} {' '.join(LONG)} --out {tmp_path / 'run'}"
    )
    shell = f"{command} | head -n 2; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", shell], env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (141, b"")
    assert bptt.Run.open(tmp_path / "run").load()[1]["update"] > 0


def test_a_terminal_that_is_closed_ends_training_saved(text: bptt.Text, tmp_path: Path) -> None:
    import pty  # noqa: PLC0415 (where there are terminals)

    arguments = ["train", str(text.path), *LONG, "--out", str(tmp_path / "run")]
    start = f"import sys; from bptt.__main__ import main; sys.argv[1:] = {arguments}; "
    start += "sys.exit(main())"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", start])
    seen = b""
    while b"bits per character" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert bptt.Run.open(tmp_path / "run").load()[1]["update"] > 0


class SendsWhenTaken:
    """Sends this process a signal at a moment when Python ignores what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_comes_while_an_object_is_taken_away_is_not_lost(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = sys.unraisablehook

    def wait() -> None:
        with ending():
            sends = SendsWhenTaken()
            del sends
            time.sleep(60)

    for soon in (0.0, 0.001) * 10:  # 0: it comes again while Python's hook is still at work
        monkeypatch.setattr("bptt.training.interruption.SOON", soon)
        with pytest.raises(Ended) as ended:
            wait()
        assert ended.value.signum == signal.SIGTERM
        assert sys.unraisablehook is hook
    assert capfd.readouterr().err == ""


def test_a_signal_that_comes_while_an_error_is_told_ends_with_its_status(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*_: object) -> str:
        signal.raise_signal(signal.SIGTERM)
        return "never"

    monkeypatch.setattr("bptt.cli.complaint", told)
    assert main(["train", "nowhere.txt"]) == STATUS[signal.SIGTERM]
    assert capsys.readouterr().err == ""
