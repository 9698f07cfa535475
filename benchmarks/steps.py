"""Steps that the package does not know, in the kernel and in a loop; ragged batches; first use.

    python benchmarks/steps.py [--threads 1]

A training step of each (forward and backward from a given ∂L/∂h, as layers.py has it; float32;
T = 200, B = 16, H = 64) against the same step in a Python loop with autograd; how much faster it
would be if products took all of its time, at the speed of torch's product of large matrices;
and its time a multiply-add, in that of our GRU, timed beside it. Of ragged batches, and of one step
without gradient, B = 1: against torch.nn's layer. A process of its own, from its start to the
gradient of a step that it has not seen. Medians; each value is checked.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.kernel import ops
from bptt.kernel.layout import DENSE
from bptt.kernel.native_step import Source
from bptt.kernel.ops import run_plainly
from bptt.kernel.record import Traced

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.kernel.steps_of_users import STEPS, recipe

T, B, H, I = 200, 16, 64, 64  # noqa: E741
ROUNDS, ROUNDS_OF_SHORT_CALLS = 7, 31
RAGGED = [(100, 32, 64, 128), (200, 64, 64, 256)]
NAMES = ("tanh", "gru", "lstm", "leaky", "minimal gated", "lem", "cornn", "normalised gru")
LAYERS = {"tanh": "RNN", "gru": "GRU", "lstm": "LSTM"}


def seconds(*sides: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Return each side's median time, taken in turns."""
    return [statistics.median(found) for found in turns(*sides, rounds=rounds)]


def turns(*sides: Callable[[], object], rounds: int = ROUNDS) -> list[list[float]]:
    """Return each side's times, taken in turns."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(rounds):
        for side, found in zip(sides, times, strict=True):
            repeats, start = 0, time.perf_counter()
            while repeats == 0 or time.perf_counter() - start < 0.1:
                side()
                repeats += 1
            found.append((time.perf_counter() - start) / repeats)
    return times


def products_a_second() -> float:
    """Return how many multiplications and additions torch makes of large matrices in a second."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return float(2 * 1024**3 / seconds(lambda: a @ b)[0])


def operations(traced: Traced, P: int) -> int:
    """Return the multiplications and additions in the products of a training step."""
    values = traced.program.values
    in_loop = sum(v.width * values[v.args[0]].width for v in values if v.op == "product")
    return 2 * T * B * (3 * in_loop + 2 * I * P)  # forward, to z, to the weights; of U no δ to x


