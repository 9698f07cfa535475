"""What the tokens of a text are: its characters, its bytes, or what byte-pair encoding joins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bptt.data.texts.byte_pairs import BytePairs, count_of
from bptt.data.texts.vocabulary import UNKNOWN, Vocabulary, decoded, dtype_of
from bptt.errors import BpttError, shown

CODE_POINTS, ASCII = 0x110000, 0x80
HALVES = "surrogatepass"
"""How halves of a character are coded, which a text in memory may have."""


@dataclass(frozen=True)
class Characters(Vocabulary):
    """A text's characters, after one token that is reserved for any other.

    >>> v = Characters.learn("characters", [["hel", "lo"]])
    >>> v.size, v.encode("hex").tolist(), v.decode([3, 1, 0])
    (5, [2, 1, 0], 'le�')
    """

    characters: str

    kind = "characters"
    unit = "character"
    unknown = 0

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return 1 + len(self.characters)

    @property
    def byte_counts(self) -> np.ndarray:
        """How many bytes each character has in UTF-8."""
        return np.array([np.nan, *(len(character.encode()) for character in self.characters)])

    @classmethod
    def learn(cls, kind: str, texts: Iterable[Iterable[str]]) -> Characters:
        """Return the characters that there are."""
        is_known, known = np.zeros(CODE_POINTS, np.bool_), b""
        for piece in itertools.chain.from_iterable(texts):
            # Most of a text is in ASCII, and bytes of it are in no other character's UTF-8: without
            # those that are known little is left.
            left = piece.encode("utf-8", HALVES).translate(None, known).decode("utf-8", HALVES)
            is_known[_code_points(left)] = True
            known = np.flatnonzero(is_known[:ASCII]).astype(np.uint8).tobytes()
        return cls("".join(map(chr, np.flatnonzero(is_known).tolist())))

    @classmethod
    def recall(cls, config: Mapping[str, Any]) -> Characters:
        """Return a vocabulary as it was."""
        characters = config.get("characters") or ""
        if characters != "".join(sorted(set(characters))):
            raise BpttError("the characters are not sorted, each once; is the file another's?")
        if not characters.isascii() and any("\ud800" <= c <= "\udfff" for c in characters):
            raise BpttError("the characters have halves of one, surrogates; expected Unicode text")
        return cls(characters)

    def config(self) -> dict[str, Any]:
        """Return the characters."""
        return {"tokens": self.kind, "characters": self.characters}

    def require(self, name: str, text: str) -> None:
        """Raise BpttError if a text has characters that the vocabulary has not."""
        if unknown := sorted(set(text) - set(self.characters)):
            first = ", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else "")
            known = shown(self.characters)
            raise BpttError(
                f"{name} has {first}, which the text that was trained on has not; expected some of "
                f"its {len(self.characters)} characters, {known}"
            )

    def code(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield each character's place."""
        for piece in pieces:
            yield self.places.take(_code_points(piece), mode="clip")  # faster; none is outside

    @cached_property
    def places(self) -> np.ndarray:
        """The token of every code point."""
        places = np.zeros(CODE_POINTS, dtype_of(self.size))
        places[_code_points(self.characters)] = np.arange(1, self.size)
        return places

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the characters."""
        symbols = UNKNOWN + self.characters
        yield from (symbols[token] for token in tokens)


@dataclass(frozen=True)
class Bytes(Vocabulary):
    """The 256 bytes, of which any file is made."""

    kind = "bytes"
    unit = "byte"
    size = 256
    is_raw = True

    @property
    def byte_counts(self) -> np.ndarray:
        """Each is one."""
        return np.ones(self.size)

    @classmethod
    def learn(cls, kind: str, texts: Iterable[Iterable[Any]]) -> Bytes:
        """Return the bytes: there is nothing to learn."""
        return cls()

    @classmethod
    def recall(cls, config: Mapping[str, Any]) -> Bytes:
        """Return the bytes."""
        if config.get("characters"):
            raise BpttError("the tokens are bytes, and there are characters; expected none")
        return cls()

    def config(self) -> dict[str, Any]:
        """Return that it is bytes."""
        return {"tokens": self.kind, "characters": ""}

    def code(self, pieces: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Yield the bytes as numbers."""
        return (np.frombuffer(piece, np.uint8) for piece in pieces)

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the characters as their last bytes come."""
        return decoded(bytes([token]) for token in tokens)


KINDS: dict[str, type[Vocabulary]] = {
    "characters": Characters,
    "bytes": Bytes,
    "bpe": BytePairs,
}
EXPECTED = "'characters', 'bytes', or 'bpe:N' with N tokens, such as 'bpe:4000' (--tokens)"


def kind_of(tokens: object) -> type[Vocabulary]:
    """Return the class of the vocabularies of a kind, or raise BpttError if there is none.

    >>> kind_of("bpe:4000").__name__
    'BytePairs'
    """
    name, colon, _ = tokens.partition(":") if isinstance(tokens, str) else ("", "", "")
    if name not in KINDS or bool(colon) != (KINDS[name] is BytePairs):
        raise BpttError(f"tokens is {shown(tokens)}; expected {EXPECTED}")
    if colon:
        count_of(str(tokens))
    return KINDS[name]


def recalled(config: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary of a run's data, of which `config` gave the values."""
    return kind_of(config["tokens"]).recall(config)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", HALVES), np.uint32)
