"""Peak memory and time of gradients through time: of a layer, within budgets, and against T.

    python benchmarks/memory.py layer      one training step of a layer, next to torch.nn.RNN
    python benchmarks/memory.py budgets    the exact gradient of long sequences within budgets
    python benchmarks/memory.py lengths    both against T, next to torch.nn.RNN and truncation
                                           [--picture docs/figures/lengths.png]

Without a name it does all three. Each measurement is a process of its own; medians of several.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak import Cost, Prepared, cost

import bptt

SYMBOLS, ROUNDS, WARM_UP = 65, 3, 300
TORCH_STEPS = 100_000
"""Steps beyond which torch.nn.RNN is not asked: what it takes varies, and a million may not fit."""


def median(prepare: Callable[..., tuple[Prepared, Prepared]], *arguments: Any) -> Cost:
    """Return the median memory and the median time of several processes."""
    costs = [cost(prepare, *arguments) for _ in range(ROUNDS)]
    memory = statistics.median(one.memory for one in costs)
    return Cost(int(memory), statistics.median(one.seconds for one in costs))


def layer_step(package: str, T: int, B: int, I: int, H: int) -> tuple[Prepared, Prepared]:  # noqa: E741
    """Return a layer's training step, with the gradient of its input, for few steps and for T."""
    layer: Any = (bptt if package == "bptt" else torch.nn).RNN(I, H)

    def step(T: int) -> Prepared:
        x, grad = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
        return lambda: torch.autograd.grad(layer(x)[0], [x, *layer.parameters()], grad)

    return step(50), step(T)


def network_step(
    T: int, B: int, H: int, options: dict[str, Any], file: str | None = None
) -> tuple[Prepared, Prepared]:
    """Return `bptt.backward` on a text of few steps and of T."""
    net = bptt.Network(bptt.Categorical(SYMBOLS), hidden=H)

    def step(T: int) -> Prepared:
        y: Any = torch.randint(SYMBOLS, (T, B))
        if file is not None:
            y = np.memmap(file, np.uint8, "r", shape=(T, B))
        return lambda: bptt.backward(net, y, **options)

    return step(WARM_UP), step(T)


def torch_step(T: int, B: int, H: int) -> tuple[Prepared, Prepared]:
    """Return the same network's exact gradient in plain torch."""
    embedding, rnn = torch.nn.Embedding(SYMBOLS, H), torch.nn.RNN(H, H)
    readout = torch.nn.Linear(H, SYMBOLS)

    def step(T: int) -> Prepared:
        y = torch.randint(SYMBOLS, (T + 1, B))

        def run() -> None:
            logits = readout(rnn(embedding(y[:-1]))[0])
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), y[1:].flatten()).backward()

        return run

    return step(WARM_UP), step(T)


def layer() -> None:
    """Print what a layer's training step takes, in MB and in arrays of hidden states."""
    T, B, I, H = 4000, 32, 64, 256  # noqa: E741
    print(f"\none tanh layer, T = {T}, B = {B}, I = {I}, H = {H}; forward and backward")
    for package in ("torch", "bptt"):
        memory, seconds = median(layer_step, package, T, B, I, H)
        arrays = memory / (4 * T * B * H)
        print(f"{package:6} {memory / 1e6:7.0f} MB  {arrays:5.2f} x T B H  {seconds:6.2f} s")