def steps() -> None:
    """Print what the kernel brings to each step."""
    speed = products_a_second()
    print(f"torch's product of large matrices: {speed / 1e9:.0f} GFLOP/s")
    shape = f"T, B, H = {T}, {B}, {H}"
    print(f"\n{shape}: ms a training step   kernel   plain loop   ratio   at most   of gru's")
    gru, of_gru = training_step("gru")
    for name in NAMES:
        train, products = training_step(name)
        for mine, its in zip(train(ops.run), train(run_plainly), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
        ways = partial(train, ops.run), partial(train, run_plainly), partial(gru, ops.run)
        times = turns(*ways, rounds=ROUNDS_OF_SHORT_CALLS)
        ours, plain, _ = map(statistics.median, times)
        as_grus = statistics.median(a / z for a, z in zip(times[0], times[2], strict=True))
        at_most, each = plain / (products / speed), as_grus * of_gru / products
        ms = f"{ours * 1e3:20.2f}{plain * 1e3:12.1f}"
        print(f"{name:32}{ms}{plain / ours:10.1f}{at_most:10.1f}{each:10.2f}", flush=True)


def training_step(name: str) -> tuple[Callable[..., list[Tensor]], int]:
    """Return what makes a training step of a cell by a way to run it, and its multiply-adds."""
    torch.manual_seed(0)
    step = STEPS[name]
    of, P = recipe(name, H, torch.float32), step.p * H
    x, U = torch.randn(T, B, I), (torch.randn(P, I) / 8).requires_grad_()
    state = tuple(torch.zeros(B, width * H) for width in step.parts)
    arguments = (of, Source(x, U), state, DENSE)
    leaves = [U, *[t for t in of.tensors if t is not None]]

    grad = torch.randn(T, B, H) / T

    def train(run: Callable[..., tuple[Tensor, object]]) -> list[Tensor]:
        h, _ = run(*arguments)
        return [h, *torch.autograd.grad(h, leaves, grad)]

    traced = ops.native(*arguments)
    assert isinstance(traced, Traced), traced
    return train, operations(traced, P)


def ragged() -> None:
    """Print what a batch of different lengths takes, uniform from T/4 to T."""
    print("\nragged, T, B, I, H: ms a training step    bptt   torch.nn   ratio")
    for cell, kind in LAYERS.items():
        for shape in RAGGED:
            t, b, inputs, h = shape
            torch.manual_seed(0)
            theirs = getattr(nn, kind)(inputs, h)
            ours = getattr(bptt, kind)(inputs, h)
            ours.load_state_dict(theirs.state_dict())
            lengths = torch.randint(t // 4, t + 1, (b,))
            packed = pack_padded_sequence(torch.randn(t, b, inputs), lengths, enforce_sorted=False)

            def train(layer: nn.Module) -> list[Tensor]:
                out = layer(packed)[0].data  # noqa: B023
                return [out, *torch.autograd.grad(out.square().mean(), list(layer.parameters()))]

            for mine, its in zip(train(ours), train(theirs), strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
            a, z = seconds(lambda: train(ours), lambda: train(theirs))  # noqa: B023
            print(f"{cell:8}{shape!s:24}{a * 1e3:14.1f}{z * 1e3:11.1f}{z / a:9.2f}")


def one_step() -> None:
    """Print what a single step takes, as where a model is run one step at a time."""
    print("\none step, B = 1, no gradient: us       bptt   torch.nn   ratio")
    for cell, kind in LAYERS.items():
        for h in (128, 256):
            theirs, ours = getattr(nn, kind)(h, h), getattr(bptt, kind)(h, h)
            ours.load_state_dict(theirs.state_dict())
            x = torch.randn(1, 1, h)
            with torch.no_grad():
                state = theirs(x)[1]
                torch.testing.assert_close(ours(x, state), theirs(x, state))
                sides = (lambda: ours(x, state)), (lambda: theirs(x, state))  # noqa: B023
                a, z = seconds(*sides, rounds=ROUNDS_OF_SHORT_CALLS)
            print(f"{cell:8}H = {h:<18}{a * 1e6:18.0f}{z * 1e6:11.0f}{z / a:9.2f}")
    print("\na training step of one time step: us           bptt   torch.nn   ratio")
    for cell, kind in LAYERS.items():
        for rows, h in ((1, 128), (64, 256)):
            theirs, ours = getattr(nn, kind)(h, h), getattr(bptt, kind)(h, h)
            x, of = torch.randn(1, rows, h), (ours, theirs)
            each = [partial(lambda layer, x: layer(x)[0].sum().backward(), one, x) for one in of]
            a, z = seconds(*each, rounds=ROUNDS_OF_SHORT_CALLS)
            print(f"{cell:8}B = {rows:<4}H = {h:<10}{a * 1e6:18.0f}{z * 1e6:11.0f}{z / a:9.2f}")
    print("\na cell by itself, H = 128, no gradient: us   bptt   torch.nn   ratio")
    for kind in LAYERS.values():
        for rows in (1, 32):
            theirs, ours = (
                getattr(nn, f"{kind}Cell")(128, 128),
                getattr(bptt, f"{kind}Cell")(128, 128),
            )
            ours.load_state_dict(theirs.state_dict())
            x = torch.randn(rows, 128)
            with torch.no_grad():
                state = theirs(x)
                torch.testing.assert_close(ours(x, state), theirs(x, state))
                sides = (lambda: ours(x, state)), (lambda: theirs(x, state))  # noqa: B023
                a, z = seconds(*sides, rounds=ROUNDS_OF_SHORT_CALLS)
            print(f"{kind + 'Cell':10}B = {rows:<18}{a * 1e6:16.0f}{z * 1e6:11.0f}{z / a:9.2f}")


FIRST = """
import sys
import torch
from bptt.kernel import ops
from bptt.kernel.native_step import Source
from tests.kernel.steps_of_users import STEPS, recipe
name, way = sys.argv[1:]
of, P = recipe(name, 64, torch.float32), STEPS[name].p * 64
state = tuple(torch.zeros(16, width * 64) for width in STEPS[name].parts)
h, _ = getattr(ops, way)(of, Source(torch.randn(20, 16, P)), state)
h.sum().backward()
"""


def first_result() -> None:
    """Print what a process takes that runs a new step once, forward and backward, and ends."""
    print("\na process that runs a step once: s       kernel   plain loop   difference")
    for name in ("leaky", "lem", "normalised gru"):

        def run(way: str) -> None:
            command = [sys.executable, "-c", FIRST, name, way]  # noqa: B023
            subprocess.run(command, check=True, cwd=Path(__file__).parent.parent)

        taken = turns(lambda: run("run"), lambda: run("run_plainly"), rounds=9)
        ours, plain = map(statistics.median, taken)
        more = statistics.median(a - z for a, z in zip(*taken, strict=True))
        print(f"{name:32}{ours:15.2f}{plain:13.2f}{more:13.2f}")


def main() -> None:
    """Print all four."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    print(f"{bptt.kernel.info()['kernel']}, {torch.get_num_threads()} threads, {torch.__version__}")
    steps()
    ragged()
    one_step()
    first_result()


if __name__ == "__main__":
    main()
