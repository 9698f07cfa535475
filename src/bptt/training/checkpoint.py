"""Tensors and JSON in one safetensors file, written so that a crash leaves the old one or the new.

The JSON sits in the file's header, so that the two can never be of different steps.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.training import files

HEADER = "bptt"


def save(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write tensors and notes to `path`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({**notes, "sha256": _digest(tensors, notes)})
    # Not by save_file, whose temporary files are left behind by a kill under names of its own.
    files.write(path, serialize(tensors, {HEADER: header}), files.CHECKPOINT)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and notes in `path`, or raise BpttError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {})[HEADER]
            # Cloned, because a matrix product's last bits depend on how its memory is aligned.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        notes: dict[str, Any] = json.loads(header)
        intact = notes.pop("sha256") == _digest(tensors, notes)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise BpttError(f"{path} is no checkpoint, or damaged ({error})") from None
    if not intact:
        raise BpttError(f"{path} is damaged: its contents do not match their checksum")
    return tensors, notes


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def load_weights(net: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Put the weights in `tensors` into the network, or raise BpttError if they do not fit it.

    The network takes on their dtype.
    """
    net.to({tensor.dtype for tensor in tensors.values()}.pop())
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise BpttError(f"{source} does not fit the network of its run: {problem}") from None


def _digest(tensors: dict[str, Tensor], notes: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
