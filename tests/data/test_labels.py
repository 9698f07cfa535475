"""Sequences with a label each: read, told at their end, measured and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bptt
from bptt.cli import main
from bptt.data.sequences.labelled_files import read_labelled
from bptt.data.sequences.labels import Labelled
from bptt.training.evaluation import evaluate

WORDS = {"vowels": "aeiou", "consonants": "bcdfg", "digits": "01234"}


def words(kind: str, count: int, seed: int = 0) -> list[str]:
    draws = np.random.default_rng(seed + len(kind))
    letters = list(WORDS[kind])
    return ["".join(draws.choice(letters, draws.integers(2, 9))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand beside a folder with a file for each class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    for kind in WORDS:
        (tmp_path / "words" / f"{kind}.txt").write_text("\n".join(words(kind, 60)) + "\n\n")
    return tmp_path / "words"


def network(data: Labelled, hidden: int = 12) -> bptt.Network:
    torch.manual_seed(0)
    return bptt.Network(data.likelihood, inputs=data.inputs, hidden=hidden, recurrence="hidden")


def test_a_folder_with_a_file_for_each_class(folder: Path) -> None:
    data = read_labelled(folder)
    assert data.classes == ("consonants", "digits", "vowels")
    assert data.vocabulary is not None
    assert data.symbols == data.vocabulary.size == 16
    assert len(data.lengths) == 180
    ends = np.cumsum(data.lengths)
    texts = [data.vocabulary.decode(part) for part in np.split(data.x, ends[:-1])]
    assert texts[:60] == words("consonants", 60)
    for text, label in zip(texts, data.labels, strict=True):
        assert set(text) <= set(WORDS[data.classes[label]])


def test_a_folder_with_a_folder_for_each_class_is_the_same(folder: Path, tmp_path: Path) -> None:
    for kind in WORDS:
        (tmp_path / "apart" / kind).mkdir(parents=True)
        for number, text in enumerate(words(kind, 60)):
            (tmp_path / "apart" / kind / f"{number:03}").write_text(text)
    one, other = read_labelled(folder), read_labelled(tmp_path / "apart")
    for name in ("x", "lengths", "labels", "held_out"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.sha256 == other.sha256


def test_none_is_in_both_parts(folder: Path) -> None:
    (folder / "vowels.txt").write_text("\n".join(words("vowels", 30) * 3))
    data = read_labelled(folder)
    texts = np.split(data.x, np.cumsum(data.lengths)[:-1])
    parts: list[set[bytes]] = [set(), set()]
    for text, held in zip(texts, data.held_out, strict=True):
        parts[int(held)].add(text.tobytes())
    assert not parts[0] & parts[1]
    assert len(parts[1]) == int(0.1 * len(parts[0] | parts[1]))
    # where a sequence stands changes nothing
    (folder / "vowels.txt").write_text("\n".join(words("vowels", 30)[::-1] * 3))
    again = read_labelled(folder)
    assert again.held_out.sum() == data.held_out.sum()


def test_a_batch_has_its_loss_at_the_last_step_of_each(folder: Path) -> None:
    data = read_labelled(folder)
    batches = data.training_batches(16, None, seed=3)
    seen = 0
    for k in range(len(batches)):
        batch = batches.get(1, k)
        assert batch.lengths is not None
        assert batch.loss_weights is not None
        last = batch.lengths - 1
        at = batch.loss_weights.nonzero().tolist()
        assert sorted(at) == sorted([int(t), b] for b, t in enumerate(last))
        assert (batch.y == batch.y[0]).all()
        assert batch.y.shape == batch.loss_weights.shape
        seen += batch.y.shape[1]
    assert seen == batches.steps == int((~data.held_out).sum())


def test_it_learns_to_tell_them_apart(folder: Path, tmp_path: Path) -> None:
    data = read_labelled(folder)
    net = network(data)
    settings = bptt.Settings(max_updates=150, learning_rate=0.02)
    done = bptt.fit(net, data, settings, out=tmp_path / "run", progress=False)
    assert done.score == data.score(net) == 0
    assert data.criterion.baseline > 0.5
    confusion = data.confusion(net)
    assert confusion.sum() == confusion.trace() == data.held_out.sum()
    run = bptt.Run.open(tmp_path / "run")
    again = run.read_data()
    assert isinstance(again, Labelled)
    assert (again.classes, again.sha256) == (data.classes, data.sha256)
    nll = evaluate(run.network(), data.validation_batches(7))
    assert nll == pytest.approx(done.validation_nll, rel=1e-4)
    _, more = bptt.resume(tmp_path / "run", max_updates=155, progress=False)
    assert more.updates == 155


def test_the_score_is_that_of_each_sequence_by_itself(folder: Path) -> None:
    data = read_labelled(folder)
    net = network(data).eval()
    said = []
    for text in np.split(data.x, np.cumsum(data.lengths)[:-1]):
        x = torch.from_numpy(text).unsqueeze(1)
        said.append(int(net(torch.zeros_like(x), x=x).outputs[-1, 0].argmax()))
    wrong = np.array(said)[data.held_out] != data.labels[data.held_out]
    assert data.score(net) == pytest.approx(wrong.mean())
    confusion = data.confusion(net)
    for label, answer in zip(
        data.labels[data.held_out], np.array(said)[data.held_out], strict=True
    ):
        confusion[label, answer] -= 1
    assert not confusion.any()


def test_numbers_for_labels() -> None:
    draws = np.random.default_rng(0)
    x = [draws.normal(size=(draws.integers(3, 9), 2)) for _ in range(80)]
    data = Labelled.of(x, np.array([one.sum() for one in x]))
    assert (repr(data.likelihood), data.inputs, data.classes) == ("Gaussian(1, learned)", 2, ())
    net = network(data)
    assert data.score(net) > 0.5 * data.criterion.baseline
    settings = bptt.Settings(max_updates=300, learning_rate=0.02)
    done = bptt.fit(net, data, settings, progress=False)
    assert done.score is not None
    assert done.score < 0.2 * data.criterion.baseline
    with pytest.raises(bptt.BpttError, match=r"the labels of .* are numbers; expected classes"):
        data.confusion(net)


def test_labels_in_arrays(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    lengths = draws.integers(2, 7, 40)
    x, labels = draws.normal(size=(6, 40, 3)), draws.integers(10, 13, 40)
    np.savez(tmp_path / "a.npz", x=x, labels=labels, lengths=lengths)
    data = read_labelled(tmp_path / "a.npz")
    assert data.classes == ("10", "11", "12")
    assert data.inputs == 3
    first = data.x[: lengths[0]]
    np.testing.assert_allclose(first, x[: lengths[0], 0], rtol=1e-6)
    np.savez(tmp_path / "b.npz", x=draws.integers(5, size=(6, 40)), labels=labels)
    data = read_labelled(tmp_path / "b.npz")
    assert data.inputs == bptt.Tokens(5)
    assert set(data.lengths) == {6}


def test_bytes_need_no_utf8_and_lines_end_at_line_ends_alone(tmp_path: Path) -> None:
    for name, lines in (("a", b"na\xefve\nb\x0cb\r\nc\xc2\x85c\n"), ("b", b"x\ny\n")):
        (tmp_path / f"{name}.txt").write_bytes(lines)
    data = read_labelled(tmp_path, "bytes")
    texts = [part.astype(np.uint8).tobytes() for part in np.split(data.x, data.lengths.cumsum())]
    assert texts[:-1] == [b"na\xefve", b"b\x0cb", b"c\xc2\x85c", b"x", b"y"]


def test_a_folder_in_another_order_is_another_one(folder: Path) -> None:
    before = read_labelled(folder).sha256
    lines = (folder / "vowels.txt").read_text().split()
    (folder / "vowels.txt").write_text("\n".join(lines[::-1]))
    assert read_labelled(folder).sha256 != before


def test_arrays_begin_from_a_run_of_arrays_and_y_makes_a_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    draws = np.random.default_rng(0)
    for name, tokens in (("a", 6), ("b", 4)):
        x = draws.integers(tokens, size=(5, 40))
        np.savez(tmp_path / f"{name}.npz", x=x, labels=x[0] % 2)
    small = ["--max-updates", "2"]
    assert main(["train", "a.npz", *small, "--hidden", "4", "--out", "first"]) == 0
    assert main(["train", "b.npz", *small, "--from", "first", "--out", "then"]) == 0
    y = draws.integers(3, size=(5, 40))
    np.savez(tmp_path / "c.npz", y=y, labels=np.zeros(40))
    assert main(["train", "c.npz", *small, "--hidden", "4", "--out", "more"]) == 0
    assert bptt.Run.open(tmp_path / "more").kind == "sequences"
    assert capsys.readouterr().err == ""


def test_the_command_trains_tells_and_shows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*arguments: str) -> str:
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    small = ["--hidden", "8", "--max-updates", "60", "--learning-rate", "0.02"]
    out = says("train", "words", *small, "--out", "run", "--report")
    assert "words: " in out
    assert "labels to train on" in out
    assert "nats per label" in out
    assert "of the held-out sequences are told right; naming the commonest" in out
    page = (tmp_path / "run/report.html").read_text()
    assert "What it takes for what" in page
    assert "consonants" in page
    assert main(["generate", "run"]) == 2
    assert "was trained on sequences with labels" in capsys.readouterr().err
    text = says("flow", "run", "--sequences", "8")
    assert "characters" in text
    assert "label" not in text
    assert "in nats per label" in page
    np.savez(
        tmp_path / "a.npz", x=np.zeros((4, 30, 2)) + np.arange(30)[:, None], labels=[0, 1] * 15
    )
    assert "told right" in says("train", "a.npz", *small, "--out", "arrays")
    more = says("train", "words", "--from", "run", "--max-updates", "5", "--out", "next")
    assert "told right" in more
    config = json.loads((tmp_path / "next/config.json").read_text())
    assert config["data"]["classes"] == ["consonants", "digits", "vowels"]


X = [np.arange(3), np.arange(4), np.arange(5)]
WRONG: list[tuple[Any, Any, str]] = [
    (X, ["a", "b"], "3 sequences and 2 labels; expected a label each"),
    (X, ["a", "a", "a"], "has 1 class, such as 'a'; expected from 2"),
    (X, [1.0, 2.0, np.nan], "has labels that are not finite"),
    (X, [None, 1, 2], "the labels of .* are .*; expected for each a text or a whole number"),
    ([*X[:2], np.zeros((3, 2))], ["a", "b", "a"], r"x\[2\] of .* is a ndarray .*; expected \(T,\)"),
    ([*X[:2], np.array([])], ["a", "b", "a"], r"x\[2\] of .* is a ndarray"),
    ([*X[:2], np.array([-1])], ["a", "b", "a"], "has tokens from -1 to 3; expected 0 to 3"),
    ([np.full((3, 1), np.inf)] * 3, ["a", "b", "a"], "has numbers that are not finite"),
    ([X[0]] * 3, ["a", "b", "a"], "are all the same; expected different ones"),
]


@pytest.mark.parametrize(("x", "labels", "message"), WRONG)
def test_what_cannot_be_told_apart_is_one_line(x: Any, labels: Any, message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        Labelled.of(x, labels)


def test_a_confusion_of_other_classes_is_refused() -> None:
    with pytest.raises(bptt.BpttError, match=r"shape \(2, 2\) and there are 3 classes; expected"):
        bptt.plots.plot_confusion(np.eye(2, dtype=int), ("a", "b", "c"))


def test_folders_and_files_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    def refused(message: str, path: Path = folder, **options: Any) -> None:
        with pytest.raises(bptt.BpttError, match=message):
            read_labelled(path, **options)

    refused(
        "has a class 'consonants'; expected some of those that the network knows", classes=["a"]
    )
    refused("tokens is 'words'; expected 'characters'", tokens="words")
    (folder / "more").mkdir()
    refused("has folders, and beside them consonants.txt; expected a folder for each class")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("has nothing in it; expected at least two", empty)
    (empty / "one.txt").write_text("a\nb\n")
    refused("has one class; expected at least two", empty)
    (empty / "two.txt").write_bytes(b"\xff\xfe\xff")
    refused("two.txt is not UTF-8", empty)
    for name in ("one.txt", "two.txt"):
        (empty / name).write_text("the same\n")
    refused("are all the same; expected different ones", empty)
    (empty / "two.txt").write_text("\n \n")
    refused("two.txt has no text in it; expected some of its class, or no two", empty)
    (empty / "one.csv").write_text("more\n")
    refused("has two files called one; expected one for each class", empty)
    (empty / "config.json").write_text("{}")
    refused("empty holds a run; expected a folder of texts", empty)
    refused("no such file", tmp_path / "nowhere")
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3, 2)), labels=np.zeros(4))
    refused(r"labels in .* are a ndarray .*; expected \(3,\)", tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", labels=np.zeros(4))
    refused(r"x in .* is None; expected \(T, N\) of tokens", tmp_path / "a.npz")


@pytest.mark.parametrize("recurrence", ["both", "output"])
def test_a_network_that_would_be_told_the_label_is_refused(folder: Path, recurrence: str) -> None:
    data = read_labelled(folder)
    net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=3, recurrence=recurrence)
    with pytest.raises(bptt.BpttError, match="by which the label would be fed back before it is"):
        bptt.fit(net, data, bptt.Settings(max_updates=1))
