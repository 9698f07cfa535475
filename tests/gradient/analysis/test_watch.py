from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import bptt
from bptt.gradient.analysis.lags import Sums, lags
from bptt.gradient.analysis.replay import LayerCall, chains_of

T, B, WIDTH, H = 6, 3, 4, 5
LAYERS = {
    "tanh": lambda **more: nn.RNN(WIDTH, H, **more),
    "relu": lambda **more: nn.RNN(WIDTH, H, nonlinearity="relu", **more),
    "gru": lambda **more: nn.GRU(WIDTH, H, **more),
    "lstm": lambda **more: nn.LSTM(WIDTH, H, **more),
    "projected": lambda **more: nn.LSTM(WIDTH, H, proj_size=2, **more),
    "bptt.RNN": lambda **more: bptt.RNN(WIDTH, H, **more),
    "bptt.GRU": lambda **more: bptt.GRU(WIDTH, H, **more),
    "bptt.LSTM": lambda **more: bptt.LSTM(WIDTH, H, **more),
}


def parts(state) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


def grads_of(layer: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in layer.parameters() if p.requires_grad]


def one_step_at_a_time(layer, x, weights) -> np.ndarray:
    """‖∂Lⱼ/∂s_{j−lag}‖ by autograd, Lⱼ = Σ weights[j] · outputⱼ, the run cut after every step."""
    found = np.full((T, T), math.nan)
    for k in range(T):
        _, state = layer(x[: k + 1])
        leaves = [part.detach().clone().requires_grad_() for part in parts(state)]
        at_k = leaves[0][-1]
        losses = [(at_k * weights[k]).sum()]
        if k + 1 < T:
            state = tuple(leaves) if isinstance(state, tuple) else leaves[0]
            after = layer(x[k + 1 :], state)[0]
            losses += list((after * weights[k + 1 :]).sum((1, 2)))
        for j, loss in enumerate(losses, start=k):
            grads = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
            squares = sum((g**2).sum((0, -1)) for g in grads if g is not None)
            found[j, j - k] = float(squares.mean() ** 0.5)
    return found


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", list(LAYERS))
def test_norms_are_autograds_one_loss_and_one_step_at_a_time(kind, layers):
    torch.manual_seed(0)
    layer = LAYERS[kind](num_layers=layers).double()
    x = torch.randn(T, B, WIDTH).double()
    weights = torch.randn(T, B, layer.proj_size or H).double()
    with bptt.watch(layer) as flows:
        (layer(x)[0] * weights).sum().backward()
    expected = one_step_at_a_time(layer, x, weights)
    np.testing.assert_allclose(flows["model"].norms, expected, atol=1e-10)


def lags_sum_to_gradient(layer, run) -> None:
    """Hold Σ G_ℓ of every chain of a call against what autograd has left in .grad."""
    layer.zero_grad()
    seen = {}

    def note(module, args, kwargs, output):
        seen["call"] = LayerCall.of(module, args, kwargs, output, None, lambda call: None)

    # The forward pass is over when this hook runs; the weights are still the same.
    handle = layer.register_forward_hook(note, with_kwargs=True)
    run()
    handle.remove()
    for chain in chains_of("layer", seen["call"]).values():
        sums = Sums(chain)
        for one in lags(chain, chain.T - 1):
            sums.add(one.passed, slice(one.first - one.lag, chain.T - one.lag))
        for name, grad in sums.gradient().items():
            expected = layer.get_parameter(name).grad
            torch.testing.assert_close(grad, expected, rtol=0, atol=1e-10)
            shapes_left.discard(name)


shapes_left: set[str] = set()


