"""The best validated weights: held while training goes on, and used in the end."""

from __future__ import annotations

from torch import Tensor, nn

from bptt.errors import BpttError
from bptt.training.runs.run import BEST, Run, under
from bptt.training.runs.weights import every_weight, tied, weights_once
from bptt.training.updates import Progress


class Best:
    """The best weights of a network so far: in a run's folder, or here where there is no run."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.weights: dict[str, Tensor] | None = None

    def hold(self, progress: Progress, run: Run | None) -> None:
        """Hold the weights as they are now."""
        weights = weights_once(self.net)
        if run is None:
            self.weights = {name: weight.detach().clone() for name, weight in weights.items()}
            return
        notes = {"update": progress.best, "nll": progress.best_nll, "score": progress.best_score}
        run.save_best(weights, notes)

    def find(self, progress: Progress, run: Run, *, is_ours: bool) -> None:
        """Look whether a run has them; else forget of them.

        is_ours: whether the run is this process's to write.
        """
        if not (run.path / BEST).exists():
            progress.best, progress.best_nll, progress.best_score = 0, None, None
            return
        try:
            tensors = run.weights()
        except BpttError as error:
            raise BpttError(f"{error}; move it away to go on without it") from None
        if not is_ours:
            self.weights = under("network", tensors)

    def use(self, run: Run | None) -> None:
        """Give the network these weights."""
        if run is not None:
            run.load_into(self.net)
        elif self.weights is not None:
            self.net.load_state_dict(every_weight(self.weights, tied(self.net), "the network"))
