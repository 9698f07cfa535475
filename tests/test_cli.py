"""The command line as a user meets it: other processes, exit codes, and one-line complaints."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import bptt
from bptt.cli import main
from bptt.gradient import costs

SMALL = ["--hidden", "8", "--batch", "4", "--window", "10", "--max-updates", "20"]


TEXT = "to be, or not to be, that is the question: " * 40


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a text and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    assert main(["train", str(folder / "text.txt"), *SMALL, "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a text, and with a run."""
    monkeypatch.chdir(shutil.copytree(trained, tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def bptt_says(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_a_torn_checkpoint_is_said_in_a_line(here: Path, bptt_says: Callable[..., tuple]) -> None:
    path = here / "run/checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    status, out, err = bptt_says("train", "--resume", "run")
    assert (status, err.count("\n")) == (0, 1)
    assert "is no checkpoint, or damaged" in err
    assert "; the one before, of update " in err
    assert "after 20 updates" in out


def test_train_generate_and_resume(here: Path, bptt_says: Callable[..., tuple]) -> None:
    status, out, err = bptt_says("train", "text.txt", *SMALL)
    assert (status, err) == (0, "")
    assert "text.txt: 1,548 characters to train on" in out
    assert "update 20 of 20, training " in out
    assert " bits per character, " in out
    assert "The run is in runs/text-1." in out
    assert "bptt train --resume runs/text-1 --max-updates 40" in out

    status, out, _ = bptt_says("generate", "runs/text-1", "--prompt", "to ", "--steps", "30")
    assert (status, len(out), out[:3]) == (0, 34, "to ")
    seeded = ["generate", "runs/text-1", "--seed", "5"]
    assert bptt_says(*seeded) == bptt_says(*seeded) != bptt_says(*seeded, "--temperature", "2")

    status, out, _ = bptt_says("train", "--resume", "runs/text-1", "--max-updates", "30")
    assert status == 0
    assert "after 30 updates" in out
    assert bptt_says("train", "text.txt", *SMALL, "--recurrence", "hidden")[0] == 0
    assert (here / "runs/text-2/checkpoint.safetensors").exists()
    assert "the prompt has '€'" in bptt_says("generate", "runs/text-2", "--prompt", "to €")[2]


@pytest.mark.parametrize("text", ["to be or not to be, ", "The cat sat on the mat. "])
def test_what_is_to_be_tried_next_works(
    here: Path, bptt_says: Callable[..., tuple], text: str
) -> None:
    Path("t.txt").write_text(text * 30)
    status, out, _ = bptt_says("train", "t.txt", *SMALL, "--out", "r")
    assert status == 0
    [command] = [line for line in out.splitlines() if line.startswith("  bptt generate")]
    assert ("--prompt" in command) == ("T" in text)
    assert bptt_says(*shlex.split(command)[1:], "--steps", "3")[0] == 0


def test_whole_streams_within_a_budget(here: Path, bptt_says: Callable[..., tuple]) -> None:
    arguments = ["--hidden", "8", "--batch", "4", "--epochs", "3", "--out", "whole"]
    status, out, _ = bptt_says("train", "text.txt", *arguments, "--memory=1MB", "--window=none")
    assert (status, "after 3 updates" in out) == (0, True)
    config = json.loads((here / "whole/config.json").read_text())
    assert (config["training"]["window"], config["training"]["memory"]) == (None, "1MB")
    assert bptt_says("train", "--resume", "whole", "--max-updates", "4")[0] == 0
    stride = ["--window", "20", "--stride", "5", "--steps-per-update", "40", "--max-updates", "2"]
    assert bptt_says("train", "text.txt", *arguments[:4], *stride)[0] == 0


def test_bytes_and_tensorboard(here: Path, bptt_says: Callable[..., tuple]) -> None:
    (here / "blob").write_bytes(bytes(range(256)) * 8)
    arguments = ["train", "blob", *SMALL, "--tokens", "bytes", "--out", "events", "--tensorboard"]
    status, out, _ = bptt_says(*arguments)
    assert status == 0
    assert "bits per byte" in out
    assert list((here / "events").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["absent.txt"], "no such file: absent.txt; give the path of a text file"),
        (["."], ". has folders, and beside them empty; expected a folder for each class"),
        (["empty"], "empty is empty; expected some text to learn from"),
        (["latin"], "latin is not UTF-8: byte 0xe9 at position 3, line 1; convert it, or train on"),
        (["text.txt"], "has 1548 characters to train on; expected at least batch · window = 32"),
        (["text.txt", *SMALL, "--out", "run"], "run holds a run already; give another folder"),
        (["text.txt", *SMALL, "--out", "text.txt"], "cannot write a run to text.txt"),
        (["--resume", "folder"], "folder holds no run; expected a folder with a config.json"),
        (["--resume", "run", "--hidden", "9"], "run's own settings, but got --hidden; leave that"),
        (["--resume", "damaged"], "damaged/checkpoint.safetensors is no checkpoint, or damaged"),
        (["text.txt", "--hidden", "10000000"], "would take 400,00"),
        (["text.txt", "--hidden", "0"], "hidden is 0; expected a whole number from 1 to"),
        (["text.txt", "--batch", "-1"], "batch is -1; expected a whole number from 1"),
        (["text.txt", "--hidden", "many"], "many"),
        (["text.txt", "--seed", "9" * 30], "expected a whole number from 0"),
        (["text.txt", *SMALL, "--out", "run", "--tensorboard"], "run holds a run already"),
        (["text.txt", "--hiden", "9"], "Did you mean --hidden?"),
        (["text.txt", "--cell", "elman"], "elman"),
        (["text.txt", "--memory", "lots"], "memory is 'lots'; expected bytes, such as"),
        (["text.txt", *SMALL, "--memory", "1kB"], "memory is 1,000 bytes; expected at least"),
        (["text.txt", *SMALL, "--stride", "11"], "stride is 11; expected a whole number from 1"),
        (["text.txt", "--window", "none", "--stride", "1"], "stride is 1 without a window"),
        (["text.txt", "--window", "all"], "all"),
        (["text.txt", *SMALL, "--cell", "gru", "--recurrence", "output"], "expected tanh or relu"),
        (
            ["text.txt", *SMALL, "--cell", "relu", "--learning-rate", "1e30", "--clip", "inf"],
            "keeps its last good checkpoint, of update 0. Try a lower learning rate",
        ),
    ],
)
def test_bad_input_is_one_line_status_2_and_nothing_lost(
    here: Path, bptt_says: Callable[..., tuple], arguments: list[str], complaint: str
) -> None:
    (here / "empty").touch()
    (here / "latin").write_bytes(b"caf\xe9")
    (here / "folder").mkdir()
    shutil.copytree("run", "damaged")
    (here / "damaged/checkpoint.safetensors").write_bytes(b"not tensors")
    (here / "damaged/checkpoint-before.safetensors").unlink()
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}

    status, _, err = bptt_says("train", *arguments)

    assert status == 2
    assert err.startswith("bptt: ")
    assert err.count("\n") == 1
    assert complaint in err
    assert {path: path.read_bytes() for path in before} == before


