"""Byte-pair encoding: the merges lie here, and the tokenizers package learns and applies them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt.data.texts.vocabulary import Vocabulary, decoded, dtype_of
from bptt.errors import BpttError, shown

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LEAST_TOKENS, MOST_TOKENS = 257, 100_000
LONGEST_TOKEN = 32
"""Bytes of what is joined: so any vocabulary fits into a config.json."""
LONGEST_LINE = 1 << 16
"""Characters of a line that are coded at once."""
LINES_AT_ONCE = 1 << 12
LINES = re.compile(rf"[^\n]{{0,{LONGEST_LINE - 1}}}\n|[^\n]{{1,{LONGEST_LINE}}}")


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
    package = "tokenizers"

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
        cls.require_package()
        from tokenizers import models, pre_tokenizers, trainers  # noqa: PLC0415

        trainer = trainers.BpeTrainer(
            vocab_size=count_of(kind),
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
        if vocabulary.size > count_of(vocabulary.kind):
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
        self.require_package()
        from tokenizers import models  # noqa: PLC0415

        return _tokenizer(models.BPE(vocab=self.numbers, merges=self.pairs))

    def code(self, pieces: Iterable[str]) -> Iterator[np.ndarray]:
        """Yield the tokens of a text's lines."""
        for lines in lines_of(pieces):
            for start in range(0, max(1, len(lines)), LINES_AT_ONCE):
                several = lines[start : start + LINES_AT_ONCE]
                coded = self.tokenizer.encode_batch_fast(several, add_special_tokens=False)
                ids = itertools.chain.from_iterable(one.ids for one in coded)
                yield np.fromiter(ids, dtype_of(self.size))

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the characters as their last bytes come."""
        return decoded(self.tokens[token] for token in tokens)

    @property
    def byte_counts(self) -> np.ndarray:
        """How many bytes each token has."""
        return np.array(list(map(len, self.tokens)), float)

    @property
    def spans(self) -> dict[str, np.ndarray]:
        """How many characters and bytes each token has; a character counts where it begins."""
        starts = [sum(byte & 0xC0 != 0x80 for byte in token) for token in self.tokens]
        return {"character": np.array(starts), "byte": self.byte_counts}


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


def count_of(kind: str) -> int:
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
