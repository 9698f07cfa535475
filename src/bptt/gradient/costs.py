"""What one gradient through time takes on this machine, in seconds and bytes, against T.

`measure_costs` starts a fresh process for every measurement, which does without torch's compiler:

    python -m bptt.gradient.costs WAY T HIDDEN MEMORY WINDOW
"""

from __future__ import annotations

import ctypes
import gc
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bptt.errors import BpttError, as_bytes, memory_here, require_choice, require_whole
from bptt.gradient.exact.backward import backward
from bptt.model.likelihoods.categorical import Categorical
from bptt.model.network import Network
from bptt.model.state import State

WAYS = ("exact", "bounded", "truncated", "torch")
MORE_A_STEP = {"exact": 1.5, "torch": 4.0}
"""The ways whose memory grows with T, and by how much more a step of a longer sequence may take: in
torch's way short-lived gradients of the weights lie between states, and fragment the heap."""
SYMBOLS = 65
MOST_STEPS = 10**9
WARM_UP, FEW_STEPS = 300, 1_000
RUNS, LONG_RUN, PATIENCE = 3, 2.0, 20.0
"""A run of more than LONG_RUN seconds is not repeated; torch's way ends with one of PATIENCE."""
PROGRAM = """
import sys
from bptt.startup import put_off_compiler
put_off_compiler()
from bptt.gradient.costs import main
main(sys.argv[1:])
"""
TOLERANCE = 1e-4
"""How far apart float32 gradients may lie, as a part of their norm."""


@dataclass(frozen=True)
class Cost:
    """What the gradient of one sequence of T steps takes, one way.

    seconds: None where T was too large for this way on this machine.
    memory: bytes of peak above what was in use before; None where T was too large, and where the
    system does not tell.
    """

    way: str
    T: int
    seconds: float | None
    memory: int | None


@dataclass(frozen=True)
class Sizes:
    """Hidden units, the budget of "bounded" in bytes, the window of "truncated" in steps."""

    hidden: int
    memory: int
    window: int


class Taken(NamedTuple):
    """Growth of the peak resident set over the moment before a call, in bytes; and seconds."""

    memory: int | None
    seconds: float


class Plain(nn.Module):
    """A network in plain torch: Embedding, torch.nn.RNN, Linear, with the weights of one of ours.

    The embedding is Rᵀ and torch's input weights are the identity, so that the two networks have
    the same gradients too.
    """

    def __init__(self, net: Network) -> None:
        super().__init__()
        H = net.recurrent.hidden_size
        self.embedding, self.rnn = nn.Embedding(SYMBOLS, H), nn.RNN(H, H)
        self.readout = nn.Linear(H, SYMBOLS)
        weights = net.recurrent.state_dict() | {"weight_ih_l0": torch.eye(H)}
        self.rnn.load_state_dict(weights)
        self.readout.load_state_dict(net.readout.state_dict())
        with torch.no_grad():
            self.embedding.weight.copy_(net.R.t())

    def forward(self, y: Int[Tensor, "T B"]) -> Float[Tensor, "T B O"]:
        """Return the outputs after each of the symbols."""
        outputs: Tensor = self.readout(self.rnn(self.embedding(y))[0])
        return outputs


def measure_costs(
    lengths: Sequence[int] = (1_000, 10_000, 100_000),
    *,
    hidden: int = 128,
    memory: int | str = "4MB",
    window: int = 100,
    ways: Sequence[str] = WAYS,
) -> Iterator[Cost]:
    """Measure the gradient of one sequence of 65 symbols; yield each Cost as it comes.

    lengths: T, the shortest first. hidden: H.
    ways: "exact" keeps all states; "bounded" gives the same within `memory`, which is in bytes or
    as in "4MB"; "truncated" cuts it to `window` steps; "torch" is loss.backward() through
    Embedding, torch.nn.RNN and Linear.
    Torch's way is not asked beyond a run of 20 seconds, and no way for more memory than there is,
    by what a shorter sequence took.
    Raises BpttError for bad arguments, and RuntimeError, before anything is timed, if the gradients
    of the ways that are exact differ.
    """
    for T in lengths:
        require_whole("a length", T, 1, MOST_STEPS)
    for way in ways:
        require_choice("a way", way, WAYS)
    require_whole("hidden", hidden, 1)
    require_whole("window", window, 1)
    if not lengths or not ways:
        missing = "ways" if lengths else "lengths"
        raise BpttError(f"{missing} is empty; expected at least one to measure")
    sizes = Sizes(hidden, as_bytes("memory", memory), window)
    return _measure_each(sorted(set(lengths)), list(dict.fromkeys(ways)), sizes)


def _measure_each(lengths: list[int], ways: list[str], sizes: Sizes) -> Iterator[Cost]:
    compared = dict.fromkeys(["exact", *(way for way in ways if way != "truncated")])
    T = min(lengths[0], FEW_STEPS)
    require_agreement({way: gradients(way, T, sizes) for way in compared})
    before: dict[str, Cost] = {}
    if lengths[0] > FEW_STEPS:
        growing = [way for way in ways if way in MORE_A_STEP]
        before = {way: _in_fresh_process(way, FEW_STEPS, sizes) for way in growing}
    for T in lengths:
        for way in ways:
            too_large = way in before and _is_too_large(T, before[way])
            cost = Cost(way, T, None, None) if too_large else _in_fresh_process(way, T, sizes)
            before[way] = cost
            yield cost


