"""What `bptt.fit` adds to the same updates by hand.

    python benchmarks/trainer.py [--threads 1]

A network of 64 tanh units, B = 16, T = 50, on the built-in text: Adam, the gradient clipped, the
state carried on. Both sides make the same updates, in turns: after them their weights are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

import bptt
from bptt.training.optimizers import cosine

HIDDEN, B, T, UPDATES, ROUNDS = 64, 16, 50, 400, 9
SETTINGS = bptt.Settings(
    batch=B, window=T, max_updates=UPDATES, validate_every=10 * UPDATES, keep="last"
)


def network(text: bptt.Text) -> bptt.Network:
    """Return a fresh network."""
    torch.manual_seed(0)
    return bptt.Network(text.likelihood, hidden=HIDDEN)


def by_hand(net: bptt.Network, text: bptt.Text) -> None:
    """Make the updates of SETTINGS in a loop of one's own."""
    batches = text.training_batches(B, T, 0)
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer, state = torch.optim.Adam(trained, lr=SETTINGS.learning_rate), None
    for update in range(UPDATES):
        batch = batches.at(update)
        optimizer.zero_grad()
        done = bptt.backward(net, batch.y, state=None if batch.is_start else state, window=T)
        nn.utils.clip_grad_norm_(trained, SETTINGS.clip)
        for group in optimizer.param_groups:
            group["lr"] = SETTINGS.learning_rate * cosine(update, UPDATES)
        optimizer.step()
        state = done.state


def updates_alone(net: bptt.Network, text: bptt.Text) -> float:
    """Train with fit; return the seconds of its updates, without the validation at its end."""
    seen: list[float] = []
    bptt.fit(
        net, text, SETTINGS, progress=False, on_update=lambda _: seen.append(time.perf_counter())
    )
    return (seen[-2] - seen[0]) / (UPDATES - 2)


def main() -> None:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    text = bptt.read_text()
    mine, its = network(text), network(text)
    bptt.fit(mine, text, SETTINGS, progress=False)
    by_hand(its, text)
    for one, other in zip(mine.parameters(), its.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    hand, fit = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        by_hand(network(text), text)
        hand.append((time.perf_counter() - began) / UPDATES)
        fit.append(updates_alone(network(text), text))
    ours, theirs = statistics.median(fit), statistics.median(hand)
    print(f"{bptt.kernel.info()['kernel']}, {torch.get_num_threads()} threads, {torch.__version__}")
    print(
        f"an update by hand {theirs * 1e3:.2f} ms, by fit {ours * 1e3:.2f} ms: "
        f"{ours / theirs:.3f} times"
    )


if __name__ == "__main__":
    main()
