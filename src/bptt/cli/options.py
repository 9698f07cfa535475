"""What several commands take."""

from __future__ import annotations

from cyclopts import Parameter

MOST_SEED = 2**63 - 1
TEMPERATURE = 0.7
"""At which a network writes, unless told."""
COMMAS = Parameter(
    converter=lambda _, tokens: tuple(name for one in tokens for name in one.value.split(","))
)
