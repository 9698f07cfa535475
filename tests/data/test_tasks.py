"""The tasks' targets, computed again from their inputs, one sequence at a time."""

from __future__ import annotations

import math

import pytest
import torch

import bptt
from bptt.data.tasks.kinds import BLANK, NOISE, NOW, TASKS, THREE, TWO, _runge_kutta
from bptt.data.tasks.scores import mean_score
from bptt.data.tasks.task import HELD_OUT, Task

NAMES = list(TASKS)


def draw(name: str, T: int, B: int = 40, seed: int = 0):
    return TASKS[name].draw(T, B, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("T", [2, 5, 50])
def test_adding(T):
    y, x, unscored = draw("adding", T)
    assert unscored == T - 1
    for b in range(40):
        marked = x[:, b, 1].nonzero().flatten().tolist()
        assert len(marked) == 2
        assert marked[0] < T // 2 <= marked[1]
        assert float(y[-1, b, 0]) == pytest.approx(float(x[marked, b, 0].sum()))
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


@pytest.mark.parametrize("T", [1, 30])
def test_copy(T):
    y, x, unscored = draw("copy", T)
    assert len(y) == T + 20
    assert unscored == 0
    for b in range(40):
        said, asked = x[:, b].tolist(), y[:, b].tolist()
        assert all(symbol < BLANK for symbol in said[:10])
        assert said[10:] == [BLANK] * (T - 1) + [NOW] + [BLANK] * 10
        assert asked == [BLANK] * (T + 10) + said[:10]


@pytest.mark.parametrize(("name", "places"), [("order", TWO), ("order3", THREE)])
@pytest.mark.parametrize("T", [10, 100])
def test_order(name, places, T):
    y, x, unscored = draw(name, T, 200)
    assert unscored == T - 1
    for b in range(200):
        at = [t for t in range(T) if x[t, b] < 2]
        assert len(at) == len(places)
        for t, (low, high) in zip(at, places, strict=True):
            assert int(low * T) <= t <= int(high * T)
        answer = 0
        for t in at:
            answer = 2 * answer + int(x[t, b])
        assert int(y[-1, b]) == answer
    assert set(y[-1].tolist()) == set(range(2 ** len(places)))


@pytest.mark.parametrize("T", [0, 3, 20])
def test_parity(T):
    y, x, unscored = draw("parity", T)
    assert unscored == T + 2
    for t in range(unscored, len(y)):
        bits = x[[t - T, t - T - 1, t - T - 2], :, 0].sum(0).long()
        assert torch.equal(y[t], bits % 2)


def test_flip_flop():
    y, x, _ = draw("flipflop", 60, 10)
    for b in range(10):
        held = x[0, b].clone()
        assert (held.abs() == 1).all()
        for t in range(60):
            held = torch.where(x[t, b] == 0, held, x[t, b])
            assert torch.equal(y[t, b], held)
    assert 0.02 < float((x[1:] != 0).float().mean()) < 0.09


def test_sines_have_the_period_and_the_noise_that_they_say():
    y, x, _ = draw("sine", 400, 50)
    assert x is None
    rows = y[:, :, 0]
    for b in range(50):
        power = torch.fft.rfft(rows[:, b]).abs()
        assert 400 / 41 < int(power[1:].argmax()) + 1 < 400 / 19
    smooth = rows[1:-1] - (rows[2:] + rows[:-2]) / 2  # what noise leaves is √1.5 of it
    assert float(smooth.std()) == pytest.approx(NOISE * 1.5**0.5, rel=0.1)


def test_lorenz_paths_are_standard_and_on_the_attractor():
    y, _, _ = draw("lorenz", 400, 50)
    assert y.shape == (400, 50, 3)
    assert y.mean((0, 1)).abs().max() < 0.25
    assert ((y.std((0, 1)) - 1).abs() < 0.15).all()


def test_runge_kutta_is_of_fourth_order():
    start = torch.tensor([[1.0, 2.0, 20.0]], dtype=torch.float64)

    def run(steps: int) -> torch.Tensor:
        state = start
        for _ in range(steps):
            state = _runge_kutta(state, 0.2 / steps)
        return state

    exact = run(512)
    ratio = (run(16) - exact).norm() / (run(32) - exact).norm()
    assert float(ratio) == pytest.approx(16, rel=0.3)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_is_data(name):
    task = Task.parse(f"task:{name}", "20")
    net = bptt.Network(
        task.likelihood,
        inputs=task.inputs,
        hidden=4,
        recurrence="hidden" if task.inputs else "both",
    )
    done = bptt.fit(net, task, bptt.Settings(max_updates=2, batch=3, stop_when_solved=False))
    assert done.stopped_by == "updates"
    assert math.isfinite(done.score)
    first, again = (task.training_batches(3, None, 5).get(1, 2) for _ in range(2))
    assert torch.equal(first.y, again.y)
    other = task.training_batches(3, None, 6).get(1, 2)
    assert not all(
        torch.equal(mine, its)
        for mine, its in zip(first[:2], other[:2], strict=True)
        if its is not None
    )
    held_out = task.validation_batches(3)
    assert len(held_out) * held_out.batch == HELD_OUT
    criterion = task.criterion
    assert 0 < criterion.solved < criterion.baseline


def test_lengths_are_drawn_between_two():
    task = Task.parse("order", "20-30")
    seen = {len(task.training_batches(3, None, 0).get(0, i).y) for i in range(100)}
    assert min(seen) == 20
    assert max(seen) == 30
    assert len(seen) > 8
    assert len(task.validation_batches(3).get(0, 0).y) == 30


@torch.no_grad()
def test_measures_by_hand():
    task = Task.parse("order", 10)
    net = bptt.Network(task.likelihood, inputs=task.inputs, hidden=4, recurrence="hidden")
    y, x, *_ = task.validation_batches(1).get(0, 0)
    out = net(y, x=x)
    batches = _One(task)
    wrong = (out.outputs[-1].argmax(-1) != y[-1]).double().mean()
    assert mean_score(net, batches, "wrong") == pytest.approx(float(wrong))
    assert mean_score(net, batches, "nats") == pytest.approx(float(out.nll[-1].mean()), rel=1e-5)
    sums = Task.parse("adding", 10)
    net = bptt.Network(sums.likelihood, inputs=2, hidden=4, recurrence="hidden")
    y, x, *_ = sums.validation_batches(1).get(0, 0)
    error = (net(y, x=x).outputs[-1] - y[-1]).square().mean()
    assert mean_score(net, _One(sums), "squared error") == pytest.approx(float(error), rel=1e-5)


class _One:
    """The first held-out batch alone."""

    def __init__(self, task: Task) -> None:
        self.batches = task.validation_batches(1)

    def first_epoch(self):
        return iter([self.batches.get(0, 0)])


@pytest.mark.parametrize("name", ["adding", "copy", "parity"])
def test_the_baseline_is_what_the_best_guess_without_memory_reaches(name):
    task = Task.parse(name, 40)
    y, _, unscored = TASKS[name].draw(40, 20_000, torch.Generator().manual_seed(1))
    if name == "adding":
        reached = (y[-1] - 1).square().mean()
    elif name == "copy":  # sure of the blanks, and one of eight afterwards
        reached = torch.tensor(10 * math.log(8) / 60)
    else:
        reached = (y[unscored:] != 0).double().mean()
    assert task.criterion.baseline == pytest.approx(float(reached), rel=0.03)


def test_training_stops_when_it_is_solved_and_says_so(tmp_path):
    torch.manual_seed(0)
    task = Task.parse("flipflop", 20)
    net = bptt.Network(task.likelihood, inputs=3, hidden=24, recurrence="hidden")
    settings = bptt.Settings(max_updates=2000, validate_every=50)
    done = bptt.fit(net, task, settings, out=tmp_path / "run", seed=0)
    assert done.stopped_by == "solved"
    assert done.updates < 2000
    assert done.score < task.criterion.solved
    rows = [row for row in done.run.metrics() if "score" in row]
    assert rows[-1]["score"] == done.score
    assert all(row["score"] >= task.criterion.solved for row in rows[:-1])
    assert done.run.kind == "task"
    assert done.run.read_data() == task
    again = mean_score(done.run.network(), task.validation_batches(1), "squared error")
    assert again == pytest.approx(done.score)


def test_a_task_goes_on_where_it_stopped(tmp_path):
    def train(updates: int, out: str) -> bptt.Network:
        torch.manual_seed(1)
        task = Task.parse("order", "12-20")
        net = bptt.Network(task.likelihood, inputs=task.inputs, hidden=8, recurrence="hidden")
        settings = bptt.Settings(max_updates=updates, batch=4, validate_every=10)
        bptt.fit(net, task, settings, out=tmp_path / out)
        return net

    whole = train(24, "whole")
    train(24, "half")
    run = bptt.Run.open(tmp_path / "half")
    assert run.settings().window is None  # of a task the whole sequence, by default
    net, done = bptt.resume(run, max_updates=30)
    assert done.updates == 30
    assert whole.recurrent.weight_hh_l0.shape == net.recurrent.weight_hh_l0.shape


def test_only_the_scored_steps_count_in_training():
    torch.manual_seed(0)
    task = Task.parse("adding", 10)
    net = bptt.Network(task.likelihood, inputs=2, hidden=4, recurrence="hidden")
    updates: list[bptt.training.updates.Update] = []
    batch = task.training_batches(5, None, 0).get(0, 0)
    first = net(batch.y, x=batch.x)
    assert first.nll is not None
    settings = bptt.Settings(max_updates=1, batch=5, stop_when_solved=False)
    torch.manual_seed(7)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    seed = int(torch.randint(2**31, ()))
    torch.manual_seed(7)
    bptt.fit(net, task, settings, on_update=updates.append)
    y, x, *_ = task.training_batches(5, None, seed).get(0, 0)
    nll = torch.func.functional_call(net, before, (y,), {"x": x}).nll.detach()
    assert updates[0].train_nll == pytest.approx(float(nll[-1].mean()), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "length", "words"),
    [
        ("ading", 10, "no task 'ading'; did you mean adding"),
        ("zzz", 10, "expected one of adding, copy"),
        ("adding", 1, "the length is 1; expected a whole number"),
        ("order", "9", "the length is 9"),
        ("adding", "30-20", "smaller number first"),
        ("adding", "long", "the length is 'long'"),
        ("adding", "-5", "the length is '-5'"),
    ],
)
def test_tasks_that_are_not_there(name, length, words):
    with pytest.raises(bptt.BpttError, match=words):
        Task.parse(name, length)