TABLE_SMALL = ["--hidden", "8", "--window", "10", "--max-updates", "20"]


def table(path: Path, rows: str) -> None:
    path.write_text("day,load,wind\n" + rows)


def test_a_table_is_trained_on_and_forecast(here: Path, bptt_says: Callable[..., tuple]) -> None:
    table(here / "power.csv", "".join(f"{i},{i % 7},{(3 * i) % 5}\n" for i in range(100)))
    arguments = ["power.csv", *TABLE_SMALL, "--target", "load,wind", "--time", "day"]
    status, out, err = bptt_says("train", *arguments, "--forcing-end", "0.5")
    assert (status, err) == (0, "")
    assert "power.csv: 90 steps to train on" in out
    assert "nats per step after 20 updates" in out
    assert "  load: " in out
    assert "of expecting the value before" in out
    assert "bptt generate runs/power-1 --steps 100" in out
    status, out, err = bptt_says("generate", "runs/power-1", "--steps", "9", "--out", "next.csv")
    assert (status, err) == (0, "")
    assert len((here / "next.csv").read_text().splitlines()) == 10
    assert "plotly" in (here / "next.html").read_text()
    assert "--prompt is for texts" in bptt_says("generate", "runs/power-1", "--prompt", "a")[2]
    assert bptt_says("train", "--resume", "runs/power-1", "--max-updates", "25")[0] == 0
    assert bptt_says("train", "power.csv", *TABLE_SMALL, "--recurrence", "hidden")[0] == 0
    assert bptt_says("generate", "runs/power-2", "--steps", "3")[0] == 0


def test_a_run_that_was_better_before_says_so(here: Path, bptt_says: Callable[..., tuple]) -> None:
    random = np.random.default_rng(0).normal(size=(60, 2))
    table(here / "noise.csv", "".join(f"{i},{a:.3f},{b:.3f}\n" for i, (a, b) in enumerate(random)))
    arguments = [
        "--hidden",
        "32",
        "--window",
        "none",
        "--target",
        "load",
        "--learning-rate",
        "0.02",
    ]
    status, out, _ = bptt_says("train", "noise.csv", *arguments, "--max-updates", "300")
    assert status == 0
    assert out.count("update ") <= 25
    assert "; the best was after update " in out
    assert ", whose weights are used" in out
    status, out, _ = bptt_says(
        "train", "noise.csv", *arguments, "--max-updates", "300", "--keep", "last"
    )
    assert "The validation loss was lowest after " in out
    assert "and has risen since: a new run with --max-updates" in out


