"""Teacher forcing, the closed loop and what lies between, against networks unrolled by hand."""

from __future__ import annotations

import itertools
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import bptt
from bptt.kernel import binding, ops
from bptt.kernel.record import Traced
from tests import oracles
from tests.covering import pairs
from tests.networks import RECURRENT_CELLS
from tests.oracles import FLOAT64

T, B, H, FEATURES = 6, 3, 4, 2
LIKELIHOODS = {
    "categorical": lambda: bptt.Categorical(5),
    "bernoulli": lambda: bptt.Bernoulli(3),
    "gaussian": lambda: bptt.Gaussian(2),
}
MASKS = {
    "forced": torch.ones(T, B),
    "mixed": torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [0, 0, 0]]),
    "free": torch.zeros(T, B),
}
RESETS = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]).bool()


def make(
    likelihood: str = "categorical",
    recurrence: str = "both",
    cell: str = "tanh",
    *,
    steps: int = T,
    inputs: int | bptt.Tokens = FEATURES,
    layers: int = 1,
) -> tuple[bptt.Network, Tensor, Tensor | None]:
    """Return a float64 network none of whose parts is zero, with data for it."""
    net = bptt.Network(
        LIKELIHOODS[likelihood](),
        inputs=inputs,
        hidden=H,
        recurrence=recurrence,
        cell=cell,
        layers=layers,
    ).double()
    for name, parameter in net.named_parameters():
        if "bias_ih" in name or "log_scale" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    o = torch.randn(steps, B, net.likelihood.outputs).double()
    y = net.likelihood.draw(o, net.likelihood.noise(steps, B, o))
    x = torch.randn(steps, B, FEATURES).double() if inputs == FEATURES else None
    return net, y, x


def noise_of(net: bptt.Network, seed: int) -> Tensor:
    """Return the random numbers that a call draws next, after seeding."""
    torch.manual_seed(seed)
    noise = net.likelihood.noise(T, B, net.readout.weight)
    torch.manual_seed(seed)
    return noise


def gradients(net: bptt.Network, nll: Tensor) -> list[Tensor]:
    trained = [p for p in net.parameters() if p.requires_grad]
    found = torch.autograd.grad(nll.sum(), trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]


@pytest.mark.parametrize(
    ("said", "recurrence", "feedback", "resets"),
    pairs(
        list(itertools.product(LIKELIHOODS, MASKS)),
        ["hidden", "output", "both"],
        ["sample", "mean"],
        [None, RESETS],
    ),
)
def test_equals_the_network_unrolled_by_hand(
    said: tuple[str, str], recurrence: str, feedback: str, resets: Tensor | None
) -> None:
    likelihood, mask = said
    net, y, x = make(likelihood, recurrence)
    noise = noise_of(net, 3)
    out = net(y, x=x, forcing=MASKS[mask], feedback=feedback, resets=resets)
    expected = oracles.unrolled(
        net, y, x, MASKS[mask], feedback=feedback, noise=noise, resets=resets
    )
    torch.testing.assert_close(out.nll, expected, **FLOAT64)
    torch.testing.assert_close(gradients(net, out.nll), gradients(net, expected), **FLOAT64)


@pytest.mark.parametrize("feedback", ["sample", "mean"])
@pytest.mark.parametrize(("number", "mask"), [(1, "forced"), (0.0, "free")])
def test_a_probability_of_one_or_zero_is_a_mask(number: float, mask: str, feedback: str) -> None:
    net, y, x = make()
    outs = []
    for forcing in (number, MASKS[mask], MASKS[mask].bool()):
        torch.manual_seed(5)
        outs.append(net(y, x=x, forcing=forcing, feedback=feedback).nll)
    torch.testing.assert_close(outs[0], outs[1], **FLOAT64)
    torch.testing.assert_close(outs[0], outs[2], **FLOAT64)


def test_a_probability_is_drawn_for_every_step_and_sequence() -> None:
    net, *_ = make(inputs=0)
    steps, rows, forcing = 40, 50, 0.3
    with mock.patch("bptt.model.reading.sample_loop", wraps=bptt.model.reading.sample_loop) as run:
        net(torch.randint(5, (steps, rows)), forcing=forcing)
    forced = run.call_args.args[1].forced
    assert float(forced.double().mean()) == pytest.approx(forcing, abs=0.03)
    assert 0.05 < float(forced.double().mean(0).std()) < 0.1  # binomial: 0.072
    assert 0.04 < float(forced.double().mean(1).std()) < 0.1  # binomial: 0.065


