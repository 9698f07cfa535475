"""Training on a user's batches, with modules, losses, optimizers and schedules of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bptt
from bptt.training.loaders import Loaded
from bptt.training.optimizers import KINDS, cosine
from tests.networks import N, UsersLSTM

T, B = 12, 4
SETTINGS = bptt.Settings(max_updates=10, validate_every=4)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def network(**more: Any) -> bptt.Network:
    torch.manual_seed(1)
    return bptt.Network(bptt.Gaussian(2), inputs=3, hidden=5, **more)


def batches(count: int = 4, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    made = [torch.randn(T, B, 5, generator=generator, dtype=dtype) for _ in range(count)]
    return [(one[..., :2], one[..., 2:]) for one in made]


def time_first(samples: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts, 1) for parts in zip(*samples, strict=True))


def shuffled(count: int = 10) -> DataLoader[Any]:
    y = torch.randn(count, T, 2, generator=torch.Generator().manual_seed(3))
    data = TensorDataset(y, torch.cumsum(y, 1)[..., :1].expand(-1, -1, 3))
    return DataLoader(data, batch_size=3, shuffle=True, collate_fn=time_first)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from batches(3)


def weights(net: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def by_hand(net: nn.Module, each: list[Any], updates: int, lr: float = 0.01) -> Tensor:
    """Return the weights after a user's loop over the same batches."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    for update in range(updates):
        y, x, *rest = each[update % len(each)]
        names = ("lengths", "loss_weights", "resets")
        optimizer.zero_grad()
        bptt.backward(net, y, x=x, **dict(zip(names, rest, strict=False)))
        optimizer.step()
    return weights(net)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


