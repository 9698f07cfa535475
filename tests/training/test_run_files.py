"""A run's files when they are damaged, or say what no run says: one line each, and nothing lost."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bptt
from bptt import BpttError
from bptt.cli import main
from bptt.data.batches import Batches
from bptt.training.runs import checkpoint
from bptt.training.runs.run import (
    BEFORE,
    BEST,
    CHECKPOINT,
    CONFIG,
    FLOW,
    METRICS,
    TRAINED_ON,
    Run,
)
from bptt.training.runs.run_config import DATA
from bptt.training.snapshots import Snapshots, read_snapshots

COMMANDS = {
    "flow": ["flow", "run"],
    "generate": ["generate", "run", "--steps", "3"],
    "resume": ["train", "--resume", "run", "--max-updates", "4"],
}


def test_there_are_words_for_all_that_a_run_is_trained_on() -> None:
    assert TRAINED_ON.keys() == DATA.keys()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").write_text("to be, or not to be: that is the question\n" * 5)
    text = bptt.read_text(folder / "text")
    net = bptt.Network(text.likelihood, hidden=3)
    settings = bptt.Settings(batch=2, window=5, max_updates=3, validate_every=1)
    watch = Snapshots(_validation(text), 5)
    bptt.fit(net, text, settings, out=folder / "run", on_update=watch)
    return folder


def _validation(text: Any) -> Batches:
    batches: Batches = text.validation_batches(2)
    return batches


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    copy = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    (copy / BEFORE).unlink()  # which would stand in for a damaged one
    return copy


def change(run: Path, *keys: str | int, value: Any) -> None:
    """Put a value into config.json; the last of the keys says where, and ... takes it out."""
    config = json.loads((run / CONFIG).read_text())
    part = config
    for key in keys[:-1]:
        part = part[key]
    if value is ...:
        del part[keys[-1]]
    else:
        part[keys[-1]] = value
    (run / CONFIG).write_text(json.dumps(config))


WRONG = [
    (("network",), 5, "network: 5; expected an object"),
    (("network",), ..., "no network; expected an object"),
    (("network", "hidden"), "3", 'network.hidden: "3"; expected a whole number'),
    (("network", "hidden"), True, "network.hidden: true; expected a whole number"),
    (("network", "hidden"), 3.0, "network.hidden: 3.0; expected a whole number"),
    (("network", "hidden"), 0, "hidden is 0; expected a whole number from 1"),
    (("network", "hidden"), 10**400, "expected a whole number from 1"),
    (("network", "norm"), "yes", 'network.norm: "yes"; expected true or false'),
    (("network", "leak"), [0.1], "network.leak: a list of 1; expected"),
    (("network", "init", "std"), "a", 'network.init.std: "a"; expected a number'),
    (("network", "init", "W"), ["a"], "network.init.W: a list of 1; expected one of 'orthogonal'"),
    (("network", "cell"), "elman", "network.cell: \"elman\"; expected one of 'tanh', 'relu'"),
    (("network", "inputs", "width"), -1, "inputs.width is -1; expected a whole number from 0"),
    (("network", "inputs", "kind"), {}, "network.inputs.kind: an object of 0; expected one of"),
    (("network", "likelihood"), None, "network.likelihood: the likelihood is None; expected its"),
    (("network", "likelihood", "kind"), "zipf", "network.likelihood: likelihood is 'zipf'"),
    (("network", "likelihood", "n"), -1, "the number of symbols n is -1; expected a whole"),
    (("network", "likelihood", "d"), 1, "network.likelihood: .* has other arguments"),
    (("network", "unheard"), 1, "network.unheard, which is unknown"),
    (("data",), [], "data, is of no kind that is known; expected one of 'text', 'table'"),
    (("data", "kind"), "table", "data, has characters, which is unknown"),
    (("data", "path"), 3, "path: 3; expected a text or null"),
    (("data", "characters"), "ba", "the characters are not sorted, each once"),
    (("data", "characters"), "\ud800", "the characters have halves of one, surrogates"),
    (("data", "tokens"), "words", "tokens is 'words'; expected 'characters', 'bytes'"),
    (("trained",), [1], r"trained\[0\]: 1; expected a text"),
    (("trained",), {"a": 1}, "trained: an object of 1; expected a list"),
    (("training", "batch"), "two", 'training.batch: "two"; expected a whole number or null'),
    (("training", "batch"), -1, "batch is -1; expected a whole number"),
    (("training", "learning_rate"), 10**400, "expected a number that a float can hold"),
    (("training", "clip"), math.nan, "clip is nan; expected a number"),
    (("training", "bach"), 1, "training.bach, which is unknown"),
    (("seed",), "0", 'seed: "0"; expected a whole number or null'),
]


@pytest.mark.parametrize(("keys", "value", "complaint"), WRONG)
def test_a_config_of_wrong_values(run: Path, keys: Any, value: Any, complaint: str) -> None:
    change(run, *keys, value=value)
    with pytest.raises(BpttError, match=rf"config.json.* {complaint}"):
        Run.open(run)


@pytest.mark.parametrize("kind", ["nested", "list", "bytes", "empty", "large", "digits"])
def test_a_config_that_is_no_config(run: Path, kind: str) -> None:
    contents = {
        "nested": b'{"a":' * 10_000,
        "list": b"[]",
        "bytes": bytes(range(256)),
        "empty": b"",
        "large": b" " * (1 << 25) + b" ",
        "digits": b"9" * 10_000,
    }
    (run / CONFIG).write_bytes(contents[kind])
    with pytest.raises(BpttError, match=r"config.json (cannot be read|has)"):
        Run.open(run)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("network", "layers"), 10**8),
        (("network", "hidden"), 10**8),
        (("network", "hidden"), 20_000),
        (("network", "likelihood", "n"), 10**9),
        (("network", "inputs", "width"), 10**9),
        (("network", "skips"), list(range(2, 4000))),
    ],
)
def test_sizes_that_the_weights_have_not_take_no_time(run: Path, keys: Any, value: Any) -> None:
    change(run, *keys, value=value)
    began = time.perf_counter()
    with pytest.raises(BpttError, match="does not fit the network of its run: "):
        Run.open(run).network()
    assert time.perf_counter() - began < 2


def test_a_network_of_a_hundred_million_layers_is_refused() -> None:
    with pytest.raises(BpttError, match="layers is 100000000; expected a whole number from 1 to"):
        bptt.Network(bptt.Categorical(3), hidden=1, layers=10**8)
    with pytest.raises(BpttError, match="expected a whole number from 1 to 2147483647"):
        bptt.Network(bptt.Categorical(3), hidden=10**200)


def test_what_is_trained_has_to_be_there(run: Path) -> None:
    change(run, "trained", value=["recurrent.weight"])
    with pytest.raises(BpttError, match=r"config.json has recurrent.weight among what is trained"):
        Run.open(run).network()


def test_a_last_line_that_was_cut_off_is_left_out(run: Path) -> None:
    opened = Run.open(run)
    for name, read in ((METRICS, opened.metrics), (FLOW, lambda: read_snapshots(opened))):
        whole = read()
        with (run / name).open("a") as file:
            file.write('{"update": 4, "sec')
        assert read() == whole
    bptt.resume(run, max_updates=4, on_update=Snapshots(_validation(opened.read_data()), 5))
    assert [row["update"] for row in opened.metrics()] == [1, 2, 3, 4]
    assert [snapshot.update for snapshot in read_snapshots(opened)] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", [METRICS, FLOW])
@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"{", b"[1]", b"null", b'{"update": 2}', b"\xff", b"[" * 10_000, b"\0" * 9),
        b'{"update": "2", "seconds": 1.0, "train_nll": 1.0}',
        b'{"update": 2, "seconds": 1.0, "train_nll": NaN}',
        b'{"update": 2, "seconds": 1.0, "train_nll": 1' + b"0" * 400 + b"}",
        b'{"update": 2, "horizon": 1e9, "growth": 1, "by_lag": []}',
        b'{"update": 2, "horizon": -1, "growth": 1, "by_lag": []}',
        b'{"update": 2, "horizon": 1, "growth": 1, "by_lag": [[]]}',
    ],
)
def test_another_damaged_line_is_named(run: Path, name: str, line: bytes) -> None:
    first, _, *rest = (run / name).read_bytes().split(b"\n")
    (run / name).write_bytes(b"\n".join([first, line, *rest]))
    before = (run / name).read_bytes()
    opened = Run.open(run)
    with pytest.raises(BpttError, match=rf"line 2 of .*{name}"):
        opened.metrics() if name == METRICS else read_snapshots(opened)
    assert (run / name).read_bytes() == before


def _saved(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    return checkpoint.load(run / CHECKPOINT)


def test_the_checksum_covers_names_shapes_and_dtypes(run: Path) -> None:
    tensors, notes = _saved(run)
    name = "network.readout.weight"
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    others = (
        {**rest, name: tensors[name].flatten()},
        {**rest, name: tensors[name].reshape(tensors[name].T.shape)},
        {**rest, name: tensors[name].view(torch.int32)},
        {**rest, f"{name}2": tensors[name]},
        {**tensors, "empty": torch.zeros(0)},
    )
    digests = {checkpoint._digest(each, notes) for each in (tensors, *others)}
    assert len(digests) == 1 + len(others)


Change = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
WEIGHT, MOMENT = "network.recurrent.weight_hh_l0", "optimizer.1"
TENSORS: dict[str, tuple[Change, str]] = {
    "no weights": (lambda t: {}, "does not fit the network of its run"),
    "a weight less": (lambda t: without(t, WEIGHT), "does not fit the network of its run"),
    "a weight more": (lambda t: {**t, "network.a": torch.ones(1)}, "does not fit the network"),
    "a shape": (lambda t: {**t, WEIGHT: torch.ones(9)}, "does not fit the network of its run"),
    "a dtype": (lambda t: {**t, WEIGHT: t[WEIGHT].double()}, "has weights of torch.float32, tor"),
    "integers": (
        lambda t: {k: v.long() if k.startswith("network") else v for k, v in t.items()},
        "has weights of torch.int64; expected floating point numbers, all of one kind",
    ),
    "infinity": (lambda t: {**t, WEIGHT: t[WEIGHT] / 0}, "has weights that are not finite"),
    "a tensor more": (lambda t: {**t, "optimizer.77": torch.ones(())}, "a tensor 77 that is of no"),
    "no number": (lambda t: {**t, "optimizer.x": torch.ones(())}, "a tensor x that is of no state"),
    "half a state": (lambda t: without(t, MOMENT), "optimizer, is damaged: it has a dict where a"),
    "a moment": (lambda t: {**t, MOMENT: torch.ones(1)}, "does not fit the optimizer of its run"),
    "nan": (lambda t: {**t, MOMENT: t[MOMENT] * math.nan}, "does not fit the optimizer of its"),
    "carried": (lambda t: {**t, "carried.0": torch.ones(5)}, "has no state that fits its run"),
    "no state": (lambda t: without(t, "carried.0"), "has no state that fits its run"),
}


def without(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in tensors.items() if key != name}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_checkpoint_of_false_tensors(run: Path, kind: str) -> None:
    change_tensors, complaint = TENSORS[kind]
    tensors, notes = _saved(run)
    checkpoint.save(run / CHECKPOINT, change_tensors(tensors), notes)
    before = [(run / name).read_bytes() for name in (CHECKPOINT, CONFIG, METRICS)]
    with pytest.raises(BpttError, match=complaint):
        bptt.resume(run, max_updates=4)
    assert [(run / name).read_bytes() for name in (CHECKPOINT, CONFIG, METRICS)] == before


@pytest.mark.parametrize(
    ("notes", "complaint"),
    [
        ({"update": -1}, "update is -1; expected a whole number of at least 0|from 0"),
        ({"update": "3"}, 'update: "3"; expected a whole number'),
        ({"update": 10**30}, "expected a whole number from 0"),
        ({"seconds": math.nan}, "seconds are nan"),
        ({"seconds": -1.0}, "seconds are -1.0"),
        ({"nll_sum": math.inf}, "nll_sum is inf; expected finite numbers"),
        ({"seed": None}, "seed: null; expected a whole number"),
        ({"unheard": 1}, "has unheard, which is unknown"),
        ({"optimizer": None}, "does not fit the optimizer of its run|is damaged"),
        ({"optimizer": {"dict": [["a"]]}}, "is damaged: it has a dict where a state should be"),
        ({"optimizer": {"list": 3}}, "is damaged: it has a dict where a state should be"),
    ],
)
def test_a_checkpoint_of_false_notes(run: Path, notes: dict[str, Any], complaint: str) -> None:
    tensors, right = _saved(run)
    checkpoint.save(run / CHECKPOINT, tensors, {**right, **notes})
    with pytest.raises(BpttError, match=rf"checkpoint.safetensors.*{complaint}"):
        bptt.resume(run, max_updates=4)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", [CONFIG, METRICS, FLOW, CHECKPOINT, BEST])
@pytest.mark.parametrize(
    "content", [b"\xff\n" * 3, b"[" * 10_000 + b"\n", b'{"update": "1"}\n' * 2]
)
def test_every_command_says_what_is_damaged(
    run: Path, capsys: pytest.CaptureFixture[str], command: str, name: str, content: bytes
) -> None:
    (run / name).write_bytes(content)
    status = main(COMMANDS[command])
    out, err = capsys.readouterr()
    is_needed = (
        name in (CONFIG, BEST)
        or (command == "flow" and name != CHECKPOINT)
        or (command == "resume" and name in (CHECKPOINT, METRICS, FLOW))  # to be written again
    )
    assert status == (2 if is_needed else 0)
    if is_needed:
        assert err.startswith("bptt: ")
        assert err.count("\n") == 1
        assert name in err
        assert out == ""
