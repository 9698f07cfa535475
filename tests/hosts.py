"""Programs of other packages that train a recurrent layer, for test_hosts.py and the benchmark.

Each is told what to do with its model once it is made, and returns a number an update: the loss, or
the gradient's norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Use = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Sizes:
    """Of a program: hidden units, sequences at a time, their steps, and how many updates."""

    H: int = 16
    B: int = 16
    T: int = 20
    updates: int = 50


@dataclass(frozen=True)
class Host:
    """A program of a package. layers: which of torch's it can have."""

    package: str
    run: Callable[[str, Sizes, Use], list[float]]
    layers: tuple[str, ...]

    @property
    def is_here(self) -> bool:
        """Whether the package is installed."""
        return find_spec(self.package) is not None


class Last(nn.Module):
    """What a layer's last output says, of sequences (B, T, I)."""

    def __init__(self, layer: str, hidden: int) -> None:
        super().__init__()
        self.rnn, self.head = getattr(nn, layer)(3, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 1)."""
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def skorch(layer: str, sizes: Sizes, use: Use) -> list[float]:
    """Train a NeuralNetRegressor: the sum of what is seen."""
    from skorch import NeuralNetRegressor  # noqa: PLC0415

    class Used(NeuralNetRegressor):  # type: ignore[misc]
        def initialize_module(self) -> Any:
            """Make the module."""
            super().initialize_module()
            use(self.module_)
            return self

    epochs, per_epoch = 10, -(-sizes.updates // 10)
    x = torch.randn(per_epoch * sizes.B, sizes.T, 3)
    net = Used(
        Last,
        module__layer=layer,
        module__hidden=sizes.H,
        max_epochs=epochs,
        batch_size=sizes.B,
        lr=0.01,
        train_split=None,
        verbose=0,
    )
    net.fit(x.numpy(), x.mean(1)[:, :1].numpy())
    return [batch["train_loss"] for epoch in net.history for batch in epoch["batches"]]


def sb3_contrib(layer: str, sizes: Sizes, use: Use) -> list[float]:
    """Train RecurrentPPO on a pole: the gradient's norm. Its layers are LSTMs."""
    from sb3_contrib import RecurrentPPO  # noqa: PLC0415

    assert layer == "LSTM"
    ppo = RecurrentPPO(
        "MlpLstmPolicy",
        "CartPole-v1",
        n_steps=sizes.B * sizes.T // 4,
        batch_size=sizes.B * sizes.T // 4,
        n_epochs=10,
        policy_kwargs={"lstm_hidden_size": sizes.H},
        seed=0,
        device="cpu",
    )
    use(ppo.policy)
    found: list[float] = []

    def note(*_: Any) -> None:
        grads = [p.grad.flatten() for p in ppo.policy.parameters() if p.grad is not None]
        found.append(float(torch.cat(grads).norm()))

    ppo.policy.optimizer.register_step_pre_hook(note)
    ppo.learn(-(-sizes.updates // 10) * ppo.n_steps)
    return found


@cache
def trials(sizes: Sizes) -> tuple[int, list[tuple[Tensor, Tensor]]]:
    """Return of how many actions there are, and batches of trials, which no seed brings back."""
    from neurogym import Dataset  # noqa: PLC0415

    task, often = "PerceptualDecisionMaking-v0", {"dt": 20}
    data = Dataset(task, env_kwargs=often, batch_size=sizes.B, seq_len=sizes.T)
    batches = [[torch.from_numpy(np.array(part)) for part in data()] for _ in range(sizes.updates)]
    return int(data.env.action_space.n), [(x.float(), y.long()) for x, y in batches]


def neurogym(layer: str, sizes: Sizes, use: Use) -> list[float]:
    """Train on a decision task in a plain loop: the cross-entropy."""
    actions, batches = trials(sizes)
    inputs = batches[0][0].shape[-1]
    rnn, head = getattr(nn, layer)(inputs, sizes.H), nn.Linear(sizes.H, actions)
    model, found = nn.ModuleDict({"rnn": rnn, "head": head}), list[float]()
    use(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in batches:
        h, _ = model["rnn"](x)
        loss = nn.functional.cross_entropy(model["head"](h).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def _trainer(use: Use, found: list[float]) -> dict[str, Any]:
    """Return a trainer's options: it hands over the module, and notes the losses."""
    from pytorch_lightning import Callback  # noqa: PLC0415

    class Noted(Callback):  # type: ignore[misc]
        def setup(self, trainer: Any, module: nn.Module, stage: str) -> None:
            """Hand over the module."""
            if stage == "fit":
                use(module)

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            """Note the loss."""
            found.append(float(outputs["loss"]))

    return {
        "accelerator": "cpu",
        "callbacks": [Noted()],
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }


def neuralforecast(layer: str, sizes: Sizes, use: Use) -> list[float]:
    """Train its model of that name on several sines: the loss."""
    import pandas  # noqa: PLC0415
    from neuralforecast import NeuralForecast, models  # noqa: PLC0415

    days, found = pandas.date_range("2026-01-01", periods=20 * sizes.T), list[float]()
    rows = [
        pandas.DataFrame({"unique_id": k, "ds": days, "y": np.sin(np.arange(len(days)) / (5 + k))})
        for k in range(sizes.B)
    ]
    model = getattr(models, layer)(
        h=5,
        input_size=sizes.T,
        inference_input_size=sizes.T,
        encoder_hidden_size=sizes.H,
        max_steps=sizes.updates,
        batch_size=sizes.B,
        windows_batch_size=sizes.B,
        random_seed=1,
        **_trainer(use, found),
    )
    NeuralForecast([model], freq="D").fit(pandas.concat(rows))
    return found


def darts(layer: str, sizes: Sizes, use: Use) -> list[float]:
    """Train its RNNModel on a sine: the loss."""
    from darts import TimeSeries  # noqa: PLC0415
    from darts.models import RNNModel  # noqa: PLC0415

    found: list[float] = []
    epochs, windows = 5, -(-sizes.updates // 5) * sizes.B
    steps = np.arange(windows + sizes.T)
    model = RNNModel(
        input_chunk_length=sizes.T // 2,
        training_length=sizes.T,
        model=layer,
        hidden_dim=sizes.H,
        batch_size=sizes.B,
        n_epochs=epochs,
        random_state=1,
        pl_trainer_kwargs=_trainer(use, found),
    )
    model.fit(TimeSeries.from_values(np.sin(steps / 5).astype(np.float32)))
    return found


ALL = ("RNN", "GRU", "LSTM")
HOSTS = [
    Host("skorch", skorch, ALL),
    Host("sb3_contrib", sb3_contrib, ("LSTM",)),
    Host("neurogym", neurogym, ALL),
    Host("neuralforecast", neuralforecast, ALL),
    Host("darts", darts, ALL),
]
