from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.commands import parse_quickly

gc.disable()


def pytest_collection_finish() -> None:
    """Spare every later garbage collection its look at torch and at thousands of tests."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _commands_are_parsed_quickly() -> Iterator[None]:
    """Spare hundreds of command lines their look at signatures; other processes have it."""
    with pytest.MonkeyPatch.context() as patch:
        parse_quickly(patch)
        yield


@pytest.fixture(autouse=True, scope="session")
def _seeds_are_set_quickly() -> Iterator[None]:
    """Spare each seed the stack traces that torch notes for devices that are not there."""
    import torch  # noqa: PLC0415 (the process that only hands tests out needs none)

    with pytest.MonkeyPatch.context() as patch:
        if not torch.accelerator.is_available():
            patch.setattr(torch, "manual_seed", torch.default_generator.manual_seed)
        yield
