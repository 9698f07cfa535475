"""A network's weights in a run's folder: each of them once, for a fresh network of its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

from bptt.cells.registry import CELLS
from bptt.errors import BpttError
from bptt.model.initial import Initial
from bptt.model.likelihoods.likelihood import LIKELIHOODS
from bptt.model.network import Network


def tied(net: nn.Module) -> dict[str, str]:
    """Return which parameters are others under a second name: that name, and the first."""
    names: dict[Tensor, str] = {}
    return {
        name: names[parameter]
        for name, parameter in net.named_parameters(remove_duplicate=False)
        if names.setdefault(parameter, name) != name
    }


def tie(net: Network, names: Mapping[str, str], source: str) -> None:
    """Make parameters of a network one, as `tied` returned them."""
    known = dict(net.named_parameters(remove_duplicate=False))
    for name, first in names.items():
        fits = name in known and first in known and known[name].shape == known[first].shape
        if not fits:
            raise BpttError(
                f"{source} has {name} tied to {first}; expected two parameters of its network, of "
                "the same shape"
            )
        part, _, leaf = name.rpartition(".")
        setattr(net.get_submodule(part), leaf, net.get_parameter(first))


def weights_once(net: nn.Module) -> dict[str, Tensor]:
    """Return the network's state_dict with each tied parameter under its first name alone."""
    left_out = tied(net)
    return {name: t for name, t in net.state_dict().items() if name not in left_out}


def every_weight(
    tensors: dict[str, Tensor], names: Mapping[str, str], source: str
) -> dict[str, Tensor]:
    """Return what `weights_once` returned, with the tied names as well."""
    if missing := sorted(set(names.values()) - set(tensors)):
        raise BpttError(f"{source} has no {missing[0]}, to which another weight is tied")
    return {**tensors, **{name: tensors[first] for name, first in names.items()}}


def require_saveable(net: nn.Module) -> None:
    """Raise BpttError unless a run's folder can hold a module's weights, and give them back.

    Of a Network one has to be made from its config that takes them; another module is its user's.
    """
    if isinstance(net, Network):
        _require_made_again(net)
    _require_apart(net)


def _require_made_again(net: Network) -> None:
    """Raise BpttError unless a network made from this one's config could take its weights."""
    if type(net) is not Network or type(net.likelihood) not in LIKELIHOODS.values():
        kind = type(net if type(net) is not Network else net.likelihood).__name__
        raise BpttError(
            f"a {kind} cannot be made again from a run's folder; expected a bptt.Network with one "
            "of its likelihoods, or out=None: save the network yourself"
        )
    with torch.random.fork_rng(devices=[]):
        simple = net.config()
        if net.cell in CELLS and CELLS[net.cell].is_torchs:
            simple["init"] = asdict(Initial(W="gaussian"))  # which is fast
        fresh = {name: t.shape for name, t in Network.from_config(simple).state_dict().items()}
    weights = {name: t.shape for name, t in net.state_dict().items()}
    if weights != fresh:
        other = sorted({name for name, _ in weights.items() ^ fresh.items()})
        raise BpttError(
            f"the network has other weights than one of its configuration ({', '.join(other)}); "
            "expected a plain one, or out=None: make what was pruned or parametrized permanent "
            "first, with torch.nn.utils.prune.remove or parametrize.remove_parametrizations"
        )


def _require_apart(net: nn.Module) -> None:
    """Raise BpttError if two weights share memory without being one."""
    end = 0
    for (begin, after), name in sorted(
        (_bytes_of(t), name) for name, t in weights_once(net).items()
    ):
        if begin < end:
            raise BpttError(
                f"{name} shares memory with another weight; expected the same parameter for both, "
                "or memory of its own, to be saved"
            )
        end = max(end, after)


def _bytes_of(tensor: Tensor) -> tuple[int, int]:
    """Return the address of a tensor's first byte, and of the one after its last; 0 of none.

    Several may lie in one piece of memory, one after the other, as cuDNN has them.
    """
    if tensor.numel() == 0:
        return 0, 0
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()