def _is_too_large(T: int, before: Cost) -> bool:
    """Return whether to leave T out, by what fewer steps took the same way."""
    if before.seconds is None or (before.way == "torch" and before.seconds > PATIENCE):
        return True
    has = _memory_available()
    if before.way not in MORE_A_STEP or before.memory is None or has is None:
        return False
    return before.memory * T / before.T * MORE_A_STEP[before.way] > has


def _memory_available() -> int | None:
    """Return how many bytes could be had now, or else how many there are, if the system tells."""
    try:
        return _field("/proc/meminfo", "MemAvailable")
    except (OSError, KeyError):
        return memory_here()


def _in_fresh_process(way: str, T: int, sizes: Sizes) -> Cost:
    # -P: what lies in the user's folder must not be imported in the place of other modules.
    command = [sys.executable, "-P", "-c", PROGRAM, way, str(T)]
    command += [str(size) for size in astuple(sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Cost(**json.loads(done.stdout))
    killed = done.returncode == -getattr(signal, "SIGKILL", 9)  # by Linux, when memory runs out
    if killed or "allocate" in done.stderr:
        return Cost(way, T, None, None)
    raise RuntimeError(f"measuring {way} with T = {T} failed:\n{done.stderr}")


def gradient(way: str, sizes: Sizes) -> tuple[nn.Module, Callable[[Tensor], Any]]:
    """Return a network, and what adds its gradient for symbols y⁰ to yᵀ, (T + 1, B), to .grad."""
    net = Network(Categorical(SYMBOLS), hidden=sizes.hidden)
    if way == "torch":
        plain = Plain(net)

        def run(y: Tensor) -> None:
            logits = plain(y[:-1]).flatten(0, 1)
            nn.functional.cross_entropy(logits, y[1:].flatten()).backward()

        return plain, run
    options: dict[str, Any] = {
        "exact": {},
        "bounded": {"memory": sizes.memory},
        "truncated": {"window": sizes.window},
    }[way]
    return net, lambda y: backward(net, y[1:], state=State(y=y[0]), **options)


def gradients(way: str, T: int, sizes: Sizes) -> dict[str, Tensor]:
    """Return the gradients of R, W, b, V and c, for weights and symbols that are always the same.

    >>> gradients("torch", T=20, sizes=Sizes(hidden=4, memory=4_000_000, window=10))["W"].shape
    torch.Size([4, 4])
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        y = torch.randint(SYMBOLS, (T + 1, 1))  # first: making the networks draws differently
        net, run = gradient(way, sizes)
    run(y)
    grads = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    is_plain = isinstance(net, Plain)
    layer = "rnn" if is_plain else "recurrent"
    R = grads["embedding.weight"].t() if is_plain else grads["recurrent.weight_ih_l0"]
    W, b = grads[f"{layer}.weight_hh_l0"], grads[f"{layer}.bias_ih_l0"]
    return {"R": R, "W": W, "b": b, "V": grads["readout.weight"], "c": grads["readout.bias"]}


def require_agreement(grads_by_way: dict[str, dict[str, Tensor]]) -> None:
    """Raise RuntimeError unless the gradients, by way and name, are those of the first way."""
    (first, expected), *others = grads_by_way.items()
    for way, got in others:
        for name, grad in expected.items():
            apart, norm = float((got[name] - grad).norm()), float(grad.norm())
            if not apart <= TOLERANCE * norm:
                raise RuntimeError(
                    f"the gradients of {name} by {first} and by {way} are {apart:.1e} apart, where "
                    f"their norm is {norm:.1e}: nothing was timed; please report this"
                )


def taken_by(call: Callable[[], Any]) -> Taken:
    """Return what a call takes. The memory is told on Linux only.

    >>> taken_by(lambda: bytes(1000)).seconds > 0
    True
    """
    before = _start_of_peak()
    began = time.perf_counter()
    held = call()
    seconds = time.perf_counter() - began
    peak = None if before is None else _field("/proc/self/status", "VmHWM") - before
    del held
    return Taken(peak, seconds)


def _start_of_peak() -> int | None:
    """Give back what is free, reset the peak, and return the resident set, if there is /proc."""
    gc.collect()
    clear = Path("/proc/self/clear_refs")
    if not clear.exists():
        return None
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    try:
        clear.write_text("5")  # resets the peak
    except OSError:  # some containers forbid it
        return None
    return _field("/proc/self/status", "VmRSS")


def _field(file: str, name: str) -> int:
    """Return an amount of memory that Linux tells, in bytes."""
    for line in Path(file).read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def measure_here(way: str, T: int, sizes: Sizes) -> Cost:
    """Return the cost of a few runs in this process, after a warm-up.

    Of the seconds it is the median; of the memory the least, since what the heap wastes varies.
    """
    _, run = gradient(way, sizes)
    y = torch.randint(SYMBOLS, (T + 1, 1))
    run(y[: WARM_UP + 1])
    taken = [taken_by(lambda: run(y))]
    while len(taken) < RUNS and taken[0].seconds <= LONG_RUN:
        taken.append(taken_by(lambda: run(y)))
    memory = min((one.memory for one in taken if one.memory is not None), default=None)
    return Cost(way, T, statistics.median(one.seconds for one in taken), memory)


def main(arguments: Sequence[str]) -> None:
    """Measure what the arguments say, and write the Cost to stdout as JSON."""
    way, *numbers = arguments
    T, *sizes = map(int, numbers)
    json.dump(asdict(measure_here(way, T, Sizes(*sizes))), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