def test_a_collection_is_trained_on(here: Path, bptt_says: Callable[..., tuple]) -> None:
    np.savez(here / "songs.npz", y=np.random.default_rng(0).integers(2, size=(30, 20, 5)))
    status, out, err = bptt_says("train", "songs.npz", *TABLE_SMALL)
    assert (status, err) == (0, "")
    assert "songs.npz: 540 steps to train on" in out
    status, _, err = bptt_says("generate", "runs/songs-1")
    assert (status, "was trained on a collection of sequences" in err) == (2, True)


@pytest.mark.parametrize(
    ("rows", "arguments", "complaint"),
    [
        ("1,a,1\n2,2,2\n", ["--target", "load"], "'load'"),
        ("1,1,1\n1,2,2\n3,1,1\n", ["--time", "day", "--validation-share", "0.4"], "day"),
        ("1,1,1\n2,2,2\n3,1,1\n", ["--target", "lod"], "did you mean 'load'?"),
        ("1,1,1\n2,1,2\n" * 9, ["--target", "load"], "'load'"),
        ("1,1,1\n2,,2\n3,1,1\n", ["--target", "load"], "--fill"),
        ("1,1,1\n2,inf,2\n3,1,1\n", ["--target", "load"], "load"),
        ("1,1,1\n", [], "power.csv"),
        ("", [], "power.csv has no rows"),
    ],
)
def test_bad_tables_are_one_line_and_status_2(
    here: Path, bptt_says: Callable[..., tuple], rows: str, arguments: list[str], complaint: str
) -> None:
    table(here / "power.csv", rows)
    status, _, err = bptt_says("train", "power.csv", *TABLE_SMALL, *arguments)
    assert (status, err.count("\n"), err[:6]) == (2, 1, "bptt: ")
    assert complaint in err
    assert not (here / "runs").exists()


def test_options_of_tables_are_refused_elsewhere(bptt_says: Callable[..., tuple]) -> None:
    status, _, err = bptt_says("train", "text.txt", "--difference")
    assert (status, err) == (
        2,
        "bptt: --difference is for tables (.csv, .tsv, .parquet); text.txt is none\n",
    )


def test_generate_refuses_what_it_cannot_do(bptt_says: Callable[..., tuple]) -> None:
    assert bptt_says("generate", "absent")[2].startswith("bptt: absent holds no run;")
    status, _, err = bptt_says("generate", "run", "--temperature", "-1")
    assert (status, err.startswith("bptt: temperature is -1.0; expected")) == (2, True)
    assert bptt_says("generate", "run", "--steps", "-1")[0] == 2
    assert bptt_says("generate")[0] == 2
    assert bptt_says("generat", "run")[0] == 2


def test_ctrl_c_saves_and_exits_with_130(here: Path) -> None:
    arguments = ["train", "text.txt", *SMALL[:-1], "1000000", "--out", "long"]
    with subprocess.Popen(
        [sys.executable, "-m", "bptt", *arguments, "--validate-every", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("update 20 of"):
                process.send_signal(signal.SIGINT)
                break
        out, err = process.communicate()
    assert (process.returncode, err) == (130, "")
    assert "Stopped and saved. To go on: bptt train --resume long" in out
    assert main(["train", "--resume", "long", "--max-updates", "40"]) == 0


def test_a_reader_that_goes_away_is_no_error(here: Path) -> None:
    shell = f"{sys.executable} -m bptt generate run --steps 20000 | head -c 10"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, check=False)
    assert (len(done.stdout), done.stderr) == (10, b"")


def test_help_does_not_load_torch() -> None:
    code = "import sys; from bptt.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_flow_says_how_far_the_gradient_reaches(
    here: Path, bptt_says: Callable[..., tuple]
) -> None:
    status, out, err = bptt_says("flow", "run", "--steps", "60", "--sequences", "2")
    assert (status, err) == (0, "")
    assert out.startswith("A typical gradient ")
    assert "Over the 10 characters that you train with" in out
    assert out.endswith("The pictures are in run/report.html\n")
    page = (here / "run" / "report.html").read_text(encoding="utf-8")
    assert "How far back the gradient of run reaches" in page


