from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _commands_are_parsed_quickly() -> Iterator[None]:
    """Spare hundreds of command lines their look at signatures; other processes have it."""
    from tests.commands import parse_quickly  # noqa: PLC0415 (not where tests are handed out)

    with pytest.MonkeyPatch.context() as patch:
        parse_quickly(patch)
        yield