def budgets() -> None:
    """Print what the exact gradient of long sequences takes within budgets, and what was asked."""
    T, H = 1_000_000, 128
    net = bptt.Network(bptt.Categorical(SYMBOLS), hidden=H)
    print(f"\nthe exact gradient, T = {T:,}, B = 1, H = {H}")
    full = median(network_step, T, 1, H, {})
    row("all states kept", full, full)
    for memory, most in (("64MB", "96 MB, 1.5"), ("8MB", "32 MB, 1.6"), ("1MB", "24 MB, 3")):
        taken = median(network_step, T, 1, H, {"memory": memory})
        row(f"memory {memory}", taken, full, most)
        print(f"  {bptt.plan(net, T, 1, memory)}")
        if memory == "64MB":
            within = taken

    longer = 10 * T
    print(f"\nthe same, T = {longer:,}, of a file of bytes (the times are those of a step)")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens"
        np.random.default_rng(0).integers(0, SYMBOLS, longer, np.uint8).tofile(file)
        taken = median(network_step, longer, 1, H, {"memory": "64MB"}, str(file))
    row("memory 64MB", Cost(taken.memory, taken.seconds / 10), within, "128 MB, 1.3")

    T, B, H = 10_000, 32, 256
    print(f"\nthe exact gradient, T = {T:,}, B = {B}, H = {H}")
    net = bptt.Network(bptt.Categorical(SYMBOLS), hidden=H)
    needed = bptt.plan(net, T, B).memory or 0
    full = median(network_step, T, B, H, {})
    row(f"all states kept: {needed / 1e6:.0f} MB planned", full, full)
    taken = median(network_step, T, B, H, {"memory": needed // 20})
    row("5% of that", taken, full, "-, 1.45")
    print(f"  {bptt.plan(net, T, B, needed // 20)}")


def row(name: str, taken: Cost, against: Cost, most: str = "") -> None:
    """Print a measurement, its time as a multiple of another's, and the most that was asked for."""
    asked = f"  (asked: at most {most})" if most else ""
    times = taken.seconds / against.seconds
    print(f"{name:38} {taken.memory / 1e6:8.1f} MB {taken.seconds:7.2f} s  x {times:.2f}{asked}")


def lengths(picture: Path | None) -> None:
    """Print memory and time against T of each way, and draw them."""
    H, Ts = 128, [1_000, 10_000, 100_000, 1_000_000]
    ways: dict[str, tuple[Any, ...]] = {
        "torch.nn.RNN": (),
        "bptt, all states kept": ({},),
        "bptt, memory 64MB": ({"memory": "64MB"},),
        "bptt, memory 1MB": ({"memory": "1MB"},),
        "bptt, truncated to 100 steps": ({"window": 100},),
    }
    print(f"\nB = 1, H = {H}, {SYMBOLS} symbols: MB and seconds at T =", *(f"{T:,}" for T in Ts))
    found: dict[str, list[Cost]] = {}
    for name, options in ways.items():
        prepare = network_step if options else torch_step
        within = [T for T in Ts if options or T <= TORCH_STEPS]
        found[name] = [median(prepare, T, 1, H, *options) for T in within]
        cells = (f"{one.memory / 1e6:9.1f} MB {one.seconds:7.3f} s" for one in found[name])
        print(f"{name:30}", *cells)
    if picture is not None:
        draw(Ts, found, picture)


def draw(Ts: list[int], found: dict[str, list[Cost]], picture: Path) -> None:
    """Draw memory and time against T."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=("peak memory, MB", "time, seconds"))
    colors = ("#8a8f98", "#2459d3", "#2a9d5c", "#e08e0b", "#d3242c")
    for (name, costs), color in zip(found.items(), colors, strict=True):
        style = {
            "x": Ts[: len(costs)],
            "name": name,
            "legendgroup": name,
            "mode": "lines+markers",
            "line_color": color,
        }
        figure.add_trace(go.Scatter(y=[c.memory / 1e6 for c in costs], **style), 1, 1)
        figure.add_trace(go.Scatter(y=[c.seconds for c in costs], showlegend=False, **style), 1, 2)
    figure.update_xaxes(type="log", dtick=1, title="T, steps")
    figure.update_yaxes(type="log", dtick=1)
    figure.update_layout(
        template="plotly_white",
        width=960,
        height=420,
        margin={"t": 30, "r": 20, "l": 50, "b": 90},
        legend={"orientation": "h", "y": -0.22},
    )
    figure.write_image(picture, scale=2)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("layer", "budgets", "lengths"))
    parser.add_argument("--picture", type=Path, help="where to draw the lengths (PNG)")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if options.what in (None, "layer"):
        layer()
    if options.what in (None, "budgets"):
        budgets()
    if options.what in (None, "lengths"):
        lengths(options.picture)


if __name__ == "__main__":
    main()
