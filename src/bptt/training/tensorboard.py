"""Updates as TensorBoard events, beside the run's other files."""

from __future__ import annotations

from bptt.errors import BpttError
from bptt.training.updates import OnUpdate, Update


def tensorboard_writer() -> OnUpdate:
    """Return an `on_update` that writes losses (nats per token) and speed to the run's folder."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra)
    except ImportError:
        raise BpttError(
            "tensorboard is not installed; in a checkout of bptt: pip install '.[tensorboard]'"
        ) from None
    writer: SummaryWriter | None = None  # made at the first update, when there is a run

    def write(update: Update) -> None:
        nonlocal writer
        if update.run is None:
            raise BpttError("events are kept in the folder of a run; expected one (out)")
        writer = writer or SummaryWriter(str(update.run.path), purge_step=update.number)
        values = {
            "train_nll": update.train_nll,
            "validation_nll": update.validation_nll,
            "score": update.score,
            "tokens_per_second": update.tokens_per_second,
            "gradient_norm": update.gradient_norm,
            "learning_rate": update.learning_rate,
        }
        for name, value in values.items():
            if value is not None:
                writer.add_scalar(name, value, update.number)
        if update.validation_nll is not None:
            writer.flush()

    return write