def by_the_plain_loop(*_: Any) -> str:
    return "not here"


def natively(*arguments: Any) -> Traced:
    """Return the program of a closed loop, which there has to be."""
    traced = NATIVE(*arguments)
    assert isinstance(traced, Traced), traced
    return traced


NATIVE = ops.native
needs_kernel = pytest.mark.skipif(binding.native is None, reason="the native kernel is not built")


@needs_kernel
@pytest.mark.parametrize(
    ("likelihood", "looped", "dtype", "layers"),
    pairs(list(LIKELIHOODS), RECURRENT_CELLS, [torch.float32, torch.float64], [1, 2]),
)
def test_the_kernels_free_run_is_the_plain_loops(
    likelihood: str, looped: tuple[str, str], dtype: torch.dtype, layers: int
) -> None:
    recurrence, cell = looped
    net, y, x = make(likelihood, recurrence, cell, layers=layers)
    net, x = net.to(dtype), x.to(dtype)
    y = y if likelihood == "categorical" else y.to(dtype)
    state = net(y, x=x).state
    for forcing, temperature in ((MASKS["mixed"], 1.0), (None, 0.5), (None, 0.0)):
        said = []
        for native in (natively, by_the_plain_loop):
            torch.manual_seed(1)
            with mock.patch.object(ops, "native", side_effect=native) as asked:
                if forcing is None:
                    said.append(net.generate(T, x=x, state=state, temperature=temperature))
                else:
                    out = net(y, x=x, state=state, forcing=forcing, resets=RESETS)
                    said.append(out.nll.double())
                assert asked.called or (recurrence == "hidden" and forcing is not None)
        tolerance = FLOAT64 if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(said[0], said[1], **tolerance)


@needs_kernel
@pytest.mark.parametrize(
    ("B", "hidden", "likelihood", "steps"),
    pairs(
        [1, 2, 13, 70],
        [1, 5, 16, 33],
        [bptt.Categorical(37), bptt.Bernoulli(19), bptt.Gaussian(3)],
        [3, 70],
    ),
)
def test_the_kernels_free_run_at_odd_sizes(
    B: int, hidden: int, likelihood: bptt.Likelihood, steps: int
) -> None:
    net = bptt.Network(likelihood, hidden=hidden, layers=2).double()
    runs = []
    for native in (natively, by_the_plain_loop):
        state = bptt.State(torch.linspace(-1, 1, 2 * B * hidden).view(2, B, hidden).double())
        with mock.patch.object(ops, "native", native):
            generator = torch.Generator().manual_seed(0)
            runs.append(net.generate(steps, state=state, generator=generator))
    torch.testing.assert_close(runs[0], runs[1], **FLOAT64)


@pytest.mark.parametrize(
    ("likelihood", "looped", "layers", "feedback"),
    pairs(["categorical", "gaussian"], RECURRENT_CELLS, [1, 2], ["sample", "mean"]),
)
def test_ragged_sequences_in_a_closed_loop_are_each_as_if_alone(
    likelihood: str, looped: tuple[str, str], layers: int, feedback: str
) -> None:
    recurrence, cell = looped
    net, y, x = make(likelihood, recurrence, cell, layers=layers)
    lengths, mask = torch.tensor([6, 4, 0]), MASKS["mixed"]
    noise = noise_of(net, 3)
    out = net(y, x=x, forcing=mask, feedback=feedback, lengths=lengths, resets=RESETS)
    for i, length in enumerate(lengths.tolist()):
        assert (out.nll[length:, i] == 0).all()
        if length == 0:
            continue
        some = (slice(0, length), slice(i, i + 1))
        with mock.patch.object(type(net.likelihood), "noise", lambda *_, some=some: noise[some]):
            alone = net(
                y[some], x=x[some], forcing=mask[some], feedback=feedback, resets=RESETS[some]
            )
        torch.testing.assert_close(out.nll[some], alone.nll, **FLOAT64)
        mine, its = (torch.utils._pytree.tree_leaves(o.state) for o in (out, alone))
        for all_, one in zip(mine, its, strict=True):
            if all_ is not None:
                axis = 1 if all_.ndim == 3 else 0
                torch.testing.assert_close(all_.narrow(axis, i, 1), one, **FLOAT64)


