from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.commands import parse_quickly


@pytest.fixture(autouse=True, scope="session")
def _commands_are_parsed_quickly() -> Iterator[None]:
    """Spare hundreds of command lines their look at signatures; other processes have it."""
    with pytest.MonkeyPatch.context() as patch:
        parse_quickly(patch)
        yield
