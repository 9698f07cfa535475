"""Text in, parallel streams of tokens out."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from bptt.errors import BpttError, require_choice, require_kind, require_path, shown
from bptt.model.likelihoods.categorical import Categorical
from bptt.model.network import Network
from bptt.training.batches import Dataset, Streams
from bptt.training.input_files import UnchangedFile
from bptt.training.spool import require_room, spool

TokenKind = Literal["characters", "bytes"]
BUILT_IN = "pydoc_data.topics"
VALIDATION_SHARE = 0.1
VALIDATION_STEPS = 256
IN_MEMORY = 1 << 26
"""Tokens up to which they are kept in memory."""
REMEDIES = {
    (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"): "save the table as .csv",
    (".feather", ".arrow", ".orc", ".h5", ".hdf5"): "save the table as .parquet",
    (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".tar"): "unpack it",
    (".npy",): "save it as y in an .npz file",
    (".pdf", ".docx", ".doc", ".odt", ".epub"): "save it as plain text",
}
"""What to do with files that are no text, by how their names end."""
LONGEST_CHARACTER = 4
"""Bytes, in UTF-8."""
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

    def require(self, name: str, text: str) -> None:
        """Raise BpttError if a text has characters that the vocabulary has not."""
        if self.kind == "bytes":
            try:
                text.encode(errors="surrogateescape")
            except UnicodeEncodeError as error:
                raise BpttError(f"{name} cannot be written in UTF-8: {error.reason}") from None
            return
        if unknown := sorted(set(text) - set(self.characters)):
            first = ", ".join(map(repr, unknown[:5])) + (" …" if len(unknown) > 5 else "")
            known = shown(self.characters)
            raise BpttError(
                f"{name} has {first}, which the text that was trained on has not; expected some of "
                f"its {len(self.characters)} characters, {known}"
            )

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
class Text(Dataset):
    """A text as tokens: the first nine tenths to train on, the last tenth to validate.

    The tokens are in the narrowest of torch's types that holds them; those of a large file lie in a
    file themselves, from which only what is read comes into memory.
    """

    path: Path | None
    sha256: str
    vocabulary: Vocabulary
    training: Int[Tensor, " N"]
    validation: Int[Tensor, " M"]
    about: tuple[str, ...] = ()

    default_batch = 32
    least_updates = 0

    @property
    def source(self) -> str:  # type: ignore[override]
        """What to call it."""
        return BUILT_IN if self.path is None else str(self.path)

    @property
    def unit(self) -> str:  # type: ignore[override]
        """What one token is called."""
        return self.vocabulary.unit

    @property
    def likelihood(self) -> Categorical:
        """One symbol a step."""
        return Categorical(self.vocabulary.size)

    @property
    def inputs(self) -> int:
        """There is no x."""
        return 0

    def training_batches(self, batch: int, steps: int | None, seed: int) -> Streams:
        """Return the first nine tenths as streams."""
        return Streams(self.training, None, batch, steps)

    def validation_batches(self, batch: int) -> Streams:
        """Return the last tenth as streams."""
        return Streams(self.validation, None, batch, VALIDATION_STEPS)

    def config(self) -> dict[str, Any]:
        """Return where the text is, what it was and what its tokens are."""
        return {
            "kind": "text",
            "path": None if self.path is None else str(self.path.resolve()),
            "sha256": self.sha256,
            "tokens": self.vocabulary.kind,
            "characters": self.vocabulary.characters,
        }

    def require_network(self, net: Network) -> None:
        """Raise BpttError unless a network can be trained on this text."""
        if not isinstance(net.likelihood, Categorical) or net.likelihood.n != self.vocabulary.size:
            raise BpttError(
                f"the network's likelihood is {net.likelihood}; expected {self.likelihood}, since "
                f"the vocabulary of {self.source} has {self.vocabulary.size} tokens"
            )
        if net.inputs.width > 0 and not net.x_can_be_previous_y:
            raise BpttError(
                f"the network expects x, {net.inputs}; a text has none: make it with inputs=0, "
                f'or with recurrence "hidden" and inputs=Tokens({self.vocabulary.size})'
            )

    def require_size(self, batch: int, window: int | None) -> None:
        """Raise BpttError unless the text is long enough."""
        kind, count, window = self.vocabulary.kind, len(self.training), window or 1
        if len(self.validation) == 0:
            raise BpttError(f"{self.source} is too short: expected at least 10 {kind}")
        if count < batch * window:
            raise BpttError(
                f"{self.source} has {count} {kind} to train on; expected "
                f"at least batch · window = {batch} · {window} = {batch * window}: "
                "take a longer text, a smaller batch (--batch) or a smaller window (--window)"
            )


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
    if path is not None:
        require_path("the text", path)
    require_kind("vocabulary", vocabulary, (Vocabulary, NoneType), "a Vocabulary, or None")
    tokens = tokens if vocabulary is None else vocabulary.kind
    require_choice("tokens", tokens, ("characters", "bytes"))
    file = TextFile(None if path is None else Path(path))
    if file.size == 0:
        raise BpttError(f"{file.source} is empty; expected some text to learn from")
    if file.size > IN_MEMORY:
        least = file.size if tokens == "bytes" else file.size // LONGEST_CHARACTER
        require_room(f"the tokens of {file.source}", least)
    if tokens == "bytes":
        vocabulary, count = vocabulary or Vocabulary("bytes"), file.size
        parts = (np.frombuffer(block, np.uint8) for block in file.blocks())
    else:
        count = sum(len(piece) for piece in file.pieces())
        vocabulary = vocabulary or Vocabulary("characters", file.characters(_cut(count)))
        dtype = np.uint8 if vocabulary.size <= 256 else np.int32
        parts = (vocabulary.encode(piece).numpy().astype(dtype) for piece in file.pieces())
    ids = torch.from_numpy(np.concatenate(list(parts)) if count <= IN_MEMORY else spool(parts))
    cut = _cut(count)
    return Text(file.path, file.sha256, vocabulary, ids[:cut], ids[cut:])


class TextFile:
    """A text file, or without a path the built-in text, read a block at a time.

    size: in bytes. It has to stay the same while it is read: BpttError is raised if it changes.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.file = None if path is None else UnchangedFile(path, "a text file")
        self.size = len(_built_in()) if self.file is None else self.file.size

    @property
    def source(self) -> str:
        """What to call it."""
        return BUILT_IN if self.path is None else str(self.path)

    @property
    def sha256(self) -> str:
        """Of its bytes, once they have been read."""
        return hashlib.sha256(_built_in()).hexdigest() if self.file is None else self.file.sha256

    def blocks(self) -> Iterator[bytes]:
        """Yield its bytes, or raise BpttError if it cannot be read."""
        yield from [_built_in()] if self.file is None else self.file.blocks()

    def pieces(self) -> Iterator[str]:
        """Yield its text, or raise BpttError where it is not UTF-8."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        position, line, block = 0, 1, b""
        try:
            for block in self.blocks():
                block = decoder.getstate()[0] + block  # noqa: PLW2901 (what it still holds)
                decoder.reset()
                yield decoder.decode(block)
                done = len(block) - len(decoder.getstate()[0])
                position, line = position + done, line + block.count(b"\n", 0, done)
            block = decoder.getstate()[0]
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            line += block.count(b"\n", 0, error.start)
            raise BpttError(
                f"{self.source} is not UTF-8: byte 0x{block[error.start]:02x} at position "
                f"{position + error.start}, line {line}; {self._remedy()}, or train on its bytes "
                "with tokens bytes (--tokens bytes)"
            ) from None

    def _remedy(self) -> str:
        ending = "" if self.path is None else self.path.suffix.lower()
        return next((what for endings, what in REMEDIES.items() if ending in endings), "convert it")

    def characters(self, count: int) -> str:
        """Return the different characters among the first `count`, sorted."""
        known: set[str] = set()
        for piece in self.pieces():
            known.update(piece[:count])
            count = max(0, count - len(piece))
        return "".join(sorted(known))


def _cut(length: int) -> int:
    return length - int(length * VALIDATION_SHARE)


def _built_in() -> bytes:
    from pydoc_data.topics import topics  # noqa: PLC0415 (half a megabyte that few calls need)

    return "\n".join(topics.values()).encode()