@pytest.mark.parametrize(
    ("likelihood", "looped", "feedback"),
    pairs(list(LIKELIHOODS), RECURRENT_CELLS, ["sample", "mean"]),
)
def test_chunks_that_hand_on_the_state_are_one_run(
    likelihood: str, looped: tuple[str, str], feedback: str
) -> None:
    recurrence, cell = looped
    net, y, x = make(likelihood, recurrence, cell)
    mask, noise = MASKS["mixed"], noise_of(net, 3)
    whole = net(y, x=x, forcing=mask, feedback=feedback)
    state, nll = None, []
    for chunk in (slice(0, 1), slice(1, 4), slice(4, 6)):
        with mock.patch.object(type(net.likelihood), "noise", lambda *_, c=chunk: noise[c]):
            out = net(y[chunk], x=x[chunk], state=state, forcing=mask[chunk], feedback=feedback)
        nll.append(out.nll)
        state = out.state
    torch.testing.assert_close(torch.cat(nll), whole.nll, **FLOAT64)
    torch.testing.assert_close(gradients(net, torch.cat(nll)), gradients(net, whole.nll), **FLOAT64)


@pytest.mark.parametrize(
    ("likelihood", "looped", "layers"), pairs(list(LIKELIHOODS), RECURRENT_CELLS, [1, 2])
)
def test_the_closed_loops_gradient(likelihood: str, looped: tuple[str, str], layers: int) -> None:
    recurrence, cell = looped
    net, y, x = make(likelihood, recurrence, cell, steps=3, layers=layers)
    names = [name for name, p in net.named_parameters() if p.requires_grad]

    def loss(*parameters: Tensor) -> Tensor:
        options = {"forcing": MASKS["mixed"][:3], "feedback": "mean"}
        values = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(net, values, (y,), {"x": x, **options}).nll.sum()

    values = [dict(net.named_parameters())[n].detach().requires_grad_() for n in names]
    assert torch.autograd.gradcheck(loss, values, fast_mode=True)


@needs_kernel
@pytest.mark.parametrize(
    ("likelihood", "looped", "layers"),
    pairs(list(LIKELIHOODS), [kind for kind in RECURRENT_CELLS if kind[0] != "hidden"], [1, 3]),
)
def test_the_kernels_loop_of_means_is_the_plain_one(
    likelihood: str, looped: tuple[str, str], layers: int
) -> None:
    recurrence, cell = looped
    net, y, x = make(likelihood, recurrence, cell, layers=layers)
    state = net(y, x=x, forcing=MASKS["mixed"], feedback="mean").state
    found = []
    for native in (natively, by_the_plain_loop):
        leaves = torch.utils._pytree.tree_map_only(
            Tensor, lambda t: t.detach().requires_grad_(t.is_floating_point()), state
        )
        with mock.patch.object(ops, "native", native):
            out = net(y, x=x, state=leaves, forcing=MASKS["mixed"], feedback="mean", resets=RESETS)
        ends = [t for t in tree_leaves(out.state) if t is not None and t.requires_grad]
        loss = (out.nll * torch.arange(B)).sum() + sum(t.square().sum() for t in ends)
        asked = [p for p in net.parameters() if p.requires_grad]
        asked += [t for t in tree_leaves(leaves) if t is not None and t.requires_grad]
        found.append((out.nll, torch.autograd.grad(loss, asked, allow_unused=True)))
    torch.testing.assert_close(found[0], found[1], **FLOAT64)


def test_the_loop_of_means_can_be_differentiated_twice_by_torch_func() -> None:
    net, y, x = make("gaussian")

    def loss(W: Tensor) -> Tensor:
        options = {"forcing": 0.0, "feedback": "mean"}
        return torch.func.functional_call(
            net, {"recurrent.weight_hh_l0": W}, (y,), {"x": x, **options}
        ).nll.sum()

    W = net.recurrent.weight_hh_l0.detach()
    second = torch.func.hessian(loss)(W)
    step = 1e-5 * torch.eye(H).double()
    first = [torch.func.grad(loss)(W + sign * step) for sign in (1, -1)]
    along = torch.einsum("ijkl,kl->ij", second, torch.eye(H).double())
    torch.testing.assert_close((first[0] - first[1]) / 2e-5, along, rtol=1e-5, atol=1e-6)


def test_the_mean_of_symbols_goes_on_in_a_run_of_samples_only_when_it_is_forced() -> None:
    net, y, x = make()
    state = net(y, x=x, forcing=0.0, feedback="mean").state
    assert state.generated.shape == (B, 5)
    with pytest.raises(
        bptt.BpttError, match=r'state.generated holds means; expected samples: .*"mean"'
    ):
        net(y, x=x, state=state, forcing=0.0)
    state = net(y, x=x, forcing=0.0).state
    mixed = net(y, x=x, state=state, forcing=0.0, feedback="mean")
    assert mixed.nll.isfinite().all()


