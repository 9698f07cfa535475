"""A folder of texts as one: its order, what is between, and what cannot be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import bptt
from bptt.cli import main
from bptt.data import input_files
from bptt.data.texts import text as data

TEXTS = {
    "b.txt": "naïve café €uro\n" * 9,
    "a/1.md": "no end of line",
    "a/deep/er/2": "\n\ntwo\n",
    "c.py": "x = 1\r\n" * 7,
    "z": "last" * 30,
}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes texts, by path, into a folder."""

    def write(texts: dict[str, str], folder: str = "corpus") -> Path:
        for name, text in texts.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        return tmp_path / folder

    return write


def joined(texts: list[str]) -> str:
    """Return what the texts are, one after the other."""
    texts = sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())
    ends = [text if text.endswith("\n") else f"{text}\n" for text in texts[:-1]]
    return "".join([*ends, texts[-1]])


def whole(text: bptt.Text) -> str:
    tokens = torch.cat([text.training, text.validation]).tolist()
    return text.vocabulary.decode(tokens)


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe:280"])
@pytest.mark.parametrize("block", [5, 1 << 20])
def test_a_folder_is_its_texts_in_the_order_of_their_contents(
    write: Write, monkeypatch: pytest.MonkeyPatch, tokens: str, block: int
) -> None:
    expected = joined(list(TEXTS.values()))
    monkeypatch.setattr(input_files, "BLOCK", block)
    monkeypatch.setattr(data, "IN_MEMORY", 10 * block)
    text = bptt.read_text(write(TEXTS), tokens)
    count = len(expected.encode()) if tokens == "bytes" else len(expected)
    if tokens == "characters":  # of which those that the training part lacks are unknown
        known = set(expected[: count - count // 10])
        expected = "".join(c if c in known else "\N{REPLACEMENT CHARACTER}" for c in expected)
    assert whole(text) == expected
    validation = text.vocabulary.decode(text.validation.tolist())
    length = len(validation.encode()) if tokens == "bytes" else len(validation)
    assert length == count // 10
    assert text.about == ("5 files, in an order drawn from their contents",)


def test_names_decide_nothing_and_what_is_hidden_or_linked_is_left_out(
    write: Write, tmp_path: Path
) -> None:
    text = bptt.read_text(write(TEXTS))
    others = {f"{k}/{k}": one for k, one in enumerate(reversed(TEXTS.values()))}
    others |= {".hidden": "no", ".git/config": "no", "0/.no/a": "no", "empty": ""}
    folder = write(others, "others")
    write({"far": "far away"}, "elsewhere")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "round").symlink_to(folder)
    again = bptt.read_text(folder)
    assert whole(again) == whole(text)
    assert again.sha256 == text.sha256
    (folder / "file").symlink_to(tmp_path / "elsewhere/far")  # a file, wherever it is
    assert "far away" in whole(bptt.read_text(folder))
    write({"0/0": "changed"}, "others")
    assert bptt.read_text(folder).sha256 != again.sha256


def test_the_last_tenth_is_of_all_kinds(write: Write) -> None:
    kinds = {f"{kind}/{k}": f"{kind * 9}{k}\n" for kind in "abc" for k in range(100)}
    text = bptt.read_text(write(kinds))
    lines = text.vocabulary.decode(text.validation.tolist()).splitlines()
    assert {line[0] for line in lines[1:]} == {"a", "b", "c"}
    assert all(f"{line}\n" in kinds.values() for line in lines[1:])  # but the one at the cut


def test_folders_that_are_no_corpus(write: Write, tmp_path: Path) -> None:
    def refused(message: str, tokens: str = "characters") -> None:
        with pytest.raises(bptt.BpttError, match=message) as caught:
            bptt.read_text(tmp_path / "corpus", tokens)
        assert "\n" not in str(caught.value)

    (tmp_path / "corpus").mkdir()
    refused("corpus has no text in it; expected files")
    write({"empty": "", ".hidden": "text", "a/b/empty": ""})
    refused("corpus has no text in it; expected files")
    write({"good": "text " * 9})
    (tmp_path / "corpus/a/latin").write_bytes(b"good\nna\xefve\n")
    for tokens in ("characters", "bpe:300"):
        refused(
            r"corpus/a/latin is not UTF-8: byte 0xef at position 7, line 2; .*--tokens bytes",
            tokens,
        )
    assert len(bptt.read_text(tmp_path / "corpus", "bytes").training) > 40
    (tmp_path / "corpus/gone").symlink_to("nowhere")
    refused("no such file: .*corpus/gone")
    (tmp_path / "corpus/gone").unlink()
    os.mkfifo(tmp_path / "corpus/pipe")
    refused("corpus/pipe is a pipe; expected a regular file")


def test_a_file_that_changes_while_it_is_read_is_named(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(TEXTS)
    learn = data.kind_of("characters").learn

    def change(kind: str, texts: object) -> object:
        vocabulary = learn(kind, texts)  # type: ignore[arg-type]
        (folder / "z").write_text("LAST" * 30)
        return vocabulary

    monkeypatch.setattr(data.kind_of("characters"), "learn", change)
    with pytest.raises(bptt.BpttError, match="corpus/z changed while it was read"):
        bptt.read_text(folder)


def test_the_commands_train_on_a_folder(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write({f"{kind}/{k}.txt": f"{kind * 9}{k}\n" for kind in "abc" for k in range(10)})
    (tmp_path / "text.txt").write_text("abc\n" * 99)

    def says(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        out, err = capsys.readouterr()
        assert err == ""
        return out

    def refused(*arguments: str) -> str:
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    way = ["--batch", "2", "--window", "5", "--max-updates", "3"]
    small = ["--hidden", "4", *way]
    out = says("train", "corpus", "--corpus", *small, "--steps-per-update", "9", "--out", "run")
    assert "corpus: 297 characters to train on\n  30 files, in an order drawn" in out
    config = bptt.Run.open("run").config["data"]
    assert (config["kind"], config["path"]) == ("text", str((tmp_path / "corpus").resolve()))
    says("train", "--resume", "run", "--max-updates", "4")
    says("generate", "run", "--prompt", "abc", "--steps", "5")
    says("flow", "run", "--steps", "5", "--sequences", "2")
    says("train", "corpus", "--corpus", "--from", "run", *way, "--out", "again")
    says("train", "text.txt", "--from", "run", *way, "--out", "other")
    (tmp_path / "corpus").rename(tmp_path / "moved")
    assert "no such file" in refused("train", "--resume", "run", "--max-updates", "5")
    says("train", "--resume", "run", "moved", "--max-updates", "5")
    (tmp_path / "moved/a/0.txt").write_text("another\n")
    assert "is not the data that" in refused("train", "--resume", "run", "moved")
    labels = says("train", "moved", *small[:2], "--max-updates", "2", "--out", "labels")
    assert "labels to train on" in labels  # without --corpus, as ever
    assert "--corpus is for folders of texts; text.txt is" in refused(
        "train", "text.txt", "--corpus", *small
    )
    assert "--corpus is for folders" in refused("train", "moved", "--no-corpus", *small)
    assert "was trained on a text," in refused("train", "moved", "--from", "run")
    assert "expected the same kind" in refused("train", "moved", "--corpus", "--from", "labels")
