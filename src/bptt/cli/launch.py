"""bptt train in several processes, as torchrun starts them: how they meet, and who prints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt.errors import BpttError, LostRankError, counted

if TYPE_CHECKING:
    from bptt.training.ranks import Ranks

JOIN_SECONDS = "BPTT_JOIN_SECONDS"
"""The environment's variable that says how long processes wait for each other at the start."""
DEFAULT_JOIN_SECONDS = 300


def processes() -> int:
    """Return how many processes the environment says that there are."""
    return _whole("WORLD_SIZE", 1, least=1)


def require_one_process(command: str) -> None:
    """Raise BpttError if several processes were started for a command that is for one."""
    if processes() > 1:
        raise BpttError(
            f"bptt {command} is for one process, and WORLD_SIZE is {processes()}; expected bptt "
            "train, or no torchrun"
        )


def is_told_by_another(error: Exception) -> bool:
    """Return whether the first process prints an error, and not this one."""
    rank, count = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    is_other = rank.isdecimal() and count.isdecimal() and 0 < int(rank) < int(count)
    return is_other and not isinstance(error, LostRankError)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that the environment names while entered; only the first one prints.

    Raises BpttError if they do not all come.
    """
    from bptt.training.ranks import Ranks  # noqa: PLC0415

    count = processes()
    if count == 1:
        yield Ranks()
        return
    import torch.distributed as dist  # noqa: PLC0415

    rank = _whole("RANK", None, most=count - 1)
    dist.init_process_group("gloo", store=_meeting(rank, count), rank=rank, world_size=count)
    try:
        with ExitStack() as stack:
            if rank > 0:
                nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(nowhere))
                stack.enter_context(redirect_stderr(nowhere))
            yield Ranks.here()
    finally:
        dist.destroy_process_group()


def is_restarted() -> bool:
    """Return whether torchrun has started these processes anew, after one was lost."""
    return _whole("TORCHELASTIC_RESTART_COUNT", 0) > 0


def _meeting(rank: int, count: int) -> Any:
    """Return where all processes have said that they are there, or raise BpttError."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined] # noqa: PLC0415

    host, port = os.environ.get("MASTER_ADDR"), _whole("MASTER_PORT", None, most=65535)
    if host is None:
        raise BpttError(f"WORLD_SIZE is {count} without MASTER_ADDR; expected both, as of torchrun")
    seconds = _whole(JOIN_SECONDS, DEFAULT_JOIN_SECONDS, least=1)
    wait = timedelta(seconds=seconds)
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = TCPStore(host, port, count, is_host, wait, wait_for_workers=False)
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
        raise LostRankError(
            f"rank {rank} of {count} did not reach the first one at {host}:{port} ({problem}); "
            f"expected it there within {seconds} s ({JOIN_SECONDS})"
        ) from None
    attempt = _whole("TORCHELASTIC_RESTART_COUNT", 0)
    meeting = PrefixStore(f"bptt/{attempt}", store)
    meeting.set(str(rank), "here")
    try:
        meeting.wait([str(other) for other in range(count)], wait)
    except RuntimeError:
        missing = [str(other) for other in range(count) if not meeting.check([str(other)])]
        raise BpttError(
            f"{counted(len(missing), 'process')} of {count} did not come within {seconds} s: rank "
            f"{', '.join(missing)}; expected all to start with the same address, {host}:{port}, or "
            f"more time ({JOIN_SECONDS})"
        ) from None
    return meeting


def _whole(name: str, default: int | None, *, least: int = 0, most: int = 2**31) -> int:
    """Return a whole number from the environment, or raise BpttError."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal() or not least <= int(text) <= most:
        raise BpttError(
            f"{name} is {text!r} in the environment; expected a whole number from {least} to {most}"
        )
    return int(text)
