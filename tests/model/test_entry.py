"""What torch does to the parts of a network: it shows in every call, or is refused."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import bptt
from bptt.gradient.analysis.fixed_points import StateMap
from bptt.model.dropout import every_unit
from tests.oracles import FLOAT64

T, B, H = 5, 3, 4


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def each_part(change: Callable[[nn.Module, str], Any]) -> Callable[[bptt.Network], None]:
    def both(net: bptt.Network) -> None:
        W = "weight_ih_l0" if net.recurrence == "output" else "weight_hh_l0"
        change(net.recurrent, W)
        change(net.readout, "weight")

    return both


MACHINERY = {
    "pruned": each_part(lambda m, name: prune.l1_unstructured(m, name, 0.4)),
    "pruned twice": each_part(
        lambda m, name: [prune.random_unstructured(m, name, 0.2) for _ in range(2)]
    ),
    "weight_norm by hook": each_part(nn.utils.weight_norm),
    "weight_norm": each_part(parametrizations.weight_norm),
    "spectral_norm by hook": each_part(nn.utils.spectral_norm),
    "spectral_norm": each_part(parametrizations.spectral_norm),
    "parametrized": each_part(
        lambda m, name: parametrize.register_parametrization(m, name, Doubled())
    ),
    "frozen": each_part(lambda m, name: getattr(m, name).requires_grad_(False)),
}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def make(recurrence: str = "both", cell: str = "tanh", **more: Any) -> bptt.Network:
    torch.manual_seed(0)
    net = bptt.Network(bptt.Gaussian(2), hidden=H, recurrence=recurrence, cell=cell, **more)
    return net.double()


Y = torch.randn(T, B, 2, generator=torch.Generator().manual_seed(1)).double()

CALLS: dict[str, Callable[[bptt.Network], Any]] = {
    "call": lambda net: net(Y).nll,
    "ragged": lambda net: net(Y, lengths=torch.tensor([5, 2, 3])).nll,
    "means": lambda net: net(Y, forcing=0.0, feedback="mean").nll,
    "samples": lambda net: net(Y, forcing=0.5).nll,
    "advance": lambda net: net.advance(Y),
    "generate": lambda net: net.generate(3, prompt=Y),
    "forecast": lambda net: net.forecast(3, prompt=Y, paths=2),
    "flow": lambda net: torch.from_numpy(bptt.gradient_flow(net, Y).norms),
    "flow of means": lambda net: torch.from_numpy(
        bptt.gradient_flow(net, Y, forcing=0.0, feedback="mean").truncation_error
    ),
    "loss": lambda net: bptt.backward(net, Y, window=2).loss,
    "exposure": lambda net: torch.from_numpy(bptt.exposure(net, Y, steps=2).free),
}
OF_A_LOOP: dict[str, Callable[[bptt.Network], Any]] = {
    "jacobians": lambda net: torch.from_numpy(bptt.jacobians(net, Y).matrices),
    "step to rest": lambda net: StateMap.of(net, None, None)(torch.ones(1, H).double()),
    "spectrum": lambda net: torch.from_numpy(bptt.spectrum(net).W),
}


def computed(net: bptt.Network, kind: dict[str, Any]) -> bptt.Network:
    """Return a plain network whose weights are what a call of this one computes."""
    plain = make(**kind)
    before = copy.deepcopy(net.state_dict())
    weights = {}
    for part in ("recurrent", "readout"):
        module = getattr(net, part)
        for hook in module._forward_pre_hooks.values():
            hook(module, ())
        for name, _ in getattr(plain, part).named_parameters():
            weights[f"{part}.{name}"] = getattr(module, name).detach().clone()
    net.load_state_dict(before)
    plain.load_state_dict(weights, strict=False)
    for name, parameter in net.named_parameters():
        if name in weights:
            plain.get_parameter(name).requires_grad_(parameter.requires_grad)
    return plain


@pytest.mark.parametrize(
    ("recurrence", "cell"), [("both", "tanh"), ("hidden", "gru"), ("output", "relu")]
)
@pytest.mark.parametrize("machinery", list(MACHINERY))
def test_every_call_has_the_weights_of_the_moment(
    machinery: str, recurrence: str, cell: str
) -> None:
    kind = {"recurrence": recurrence, "cell": cell}
    net = make(**kind)
    MACHINERY[machinery](net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.25)  # what was computed before is old now
    net.eval()  # in which spectral_norm stands still
    plain = computed(net, kind).eval()
    calls = CALLS | (OF_A_LOOP if recurrence == "both" else {})
    for call in calls.values():
        torch.manual_seed(2)
        want = torch.utils._pytree.tree_leaves(call(plain))
        torch.manual_seed(2)
        got = torch.utils._pytree.tree_leaves(call(net))
        torch.testing.assert_close(got, want, **FLOAT64, equal_nan=True)
    for p in plain.parameters():
        p.grad = None
    net.zero_grad()
    for one in (plain, net):
        one(Y).nll.sum().backward()
    grad = plain.readout.bias.grad
    torch.testing.assert_close(net.readout.bias.grad, grad, **FLOAT64)
    assert all(p.grad is not None for p in net.readout.parameters() if p.requires_grad)


@pytest.mark.parametrize("machinery", ["pruned", "weight_norm", "weight_norm by hook"])
def test_gradients_of_what_the_weights_are_made_of(machinery: str) -> None:
    net = make()
    MACHINERY[machinery](net)
    parameters = [p for p in net.parameters() if p.requires_grad]

    def loss(*values: Tensor) -> Tensor:
        with torch.no_grad():
            for p, value in zip(parameters, values, strict=True):
                p.copy_(value)
        return net(Y).nll.sum()

    at = [p.detach().clone() for p in parameters]
    grads = torch.autograd.grad(loss(*at), parameters)
    step = 1e-6
    for i, grad in enumerate(grads):
        along = torch.randn(grad.shape, generator=torch.Generator().manual_seed(i)).double()
        ends = [
            float(loss(*at[:i], at[i] + sign * step * along, *at[i + 1 :]).detach())
            for sign in (1, -1)
        ]
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(
            float((grad * along).sum()), rel=1e-5, abs=1e-6
        )


def test_spectral_norm_takes_one_step_a_call() -> None:
    net = make()
    parametrizations.spectral_norm(net.readout, "weight")
    twin = copy.deepcopy(net)
    net(Y, forcing=0.5)
    _ = twin.readout.weight
    for mine, its in zip(net.readout.buffers(), twin.readout.buffers(), strict=True):
        assert torch.equal(mine, its)


HOOKS = {
    "forward hook": lambda m: m.register_forward_hook(lambda *_: None),
    "forward pre-hook": lambda m: m.register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda m: m.register_full_backward_hook(lambda *_: None),
    "backward pre-hook": lambda m: m.register_full_backward_pre_hook(lambda *_: None),
    "forward was replaced": lambda m: setattr(m, "forward", lambda *_: None),
}


@pytest.mark.parametrize("hook", list(HOOKS))
@pytest.mark.parametrize("part", ["recurrent", "readout", "likelihood"])
def test_hooks_that_would_not_run_are_refused(part: str, hook: str) -> None:
    net = make()
    HOOKS[hook](getattr(net, part))
    for call in CALLS.values():
        with pytest.raises(bptt.BpttError, match=rf"net\.{part}.* would not run.*network itself"):
            call(net)


def test_hooks_of_the_network_run() -> None:
    net, seen = make(), list[Any]()
    net.register_forward_hook(lambda _, __, out: seen.append(out.outputs.shape))
    net(Y)
    assert seen == [(T, B, 2)]


@pytest.mark.parametrize("machinery", [None, *MACHINERY])
def test_copies_and_files(machinery: str | None) -> None:
    net = make(dropout=0.3)
    if machinery is not None:
        MACHINERY[machinery](net)
    net.eval()
    expected = net(Y).nll
    other = make(dropout=0.3)
    if machinery is not None:
        MACHINERY[machinery](other)
    other.load_state_dict(net.state_dict())
    copies = [other.eval()]
    if machinery is None or machinery == "frozen":
        copies += [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
        file = io.BytesIO()
        torch.save(net, file)
        file.seek(0)
        copies.append(torch.load(file, weights_only=False))
    for one in copies:
        assert torch.equal(one(Y).nll, expected)


def test_dropout_in_two_threads() -> None:
    """Each call has a draw of its own, and leaves nothing behind on the network."""
    net = make(dropout=0.5)
    before = set(vars(net)) | set(vars(net.recurrent))
    net.eval()
    whole = net(Y).nll
    net.train()
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def train() -> None:
        try:
            start.wait()
            for _ in range(20):
                bptt.backward(net, Y, window=2)
        except RuntimeError as error:
            failures.append(error)

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(vars(net)) | set(vars(net.recurrent)) == before
    assert torch.equal(net.eval()(Y).nll, whole)


def test_each_module_keeps_its_own_mode() -> None:
    net = make(dropout=0.5)
    model = nn.ModuleDict({"net": net, "more": nn.Sequential(nn.Dropout(), nn.Dropout())})
    model["more"][0].eval()
    net.eval()
    modes = [module.training for module in model.modules()]
    with every_unit(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes
    net.train()
    net.likelihood.eval()
    modes = [module.training for module in net.modules()]
    for call in CALLS.values():
        call(net)
    assert [module.training for module in net.modules()] == modes


HALF: dict[str, Callable[[bptt.Network, Tensor], Any]] = {
    "call": lambda net, y: net(y).nll,
    "ragged": lambda net, y: net(y, lengths=torch.tensor([5, 2, 3])).nll,
    "means": lambda net, y: net(y, forcing=0.0, feedback="mean").nll,
    "loss": lambda net, y: bptt.backward(net, y).loss,
    "truncated": lambda net, y: bptt.backward(net, y, window=2, stride=1).loss,
    "in memory": lambda net, y: bptt.backward(net, y, memory="1MB").loss,
    "generate": lambda net, y: net.generate(3, prompt=y, temperature=0.0),
    "quantile": lambda net, y: net.forecast(3, prompt=y, paths=2).quantile(0.5).isfinite(),
}
REFUSED_IN_HALF: dict[str, Callable[[bptt.Network, Tensor], Any]] = {
    "flow": bptt.gradient_flow,
    "jacobians": bptt.jacobians,
    "exponents": bptt.lyapunov_exponents,
    "spectrum": lambda net, _: bptt.spectrum(net),
    "diagnosis": lambda net, y: bptt.diagnose(net, bptt.Sample(y)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("call", list(HALF))
def test_half_precision_is_right(call: str, dtype: torch.dtype) -> None:
    net = make().to(dtype)
    exact = make()
    exact.load_state_dict(net.state_dict())
    got, want = HALF[call](net, Y.to(dtype)), HALF[call](exact, Y.to(dtype).double())
    torch.testing.assert_close(got.double(), want.double(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("call", list(REFUSED_IN_HALF))
def test_what_half_precision_is_not_enough_for(call: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(bptt.BpttError, match=r"expected torch\.float32 or torch\.float64"):
            REFUSED_IN_HALF[call](make().to(dtype), Y.to(dtype))


@pytest.mark.parametrize("machinery", ["spectral_norm", "spectral_norm by hook"])
@pytest.mark.parametrize("how", [{"memory": "1MB"}, {"window": 2}])
def test_steps_are_not_run_twice_with_weights_that_change(
    machinery: str, how: dict[str, Any]
) -> None:
    net = make()
    MACHINERY[machinery](net)
    assert bool(bptt.backward(net, Y, window=T).loss.isfinite())
    with pytest.raises(bptt.BpttError, match="spectral_norm"):
        bptt.backward(net, Y, **how)
    assert bool(bptt.backward(net.eval(), Y, **how).loss.isfinite())
