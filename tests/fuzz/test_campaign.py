from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.campaign import LEAST, fuzz, tally


def test_calls_are_bounded_and_counted() -> None:
    before, seen = tally.calls, list[int]()

    @fuzz(weight=0)
    @given(st.integers())
    def try_out(number: int) -> None:
        seen.append(number)

    try_out()
    assert tally.calls - before == len(seen) == LEAST
