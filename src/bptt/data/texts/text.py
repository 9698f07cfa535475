"""Text in, parallel streams of tokens out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from bptt.data.batches import Dataset, Streams
from bptt.data.spool import require_room, spool
from bptt.data.texts.text_files import BUILT_IN, open_text
from bptt.data.texts.vocabularies import kind_of
from bptt.data.texts.vocabulary import Vocabulary
from bptt.errors import BpttError, require_kind, require_path
from bptt.model.likelihoods.categorical import Categorical
from bptt.model.network import Network

VALIDATION_SHARE = 0.1
VALIDATION_STEPS = 256
IN_MEMORY = 1 << 26
"""Tokens up to which they are kept in memory."""
LONGEST_CHARACTER = 4
"""Bytes, in UTF-8."""
COUNTED = 1 << 22
"""Tokens that are counted at once."""


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

    @property
    def spans(self) -> dict[str, float]:
        """How many characters and bytes a token has, in the mean over the last tenth.

        There are none where a token is one or the other.
        """
        sizes = self.vocabulary.spans
        if not sizes:
            return {}
        counts = self._counts()
        return {unit: float(counts @ size / counts.sum()) for unit, size in sizes.items()}

    @property
    def bytes_per_token(self) -> float:
        """How many bytes a token has, in the mean over those of the last tenth that are known."""
        counts, sizes = self._counts(), self.vocabulary.byte_counts
        known = np.isfinite(sizes)
        return float(counts[known] @ sizes[known] / counts[known].sum())

    def _counts(self) -> np.ndarray:
        """Return how often each token comes in the last tenth."""
        counts = np.zeros(self.vocabulary.size)
        for part in self.validation.split(COUNTED):
            counts += np.bincount(part.numpy(), minlength=self.vocabulary.size)
        return counts

    def config(self) -> dict[str, Any]:
        """Return where the text is, what it was and what its tokens are."""
        return {
            "kind": "text",
            "path": None if self.path is None else str(self.path.resolve()),
            "sha256": self.sha256,
            **self.vocabulary.config(),
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
        kind, count, window = f"{self.unit}s", len(self.training), window or 1
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
    tokens: str = "characters",
    vocabulary: Vocabulary | None = None,
) -> Text:
    """Read a UTF-8 file, or without a path the language documentation that every Python carries.

    path: of a file; or of a folder, of which all files are read, in an order that is drawn from
    their contents, with a line's end between them.
    tokens: "characters"; "bytes", which takes any file; or "bpe:N", byte-pair encoding with N
    tokens, learnt from the training part (by the tokenizers package).
    vocabulary: one to use instead of that of the training part; it decides what tokens are.

    >>> read_text().vocabulary.size > 90
    True
    """
    if path is not None:
        require_path("the text", path)
    require_kind("vocabulary", vocabulary, (Vocabulary, NoneType), "a Vocabulary, or None")
    kind = kind_of(tokens) if vocabulary is None else type(vocabulary)
    kind.require_package()
    text = open_text(None if path is None else Path(path))
    if text.size == 0:
        raise BpttError(f"{text.source} is empty; expected some text to learn from")
    if text.size > IN_MEMORY:
        least = text.size if kind.is_raw else text.size // LONGEST_CHARACTER
        require_room(f"the tokens of {text.source}", least)
    pieces = text.blocks if kind.is_raw else text.pieces
    count = text.size if kind.is_raw else sum(map(len, pieces()))
    cut = count - int(count * VALIDATION_SHARE)
    if vocabulary is None:
        vocabulary = kind.learn(tokens, [_beginning(pieces(), cut)])
    beginning, rest = _cut(pieces(), cut)
    training = _stored(vocabulary.code(beginning), count)
    validation = _stored(vocabulary.code(rest), count)
    return Text(text.path, text.sha256, vocabulary, training, validation, text.about)


def _stored(blocks: Iterable[np.ndarray], count: int) -> Tensor:
    """Return tokens in one tensor, whose memory is mapped from a file if the text is large."""
    return torch.from_numpy(np.concatenate(list(blocks)) if count <= IN_MEMORY else spool(blocks))


def _beginning(pieces: Iterator[Any], count: int) -> Iterator[Any]:
    """Yield the first `count` characters or bytes, and read on to the end."""
    beginning, rest = _cut(pieces, count)
    yield from beginning
    for _ in rest:  # that the file is the same is known at its end
        pass


def _cut(pieces: Iterator[Any], count: int) -> tuple[Iterator[Any], Iterator[Any]]:
    """Return the first `count` characters or bytes, and the rest, to be read after them."""
    left: list[Any] = []

    def beginning() -> Iterator[Any]:
        done = 0
        for piece in pieces:
            done += len(piece)
            if done >= count:
                keep = len(piece) - (done - count)
                left.append(piece[keep:])
                yield piece[:keep]
                return
            yield piece

    def rest() -> Iterator[Any]:
        yield from left
        yield from pieces

    return beginning(), rest()
