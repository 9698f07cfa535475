"""Every option of every command, with every kind of data or run: it has an effect, or is refused.

For each option there is a value here, with what it needs beside it. What the command would then do
is compared with what it would do without.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bptt.cli import app
from bptt.cli.rules import BELONGS
from bptt.errors import BpttError
from bptt.training import checks, diagnosis, fit
from tests.commands import DATA, says, write_runs

TRAIN = {
    "--hidden": "--hidden 5",
    "--layers": "--layers 2",
    "--cell": "--cell gru",
    "--recurrence": "--recurrence output",
    "--leak": "--leak 0.5",
    "--learn-leak": "--learn-leak | --leak 0.5",
    "--skips": "--skips 2",
    "--norm": "--norm",
    "--dropout": "--dropout 0.5",
    "--initial": "--initial learned",
    "--init": "--init identity",
    "--radius": "--radius 0.5",
    "--init-std": "--init-std 0.5 | --init gaussian",
    "--forget-bias": "--forget-bias 1 | --cell gru",
    "--chrono": "--chrono 9 | --cell gru",
    "--tokens": "--tokens bytes",
    "--corpus": "--corpus",
    "--target": "--target load",
    "--inputs": "--inputs wind",
    "--time": "--time day",
    "--time-format": "--time-format number | --time day",
    "--time-zone": "--time-zone UTC | --time day",
    "--longest-gap": "--longest-gap 3",
    "--separator": "--separator ;",
    "--decimal": "--decimal ,",
    "--thousands": "--thousands '",
    "--comment": "--comment ;",
    "--missing": "--missing none",
    "--encoding": "--encoding latin-1",
    "--header": "--no-header",
    "--standardise": "--standardise",
    "--fill": "--fill linear",
    "--difference": "--difference",
    "--validation-share": "--validation-share 0.4",
    "--categories": "--categories wind",
    "--calendar": "--calendar weekday | --time day",
    "--series": "--series wind",
    "--validation-by": "--validation-by series | --series wind",
    "--units": "--units common | --series wind",
    "--label": "--label load | --series wind --categories wind",
    "--length": "--length 30",
    "--scale": "--scale fixed",
    "--batch": "--batch 3",
    "--window": "--window 4",
    "--stride": "--stride 2 | --steps-per-update 10",
    "--memory": "--memory 1GB",
    "--steps-per-update": "--steps-per-update 10",
    "--forcing": "--forcing 0.5 | --recurrence both",
    "--forcing-end": "--forcing-end 0.5 | --recurrence both",
    "--forcing-schedule": "--forcing-schedule exponential | --forcing-end 0.5 --recurrence both",
    "--feedback": "--feedback mean | --forcing 0.5 --recurrence both",
    "--epochs": "--epochs 3",
    "--max-updates": "--max-updates 3",
    "--max-seconds": "--max-seconds 9",
    "--optimizer": "--optimizer sgd",
    "--learning-rate": "--learning-rate 0.1",
    "--schedule": "--schedule plateau",
    "--weight-decay": "--weight-decay 0.1",
    "--momentum": "--momentum 0.9 | --optimizer sgd",
    "--clip": "--clip 0.5",
    "--clip-value": "--clip-value 0.5",
    "--omega": "--omega 1",
    "--omega-halved-after": "--omega-halved-after 5 | --omega 1",
    "--activity-penalty": "--activity-penalty 0.1",
    "--weight-penalty": "--weight-penalty 0.1",
    "--validate-every": "--validate-every 1",
    "--keep": "--keep last",
    "--patience": "--patience 3",
    "--stop-when-solved": "--no-stop-when-solved",
    "--seed": "--seed 3",
    "--out": "--out there",
}
"""What is given of each option of bptt train, and after | what it needs."""
OF_SERIES = ("--validation-by", "--units", "--label")
KINDS = ("text", "table", "sequences", "task")
ELSEWHERE = ("--tensorboard", "--report", "--resume", "--from")
"""What these write, or go on with, has its tests in test_cli.py."""


class StoppedError(BpttError):
    """The command got to where it would start to work."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_runs(folder)
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(runs, tmp_path / "here"))
    return tmp_path / "here"