def test_flow_of_a_run_whose_data_has_gone_asks_for_it(
    here: Path, trained: Path, bptt_says: Callable[..., tuple]
) -> None:
    config = json.loads((here / "run" / "config.json").read_text())
    config["data"]["path"] = str(here / "gone.txt")
    (here / "run" / "config.json").write_text(json.dumps(config))
    status, out, err = bptt_says("flow", "run")
    assert (status, out) == (2, "")
    assert "gone.txt" in err
    assert err.count("\n") == 1
    status, out, err = bptt_says(
        "flow", "run", "text.txt", "--out", "deep/page.html", "--max-lag", "9"
    )
    assert (status, err) == (0, "")
    assert (here / "deep" / "page.html").exists()
    (here / "other.txt").write_text("something else altogether " * 90)
    status, out, err = bptt_says("flow", "run", "other.txt")
    assert (status, out) == (2, "")
    assert "is not the data that run was trained on" in err


def test_flow_of_a_folder_with_markup_in_its_name(
    here: Path, bptt_says: Callable[..., tuple]
) -> None:
    name = "<b>&run"
    (here / "run").rename(here / name)
    status, _, err = bptt_says("flow", name, "--steps", "40")
    assert (status, err) == (0, "")
    page = (here / name / "report.html").read_text(encoding="utf-8")
    assert "<h1>How far back the gradient of &lt;b&gt;&amp;run reaches</h1>" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere holds no run"),
        (["run", "--steps", "0"], "steps is 0"),
        (["run", "--sequences", "-1"], "sequences is -1"),
        (["run", "--max-lag", "-2"], "max_lag is -2"),
        (["run", "--max-lag", "999"], "max_lag is 999; expected at most"),
        (["run", "--maxlag", "2"], "--maxlag"),
    ],
)
def test_flow_with_bad_arguments(
    bptt_says: Callable[..., tuple], arguments: list[str], words: str
) -> None:
    status, out, err = bptt_says("flow", *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_train_and_resume_with_a_report(here: Path, bptt_says: Callable[..., tuple]) -> None:
    status, out, err = bptt_says("train", "text.txt", *SMALL, "--report", "--out", "seen")
    assert (status, err) == (0, "")
    assert "The pictures are in seen/report.html" in out
    lines = (here / "seen" / "flow.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == list(range(1, 21))
    page = (here / "seen" / "report.html").read_text(encoding="utf-8")
    assert "How the horizon grew" in page
    status, out, err = bptt_says("train", "--resume", "seen", "--max-updates", "24", "--report")
    assert (status, err) == (0, "")
    lines = (here / "seen" / "flow.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["update"] == 24


def test_bench_measures_and_writes_a_page(
    here: Path, bptt_says: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In this process; that each has one of its own is tested in gradient/test_costs.py.
    monkeypatch.setattr(costs, "_in_fresh_process", costs.measure_here)
    status, out, err = bptt_says("bench", "--hidden", "8", "--lengths", "100")
    assert (status, err) == (0, "")
    assert "torch.nn.RNN" in out
    assert " 100 " in out
    assert out.endswith("The page is bench.html\n")
    assert "plotly-graph-div" in (here / "bench.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lengths", "many"], "a length is 'many'"),
        (["--lengths", "0"], "0"),
        (["--memory", "lots"], "memory is 'lots'"),
        (["--window", "0"], "window is 0"),
        (["--hidden", "0"], "hidden is 0"),
    ],
)
def test_bench_with_bad_arguments(
    bptt_says: Callable[..., tuple], arguments: list[str], words: str
) -> None:
    status, _, err = bptt_says("bench", *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1


def test_train_on_a_task(here: Path, bptt_says: Callable[..., tuple]) -> None:
    small = ["--hidden", "24", "--max-updates", "1500", "--validate-every", "50"]
    status, out, err = bptt_says("train", "task:flipflop", "--length", "20", *small)
    assert (status, err) == (0, "")
    assert "task:flipflop, length 20: drawn on the fly" in out
    assert "\nsolved: squared error 0.0" in out
    assert "1 is reached without memory" in out
    assert "The run is in runs/task-flipflop-1." in out
    config = json.loads((here / "runs" / "task-flipflop-1" / "config.json").read_text())
    assert config["network"]["recurrence"] == "hidden"
    assert config["training"]["window"] is None
    status, out, err = bptt_says("flow", "runs/task-flipflop-1")
    assert (status, err) == (0, "")
    status, out, err = bptt_says("generate", "runs/task-flipflop-1")
    assert status == 2
    assert "was trained on a task" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task:flipflip"], "did you mean flipflop?"),
        (["task:copy", "--length", "many"], "the length is 'many'"),
        (["text.txt", "--length", "20"], "--length is for tasks"),
        (["task:adding", "--target", "a"], "--target is for tables"),
    ],
)
def test_tasks_that_cannot_be(
    bptt_says: Callable[..., tuple], arguments: list[str], words: str
) -> None:
    status, _, err = bptt_says("train", *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1


def test_remedies_are_flags(here: Path, bptt_says: Callable[..., tuple]) -> None:
    remedies = ["--init", "gaussian", "--radius", "0.95", "--omega", "0.5", "--clip-value", "0.1"]
    small = ["--hidden", "8", "--max-updates", "5", "--length", "12"]
    status, _, err = bptt_says("train", "task:order", *small, *remedies, "--out", "remedied")
    assert (status, err) == (0, "")
    config = json.loads((here / "remedied" / "config.json").read_text())
    assert config["network"]["init"]["W"] == "gaussian"
    assert config["network"]["init"]["radius"] == 0.95
    assert config["training"]["omega"] == 0.5
    assert config["training"]["clip_value"] == 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cell", "gru", "--omega", "1"], 'omega is given with cell "gru"'),
        (["--cell", "gru", "--leak", "0.1"], 'leak is given with cell "gru"'),
        (["--recurrence", "output", "--skips", "4"], 'skips is given with recurrence "output"'),
        (
            ["--skips", "4,100", "--length", "60"],
            "a skip's delay is 100, and the sequences have 60",
        ),
        (["--skips", "4,x"], "got 'x'; expected whole numbers with commas between"),
        (["--skips", "8,4"], "skips are (8, 4); expected delays that rise"),
        (["--leak", "2"], "leak is 2.0; expected a number above 0 and at most 1"),
        (["--learn-leak"], "learn_leak is given without a leak"),
        (["--norm", "--omega", "1"], "omega is given with norm; expected one or the other"),
        (["--dropout", "1"], "dropout is 1.0; expected a probability below 1"),
        (["--omega-halved-after", "9"], "omega_halved_after is given without omega"),
        (["--omega", "1", "--forcing", "0.5", "--feedback", "mean"], "with means fed back"),
        (["--leak", "0.99999999", "--learn-leak"], "expected it to start away from 0 and 1"),
        (["--chrono", "50"], 'chrono is given with cell "tanh"'),
        (["--cell", "lstm", "--init", "identity"], 'identity with cell "lstm"'),
        (["--cell", "lstm", "--chrono", "9", "--forget-bias", "1"], "expected one of them"),
        (["--recurrence", "output", "--omega", "1"], 'recurrence "output"'),
    ],
)
def test_remedies_that_contradict_the_network(
    here: Path, bptt_says: Callable[..., tuple], arguments: list[str], words: str
) -> None:
    status, _, err = bptt_says("train", "task:order", "--out", "no", *arguments)
    assert status == 2
    assert words in err
    assert err.count("\n") == 1
    assert not (here / "no").exists()


