"""What 'bptt train' tells when it has trained: how good the network is, and what to try next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bptt.cli.generate import write_sample
from bptt.cli.options import TEMPERATURE
from bptt.cli.words import shell_word
from bptt.errors import counted, printable

if TYPE_CHECKING:
    from bptt.data.batches import Dataset
    from bptt.data.texts.vocabulary import Vocabulary
    from bptt.model.network import Network
    from bptt.training.runs.result import Result
    from bptt.training.runs.run import Run
    from bptt.training.updates import Fit

SAMPLE_STEPS = 400
PROMPT = "The "
CLEARLY_BETTER = 0.05
"""Nats per step by which an earlier validation has to be better to be worth a word."""


def say_what_came_out(net: Network, data: Dataset, done: Fit, result: Result | None) -> None:
    """Print it."""
    from bptt.training.progress import clock, loss_text, losses_in  # noqa: PLC0415

    run = done.run
    assert run is not None
    assert done.validation_nll is not None
    folder, next_steps = shell_word(run.path), ["generate {} --steps 100"]
    measure, per_nat = losses_in(run.loss_unit)
    loss = done.validation_nll * per_nat
    print(
        f"validation {loss_text(loss)} {measure}{_per_span(data, loss)} "
        f"after {counted(done.updates, 'update')} in {clock(done.seconds)}{_which(done)}\n"
    )
    if run.kind == "text":
        print(f"A sample of its own, at temperature {TEMPERATURE}:")
        first = "\n" if run.vocabulary.knows("\n") else ""
        write_sample(run.network().eval(), run.vocabulary, first, SAMPLE_STEPS, TEMPERATURE, seed=0)
        print()
        next_steps = [f"generate {{}}{_prompt(run.vocabulary)}"]
    elif run.kind == "table":
        _say_one_step_ahead(result)
        if run.inputs:
            next_steps = ["generate {} --steps 100 --future INPUTS_AHEAD.csv"]
    elif run.kind == "labelled":
        _say_how_often_it_is_right(net, data, done)
        next_steps = []
    elif run.kind == "task":
        _say_whether_it_is_solved(data, done)
        next_steps = []
    else:
        next_steps = []
    _say_if_it_was_better_before(run, done)
    next_steps.append("flow {}")
    next_steps.append(f"train --resume {{}} --max-updates {2 * max(done.updates, 1)}")
    print(f"The run is in {printable(run.path)}. Try next:")
    for step in next_steps:
        print(f"  bptt {step.format(folder)}")


def _per_span(data: Dataset, loss: float) -> str:
    """Say what a loss per token is for each character and byte, where tokens are neither."""
    from bptt.data.texts.text import Text  # noqa: PLC0415
    from bptt.training.progress import loss_text  # noqa: PLC0415

    spans = data.spans if isinstance(data, Text) else {}
    words = [f"{loss_text(loss / span)} per {unit}" for unit, span in spans.items()]
    return f" ({', '.join(words)})" if words else ""


def _which(done: Fit) -> str:
    """Say of which update the weights are, if they are not the last; and why it stopped early."""
    words = "; stopped, as the validation was no better" if done.stopped_by == "patience" else ""
    if done.best_update != done.updates:
        words += f"; the best was after update {done.best_update}, whose weights are used"
    return words


def _prompt(vocabulary: Vocabulary) -> str:
    """Return a prompt to try, as it is typed, if the text has its characters."""
    return f" --prompt '{PROMPT}'" if vocabulary.knows(PROMPT) else ""


def _say_how_often_it_is_right(net: Network, data: Dataset, done: Fit) -> None:
    import numpy as np  # noqa: PLC0415

    from bptt.data.sequences.labels import Labelled  # noqa: PLC0415

    assert isinstance(data, Labelled)
    assert done.score is not None
    if not data.classes:
        print(
            f"mean squared error {done.score:.4g} on held-out sequences; the mean label for all "
            f"would have {data.criterion.baseline:.4g}\n"
        )
        return
    print(
        f"{1 - done.score:.1%} of the held-out sequences are told right; naming the commonest for "
        f"all would be right of {1 - data.criterion.baseline:.1%}"
    )
    confusion = data.confusion(net)
    np.fill_diagonal(confusion, 0)
    right, wrong = np.unravel_index(confusion.argmax(), confusion.shape)
    if confusion[right, wrong] > 0:
        names = printable(data.classes[right]), printable(data.classes[wrong])
        print(f"most often {names[0]} is taken for {names[1]}: {confusion[right, wrong]} times")
    print()


def _say_whether_it_is_solved(data: Dataset, done: Fit) -> None:
    from bptt.data.tasks.task import Task  # noqa: PLC0415

    assert isinstance(data, Task)
    assert done.score is not None
    measure, solved, baseline = data.criterion
    verdict = "solved" if done.score < solved else "not solved"
    print(
        f"{verdict}: {measure} {done.score:.3g} on held-out sequences; below {solved:.3g} counts "
        f"as solved, and {baseline:.3g} is reached without memory\n"
    )


def _say_if_it_was_better_before(run: Run, done: Fit) -> None:
    """Say when the validation was the best, if the last weights are to be used all the same."""
    best = run.best_row()
    if best is None or best["update"] == done.updates or done.validation_nll is None:
        return
    if best["validation_nll"] > done.validation_nll - CLEARLY_BETTER:
        return
    print(
        f"The validation loss was lowest after {counted(int(best['update']), 'update')}, and "
        "has risen since: a new "
        f"run with --max-updates {best['update']} should do better.\n"
    )


def _say_one_step_ahead(result: Result | None) -> None:
    assert result is not None
    print("One step ahead, root mean square error on the validation part:")
    for column in result.values:
        against = f"against {column.simple:.4g} of expecting {result.method}"
        print(f"  {printable(column.name)}: {column.value:.4g}, {against}")
    print()