@pytest.mark.parametrize("likelihood", list(LIKELIHOODS))
@pytest.mark.parametrize("feedback", ["sample", "mean"])
def test_y_may_be_left_out_in_a_free_run(likelihood: str, feedback: str) -> None:
    net, y, x = make(likelihood)
    torch.manual_seed(2)
    with_y = net(y, x=x, forcing=0.0, feedback=feedback)
    torch.manual_seed(2)
    without = net(x=x, forcing=0.0, feedback=feedback)
    assert without.nll is None
    torch.testing.assert_close(without.outputs, with_y.outputs, **FLOAT64)
    assert without.state.y is None
    torch.manual_seed(4)
    expected = net(y, x=x, state=with_y.state, forcing=0.0, feedback=feedback).outputs
    torch.manual_seed(4)
    on = net(x=x, state=without.state, forcing=0.0, feedback=feedback).outputs
    torch.testing.assert_close(on, expected, **FLOAT64)


@pytest.mark.parametrize(("recurrence", "cell"), RECURRENT_CELLS)
@pytest.mark.parametrize("likelihood", list(LIKELIHOODS))
def test_a_prompt_is_teacher_forcing_and_then_a_free_run(
    likelihood: str, recurrence: str, cell: str
) -> None:
    net, y, x = make(likelihood, recurrence, cell)
    further = torch.randn(4, B, FEATURES).double()
    run = net.generate(4, prompt=y, x=torch.cat([x, further]), temperature=0.0)
    state, expected = net(y, x=x).state, []
    for now in further:
        o = net.readout(net(state.y.unsqueeze(0), x=now.unsqueeze(0), state=state).hidden[0])
        expected.append(net.likelihood.draw(o, net.likelihood.noise(1, B, o)[0], 0.0))
        moved = net(expected[-1].unsqueeze(0), x=now.unsqueeze(0), state=state).state
        state = bptt.State(moved.hidden, expected[-1])
    torch.testing.assert_close(run, torch.stack(expected), **FLOAT64)


def test_hidden_recurrence_on_the_previous_symbol_is_closed_like_both() -> None:
    both, y, _ = make(inputs=0)
    hidden, *_ = make(recurrence="hidden", inputs=bptt.Tokens(5))
    hidden.load_state_dict(both.state_dict())
    for feedback in ("sample", "mean"):
        nll = []
        for net in (both, hidden):
            torch.manual_seed(0)
            nll.append(net(y, forcing=MASKS["mixed"], feedback=feedback).nll)
        torch.testing.assert_close(nll[0], nll[1], **FLOAT64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"forcing": 1.5}, "forcing is 1.5; expected a probability from 0 to 1, or a"),
        ({"forcing": "all"}, "forcing is 'all'; expected a probability"),
        ({"forcing": torch.ones(T, 1)}, r"forcing has shape \(6, 1\); expected \(T, B\) = \(6, 3"),
        ({"forcing": torch.full((T, B), 0.5)}, "forcing has values other than 0 and 1"),
        ({"feedback": "mode"}, "feedback is 'mode'; expected one of 'sample', 'mean'"),
        ({"resets": torch.zeros(T)}, r"resets has shape \(6,\); expected \(T, B\)"),
        ({"resets": [0]}, "resets is a list; expected a tensor of shape"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    net, y, x = make()
    with pytest.raises(bptt.BpttError, match=message):
        net(y, x=x, **options)


def test_more_bad_input() -> None:
    net, y, x = make()
    with pytest.raises(bptt.BpttError, match="y is missing; expected the true values"):
        net(x=x, forcing=MASKS["mixed"])
    with pytest.raises(
        bptt.BpttError, match=r"state.generated has shape \(3, 4\); expected \(B, Y\)"
    ):
        net(y, x=x, state=bptt.State(generated=torch.zeros(B, 4).double()), forcing=0.0)
    relu, *_ = make("gaussian", cell="relu", inputs=0)
    torch.nn.init.constant_(relu.recurrent.weight_hh_l0, 1e200)
    with pytest.raises(bptt.BpttError, match="the free run's state became infinite or not a numb"):
        relu.generate(100, state=bptt.State(torch.ones(1, 1, H).double()))