FORMS = {
    "tuples": lambda one: one,
    "lists": list,
    "dicts": lambda one: dict(zip(("y", "x", "lengths", "loss_weights"), one, strict=False)),
    "arrays": lambda one: tuple(part.numpy() for part in one),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ragged", [False, True])
def test_batches_of_every_form_are_those_of_a_loop_by_hand(form: str, ragged: bool) -> None:
    each: list[Any] = batches()
    if ragged:
        lengths, w = torch.tensor([T, 3, 1, 7]), torch.rand(T, B)
        each = [(*one, lengths, w) for one in each]
    settings = bptt.Settings(max_updates=6, clip=float("inf"))
    net = network()
    done = bptt.fit(net, list(map(FORMS[form], each)), settings, optimizer=sgd)
    torch.testing.assert_close(weights(net), by_hand(network(), each, 6))
    assert (done.updates, done.validation_nll) == (6, None)


def test_batches_of_y_alone() -> None:
    y = [torch.randint(N, (T, B)) for _ in range(3)]
    net = bptt.Network(bptt.Categorical(N), hidden=4)
    start = copy.deepcopy(net)
    bptt.fit(net, y, bptt.Settings(max_updates=3, clip=float("inf")), optimizer=sgd)
    torch.testing.assert_close(weights(net), by_hand(start, [(one, None) for one in y], 3))


def test_a_batch_with_resets() -> None:
    y, x = batches(1)[0]
    resets = torch.rand(T, B) < 0.3
    each = [{"y": y, "x": x, "resets": resets}]
    net = network()
    bptt.fit(net, each, bptt.Settings(max_updates=2, clip=float("inf")), optimizer=sgd)
    expected = by_hand(network(), [(y, x, None, None, resets)], 2)
    torch.testing.assert_close(weights(net), expected)


def test_validation_counts_every_step_with_its_weight() -> None:
    net, w = network(), torch.rand(T, B)
    each = [(y, x, None, w) for y, x in batches(3)]
    done = bptt.fit(net, batches(), SETTINGS, validation=each)
    nll = sum(float((net(y, x=x).nll.detach() * w).sum()) for y, x in batches(3))
    assert done.validation_nll == pytest.approx(nll / float(3 * w.sum()), rel=1e-5)


def test_an_order_by_chance_is_drawn_again_by_a_run_that_goes_on(tmp_path: Path) -> None:
    ends = []
    for out, limit in (("whole", None), ("parts", 1e-9)):
        torch.manual_seed(4)
        net = network()
        settings = bptt.Settings(max_updates=10, max_seconds=limit)
        bptt.fit(net, shuffled(), settings, validation=batches(2), out=tmp_path / out)
        while limit is not None and bptt.Run.open(tmp_path / out).load()[1]["update"] < 10:
            torch.rand(3)  # what is drawn meanwhile changes nothing
            options = {"data": shuffled(), "validation": batches(2), "max_seconds": limit}
            net, _ = bptt.resume(tmp_path / out, **options)
        ends.append(weights(net))
    assert torch.equal(*ends)
    orders = [[float(Loaded(shuffled(), "it", 7).at(k).y[0, 0, 0])] for k in range(8)]
    assert orders[:4] != orders[4:]  # an epoch and the next


def test_a_loader_that_does_not_say_how_long_it_is() -> None:
    loader = DataLoader(Stream(), batch_size=None)
    net = network()
    bptt.fit(net, loader, bptt.Settings(max_updates=7, clip=float("inf")), optimizer=sgd)
    torch.testing.assert_close(weights(net), by_hand(network(), batches(3), 7))
    with pytest.raises(bptt.BpttError, match="does not say how many batches it has; expected max_"):
        bptt.fit(net, loader, bptt.Settings(epochs=2))


class Read:
    """Batches, and how many have been read, in how many goes."""

    def __init__(self) -> None:
        self.items = self.goes = 0

    def __iter__(self) -> Iterator[Any]:
        self.goes += 1
        for batch in batches(8):
            self.items += 1
            yield batch


def test_a_run_that_goes_on_reads_each_batch_once(tmp_path: Path) -> None:
    settings = bptt.Settings(max_updates=3)
    bptt.fit(network(), Read(), settings, out=tmp_path / "run")
    data = Read()
    net, _ = bptt.resume(tmp_path / "run", data=data, max_updates=6)
    assert (data.items, data.goes) == (6, 1)  # a generator could not begin anew
    straight = network()
    bptt.fit(straight, batches(8), bptt.Settings(max_updates=6, schedule="constant"))
    bptt.fit(network(), batches(8), replace(settings, schedule="constant"), out=tmp_path / "one")
    once = (batch for batch in batches(8))
    net, _ = bptt.resume(tmp_path / "one", data=once, max_updates=6)
    assert torch.equal(weights(net), weights(straight))


def test_epochs_of_a_loader() -> None:
    assert bptt.fit(network(), batches(5), bptt.Settings(epochs=2)).updates == 10
    assert bptt.fit(network(), batches(2)).updates == 24


@pytest.mark.parametrize("name", KINDS)
def test_optimizers_by_name_and_their_options(name: str, tmp_path: Path) -> None:
    options = {"weight_decay": 0.1, **({"momentum": 0.5} if name in ("sgd", "rmsprop") else {})}
    ends = []
    for out, updates in (("whole", 6), ("parts", 3)):
        torch.manual_seed(4)
        settings = bptt.Settings(
            max_updates=updates, schedule="constant", optimizer=name, **options
        )
        net = network()
        bptt.fit(net, batches(), settings, out=tmp_path / out)
        if updates < 6:
            net, _ = bptt.resume(tmp_path / out, data=batches(), max_updates=6)
        ends.append(weights(net))
    assert torch.equal(*ends)
    net = network()
    optimizer = KINDS[name](net.parameters(), lr=settings.learning_rate, **options)
    for update in range(6):
        y, x = batches()[update % 4]
        optimizer.zero_grad()
        bptt.backward(net, y, x=x)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(weights(net), ends[0], rtol=1e-4, atol=1e-6)


def adamw(parameters: Any) -> torch.optim.Optimizer:
    first, *rest = parameters
    groups = [{"params": [first], "lr": 0.1}, {"params": rest}]
    return torch.optim.AdamW(groups, lr=torch.tensor(0.01), betas=(0.8, 0.9), amsgrad=True)


SCHEDULES = {
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, [0.1, 0.01], total_steps=20),
    "several": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[3]
    ),
    "at milestones": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4]),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda update: 1 / (1 + update)),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "swa": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "cosine": "cosine",
    "by plateau": "plateau",
    "none": None,
}


