from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.fuzz.campaign import tally


@pytest.fixture(autouse=True)
def _calls_are_counted(record_property: Any) -> Iterator[None]:
    """Hand the number of calls to the summary, from whichever process made them."""
    before = tally.calls
    yield
    record_property("fuzzed_calls", tally.calls - before)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
