"""Texts as tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bptt
from bptt.data import input_files
from bptt.data.batches import streams
from bptt.data.texts import text as data
from bptt.data.texts.vocabularies import UNKNOWN, Characters


def test_the_last_tenth_is_validation_and_its_new_characters_are_unknown(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("ab" * 45 + "abababab€ü", encoding="utf-8")
    text = bptt.read_text(path)
    assert (len(text.training), len(text.validation)) == (90, 10)
    assert text.vocabulary == Characters("ab")
    assert text.vocabulary.decode(text.validation.tolist()) == "abababab" + 2 * UNKNOWN
    assert (bptt.read_text(path, "bytes").vocabulary.size, text.vocabulary.size) == (256, 3)


def test_the_built_in_text_is_the_language_documentation() -> None:
    text = bptt.read_text()
    assert text.path is None
    assert 300_000 < len(text.training) < 1_000_000
    assert "assert" in text.vocabulary.decode(text.training[:100].tolist())


def test_streams_run_side_by_side() -> None:
    columns = streams(torch.arange(103), 4)
    assert columns.shape == (25, 4)
    assert columns[:, 2].tolist() == list(range(50, 75))


@pytest.mark.parametrize("tokens", ["characters", "bytes", "bpe:270"])
def test_a_file_is_read_in_blocks_and_a_large_one_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    (tmp_path / "text").write_text("naïve café €uro\n" * 40, encoding="utf-8")
    whole = bptt.read_text(tmp_path / "text", tokens)
    monkeypatch.setattr(input_files, "BLOCK", 7)
    monkeypatch.setattr(data, "IN_MEMORY", 10)
    parts = bptt.read_text(tmp_path / "text", tokens)
    assert (parts.vocabulary, parts.sha256) == (whole.vocabulary, whole.sha256)
    assert torch.equal(parts.training, whole.training)
    assert torch.equal(parts.validation, whole.validation)
    if tokens == "bpe:270":
        assert parts.spans == whole.spans
    (tmp_path / "latin").write_bytes(b"good, and good again\nna\xefve\n")
    with pytest.raises(bptt.BpttError, match=r"byte 0xef at position 23, line 2; convert it"):
        bptt.read_text(tmp_path / "latin")
    (tmp_path / "cut").write_bytes("ab€".encode()[:-1])
    with pytest.raises(bptt.BpttError, match=r"byte 0xe2 at position 2, line 1"):
        bptt.read_text(tmp_path / "cut")


def test_bad_files(tmp_path: Path) -> None:
    def refused(path: Path, message: str, tokens: str = "characters") -> None:
        with pytest.raises(bptt.BpttError, match=message):
            bptt.read_text(path, tokens)

    refused(tmp_path / "absent", "no such file: .*absent")
    refused(tmp_path / "absent", "tokens is 'words'; expected 'characters', 'bytes', or", "words")
    for count in ("256", "x", "", "-300", "100001", "９９９", "1e3"):
        refused(tmp_path / "absent", "expected bpe:N, with N from 257 to 100,000", f"bpe:{count}")
    for tokens in ("bpe", "characters:300", ":300", "bpe :300"):
        refused(tmp_path / "absent", "expected 'characters', 'bytes', or 'bpe:N'", tokens)
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "empty is empty; expected some text")
    (tmp_path / "latin").write_bytes(b"good\nna\xefve\n")
    refused(tmp_path / "latin", "byte 0xef at position 7, line 2; .*--tokens bytes")
    refused(tmp_path / "latin", "tokens is 'words'", "words")
    assert len(bptt.read_text(tmp_path / "latin", "bytes").training) == 10
