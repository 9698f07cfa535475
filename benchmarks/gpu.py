"""Layers on a GPU: a training step by torch's fused layers, by the plain loop, and by torch.nn's.

    python benchmarks/gpu.py

Forward and backward, float32; medians of turns. Batches are dense, ragged (lengths
even from T/4 to T) or have resets at 3% of the steps. "torch.nn" is its layer: on a PackedSequence
where the batch is ragged, and not there where states are reset, which it cannot do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import bptt

SHAPES = [(100, 32, 64, 128), (256, 64, 64, 256), (128, 128, 128, 256)]  # T, B, I, H
KINDS = {
    "tanh": (bptt.RNNCell, nn.RNN),
    "gru": (bptt.GRUCell, nn.GRU),
    "lstm": (bptt.LSTMCell, nn.LSTM),
}
TURNS = 5


def seconds(*sides: Callable[[], object]) -> list[float]:
    """Return the median time of each, in turns, after one that is not counted."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(TURNS + 1):
        for side, taken in zip(sides, times, strict=True):
            torch.cuda.synchronize()
            began = time.perf_counter()
            side()
            torch.cuda.synchronize()
            if turn:
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) for taken in times]


def step(layer: nn.Module, x: Tensor, way: str, **more: Tensor | None) -> list[Tensor]:
    """Return the output, and the gradients."""
    with bptt.kernel.use(way):
        out = layer(x, **more)[0]
        return [out, *torch.autograd.grad(out.sum(), [x, *layer.parameters()])]


def by_torch(layer: nn.Module, x: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """Do the same by torch's layer."""
    rows = x if lengths is None else pack_padded_sequence(x, lengths, enforce_sorted=False)
    out = layer(rows)[0]
    out = out if lengths is None else pad_packed_sequence(out)[0]
    return [out, *torch.autograd.grad(out.sum(), [x, *layer.parameters()])]


def main() -> None:
    """Check, measure and print."""
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: ms a training step")
    print(
        "T, B, I, H          cell   batch      fused     plain  torch.nn  plain/fused torch/fused"
    )
    for T, B, I, H in SHAPES:  # noqa: E741
        x = torch.randn(T, B, I, device="cuda", requires_grad=True)
        lengths = torch.linspace(T // 4, T, B).long()
        resets = torch.rand(T, B, device="cuda") < 0.03
        for name, (cell, kind) in KINDS.items():
            layer = bptt.Recurrent(cell(I, H)).cuda()
            twin = kind(I, H).cuda()
            twin.load_state_dict({f"{k}_l0": v for k, v in layer.cells[0].state_dict().items()})
            batches = {"dense": {}, "ragged": {"lengths": lengths}, "resets": {"resets": resets}}
            for batch, more in batches.items():
                ours = step(layer, x, "native", **more)
                for one, other in zip(ours, step(layer, x, "plain", **more), strict=True):
                    torch.testing.assert_close(
                        one, other, rtol=2e-2, atol=2e-2 * float(one.abs().max())
                    )
                sides = [partial(step, layer, x, way, **more) for way in ("native", "plain")]
                if batch != "resets":
                    sides.append(partial(by_torch, twin, x, more.get("lengths")))
                fused, plain, *rest = seconds(*sides)
                torchs = rest[0] if rest else float("nan")
                ms = "".join(f"{1e3 * t:10.2f}" for t in (fused, plain, torchs))
                shape = f"{T}, {B}, {I}, {H}"
                print(f"{shape:20}{name:7}{batch:7}{ms}{plain / fused:12.1f}{torchs / fused:12.2f}")


if __name__ == "__main__":
    main()
