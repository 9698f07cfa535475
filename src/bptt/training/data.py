"""Text in, parallel streams of tokens out."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from bptt.errors import BpttError, require_choice

TokenKind = Literal["characters", "bytes"]
BUILT_IN = "pydoc_data.topics"
VALIDATION_SHARE = 0.1
UNKNOWN = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a text: its characters, after one reserved for any other; or the 256 bytes.

    >>> v = Vocabulary.of("hello", "characters")
    >>> v.size, v.encode("hex").tolist(), v.decode([3, 1, 0])
    (5, [2, 1, 0], 'le�')
    """

    kind: TokenKind
    characters: str = ""

    @classmethod
    def of(cls, text: str, kind: TokenKind) -> Vocabulary:
        """Return the vocabulary of a text."""
        return cls(kind, "".join(sorted(set(text))) if kind == "characters" else "")

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return 256 if self.kind == "bytes" else 1 + len(self.characters)

    @property
    def unit(self) -> str:
        """What one token is called."""
        return self.kind.removesuffix("s")

    def encode(self, text: str) -> Int64[Tensor, " N"]:
        """Return the text's tokens."""
        if self.kind == "bytes":
            return torch.from_numpy(
                np.frombuffer(text.encode(errors="surrogateescape"), np.uint8).astype(np.int64)
            )
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        known = np.frombuffer(self.characters.encode("utf-32-le"), np.uint32)
        places = np.searchsorted(known, codes).clip(max=len(known) - 1)
        return torch.from_numpy(np.where(known[places] == codes, places + 1, 0).astype(np.int64))

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens."""
        return "".join(self.decode_stream(tokens))

    def decode_stream(self, tokens: Iterable[int]) -> Iterator[str]:
        """Yield the text of the tokens as it becomes certain: a character can take four bytes."""
        if self.kind == "characters":
            symbols = UNKNOWN + self.characters
            yield from (symbols[token] for token in tokens)
            return
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        yield from (decoder.decode(bytes([token])) for token in tokens)
        yield decoder.decode(b"", final=True)


@dataclass(frozen=True)
class Text:
    """A text as tokens: the first nine tenths to train on, the last tenth to validate."""

    path: Path | None
    sha256: str
    vocabulary: Vocabulary
    training: Int64[Tensor, " N"]
    validation: Int64[Tensor, " M"]

    @property
    def source(self) -> str:
        """What to call it."""
        return BUILT_IN if self.path is None else str(self.path)


def read_text(
    path: str | Path | None = None,
    tokens: TokenKind = "characters",
    vocabulary: Vocabulary | None = None,
) -> Text:
    """Read a UTF-8 file, or without a path the language documentation that every Python carries.

    tokens: "characters", or "bytes", which takes any file.
    vocabulary: one to use instead of that of the training part; it decides what tokens are.

    >>> read_text().vocabulary.size > 90
    True
    """
    tokens = tokens if vocabulary is None else vocabulary.kind
    require_choice("tokens", tokens, ("characters", "bytes"))
    path = None if path is None else Path(path)
    source, raw = (BUILT_IN, _built_in()) if path is None else (str(path), _read(path))
    if not raw:
        raise BpttError(f"{source} is empty; expected some text to learn from")
    if tokens == "bytes":
        vocabulary = vocabulary or Vocabulary("bytes")
        ids = torch.from_numpy(np.frombuffer(raw, np.uint8).astype(np.int64))
        cut = _cut(len(ids))
    else:
        text = _decode(source, raw)
        cut = _cut(len(text))
        vocabulary = vocabulary or Vocabulary.of(text[:cut], "characters")
        ids = vocabulary.encode(text)
    return Text(path, hashlib.sha256(raw).hexdigest(), vocabulary, ids[:cut], ids[cut:])


def streams(tokens: Int64[Tensor, " N"], batch: int) -> Int64[Tensor, "L B"]:
    """Cut a text into `batch` equal parts that run side by side; up to batch − 1 tokens stay out.

    >>> streams(torch.arange(7), 2)
    tensor([[0, 3],
            [1, 4],
            [2, 5]])
    """
    length = len(tokens) // batch
    return tokens[: length * batch].view(batch, length).t()


def _cut(length: int) -> int:
    return length - int(length * VALIDATION_SHARE)


def _built_in() -> bytes:
    from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte that few calls need)

    return "\n".join(topics.values()).encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BpttError(f"no such file: {path}; give the path of a text file") from None
    except IsADirectoryError:
        raise BpttError(f"{path} is a folder; give the path of a text file in it") from None
    except OSError as error:
        raise BpttError(f"cannot read {path}: {error.strerror}") from None


def _decode(source: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BpttError(
            f"{source} is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}, "
            f"line {line}; convert it, or train on its bytes with tokens bytes (--tokens bytes)"
        ) from None