def options_of(command: str) -> list[str]:
    return [one.name for one in app[command].assemble_argument_collection() if one.name[0] == "-"]


@pytest.fixture
def would_train(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what `bptt train` would train, up to the first step; or what it complained of."""
    monkeypatch.setattr(checks, "_require_memory", lambda *_: None)  # slow, and tested elsewhere
    plans: list[Any] = []

    def stop(net: Any, data: Any, settings: Any, *, out: Any, seed: int, **_: Any) -> None:
        trainer = fit.Trainer(net, data, settings)
        weights = [p.tolist() for p in net.parameters()]
        batch = [None if part is None else repr(part) for part in trainer.batches.get(0, 0)]
        configs = (net.config(), data.config(), asdict(settings))
        plans.append((weights, configs, batch, out, seed, trainer.total))
        raise StoppedError("stopped")

    monkeypatch.setattr(fit, "fit", stop)

    def plan(*arguments: str) -> Any:
        plans.clear()
        status, _, err = says("train", *arguments)
        assert (status, err.count("\n")) == (2, 1), (arguments, err)
        return plans[0] if plans else err

    return plan


def test_every_option_of_train_has_a_case() -> None:
    assert sorted(options_of("train")) == sorted([*TRAIN, *ELSEWHERE])


USUAL = {
    "text": {"--batch": "2", "--window": "5"},
    "table": {"--window": "5"},
    "sequences": {"--window": "5"},
    "task": {"--window": "5", "--length": "20"},
}
"""What is always given, but for the option that is looked at."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_train_has_an_effect_or_is_refused(
    would_train: Callable[..., Any], kind: str
) -> None:
    plans: dict[tuple[str, ...], Any] = {}
    for option, case in TRAIN.items():
        typed, _, needed = (part.split() for part in case.partition("|"))
        if option == "--stride" and kind in ("sequences", "task"):
            needed = []  # of whole sequences an update has all steps
        if option in ("--time-format", "--time-zone", "--calendar", *OF_SERIES) and kind != "table":
            needed = []
        usual = {"--hidden": "3", "--max-updates": "1", **USUAL[kind]}
        if option == "--epochs":
            del usual["--max-updates"]
        beside = [w for name, value in usual.items() if name != option for w in (name, value)]
        arguments = (DATA[kind], *beside, *needed)
        if arguments not in plans:
            plans[arguments] = would_train(*arguments)
        without, with_it = plans[arguments], would_train(*arguments, *typed)
        if isinstance(with_it, str):
            words = (option, option.strip("-").replace("-", "_"), "skip", "W ")
            assert any(word in with_it for word in words), (kind, option, with_it)
        else:
            assert not isinstance(without, str), (kind, option, without)
            assert with_it != without, (kind, option, "changes nothing")
            assert kind in BELONGS["train"].get(option, KINDS), (kind, option, "is not refused")


def test_every_setting_of_a_run_is_refused_when_it_is_resumed(here: Path) -> None:
    ends = {"--max-updates", "--max-seconds"}
    for option, case in TRAIN.items():
        status, out, err = says("train", "--resume", "text", *case.partition("|")[0].split())
        if option not in ends:
            assert (status, out) == (2, ""), option
            assert f"the run's own settings, but got {option}; " in err


OTHERS = {
    "generate": {
        "--prompt": "--prompt to",
        "--steps": "--steps 7",
        "--temperature": "--temperature 2",
        "--seed": "--seed 8",
        "--out": "--out there.csv",
        "--data": "--data other.csv",
        "--future": "--future ahead.csv",
        "--quantiles": "--quantiles 0.3,0.7",
        "--last": "--last",
    },
    "evaluate": {
        "--horizon": "--horizon 3",
        "--origins": "--origins 3",
        "--season": "--season 3",
        "--data": "--data other.csv",
        "--seed": "--seed 8",
        "--out": "--out there.html",
        "--last": "--last",
    },
    "flow": {
        "--steps": "--steps 4",
        "--sequences": "--sequences 2",
        "--max-lag": "--max-lag 3",
        "--out": "--out there.html",
        "--last": "--last",
    },
}
FUTURE = ["--future", "ahead.csv"]


