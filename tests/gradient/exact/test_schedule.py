"""The order of the chunks, against a dynamic programme and the rules of the game."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.gradient.exact.schedule import Hold, Reverse, reruns, revolve
from tests.oracles import fewest_reruns


def play(chunks: int, room: int) -> int:
    """Follow the schedule, checking that it may do what it does; return the runs it took."""
    held, to_reverse, runs = [0], chunks, 0
    for action in revolve(chunks, room):
        assert action.chunk >= held[-1], "it runs forward only"
        runs += action.chunk - held[-1]
        if isinstance(action, Hold):
            assert action.chunk < to_reverse
            held.append(action.chunk)
            assert len(held) - 1 <= room
        else:
            assert isinstance(action, Reverse)
            to_reverse -= 1
            assert action.chunk == to_reverse, "later chunks come first, each once"
            if held[-1] == action.chunk:
                held.pop()
    assert to_reverse == 0
    assert not held
    return runs


@pytest.mark.parametrize("room", [*range(8), 20, 40])
def test_takes_as_many_runs_as_predicted_and_as_few_as_possible(room: int) -> None:
    for chunks in range(1, 40):
        runs = play(chunks, room)
        assert runs == reruns(chunks, room) == fewest_reruns(chunks, room + 1)


def test_with_room_for_all_each_chunk_but_the_last_is_run_once_more() -> None:
    for chunks, more in itertools.product((1, 2, 9), (0, 1, 5)):
        assert reruns(chunks, chunks - 1 + more) == chunks - 1


@given(st.integers(1, 3000), st.integers(0, 60))
def test_holds_for_many_chunks(chunks: int, room: int) -> None:
    if room == 0:
        chunks = min(chunks, 200)  # it takes their square
    assert play(chunks, room) == reruns(chunks, room)
