"""Characters, bytes and byte pairs: texts as tokens, and back."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import bptt
from bptt.cli import main
from bptt.cli.train import require_trainable
from bptt.data.texts.byte_pairs import (
    BYTES,
    LONGEST_LINE,
    LONGEST_TOKEN,
    BytePairs,
    lines_of,
)
from bptt.data.texts.vocabularies import UNKNOWN, Bytes, Characters, kind_of, recalled
from bptt.training.runs.run_config import require_config

VERSE = "to be, or not to be: that is the question, naïve café €uro\n" * 20
UNICODE = st.text(st.characters(exclude_categories=("Cs",)))


@pytest.fixture(scope="module")
def pairs() -> BytePairs:
    return BytePairs.learn("bpe:300", [[VERSE]])


@given(st.text(min_size=1), st.text())
def test_characters_go_there_and_back(known: str, other: str) -> None:
    vocabulary = Characters.learn("characters", [known])
    assert vocabulary.decode(vocabulary.encode(known).tolist()) == known
    expected = "".join(c if c in known else UNKNOWN for c in other)
    assert vocabulary.decode(vocabulary.encode(other).tolist()) == expected
    assert int(vocabulary.encode(known).min()) >= 1  # 0 is reserved


@given(UNICODE)
def test_bytes_go_there_and_back(text: str) -> None:
    assert Bytes().decode(Bytes().encode(text).tolist()) == text


def test_a_byte_that_starts_no_character_is_shown_as_unknown() -> None:
    assert Bytes().decode([0xE2, 0x82, 0x41, 0xE2]) == f"{UNKNOWN}A{UNKNOWN}"


@given(text=UNICODE | st.text("tobe ,\n\r\t'", max_size=200))
def test_byte_pairs_go_there_and_back_by_whole_characters(text: str, pairs: BytePairs) -> None:
    tokens = pairs.encode(text).tolist()
    assert pairs.decode(tokens) == text
    assert b"".join(pairs.tokens[token] for token in tokens) == text.encode()
    whole = [piece for piece in pairs.decode_stream(tokens) if UNKNOWN not in piece]
    assert UNKNOWN in text or "".join(whole) == text


@given(text=st.text("ab€é \n", max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_where_a_text_is_cut_changes_no_token(text: str, cuts: list[int], pairs: BytePairs) -> None:
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(places)]
    assert [t for part in pairs.code(pieces) for t in part.tolist()] == pairs.encode(text).tolist()
    assert "".join(line for lines in lines_of(pieces) for line in lines) == text


@pytest.mark.parametrize("size", [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1])
def test_a_long_line_is_coded_in_parts_that_start_from_its_start(
    pairs: BytePairs, size: int
) -> None:
    text = "a\n" + ("to be, " * size)[:size] + "\n" + "b" * 2 * LONGEST_LINE
    whole = pairs.encode(text).tolist()
    assert pairs.decode(whole) == text
    for at in (3, size, size + 1, size + 2, size + 3, size + LONGEST_LINE + 3):
        parts = pairs.code([text[:at], text[at:]])
        assert [t for part in parts for t in part.tolist()] == whole


def test_the_commonest_pairs_are_joined_first() -> None:
    vocabulary = BytePairs.learn("bpe:258", [["ab ab ab"], ["abc abc"], ["b", "b"]])
    assert vocabulary.tokens[:256] == [bytes([byte]) for byte in range(256)]
    assert vocabulary.tokens[256] == b"ab"
    assert vocabulary.size == 258
    assert BytePairs.learn("bpe:400", [["aab"]]).size < 262  # there is no more to join
    long = BytePairs.learn("bpe:400", [["€" * 10_000]])
    assert max(map(len, long.tokens)) <= LONGEST_TOKEN
    again = BytePairs.learn("bpe:258", [["ab ab ab"], ["abc abc"], ["b", "b"]])
    assert again == vocabulary


def test_each_byte_has_the_character_that_the_library_gives_it() -> None:
    from tokenizers import pre_tokenizers  # noqa: PLC0415

    assert sorted(BYTES) == sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str
    for character in map(chr, range(0x250)):
        ((text, _),) = split(character)
        assert bytes(BYTES[c] for c in text) == character.encode()


def test_a_vocabulary_is_recalled_from_plain_values(pairs: BytePairs) -> None:
    for vocabulary in (pairs, Bytes(), Characters("ab")):
        assert recalled(vocabulary.config()) == vocabulary
        assert isinstance(vocabulary, kind_of(vocabulary.kind))
    sizes = pairs.spans
    assert sizes["byte"].sum() == sum(map(len, pairs.tokens))
    tokens = pairs.encode("€ naïve").numpy()
    assert sizes["character"][tokens].sum() == len("€ naïve")
    assert sizes["byte"][tokens].sum() == len("€ naïve".encode())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"merges": "a"}, "merge 1 is 'a'; expected two tokens"),
    ({"merges": "a b\nabc d"}, "merge 2 is 'abc d'; expected two tokens"),
    ({"merges": "a  b"}, "merge 1 is 'a b'"),
    ({"merges": "a \n"}, "merge 1 is 'a '"),
    ({"merges": "a b\nab c\nab d"}, "there are 259 tokens; expected at most those of bpe:258"),
    ({"characters": "ab"}, "there are characters; expected none"),
    ({"tokens": "bpe:x"}, "tokens is 'bpe:x'; expected bpe:N"),
    ({"tokens": "bytes", "characters": "a"}, "the tokens are bytes, and there are characters"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_values_that_make_no_vocabulary(values: dict[str, Any], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        recalled({"tokens": "bpe:258", "characters": "", "merges": "", **values})


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, pairs: BytePairs) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(bptt.BpttError, match=r"need tokenizers, .* pip install '.\[tokenizers\]'"):
        bptt.read_text(tokens="bpe:300")
    again = BytePairs(pairs.kind, pairs.merges)
    assert again.decode([116, 111]) == "to"  # which needs none
    with pytest.raises(bptt.BpttError, match="which is not installed"):
        again.encode("to")


def test_the_training_part_alone_is_learnt_from(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("ab" * 450 + "xyz " * 25)
    text = bptt.read_text(tmp_path / "text", "bpe:300")
    assert text.vocabulary.decode(text.training.tolist()) == "ab" * 450
    assert text.vocabulary.decode(text.validation.tolist()) == "xyz " * 25
    assert not any(b"x" in token for token in text.vocabulary.tokens[256:])  # type: ignore[attr-defined]
    assert text.spans == {"character": 1.0, "byte": 1.0}
    assert bptt.read_text(tmp_path / "text").spans == {}


def test_every_command_takes_byte_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(VERSE * 4, encoding="utf-8")

    def says(*arguments: str) -> str:
        assert main(arguments) == 0, capsys.readouterr().err
        out, err = capsys.readouterr()
        assert err == ""
        return out

    small = ["--hidden", "6", "--batch", "4", "--window", "10"]
    out = says(
        *("train", "text.txt", "--tokens", "bpe:300", *small, "--max-updates", "6"),
        *("--out", "run"),
    )
    run = bptt.Run.open("run")
    text = run.read_data()
    assert isinstance(text, bptt.Text)
    assert f"text.txt: {len(text.training):,} tokens to train on" in out
    line = next(line for line in out.splitlines() if line.startswith("validation "))
    bits, measure = line.split(" bits per token (")
    per_character, per_byte = (float(part.split()[0]) for part in measure.split(", "))
    loss = float(bits.removeprefix("validation "))
    assert per_byte == pytest.approx(loss / text.spans["byte"], abs=1e-3)
    assert per_character == pytest.approx(loss / text.spans["character"], abs=1e-3)
    assert text.spans["byte"] > text.spans["character"] > 1.5
    assert (run.unit, text.vocabulary) == ("token", run.vocabulary)
    assert "generate run --prompt 'The '" in out
    wrote = says("generate", "run", "--prompt", "naïve €", "--steps", "9", "--seed", "1")
    assert wrote.startswith("naïve €")
    assert "token" in says("flow", "run", "--steps", "20")
    says("train", "--resume", "run", "--max-updates", "8")
    (tmp_path / "other.txt").write_text(VERSE[::-1] * 3, encoding="utf-8")
    says("train", "other.txt", "--from", "run", "--batch", "4", "--max-updates", "2")
    assert bptt.Run.open("runs/other-1").vocabulary == run.vocabulary
    require_trainable(["text.txt", "--tokens", "bpe:280", *small])  # as compare asks first
    with pytest.raises(bptt.BpttError, match="tokens is 'bpe:9'; expected bpe:N"):
        require_trainable(["text.txt", "--tokens", "bpe:9", *small])
    config = {**run.config, "data": {**run.config["data"], "merges": "a"}}
    with pytest.raises(bptt.BpttError, match="it, data: merge 1 is 'a'; expected"):
        require_config(config, "it")


def test_labelled_texts_have_byte_pairs_too(tmp_path: Path) -> None:
    for name in ("thin", "thick"):
        lines = (f"{name} " * (k % 5 + 1) + str(k) for k in range(40))
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    data = bptt.read_labelled(tmp_path, "bpe:280")
    assert data.vocabulary is not None
    assert data.symbols == data.vocabulary.size <= 280
    first = data.vocabulary.decode(data.x[: data.lengths[0]].tolist())
    assert first.startswith("thick ")
    torch.manual_seed(0)
    net = bptt.Network(data.likelihood, inputs=data.inputs, hidden=4, recurrence="hidden")
    bptt.fit(net, data, bptt.Settings(max_updates=2), out=tmp_path / "run", progress=False)
    run = bptt.Run.open(tmp_path / "run")
    (tmp_path / "moved").mkdir()
    for name in ("thin", "thick"):
        (tmp_path / f"{name}.txt").rename(tmp_path / "moved" / f"{name}.txt")
    again = run.read_data(tmp_path / "moved")
    assert isinstance(again, bptt.Labelled)
    assert again.vocabulary == data.vocabulary
    assert run.unit == "token"