@pytest.mark.parametrize("which", SCHEDULES)
def test_all_of_an_optimizer_and_a_schedule_goes_on(which: str, tmp_path: Path) -> None:
    schedule: Any = SCHEDULES[which]
    rates, ends = [], []
    for out, limit in (("whole", None), ("parts", 1e-9)):
        torch.manual_seed(4)
        net, seen = network(), list[float]()
        settings = bptt.Settings(max_updates=7, validate_every=1, max_seconds=limit)
        functions = {"optimizer": adamw, "schedule": schedule}
        hook = {"on_update": lambda update: seen.append(update.learning_rate)}  # noqa: B023
        each = {"validation": batches(1)}
        bptt.fit(net, batches(), settings, out=tmp_path / out, **functions, **each, **hook)
        if isinstance(schedule, str):
            functions["schedule"] = None  # the run's settings have its name
        while limit is not None and len(seen) < 7:
            again = {"data": batches(), "max_seconds": limit, **functions, **each, **hook}
            net, _ = bptt.resume(tmp_path / out, **again)
        rates.append(seen)
        ends.append(weights(net))
    assert torch.equal(*ends)
    assert rates[0] == rates[1]
    if which == "none":
        assert rates[0] == pytest.approx([0.1] * 7)
    if which == "cosine":
        assert rates[0] == pytest.approx([0.1 * cosine(update, 7) for update in range(7)])


def test_the_cosine_follows_a_new_end(tmp_path: Path) -> None:
    ends = []
    for out, updates in (("whole", 20), ("longer", 5)):
        net, seen = network(), list[float]()
        hook = {"on_update": lambda update: seen.append(update.learning_rate)}  # noqa: B023
        bptt.fit(net, batches(), bptt.Settings(max_updates=updates), out=tmp_path / out, **hook)
        if updates < 20:
            bptt.resume(tmp_path / out, data=batches(), max_updates=20, **hook)
        ends.append(seen)
    assert ends[0][5:] == pytest.approx(ends[1][5:])


