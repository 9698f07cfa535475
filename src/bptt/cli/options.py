"""What several commands take."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts import Parameter, Token

MOST_SEED = 2**63 - 1
TEMPERATURE = 0.7
"""At which a network writes, unless told."""
COMMAS = Parameter(
    converter=lambda _, tokens: tuple(name for one in tokens for name in one.value.split(",")),
    negative="",
)
"""Several names, with commas between."""


def numbers(kind: type[int] | type[float]) -> Parameter:
    """Return what reads several numbers, with commas between."""

    def read(_: object, tokens: Sequence[Token]) -> tuple[float, ...]:
        values = []
        for text in (part for one in tokens for part in one.value.split(",")):
            try:
                values.append(kind(text))
            except ValueError:
                wanted = "whole numbers" if kind is int else "numbers"
                raise ValueError(f"got {text!r}; expected {wanted} with commas between") from None
        return tuple(values)

    return Parameter(converter=read, negative="")
