"""Nothing that we did not write is overwritten or deleted, wherever we write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bptt.cli import main
from bptt.training.compare import comparison_of_flags

QUICK = ["--hidden", "4", "--batch", "2", "--window", "5", "--max-updates", "2"]
COMPARE = ["compare", "task:order", "--setting", "plain: --max-updates 2", "--seeds", "1"]
TRAIN = ["train", "text.txt", *QUICK, "--report", "--out", "new"]
RESUME = ["train", "--resume", "run", "--max-updates", "4", "--report"]
FORECAST = ["generate", "table", "--steps", "3"]
PLACES = {
    "new/config.json": TRAIN,
    "new/metrics.jsonl": TRAIN,
    "new/checkpoint.safetensors": TRAIN,
    "new/best.safetensors": TRAIN,
    "new/checkpoint-before.safetensors": TRAIN,
    "new/flow.jsonl": TRAIN,
    "new/result.json": TRAIN,
    "new/report.html": TRAIN,
    "new/.bptt.lock": TRAIN,
    "new/.bptt.holder": TRAIN,
    "run/config.json": RESUME,
    "run/metrics.jsonl": RESUME,
    "run/checkpoint.safetensors": RESUME,
    "run/best.safetensors": RESUME,
    "run/checkpoint-before.safetensors": RESUME,
    "run/flow.jsonl": RESUME,
    "run/result.json": RESUME,
    "run/report.html": RESUME,
    "run/.bptt.lock": RESUME,
    "run/.bptt.holder": RESUME,
    "table/forecast.csv": FORECAST,
    "table/forecast.html": FORECAST,
    "table/evaluation.html": ["evaluate", "table", "--horizon", "2", "--origins", "2"],
    "next.csv": [*FORECAST, "--out", "next.csv"],
    "next.html": [*FORECAST, "--out", "next.csv"],
    "page.html": ["flow", "run", "--out", "page.html"],
    "bench.html": ["bench", "--lengths", "10"],
    "cmp/comparison.json": [*COMPARE, "--out", "cmp"],
    "cmp/report.html": [*COMPARE, "--out", "cmp"],
    "cmp/.bptt.lock": [*COMPARE, "--out", "cmp"],
    "cmp/plain/seed-0/finished": [*COMPARE, "--out", "cmp"],
}
TEXTS = ["a stranger's\n", '{"update": 1, "loss": 2.5}\n', '{"data": "mine"}\n', "time,load\n1,2\n"]


def put_file(path: Path) -> None:
    path.write_text(TEXTS[len(path.name) % len(TEXTS)])


def put_folder(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("years of work\n")


def put_link(path: Path) -> None:
    path.with_name("elsewhere").write_text("years of work\n")
    path.symlink_to("elsewhere")


def put_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """Return what a folder holds, by path: bytes, a link's target, or None for a folder."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a text, a run on it, and a run on a table."""
    folder = tmp_path_factory.mktemp("strangers")
    (folder / "text.txt").write_text("to be, or not to be, that is the question: " * 20)
    (folder / "t.csv").write_text("load\n" + "".join(f"{i % 7}\n" for i in range(60)))
    assert main(["train", str(folder / "text.txt"), *QUICK, "--out", str(folder / "run")]) == 0
    table = [*QUICK[:2], "--window", "5", "--max-updates", "2", "--out", str(folder / "table")]
    assert main(["train", str(folder / "t.csv"), *table]) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "here"))
    return tmp_path / "here"


@pytest.mark.parametrize("put", [put_file, put_folder, put_link, put_dangling_link])
@pytest.mark.parametrize("place", PLACES)
def test_a_stranger_in_our_place_is_unharmed_and_named(
    here: Path, capsys: pytest.CaptureFixture[str], place: str, put: Callable[[Path], None]
) -> None:
    path = here / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        path.unlink()
    put(path)
    before = contents(here)

    status = main(PLACES[place])

    _, err = capsys.readouterr()
    assert status == 2
    assert err.startswith("bptt: ")
    assert err.count("\n") == 1
    assert path.name in err
    after = contents(here)
    assert {name: after.get(name, "gone") for name in before} == before
    assert not set(after) - set(before) - {"cmp/comparison.json"}


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint.safetensors.tmp",
        "config.json.tmp",
        "metrics.jsonl.tmp",
        ".bptt-999999999-0123456789abcdef.tmp",
        "events.out.tfevents.1700000000.host",
        "notes.txt",
    ],
)
@pytest.mark.parametrize("put", [put_file, put_folder, put_link])
@pytest.mark.parametrize("command", [TRAIN, RESUME], ids=["train", "resume"])
def test_a_stranger_beside_our_files_is_unharmed(
    here: Path, name: str, put: Callable[[Path], None], command: list[str]
) -> None:
    folder = here / command[-1] if command is TRAIN else here / "run"
    folder.mkdir(exist_ok=True)
    put(folder / name)
    before = contents(here)
    assert main([argument for argument in command if argument != "--report"]) == 0
    after = contents(here)
    ours = {"run/config.json", "run/metrics.jsonl", "run/checkpoint.safetensors"}
    ours |= {"run/best.safetensors", "run/checkpoint-before.safetensors", "run/result.json"}
    assert {path: after[path] for path in before if path not in ours} == {
        path: content for path, content in before.items() if path not in ours
    }


def test_tensorboard_writes_beside_what_is_there(here: Path) -> None:
    (here / "new").mkdir()
    put_file(here / "new/events.out.tfevents.1700000000.host")
    before = contents(here)
    arguments = [argument for argument in TRAIN if argument != "--report"]
    assert main([*arguments, "--tensorboard"]) == 0
    assert {name: contents(here)[name] for name in before} == before
    assert len(list((here / "new").glob("events.out.tfevents.*"))) == 2


@pytest.mark.parametrize(
    "command",
    [
        ["flow", "run", "--out", "page.html"],
        [*FORECAST, "--out", "next.csv"],
        FORECAST,
        ["flow", "run", "--out", "empty"],
    ],
)
def test_what_we_wrote_ourselves_is_written_again(here: Path, command: list[str]) -> None:
    (here / "empty").touch()
    assert main(command) == 0
    assert main(command) == 0
    assert not list(here.rglob("*.tmp"))


def test_compare_leaves_a_folder_that_it_did_not_make(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "cmp/plain/seed-0"
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_text("a stranger's\n")
    (folder / "thesis.txt").write_text("years of work\n")
    before = contents(here)
    assert main([*COMPARE, "--out", "cmp"]) == 2
    _, err = capsys.readouterr()
    assert "checkpoint.safetensors is a file that bptt did not write" in err
    assert {name: contents(here)[name] for name in before} == before
    (job,) = comparison_of_flags("task:order", ["plain:"], "", 1).jobs(here / "cmp")
    assert job.folder == folder


def test_devices_are_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(here / "pipe.html")
    for place in ("pipe.html", "/dev/null"):
        assert main(["flow", "run", "--out", place]) == 2
        assert f"{place} is a device or a pipe that bptt did not write" in capsys.readouterr().err
    assert Path("/dev/null").is_char_device()