class Last(nn.Module):
    """A model of torch's layers alone, called as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.readout = nn.GRU(3, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, state = self.rnn(x, state)
        return self.readout(h), state


def squared(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y).square().mean(-1)


@pytest.mark.parametrize("way", [{}, {"window": 4}, {"memory": "1MB"}, {"window": 4, "stride": 2}])
def test_a_module_of_torchs_and_a_loss_of_ones_own(way: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = Last()
    start = copy.deepcopy(net)
    settings = bptt.Settings(max_updates=4, clip=float("inf"), **way)
    functions: dict[str, Any] = {"optimizer": sgd, "loss": squared}
    done = bptt.fit(
        net, batches(), settings, validation=batches(1), out=tmp_path / "run", **functions
    )
    y, x = batches(1)[0]
    assert done.validation_nll == pytest.approx(
        float(squared(net(x)[0].detach(), y).mean()), rel=1e-5
    )
    if "window" not in way:
        mine = copy.deepcopy(start)
        optimizer = sgd(mine.parameters())
        for y, x in batches():
            optimizer.zero_grad()
            squared(mine(x)[0], y).mean().backward()
            optimizer.step()
        torch.testing.assert_close(weights(net), weights(mine))
    assert not torch.equal(weights(net), weights(start))
    again = bptt.Run.open(tmp_path / "run").load_into(Last())
    assert torch.equal(weights(again), weights(net))
    with pytest.raises(bptt.BpttError, match=r"trained a .*Last, which it cannot make again"):
        bptt.Run.open(tmp_path / "run").network()
    more = {"data": batches(), "validation": batches(1), "max_updates": 6, **functions}
    again, done = bptt.resume(tmp_path / "run", net=Last(), **more)
    assert done.updates == 6
    with pytest.raises(bptt.BpttError, match=r"begun with squared, and loss is None; expected the"):
        bptt.resume(tmp_path / "run", net=Last(), **{**more, "loss": None})


def test_a_module_that_is_called_like_a_network_learns_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcd" * 500)
    text = bptt.read_text(path)
    assert text.vocabulary.size == N
    settings = bptt.Settings(max_updates=40, window=10, batch=4, learning_rate=0.03)
    ends = []
    for out, limit in (("whole", None), ("parts", 0.05)):
        torch.manual_seed(4)
        net: nn.Module = UsersLSTM()
        once = bptt.Settings(**{**vars(settings), "max_seconds": limit})
        done = bptt.fit(net, text, once, out=tmp_path / out)
        while done.updates < 40:
            net, done = bptt.resume(tmp_path / out, net=UsersLSTM(), max_seconds=limit)
        ends.append(weights(net))
        assert done.validation_nll is not None
        assert done.validation_nll < 0.9
    assert torch.equal(*ends)


class Short(list[Any]):
    def __len__(self) -> int:
        return 5


WRONG: list[tuple[Any, str]] = [
    (Short(batches(3)), "the loader says that it has 5 batches, and ended after 3"),
    ((one for one in batches(3)), "does not say how many batches it has"),
    ([], "the loader has no batch; expected at least one"),
    (["a"], "batch 0 of the loader is 'a'; expected y"),
    ([{"y": batches(1)[0][0], "z": 1}], "batch 0 of the loader has 'z'; expected y"),
    ([{"x": batches(1)[0][0]}], "y in batch 0 of the loader is None; expected"),
    ([(torch.zeros(3),)], "y in batch 0 of the loader is a Tensor of torch.float32 with shape"),
    ([(batches(1)[0][0], "x")], "x in batch 0 of the loader is 'x'; expected a tensor"),
    ([batches(1)[0], batches(1)[0][:1]], "batch 1 of the loader has y, a Tensor .*, and the first"),
    ([(y.double() if k else y, x) for k, (y, x) in enumerate(batches(2))], "expected them alike"),
    ([(y, x[:5]) for y, x in batches(2)], r"x has shape \(5, 4, 3\)"),
    (torch.zeros(4, T, B), "data is a Tensor .*; expected a Text"),
    (network(), "data is a Network; expected a Text"),
    ("text.txt", "data is 'text.txt'; expected a Text"),
    (np.zeros((4, T, B)), "data is a ndarray .*; expected a Text"),
]


@pytest.mark.parametrize(("data", "message"), WRONG)
def test_wrong_batches_are_one_line(data: Any, message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.fit(network(), data, bptt.Settings(epochs=2))


def test_a_generator_that_is_used_up() -> None:
    net = network()
    with pytest.raises(bptt.BpttError, match="had 3 batches, and has none when it is gone through"):
        bptt.fit(net, (one for one in batches(3)), bptt.Settings(max_updates=5))


Y, X = batches(1)[0]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of"),
    ({"optimizer": 3}, "optimizer is 3; expected a function from parameters"),
    ({"optimizer": lambda parameters: None}, "optimizer returned None; expected a torch optimizer"),
    ({"schedule": "fast"}, "schedule is 'fast'; expected one of"),
    ({"schedule": lambda optimizer: 3}, "schedule returned 3; expected a torch scheduler"),
    ({"loss": 3}, "loss is 3; expected a function of what the net returned and y"),
    ({"loss": lambda out, y: out.nll.mean()}, "the loss returned a Tensor .*; expected one number"),
    ({"validation": 3}, "validation is 3; expected an iterable of batches"),
    ({"progress": 3}, "progress is 3; expected True or False"),
    (
        {"schedule": "plateau"},
        "the schedule goes by the validation's loss, and there is nothing to",
    ),
    ({"loss": nn.AdaptiveLogSoftmaxWithLoss(4, 9, [3])}, "with weights of its own, which nobody"),
    (
        {"settings": bptt.Settings(weight_decay=0.1), "optimizer": sgd},
        "weight_decay is given in the settings, and an optimizer of your own beside them",
    ),
    ({"settings": bptt.Settings(batch=3)}, "batch is 3; expected none, since the loader makes"),
    ({"settings": bptt.Settings(steps_per_update=300)}, "expected none, since an update takes"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_fit_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(bptt.BpttError, match=message):
        bptt.fit(network(), batches(), **{"settings": SETTINGS, **options})


def test_what_needs_a_network_or_batches_is_refused_without(tmp_path: Path) -> None:
    torch.manual_seed(1)
    for settings, message in (
        (bptt.Settings(omega=1.0), "omega is given with a Last; expected a bptt.Network"),
        (bptt.Settings(activity_penalty=1.0), "activity_penalty is given with a Last; expected a"),
        (bptt.Settings(forcing=0.5), "forcing is below 1 with a Last; expected a bptt.Network"),
    ):
        with pytest.raises(bptt.BpttError, match=message):
            bptt.fit(Last(), batches(), settings, loss=squared)
    y = [torch.randn(T, B, 2) for _ in range(2)]
    with pytest.raises(bptt.BpttError, match="there is no x, and Last takes one; expected batches"):
        bptt.fit(Last(), y, SETTINGS, loss=squared)
    with pytest.raises(bptt.BpttError, match="resets are given, and Last does not take them"):
        bptt.fit(Last(), [{"y": Y, "x": X, "resets": torch.ones(T, B)}], SETTINGS, loss=squared)
    bptt.fit(network(), batches(), SETTINGS, out=tmp_path / "run")
    with pytest.raises(bptt.BpttError, match="came from an iterable of batches; expected it again"):
        bptt.resume(tmp_path / "run")


def test_a_state_that_no_checkpoint_can_hold_is_refused_before_training(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def state_dict(self) -> dict[str, Any]:
            return {**super().state_dict(), "more": object()}

    with pytest.raises(
        bptt.BpttError, match="the optimizer has an object in it, which a checkpoint"
    ):
        bptt.fit(network(), batches(), SETTINGS, optimizer=Odd, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_display_is_there_and_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    bptt.fit(network(), batches(), SETTINGS, validation=batches(1))
    assert "update 4 of 10, training" in capsys.readouterr().out
    bptt.fit(network(), batches(), SETTINGS, validation=batches(1), progress=False)
    assert capsys.readouterr().out == ""


class Counting(Last):
    """With buffers: a count, a mask, and numbers that are not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("least", torch.tensor([-torch.inf]))

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outputs, state = super().forward(x, state)
        return self.norm(outputs.flatten(0, 1)).view_as(outputs), state


