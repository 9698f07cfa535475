"""Episodes that begin inside a batch: resets= against what one does without.

    python benchmarks/resets.py [--threads 1]

T = 128 steps of B = 128 sequences, 128 inputs, 256 units, a reset before 3% of the steps (torchrl's
shape): a training step of bptt's layer with resets, and without; of torch's layer called anew
wherever some sequence's episode begins; and of torch's on the episodes, split and padded. Medians
of turns; each value is checked. The last column is what the ratio to 'between' would be if nothing
but the products were left, as fast as torch multiplies large matrices in the same turns.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable

import torch
from steps import seconds
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import bptt

T, B, I, H, SHARE = 128, 128, 128, 256, 0.03  # noqa: E741
ROUNDS = 2  # torch's sides take seconds each


def between_resets(layer: nn.Module, x: Tensor, resets: Tensor) -> Tensor:
    """Return h of a layer that is called from one step with resets to the next."""
    cuts = [0, *(t for t in range(1, T) if bool(resets[t].any())), T]
    pieces: list[Tensor] = []
    state: tuple[Tensor, ...] | None = None
    for start, stop in itertools.pairwise(cuts):
        if state is not None:
            carried = (~resets[start]).to(x.dtype).view(1, B, 1)
            state = tuple(part * carried for part in state)
        hx = None if state is None else state if len(state) > 1 else state[0]
        h, last = layer(x[start:stop], hx)
        state = last if isinstance(last, tuple) else (last,)
        pieces.append(h)
    return torch.cat(pieces)


def padded(layer: nn.Module, x: Tensor, resets: Tensor) -> Tensor:
    """Return h of a layer that is called once, on the episodes side by side, padded."""
    episodes, places = [], []
    for b in range(B):
        cuts = [0, *(t for t in range(1, T) if bool(resets[t, b])), T]
        for start, stop in itertools.pairwise(cuts):
            episodes.append(x[start:stop, b])
            places.append((b, start, stop))
    h, _ = layer(pad_sequence(episodes))
    columns: list[list[Tensor]] = [[] for _ in range(B)]
    for k, (b, start, stop) in enumerate(places):
        columns[b].append(h[: stop - start, k])
    return torch.stack([torch.cat(pieces) for pieces in columns], 1)


def products(G: int) -> int:
    """Return the operations in the products of a training step: forward, and both gradients."""
    return 2 * T * B * G * (2 * (I + H) + H)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    print(f"{bptt.kernel.info()['kernel']}, {torch.get_num_threads()} threads, {torch.__version__}")
    print(
        "ms a training step        resets=   without   between   padded   ratios to it   products"
    )
    large = torch.randn(1024, 1024)
    for kind in ("GRU", "LSTM"):
        torch.manual_seed(0)
        theirs, ours = getattr(nn, kind)(I, H), getattr(bptt, kind)(I, H)
        ours.load_state_dict(theirs.state_dict())
        x, resets = torch.randn(T, B, I), torch.rand(T, B) < SHARE

        def train(layer: nn.Module, run: Callable[..., Tensor]) -> list[Tensor]:
            h = run(layer, x, resets)  # noqa: B023
            return [h, *torch.autograd.grad(h.square().mean(), list(layer.parameters()))]

        sides: list[Callable[[], list[Tensor]]] = [
            lambda: train(ours, lambda layer, x, resets: layer(x, resets=resets)[0]),  # noqa: B023
            lambda: train(ours, lambda layer, x, _: layer(x)[0]),  # noqa: B023
            lambda: train(theirs, between_resets),  # noqa: B023
            lambda: train(theirs, padded),  # noqa: B023
            lambda: [large @ large],
        ]
        for other in sides[2:4]:
            for mine, its in zip(sides[0](), other(), strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
        times = seconds(*sides, rounds=ROUNDS)
        ratios = [time / times[0] for time in times[1:4]]
        least = products(ours.weight_hh_l0.shape[0]) * times.pop() / (2 * len(large) ** 3)
        print(
            f"{kind:24}"
            + "".join(f"{time * 1e3:10.1f}" for time in times)
            + "   "
            + "".join(f"{ratio:7.2f}" for ratio in ratios)
            + f"{times[2] / least:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
