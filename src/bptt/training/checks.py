"""Whether a network, data and settings go together, before any of them is used."""

from __future__ import annotations

from torch import nn

from bptt.data.batches import Batches, Data, Dataset
from bptt.errors import BpttError, require_memory
from bptt.gradient.exact.plan import plan
from bptt.gradient.precision import require_precision
from bptt.model.network import Network
from bptt.training.ranks import Ranks
from bptt.training.remedies import require_omega
from bptt.training.settings import Settings


def require_alike(net: nn.Module, data: Data, settings: Settings) -> None:
    """Raise BpttError unless a network can be trained on data with settings."""
    if isinstance(data, Dataset):
        if isinstance(net, Network):
            data.require_network(net)
        data.require_size(settings.batch or data.default_batch, settings.reach)
    if settings.omega > 0:
        if not isinstance(net, Network):
            raise BpttError(f"omega is given with a {type(net).__name__}; expected a bptt.Network")
        require_omega(net)
    if isinstance(net, Network):
        require_precision(net, "be trained with fit")
    elif settings.activity_penalty > 0:
        raise BpttError(
            f"activity_penalty is given with a {type(net).__name__}; expected a bptt.Network, or a "
            "penalty of what the module returns: bptt.fit(..., penalty=...)"
        )
    elif not settings.is_forced:
        raise BpttError(
            f"forcing is below 1 with a {type(net).__name__}; expected a bptt.Network, which knows "
            "what it feeds back"
        )
    _require_ways_through(data, settings)


def require_effects(
    net: nn.Module, data: Data, batches: Batches, settings: Settings, ranks: Ranks
) -> None:
    """Raise BpttError unless every setting has an effect on these batches, and there is memory."""
    if batches.longest is None:
        return
    _require_lengths(data, batches, settings)
    if isinstance(net, Network):
        _require_feedback(net, batches, settings)
        _require_delays(net, batches.longest)
        _require_memory(net, batches, settings, ranks)


def _require_ways_through(data: Data, settings: Settings) -> None:
    """Raise BpttError where settings say how to go through data that has its own way."""
    if data.whole and settings.steps_per_update is not None:
        raise BpttError(
            f"steps_per_update is {settings.steps_per_update}; expected none, since an update "
            f"takes the sequences of {data.source} from start to end (--steps-per-update)"
        )
    if settings.batch is not None and data.default_batch == 0:
        raise BpttError(
            f"batch is {settings.batch}; expected none, since {data.source} makes the batches"
        )


def _require_lengths(data: Data, batches: Batches, settings: Settings) -> None:
    """Raise BpttError where sequences are too short, or too few, for settings."""
    longest, source = batches.longest, data.source
    assert longest is not None
    B = batches.get(0, 0).y.shape[1]
    if settings.batch is not None and len(batches) == 1 and settings.batch > B:
        raise BpttError(
            f"batch is {settings.batch}; expected at most {B}: {source} has no more "
            "sequences to train on side by side (--batch)"
        )
    if longest < 2:
        raise BpttError(
            f"with a batch of {settings.batch or data.default_batch} the sequences of {source} "
            "have one step each; expected at least 2: take a smaller batch (--batch), or more data"
        )
    steps = longest if data.whole else min(settings.steps or longest, longest)
    reach, stride = settings.reach or steps, settings.stride
    if stride is not None and stride < reach and reach >= steps:
        raise BpttError(
            f"stride is {stride} where an update has {steps} steps and the window is {reach}; "
            "expected more steps than the window, or there are no windows to overlap: take "
            + ("a shorter window" if data.whole else "more steps_per_update")
            + (" (--window)" if data.whole else " (--steps-per-update)")
        )


def _require_feedback(net: Network, batches: Batches, settings: Settings) -> None:
    """Raise BpttError where a network that feeds nothing back is to be forced now and then."""
    if not settings.is_forced and net.feedback_weight(batches.get(0, 0).x) is None:
        raise BpttError(
            f'forcing is below 1 in a network of recurrence "{net.recurrence}" with '
            "inputs, which feeds nothing back; expected forcing 1, or recurrence "
            '"output" or "both"'
        )


def _require_delays(net: Network, longest: int) -> None:
    """Raise BpttError if a skip leads back beyond the start of every sequence."""
    skips = net.loop.skips
    if skips and skips[-1] >= longest:
        raise BpttError(
            f"a skip's delay is {skips[-1]:,}, and the sequences have {longest:,} steps; "
            "expected delays below that"
        )


def _require_memory(net: Network, batches: Batches, settings: Settings, ranks: Ranks) -> None:
    """Raise BpttError if an update would take more than this machine has, or than allowed."""
    largest = Ranks(0, ranks.count)
    y, x, *_ = largest.part_of(batches.get(0, 0)).of(net)
    side_by_side = settings.reach is None or settings.stride is not None
    reach = len(y) if side_by_side else min(settings.reach or len(y), len(y))
    planned = plan(net, reach, y.shape[1], settings.memory, y=y, x=x)
    weights = sum(p.numel() for p in net.parameters())
    require_memory("training", 4 * 4 * weights + (planned.memory or 0))