def test_a_module_with_buffers_of_any_kind_is_saved_and_goes_on(tmp_path: Path) -> None:
    functions: dict[str, Any] = {"optimizer": sgd, "loss": squared, "validation": batches(1)}
    net = Counting()
    bptt.fit(net, batches(), SETTINGS, out=tmp_path / "run", **functions)
    again = bptt.Run.open(tmp_path / "run").load_into(Counting())
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    more = {"net": Counting(), "data": batches(), "max_updates": 12}
    assert bptt.resume(tmp_path / "run", **more, **functions)[1].updates == 12


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def test_the_fields_of_a_named_tuple_are_what_they_are_called() -> None:
    net = network()
    settings = bptt.Settings(max_updates=2, clip=float("inf"))
    bptt.fit(net, [Pair(x, y) for y, x in batches()], settings, optimizer=sgd)
    torch.testing.assert_close(weights(net), by_hand(network(), batches(), 2))


def test_data_and_network_draw_different_numbers() -> None:
    drawn = []

    class Drawing(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            while True:
                drawn.append(torch.rand(T, B))
                yield (drawn[-1] < 0.5).long()

    masks = []
    net = bptt.Network(bptt.Categorical(2), hidden=3)
    run = net.forward

    def forward(*inputs: Any, **options: Any) -> Any:
        masks.append(torch.rand(T, B))
        return run(*inputs, **options)

    net.forward = forward  # type: ignore[method-assign]
    bptt.fit(net, Drawing(), bptt.Settings(max_updates=3))
    for mask in masks:
        assert not any(torch.equal(mask, one) for one in drawn)


def test_a_penalty_beside_a_loss_is_of_what_the_net_returned() -> None:
    seen = []

    def penalty(out: Any) -> Tensor:
        seen.append(type(out))
        return out.hidden.square().mean()

    def loss(out: Any, y: Tensor) -> Tensor:
        return out.nll * 2

    settings = bptt.Settings(max_updates=2, activity_penalty=0.1)
    bptt.fit(network(), batches(), settings, loss=loss, penalty=penalty)
    assert set(seen) == {bptt.Output}


def test_a_run_goes_on_with_a_validation_as_it_began(tmp_path: Path) -> None:
    for out, begun, then in (("a", batches(1), None), ("b", None, batches(1))):
        bptt.fit(network(), batches(), SETTINGS, validation=begun, out=tmp_path / out)
        with pytest.raises(bptt.BpttError, match="a validation; expected the same"):
            bptt.resume(tmp_path / out, data=batches(), validation=then, max_updates=12)


class Noisy(Dataset[Any]):
    """Draws from torch's random numbers whenever it is read."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        if index >= len(self):
            raise IndexError
        y, x = batches(3)[index]
        return y + torch.randn_like(y), x


def test_what_a_dataset_draws_is_drawn_again() -> None:
    one, other = Loaded(Noisy(), "it", 3), Loaded(Noisy(), "it", 3)
    state = torch.get_rng_state()
    first = [one.at(k).y for k in range(5)]
    assert torch.equal(other.at(4).y, first[4])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first[0], first[3])  # the same item an epoch later