@pytest.mark.parametrize("command", OTHERS)
def test_every_option_of_others_has_a_case(command: str) -> None:
    assert sorted(options_of(command)) == sorted(OTHERS[command])


def traces(folder: Path, *arguments: str) -> tuple[str, dict[str, bytes]]:
    """Return what a command prints and writes; or its complaint, and no files."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    status, out, err = says(*arguments)
    if status:
        assert (status, err.count("\n")) == (2, 1), (arguments, err)
        return err, {}
    new = {path for path in folder.rglob("*.csv") if path not in before}
    files = {str(path): path.read_bytes() for path in new}
    for path in new:
        path.unlink()
    return out, files


@pytest.mark.parametrize(
    ("kind", "option"), list(itertools.product(("text", "table", "inputs"), OTHERS["generate"]))
)
def test_every_option_of_generate_has_an_effect_or_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: str, option: str
) -> None:
    monkeypatch.setattr("bptt.report.series_plots.write_figure", lambda *_: None)
    for name, days in (("other.csv", range(60)), ("ahead.csv", range(60, 70))):
        rows = "".join(f"{i},{i % 5},{i % 3}\n" for i in days)
        (here / name).write_text("day,load,wind\n" + rows)
    needed = FUTURE if kind == "inputs" and option != "--future" else []
    usual = {"--steps": "5", "--seed": "1"}
    if kind == "inputs" and option in ("--prompt", "--temperature"):
        needed = []
    beside = [w for name, value in usual.items() if name != option for w in (name, value)]
    without = traces(here, "generate", kind, *beside, *needed)
    with_it = traces(here, "generate", kind, *beside, *needed, *OTHERS["generate"][option].split())
    assert with_it != without
    refused = {
        "text": ("--out", "--data", "--future", "--quantiles"),
        "table": ("--prompt", "--temperature"),
    }
    refused["inputs"], refused["table"] = refused["table"], (*refused["table"], "--future")
    assert with_it[0].startswith("bptt: ") == (option in refused[kind]), with_it
    if option in refused[kind]:
        assert option in with_it[0]


@pytest.mark.parametrize("option", OTHERS["evaluate"])
def test_every_option_of_evaluate_has_an_effect(here: Path, option: str) -> None:
    rows = "".join(f"{i},{i % 5},{i % 3}\n" for i in range(90))
    (here / "other.csv").write_text("day,load,wind\n" + rows)
    usual = {"--horizon": "2", "--origins": "2", "--season": "2"}
    typed = [w for name, value in usual.items() if name != option for w in (name, value)]
    beside = typed + ([option, "1"] if option in ("--horizon", "--origins") else [])

    def page(*typed: str) -> str:
        status, _, err = says("evaluate", "table", *typed)
        assert (status, err) == (0, "")
        out = here / ("there.html" if "--out" in typed else "table/evaluation.html")
        return out.read_text().split("How far off", 1)[1]

    without = page(*beside)
    if option == "--out":
        assert page(*beside, *OTHERS["evaluate"][option].split()) == without
    else:
        assert page(*typed, *OTHERS["evaluate"][option].split()) != without
    status, _, err = says("evaluate", "text", "--horizon", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert "was trained on a text; expected a run that was trained on a table" in err


@pytest.mark.parametrize("kind", ["text", "table", "sequences", "task"])
def test_every_option_of_flow_has_an_effect_or_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    looked: list[Any] = []

    def look(net: Any, sample: Any, **how: Any) -> diagnosis.Diagnosis:
        looked.append((sample.y.tolist(), how, [p.tolist() for p in net.parameters()]))
        return diagnosis.Diagnosis()

    monkeypatch.setattr(diagnosis, "diagnose", look)
    for option, typed in OTHERS["flow"].items():
        assert says("flow", kind)[0] == 0
        status, out, err = says("flow", kind, *typed.split())
        if option == "--sequences" and kind in ("table", "sequences"):
            assert (status, out) == (2, "")
            assert "sequences" in err
        elif option == "--out":
            assert (status, Path("there.html").exists()) == (0, True)
            Path("there.html").unlink()
        else:
            assert (status, err) == (0, "")
            assert looked[-1] != looked[-2], (kind, option, "changes nothing")
    for option in ("--steps", "--sequences", "--max-lag"):
        status, out, err = says("flow", kind, option, "5000")
        assert (status, out) == (2, "") or option == "--max-lag"  # which the flow itself checks
    moved = says("flow", kind, DATA[kind])
    assert moved[0] == (2 if kind == "task" else 0)
    assert ("leave it out" in moved[2]) == (kind == "task")


def test_a_bad_flag_of_any_setting_is_found_before_the_first_trains(here: Path) -> None:
    good = ["--setting", "good: --hidden 3"]
    for bad in (
        "--hiden 3",
        "--hidden 2.5",
        "--cell lstm --omega 1",
        "--stride 2 --window 20",
        "--length 5 --target a",
        "--skips 100",
        "--clip -1",
        "--epochs nan",
    ):
        common = ["--common", "--length 20 --hidden 4"]
        arguments = ["task:sine", *common, *good, "--setting", f"bad: {bad}"]
        status, out, err = says("compare", *arguments, "--out", "compared")
        assert (status, out, err.count("\n")) == (2, "", 1), bad
        assert err.startswith("bptt: bad: "), err
        assert not (here / "compared").exists()


@pytest.mark.parametrize("option", ["--setting a:", "--common --norm", "--seeds 2"])
def test_a_comparison_in_a_file_has_its_settings_and_seeds(here: Path, option: str) -> None:
    (here / "it.toml").write_text('data = "task:sine"\n[settings.a]\n')
    status, _, err = says("compare", "it.toml", *option.split(" ", 1))
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(f"bptt: {option.split(maxsplit=1)[0]} is for data with settings as flags")


@pytest.mark.parametrize("number", ["1.5", "8.9", "1e3", "0x10", "many", "", "none ", "9" * 5000])
@pytest.mark.parametrize(
    "option",
    [("train", "--hidden"), ("train", "--seed"), ("generate", "--steps"), ("bench", "--window")],
)
def test_whole_numbers_are_whole_to_the_letter(
    here: Path, option: tuple[str, str], number: str
) -> None:
    command, name = option
    about = [] if command == "bench" else ["text.txt" if command == "train" else "text"]
    status, out, err = says(command, *about, name, number)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"bptt: {name} is ")
    assert "expected a whole number" in err
    assert len(err) < 200


def test_no_message_has_a_type_of_python_in_it(here: Path) -> None:
    for command in ("train", "generate", "flow", "compare", "bench"):
        for option in set(options_of(command)) - {"--out"}:
            about = {"train": ["text.txt"], "bench": []}.get(command, ["text"])
            status, _, err = says(command, *about, option, "?!")
            assert (status, err.count("\n")) == (2, 1), (command, option, err)
            for word in ("|None", "Literal", "unable to convert", "<class", "NoneType", "float."):
                assert word not in err, (command, option, err)


def test_an_option_of_another_command_is_named_with_it(here: Path) -> None:
    config = json.loads((here / "table" / "config.json").read_text())
    config["data"]["columns"]["fill"] = None
    (here / "table" / "config.json").write_text(json.dumps(config))
    (here / "table.csv").write_text("day,load,wind\n" + "1,2,3\n2,,1\n3,1,2\n" * 9)
    status, _, err = says("generate", "table", "--steps", "3", "--data", "table.csv")
    assert status == 2
    assert "(bptt train --fill)" in err


def test_flags_that_are_not_a_run_of_words_are_one_line(here: Path) -> None:
    for setting in ("a: 'q", "a: --hidden 3 --hidden 4", "a", "a: --x\0"):
        status, _, err = says("compare", "task:sine", "--setting", setting)
        assert (status, err.count("\n")) == (2, 1)
    assert says("compare", "task:sine", "--setting", "a:", "--setting", "a:")[0] == 2
