"""In which order to go through the chunks of a sequence when few states can be held.

Only the state before the first chunk is given. A chunk is reversed (run forward with all that its
gradient needs, then backward) from the state before it, so that state has to be held since an
earlier pass, or computed again from one that is. Held states form a stack: what lies later in time
is needed sooner. With room for every boundary each chunk is run once without gradient and once with
it; with less, Revolve's binomial schedule takes the fewest runs (Griewank and Walther 2000).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import NamedTuple


class Hold(NamedTuple):
    """Run from the last held state to before a chunk, and hold that state too."""

    chunk: int


class Reverse(NamedTuple):
    """Run from the last held state to before a chunk; reverse it; drop that state if it was its."""

    chunk: int


def revolve(chunks: int, room: int) -> Iterator[Hold | Reverse]:
    """Yield what to do, for a number of chunks and room to hold so many states besides the first.

    >>> list(revolve(3, room=1))
    [Hold(chunk=1), Reverse(chunk=2), Reverse(chunk=1), Reverse(chunk=0)]
    """
    held = [0]
    for end in range(chunks, 0, -1):
        while end - held[-1] > 1 and len(held) <= room:
            held.append(held[-1] + _first_stride(end - held[-1], room + 2 - len(held)))
            yield Hold(held[-1])
        yield Reverse(end - 1)
        if held[-1] == end - 1:
            held.pop()


def reruns(chunks: int, room: int) -> int:
    """Return how often `revolve` runs a chunk without reversing it: the least possible.

    t(l, s) = r·l − β(s + 1, r − 1), for the r with β(s, r − 1) < l ≤ β(s, r), where s counts the
    first state too (Griewank and Walther 2000, proposition 1).
    """
    s = min(room + 1, chunks)
    r = _repetitions(chunks, s)
    return r * chunks - _beta(s + 1, r - 1)


def _beta(s: int, r: int) -> int:
    """Return how many chunks s held states reverse with at most r runs of each: (s + r) over s."""
    return comb(s + r, s) if r >= 0 else 0


def _repetitions(chunks: int, s: int) -> int:
    """Return the least r with β(s, r) ≥ chunks."""
    if s == 1:
        return chunks - 1
    r = 0
    while _beta(s, r) < chunks:
        r += 1
    return r


def _first_stride(chunks: int, s: int) -> int:
    """Return how far to run before holding a state again; s counts the one to start from.

    The longest stride after which r − 1 more runs are enough for what lies before the state held,
    while what lies beyond it still makes full use of its r with one place less.
    """
    s = min(s, chunks)
    r = _repetitions(chunks, s)
    return max(1, min(_beta(s, r - 1), chunks - _beta(s - 1, r - 1)))
