"""What a vocabulary is: the tokens of a text, and the way there and back."""

from __future__ import annotations

import codecs
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from bptt.errors import BpttError

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Vocabulary(ABC):
    """The tokens of a text, and the way there and back.

    unit: what one token is called. unknown: the token that stands for all that has none. is_raw:
    whether it codes bytes, and not text. package: the one that it needs.
    """

    unit: ClassVar[str]
    unknown: ClassVar[int | None] = None
    is_raw: ClassVar[bool] = False
    package: ClassVar[str | None] = None

    @property
    @abstractmethod
    def kind(self) -> str:
        """What its tokens are, as read_text takes it."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many tokens there are."""

    @property
    @abstractmethod
    def byte_counts(self) -> Float[np.ndarray, " size"]:
        """How many bytes each token stands for; NaN where that is unknown."""

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

    @classmethod
    def require_package(cls) -> None:
        """Raise BpttError where the package that it needs is not installed."""
        if cls.package is None:
            return
        try:
            importlib.import_module(cls.package)
        except ImportError:
            raise BpttError(
                f"tokens of this kind need {cls.package}, which is not installed; "
                f"in a checkout of bptt: pip install '.[{cls.package}]'"
            ) from None

    @property
    def spans(self) -> dict[str, np.ndarray]:
        """How much of a smaller unit each token has, (size,), by the unit's name."""
        return {}


def decoded(parts: Iterable[bytes]) -> Iterator[str]:
    """Yield the text of bytes as they come, only whole characters."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    yield from (decoder.decode(part) for part in parts)
    yield decoder.decode(b"", final=True)


def dtype_of(size: int) -> type[np.uint8 | np.int32]:
    """Return the narrowest type that the kernels take for so many tokens."""
    return np.uint8 if size <= 256 else np.int32
