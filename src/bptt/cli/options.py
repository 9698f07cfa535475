"""What several commands take."""

from __future__ import annotations

from collections.abc import Sequence

from cyclopts import Parameter, Token

MOST_SEED = 2**63 - 1
TEMPERATURE = 0.7
"""At which a network writes, unless told."""


def comma_separated(kind: type[str] | type[int] | type[float]) -> Parameter:
    """Return what reads several names or numbers, with commas between."""

    def read(_: object, tokens: Sequence[Token]) -> tuple[str | float, ...]:
        values: list[str | float] = []
        for text in (part for one in tokens for part in one.value.split(",")):
            try:
                values.append(kind(text))
            except ValueError:
                wanted = "whole numbers" if kind is int else "numbers"
                raise ValueError(f"got {text!r}; expected {wanted} with commas between") from None
        return tuple(values)

    return Parameter(converter=read, negative="")
