"""What the tokens of a text are: its characters, its bytes, or what byte-pair encoding joins."""

from __future__ import annotations

import codecs
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bptt.errors import BpttError, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
LEAST_TOKENS, MOST_TOKENS = 257, 100_000
LONGEST_TOKEN = 32
"""Bytes of what is joined: so any vocabulary fits into a config.json."""
CODE_POINTS = 0x110000
LONGEST_LINE = 1 << 16
"""Characters of a line that are coded at once."""
LINES_AT_ONCE = 1 << 12
LINES = re.compile(rf"[^\n]{{0,{LONGEST_LINE - 1}}}\n|[^\n]{{1,{LONGEST_LINE}}}")


class Vocabulary(ABC):
    """The tokens of a text, and the way there and back.

    unit: what one token is called. unknown: the token that stands for all that has none. is_raw:
    whether it codes bytes, and not text.
    """

    unit: ClassVar[str]
    unknown: ClassVar[int | None] = None
    is_raw: ClassVar[bool] = False

    @property
    @abstractmethod
    def kind(self) -> str:
        """What its tokens are, as read_text takes it."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many tokens there are."""

    @classmethod
    @abstractmethod
    def learn(cls, kind: str, texts: Iterable[Iterable[Any]]) -> Vocabulary:
        """Return the vocabulary of texts, each of which comes in pieces."""

    @classmethod
    @abstractmethod
    def recall(cls, config: Mapping[str, Any]) -> Vocabulary:
        """Return what `config` returned the values of; raise BpttError if they make no sense."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what it takes to make it again, as plain values."""

    @abstractmethod
    def code(self, pieces: Iterable[Any]) -> Iterator[np.ndarray]:
        """Yield the tokens of a text that comes in pieces, wherever it was cut."""

    @abstractmethod
    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text of the tokens as it becomes certain: only whole characters."""

    def encode(self, text: str) -> Int64[Tensor, " N"]:
        """Return the text's tokens."""
        whole: Any = text.encode(errors="surrogateescape") if self.is_raw else text
        parts = [np.empty(0, np.int64), *self.code([whole])]
        return torch.from_numpy(np.concatenate(parts).astype(np.int64))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens."""
        return "".join(self.decode_stream(tokens))

    def knows(self, text: str) -> bool:
        """Return whether it has tokens for all of a text."""
        try:
            self.require("the text", text)
        except BpttError:
            return False
        return True

    def require(self, name: str, text: str) -> None:
        """Raise BpttError if a text has characters that the vocabulary has not."""
        try:
            text.encode(errors="surrogateescape" if self.is_raw else "strict")
        except UnicodeEncodeError as error:
            raise BpttError(f"{name} cannot be written in UTF-8: {error.reason}") from None

    @property
    def spans(self) -> dict[str, np.ndarray]:
        """How much of a smaller unit each token has, (size,), by the unit's name."""
        return {}


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

    @classmethod
    def learn(cls, kind: str, texts: Iterable[Iterable[str]]) -> Characters:
        """Return the characters that there are."""
        is_known = np.zeros(CODE_POINTS, np.bool_)
        for piece in itertools.chain.from_iterable(texts):
            is_known[_code_points(piece)] = True
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
            yield self.places[_code_points(piece)]

    @cached_property
    def places(self) -> np.ndarray:
        """The token of every code point."""
        places = np.zeros(CODE_POINTS, _dtype(self.size))
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
        return _decoded(bytes([token]) for token in tokens)