def test_what_the_loop_has_comes_back_with_the_run(
    here: Path, bptt_says: Callable[..., tuple]
) -> None:
    more = ["--leak", "0.1,0.9", "--learn-leak", "--skips", "2,8", "--norm", "--dropout", "0.1"]
    more += ["--initial", "learned"]
    common = ["--length", "20", "--hidden", "6", "--max-updates", "3", "--out", "looped"]
    status, _, err = bptt_says("train", "task:order", *common, *more, "--report")
    assert (status, err) == (0, "")
    net = bptt.Run.open(here / "looped").network()
    assert (net.loop.leak, net.loop.skips, net.loop.dropout) == ((0.1, 0.9), (2, 8), 0.1)
    assert net.loop.learn_leak
    assert net.loop.norm
    assert net.initial == "learned"
    status, out, err = bptt_says("train", "--resume", "looped", "--max-updates", "5")
    assert (status, err) == (0, "")
    assert "after 5 updates" in out


def test_dropout_goes_on_bit_for_bit(here: Path, bptt_says: Callable[..., tuple]) -> None:
    common = ["--length", "20", "--hidden", "6", "--dropout", "0.5", "--skips", "3"]
    bptt_says("train", "task:order", *common, "--max-updates", "6", "--out", "whole")
    bptt_says(
        "train",
        "task:order",
        *common,
        "--max-updates",
        "6",
        "--max-seconds",
        "1e-9",
        "--out",
        "cut",
    )
    assert bptt.Run.open(here / "cut").load()[1]["update"] == 1
    bptt_says("train", "--resume", "cut")
    weights = [bptt.Run.open(here / name).network().state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