@pytest.mark.parametrize("form", ["padded", "batch first", "single", "packed", "unsorted"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", list(LAYERS)[:5])
def test_the_lags_sum_to_the_gradient_in_every_form(kind, layers, bidirectional, form):
    torch.manual_seed(1)
    more = {"num_layers": layers, "bidirectional": bidirectional}
    layer = LAYERS[kind](batch_first=form == "batch first", **more).double()
    shapes_left.update(n for n, _ in layer.named_parameters())
    directions = 1 + bidirectional
    x = torch.randn(T, B, WIDTH).double()
    shape = (layers * directions, B, H)
    if form == "batch first":
        x = x.transpose(0, 1)
    if form == "single":
        x, shape = x[:, 0], (layers * directions, H)
    if form in ("packed", "unsorted"):
        lengths = [6, 4, 1] if form == "packed" else [2, 6, 4]
        x = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=form == "packed")
    state = torch.randn(*shape[:-1], layer.proj_size or H).double()
    hx = (state, torch.randn(shape).double()) if isinstance(layer, nn.LSTM) else state

    def run() -> None:
        out, last = layer(x, hx)
        out = out.data if form in ("packed", "unsorted") else out
        loss = (out * torch.linspace(-1, 1, out.numel()).double().view(out.shape)).sum()
        for i, part in enumerate(parts(last)):
            loss = loss + (i + 2) * part.square().sum()
        loss.backward()

    lags_sum_to_gradient(layer, run)
    assert not shapes_left


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["tanh", "gru", "lstm", "bptt.RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_dropout_between_layers_is_drawn_again(kind, bidirectional, packed):
    torch.manual_seed(2)
    more = {"num_layers": 3, "dropout": 0.5, "bidirectional": bidirectional}
    layer = LAYERS[kind](**more).double()
    x = torch.randn(T, B, WIDTH).double()
    given = pack_padded_sequence(x, torch.tensor([6, 4, 2])) if packed else x
    before = torch.get_rng_state()
    with bptt.watch(layer) as flows:
        out = layer(given)[0]
        (out.data if packed else out).square().sum().backward()
    after = torch.get_rng_state()
    grads = grads_of(layer)
    layer.zero_grad()
    torch.set_rng_state(before)
    out = layer(given)[0]
    (out.data if packed else out).square().sum().backward()
    assert torch.equal(after, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_of(layer), strict=True))
    assert flows


class Tagger(nn.Module):
    """A user's model: two recurrent layers among others."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, WIDTH)
        self.encoder = nn.ModuleDict({"rnn": nn.GRU(WIDTH, H, num_layers=2)})
        self.decoder = bptt.RNN(H, H, bidirectional=True)
        self.head = nn.Linear(2 * H, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        h, _ = self.encoder["rnn"](self.embedding(tokens))
        return self.head(self.decoder(h)[0])


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


def test_a_model_of_several_layers_and_nothing_of_it_changed():
    torch.manual_seed(3)
    model, tokens = Tagger(), torch.randint(7, (20, B))
    loss_of(model, tokens).backward()
    expected, rng = grads_of(model), torch.get_rng_state()
    model.zero_grad()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    with bptt.watch(model, window=20) as flows:
        loss_of(model, tokens).backward()
    assert all(torch.equal(a, b) for a, b in zip(expected, grads_of(model), strict=True))
    assert torch.equal(rng, torch.get_rng_state())
    now = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert now == hooks
    assert list(flows) == ["encoder.rnn", "decoder.l0", "decoder.l0_reverse"]
    assert len(flows) == 3
    assert flows["encoder.rnn"].horizon() <= 20
    assert flows["decoder.l0_reverse"].T == 20
    with pytest.raises(bptt.BpttError, match=r"expected one of encoder\.rnn, decoder\.l0"):
        flows["decoder"]


def test_a_training_loop_records_the_horizon_now_and_then():
    torch.manual_seed(4)
    model, tokens = Tagger(), torch.randint(7, (10, B))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    seen: list[bptt.Watched] = []
    with bptt.watch(model, every=3, max_lag=40, on_flows=seen.append) as flows:
        for _ in range(8):
            optimizer.zero_grad()
            loss_of(model, tokens).backward()
            optimizer.step()
            with torch.no_grad():
                model(tokens)  # a validation does not count
    assert [watched.update for watched in seen] == [0, 3, 6]
    assert flows.history.keys() == flows.keys()
    for name, snapshots in flows.history.items():
        assert snapshots == [bptt.Snapshot.of(one.update, one.flows[name]) for one in seen]
    assert flows["encoder.rnn"] is seen[-1].flows["encoder.rnn"]
    first, last = (seen[i].flows["encoder.rnn"].by_use for i in (0, -1))
    assert not np.allclose(first, last)  # the weights of that update, before the step, were used


def test_what_was_seen_goes_to_a_writer_and_onto_a_page(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model, tokens = Tagger().bfloat16(), torch.randint(7, (10, B))
    written: list[tuple[str, float, int]] = []
    writer = SimpleNamespace(add_scalar=lambda *scalar: written.append(scalar))
    with bptt.watch(model, every=2, writer=writer) as flows:
        for _ in range(5):
            loss_of(model, tokens).backward()
    assert [update for name, _, update in written if name == "encoder.rnn/growth"] == [0, 2, 4]
    snapshots = flows.history["encoder.rnn"]
    horizons = [value for name, value, _ in written if name == "encoder.rnn/horizon"]
    assert horizons == [one.horizon for one in snapshots]
    norms = [value for name, value, _ in written if name == "encoder.rnn/norm at lag 1"]
    assert norms == pytest.approx([one.by_lag[1] for one in snapshots])
    bptt.write_report(tmp_path / "watched.html", flows)
    page = (tmp_path / "watched.html").read_text()
    for name in ("encoder.rnn", "decoder.l0", "decoder.l0_reverse"):
        assert f"{name}: the gradient by lag, while it was trained" in page
        assert f"{name}: how the horizon grew" in page


def test_a_page_names_what_was_not_seen(tmp_path: Path) -> None:
    layer = Odd(WIDTH, H)
    with bptt.watch(layer) as flows:
        layer(torch.randn(T, B, WIDTH))[0].sum().backward()
    assert "gave other states" in flows.unseen["model"]
    bptt.write_report(tmp_path / "watched.html", flows)
    assert "model was not seen: model gave other states" in (tmp_path / "watched.html").read_text()
    with bptt.watch(layer) as nothing:
        pass
    with pytest.raises(bptt.BpttError, match="no gradient reached a recurrent layer"):
        bptt.write_report(tmp_path / "nothing.html", nothing)


def test_the_weights_of_the_call_count_and_not_those_after_the_step():
    torch.manual_seed(5)
    layer, x = nn.RNN(WIDTH, H), torch.randn(T, B, WIDTH)
    with bptt.watch(layer) as once:
        layer(x)[0].sum().backward()
    with bptt.watch(layer) as stepped:
        layer(x)[0].sum().backward()
        with torch.no_grad():
            layer.weight_hh_l0.zero_()
    np.testing.assert_array_equal(stepped["model"].norms, once["model"].norms)


def test_only_the_last_output_is_used():
    layer, x = nn.RNN(WIDTH, H), torch.randn(T, B, WIDTH)
    with bptt.watch(layer) as flows:
        layer(input=x)[1].sum().backward()
    norms = flows["model"].norms
    assert np.isfinite(norms[-1]).all()
    assert np.isnan(norms[:-1]).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.Linear(2, 2), "has no recurrent layer"),
        (lambda: bptt.Network(bptt.Categorical(3), hidden=4), r"bptt\.gradient_flow"),
    ],
)
def test_models_that_cannot_be_watched(make, words):
    with pytest.raises(bptt.BpttError, match=words):
        bptt.watch(make())


@pytest.mark.parametrize("how", [{"every": 0}, {"max_lag": -1}, {"window": 0}])
def test_bad_arguments(how):
    with pytest.raises(bptt.BpttError, match=next(iter(how))):
        bptt.watch(nn.RNN(WIDTH, H), **how)


def test_calls_that_cannot_be_counted():
    layers = nn.ModuleDict({"rnn": nn.RNN(WIDTH, H)})
    with pytest.raises(bptt.BpttError, match="every is 2 for a ModuleDict"):
        bptt.watch(layers, every=2)


def test_without_a_backward_pass_there_is_nothing_to_show():
    layer = nn.RNN(WIDTH, H)
    with bptt.watch(layer) as flows:
        layer(torch.randn(T, B, WIDTH))
    assert len(flows) == 0
    with pytest.raises(bptt.BpttError, match=r"loss\.backward\(\) inside the with block"):
        flows["model"]


def test_what_is_raised_inside_comes_out_and_the_hooks_are_gone():
    layer = nn.RNN(WIDTH, H)

    def fail() -> None:
        with bptt.watch(layer):
            layer(torch.randn(T, B, WIDTH))[0].sum().backward()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks


class Odd(nn.RNN):
    """A layer that does not compute what torch.nn.RNN does."""

    def forward(self, *args, **kwargs):
        out, last = super().forward(*args, **kwargs)
        return out + 1, last


def test_a_layer_that_computes_something_else_is_not_believed():
    layer = Odd(WIDTH, H)
    with bptt.watch(layer) as flows:
        layer(torch.randn(T, B, WIDTH))[0].sum().backward()
    with pytest.raises(bptt.BpttError, match="model gave other states"):
        flows["model"]


def test_nan_in_the_weights_stops_no_training():
    layer, x = nn.RNN(WIDTH, H), torch.randn(T, B, WIDTH)
    with bptt.watch(layer) as flows:
        layer(x)[0].sum().backward()
        with torch.no_grad():
            layer.weight_hh_l0[0, 0] = math.nan
        layer(x)[0].sum().backward()
    assert {len(snapshots) for snapshots in flows.history.values()} == {1}
    with pytest.raises(bptt.BpttError, match="not finite"):
        flows["model"]


def test_spectral_norm_and_frozen_weights():
    torch.manual_seed(6)
    layer = nn.utils.parametrizations.weight_norm(nn.RNN(WIDTH, H), "weight_hh_l0")
    layer.weight_ih_l0.requires_grad_(False)
    x = torch.randn(T, B, WIDTH)
    with bptt.watch(layer) as flows:
        layer(x)[0].square().sum().backward()
    plain = nn.RNN(WIDTH, H)
    plain.load_state_dict({n: getattr(layer, n) for n, _ in plain.named_parameters()})
    with bptt.watch(plain) as expected:
        plain(x)[0].square().sum().backward()
    np.testing.assert_allclose(flows["model"].norms, expected["model"].norms, rtol=1e-5)
