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

from bptt.errors import BpttError
from bptt.training import files
from bptt.training.input_files import open_regular, parse_json

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


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state as named tensors."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], source: Path
) -> None:
    """Put back what `optimizer_tensors` returned, or raise BpttError if it does not fit."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        if index not in map(str, range(len(parameters))):
            raise BpttError(f"{source} has {key} of an optimizer; its run has no such parameter")
        state.setdefault(int(index), {})[name] = tensor
    for number, parts in state.items():
        if not _fits_parameter(optimizer, parts, parameters[number]):
            raise BpttError(
                f"{source} does not fit the optimizer of its run, in what it has of parameter "
                f"{number}: {', '.join(sorted(parts))}"
            )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _fits_parameter(
    optimizer: torch.optim.Optimizer, parts: dict[str, Tensor], parameter: Tensor
) -> bool:
    """Return whether these tensors are what an optimizer keeps of a parameter."""
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    if isinstance(optimizer, torch.optim.Adam):
        like = (tuple(parameter.shape), parameter.dtype)
        wanted = {"step": ((), torch.float32), "exp_avg": like, "exp_avg_sq": like}
    have = {name: (tuple(part.shape), part.dtype) for name, part in parts.items()}
    return have == wanted and all(bool(part.isfinite().all()) for part in parts.values())


def load_weights(net: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Put the weights in `tensors` into the network, or raise BpttError if they do not fit it.

    The network takes on their dtype.
    """
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes < WEIGHTS:
        raise BpttError(
            f"{source} has weights of {', '.join(sorted(map(str, dtypes))) or 'no dtype'}; "
            "expected floating point numbers, all of one kind"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise BpttError(f"{source} has weights that are not finite")
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
