"""Tensors and JSON in one safetensors file, written so that a crash leaves the old one or the new.

The JSON sits in the file's header, so that the two can never be of different updates.
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

from bptt.data.input_files import open_regular, parse_json
from bptt.errors import BpttError
from bptt.model.network import Network
from bptt.training.runs import files

HEADER = "bptt"
WEIGHTS = {torch.float32, torch.float64, torch.bfloat16, torch.float16}


def save(path: Path, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
    """Write tensors and notes to `path`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps({**notes, "sha256": _digest(tensors, notes)})
    # Not by save_file, whose temporary files are left behind by a kill under names of its own.
    files.write(path, serialize(tensors, {HEADER: header}), files.CHECKPOINT)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and notes in `path`, or raise BpttError if it is damaged."""
    open_regular(path, "a checkpoint").close()
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {})[HEADER]
            # Cloned, because a matrix product's last bits depend on how its memory is aligned.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError, RuntimeError) as error:
        raise BpttError(f"{path} is no checkpoint, or damaged ({error})") from None
    notes = parse_json(header, f"{path} is no checkpoint, or damaged: its header")
    if not isinstance(notes, dict) or "sha256" not in notes:
        raise BpttError(f"{path} is no checkpoint, or damaged (it has no checksum)")
    if notes.pop("sha256") != _digest(tensors, notes):
        raise BpttError(f"{path} is damaged: its contents do not match their checksum")
    return tensors, notes


def load_weights(net: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Put the weights in `tensors` into a module, or raise BpttError if they do not fit it.

    A module whose weights are all of one dtype takes on theirs. Its buffers may hold anything.
    """
    buffers = {name for name, _ in net.named_buffers()}
    weights = {name: tensor for name, tensor in tensors.items() if name not in buffers}
    dtypes = {tensor.dtype for tensor in weights.values()}
    if not dtypes or not dtypes <= WEIGHTS or (len(dtypes) > 1 and isinstance(net, Network)):
        raise BpttError(
            f"{source} has weights of {', '.join(sorted(map(str, dtypes))) or 'no dtype'}; "
            "expected floating point numbers, all of one kind"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        raise BpttError(f"{source} has weights that are not finite")
    if len(dtypes) == 1:
        net.to(dtypes.pop())
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise BpttError(f"{source} does not fit the network of its run: {problem}") from None


def _digest(tensors: dict[str, Tensor], notes: dict[str, Any]) -> str:
    """Return a checksum of all that is saved: names, dtypes, shapes, numbers and notes."""
    what = {name: (str(tensor.dtype), list(tensor.shape)) for name, tensor in tensors.items()}
    digest = hashlib.sha256(json.dumps([notes, what], sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