@dataclass(frozen=True)
class BytePairs(Vocabulary):
    r"""Byte-pair encoding: the 256 bytes, and what is joined of two tokens, merge after merge.

    So every text has tokens, and they are again the text. Tokens do not reach across the words of a
    line, nor from one line to the next: a text's tokens are those of its lines, of which one of
    more than 65,536 characters counts as several.

    merges: a line each, the two tokens that are joined, with a character that can be seen for each
    byte, as GPT-2 has them. From Sennrich et al. (2016), "Neural machine translation of rare words
    with subword units", and Radford et al. (2019).

    >>> v = BytePairs("bpe:258", "a b\nab c")
    >>> v.size, v.encode("abcab").tolist(), v.decode([256, 98])
    (258, [257, 256], 'abb')
    """

    name: str
    merges: str

    unit = "token"

    @property
    def kind(self) -> str:
        """As it was asked for; of a short text there may be fewer tokens."""
        return self.name

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.tokens)

    @classmethod
    def learn(cls, kind: str, texts: Iterable[Iterable[str]]) -> BytePairs:
        """Return the merges that texts call for: each joins the pair that is then the commonest.

        BpttError is raised where the tokenizers package is not installed.
        """
        require_library(kind)
        from tokenizers import models, pre_tokenizers, trainers  # noqa: PLC0415

        trainer = trainers.BpeTrainer(
            vocab_size=_count(kind),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            max_token_length=LONGEST_TOKEN,
            show_progress=False,
        )
        tokenizer = _tokenizer(models.BPE())
        lines = (line for pieces in texts for several in lines_of(pieces) for line in several)
        tokenizer.train_from_iterator(lines, trainer)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        return cls(kind, "\n".join(" ".join(pair) for pair in merges))

    @classmethod
    def recall(cls, config: Mapping[str, Any]) -> BytePairs:
        """Return a vocabulary as it was."""
        if config.get("characters"):
            raise BpttError("the tokens are joined bytes, and there are characters; expected none")
        vocabulary = cls(config["tokens"], config.get("merges") or "")
        if vocabulary.size > _count(vocabulary.kind):
            raise BpttError(
                f"there are {vocabulary.size} tokens; expected at most those of {vocabulary.kind}"
            )
        return vocabulary

    def config(self) -> dict[str, Any]:
        """Return the merges."""
        return {"tokens": self.kind, "characters": "", "merges": self.merges}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """What is joined, in its order, with a character for each byte."""
        known, pairs = set(BYTES), []
        for number, line in enumerate(self.merges.split("\n") if self.merges else [], 1):
            first, _, second = line.partition(" ")
            if first not in known or second not in known:
                raise BpttError(
                    f"merge {number} is {shown(line)}; expected two tokens that there are before it"
                )
            known.add(first + second)
            pairs.append((first, second))
        return pairs

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each token: first the bytes, then what is joined."""
        joined = dict.fromkeys(first + second for first, second in self.pairs)
        return {token: number for number, token in enumerate([*BYTES, *joined])}

    @cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of each token."""
        return [bytes(map(BYTES.__getitem__, token)) for token in self.numbers]

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """What does the joining."""
        require_library(self.kind)
        from tokenizers import models  # noqa: PLC0415

        return _tokenizer(models.BPE(vocab=self.numbers, merges=self.pairs))

    def code(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the tokens of a text's lines."""
        for lines in lines_of(pieces):
            for start in range(0, max(1, len(lines)), LINES_AT_ONCE):
                several = lines[start : start + LINES_AT_ONCE]
                coded = self.tokenizer.encode_batch_fast(several, add_special_tokens=False)
                ids = itertools.chain.from_iterable(one.ids for one in coded)
                yield np.fromiter(ids, _dtype(self.size))

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the characters as their last bytes come."""
        return _decoded(self.tokens[token] for token in tokens)

    @property
    def spans(self) -> dict[str, np.ndarray]:
        """How many characters and bytes each token has; a character counts where it begins."""
        starts = [sum(byte & 0xC0 != 0x80 for byte in token) for token in self.tokens]
        return {"character": np.array(starts), "byte": np.array(list(map(len, self.tokens)))}


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
        _count(str(tokens))
    return KINDS[name]


def recalled(config: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary of a run's data, of which `config` gave the values."""
    return kind_of(config["tokens"]).recall(config)


def require_library(tokens: str) -> None:
    """Raise BpttError where the package that tokens need is not installed."""
    if not tokens.startswith("bpe:"):
        return
    try:
        import tokenizers  # noqa: F401, PLC0415
    except ImportError:
        raise BpttError(
            f"tokens {tokens} need tokenizers, which is not installed; in a checkout of bptt: "
            "pip install '.[tokenizers]'"
        ) from None


def lines_of(pieces: Iterable[str]) -> Iterator[list[str]]:
    r"""Yield the lines of a text with their ends, as its pieces come.

    A line that is longer than 65,536 characters comes in parts of that, from its start.

    >>> list(lines_of(["a\nb", "c\n\nd"]))
    [['a\n'], ['bc\n', '\n'], ['d']]
    """
    rest = ""
    for piece in pieces:
        lines = LINES.findall(rest + piece)
        rest = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        yield lines
    yield [rest] if rest else []


def _count(kind: str) -> int:
    """Return how many tokens are asked for, or raise BpttError."""
    name, _, count = kind.partition(":")
    number = int(count) if re.fullmatch(r"\d{1,18}", count, re.ASCII) else None
    if number is None or not LEAST_TOKENS <= number <= MOST_TOKENS:
        raise BpttError(
            f"tokens is {shown(kind)}; expected {name}:N, with N from {LEAST_TOKENS} to "
            f"{MOST_TOKENS:,}: the 256 bytes, and what is joined (--tokens)"
        )
    return number


def _tokenizer(model: Any) -> Tokenizer:
    from tokenizers import Tokenizer, pre_tokenizers  # noqa: PLC0415

    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _byte_characters() -> list[str]:
    """Return a character that can be seen for each byte: itself, or one from 256 on, as GPT-2."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


BYTES = {character: byte for byte, character in enumerate(_byte_characters())}
"""Each byte, by the character that stands for it."""


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _decoded(parts: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    yield from (decoder.decode(part) for part in parts)
    yield decoder.decode(b"", final=True)


def _dtype(size: int) -> type[np.uint8 | np.int32]:
    return np.uint8 if size <= 256 else np.int32
