from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import bptt
from bptt.model.hidden import parts
from bptt.model.state import Regime
from tests.covering import pairs
from tests.networks import RECURRENT_CELLS, make
from tests.oracles import FLOAT64

T, B = 6, 2
LOOPED = [pair for pair in RECURRENT_CELLS if pair[0] != "output"]


pytestmark = pytest.mark.usefixtures("one_thread")


def flat(state: bptt.State) -> Tensor:
    """The full state of each sequence, layer by layer, h before c."""
    layers = torch.stack(parts(state.hidden), 1)  # (layers, h and c, B, H)
    return layers.permute(2, 0, 1, 3).flatten(1)


def jacobian_by_autograd(net, y, x, how, m) -> Tensor:
    """∂sₘ/∂sₘ₋₁ of one public step, the path through the network's own output included."""
    regime = Regime(**how)
    before = net(y[:m], x=x[:m], **regime.part(0, m).options()).state

    def move(s: Tensor) -> Tensor:
        H, layers = net.recurrent.hidden_size, net.recurrent.num_layers
        hidden = s.view(B, layers, -1, H).permute(2, 1, 0, 3)
        own = before.generated
        if own is not None:
            own = net.likelihood.mean(net.readout(hidden[0][-1]))
        state = bptt.State(tuple(hidden) if len(hidden) > 1 else hidden[0], before.y, own)
        options = regime.part(m, m + 1).options()
        return flat(net(y[m : m + 1], x=x[m : m + 1], state=state, **options).state)

    s = flat(before).detach()
    whole = torch.autograd.functional.jacobian(move, s)  # (B, S, B, S)
    return torch.stack([whole[b, :, b] for b in range(B)])


@pytest.mark.parametrize(
    ("looped", "layers", "way"), pairs(LOOPED, [1, 2], ["plain", "resets", "mean"])
)
def test_jacobians_are_those_of_a_step(looped, layers, way):
    torch.manual_seed(4)
    recurrence, cell = looped
    net, y, x = make(recurrence, cell, T, B, layers=layers)
    how: dict[str, object] = {}
    if way == "resets":
        how["resets"] = torch.rand(T, B) < 0.3
    if way == "mean":
        how |= {"forcing": torch.rand(T, B) < 0.4, "feedback": "mean"}
    found = bptt.jacobians(net, y, x=x, steps=None, **how)
    assert found.steps.tolist() == [2, 3, 4, 5, 6]
    for m, matrix in zip(found.steps, found.matrices, strict=True):
        expected = jacobian_by_autograd(net, y, x, how, int(m) - 1)
        torch.testing.assert_close(torch.from_numpy(matrix), expected, **FLOAT64)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", ["tanh", "relu"])
def test_jacobians_through_the_output_alone(cell, layers):
    """Where nothing loops over h, the top layer's still reaches the next step, by the mean."""
    torch.manual_seed(4)
    net, y, x = make("output", cell, T, B, layers=layers)
    how = {"forcing": torch.rand(T, B) < 0.4, "feedback": "mean"}
    found = bptt.jacobians(net, y, x=x, steps=None, **how)
    assert found.matrices.shape == (T - 1, B, 4 * layers, 4 * layers)
    assert (found.matrices[..., : 4 * (layers - 1)] == 0).all()
    for m, matrix in zip(found.steps, found.matrices, strict=True):
        expected = top_jacobian_through_the_mean(net, y, x, how, int(m) - 1)
        top = torch.from_numpy(matrix[:, -4:, -4:])
        torch.testing.assert_close(top, expected, **FLOAT64)
        assert (top[how["forcing"][m - 1]] == 0).all()


def top_jacobian_through_the_mean(net, y, x, how, m) -> Tensor:
    """By autograd of one public step of a network without a hidden state."""
    regime = Regime(**how)
    before = net(y[:m], x=x[:m], **regime.part(0, m).options())

    def move(h: Tensor) -> Tensor:
        state = before.state._replace(generated=net.likelihood.mean(net.readout(h)))
        options = regime.part(m, m + 1).options()
        return net(y[m : m + 1], x=x[m : m + 1], state=state, **options).hidden[0]

    whole = torch.autograd.functional.jacobian(move, before.hidden[-1].detach())
    return torch.stack([whole[b, :, b] for b in range(B)])


def test_values_of_the_jacobians():
    net, y, x = make("hidden", "tanh", 40, B)
    found = bptt.jacobians(net, y, x=x, steps=5)
    assert found.steps[0] == 2
    assert found.steps[-1] == 40
    assert len(found.steps) == 5
    for i, m in enumerate(found.steps):
        h = net(y[:m], x=x[:m]).hidden[-1]
        for b in range(B):
            J = torch.diag(1 - h[b] ** 2) @ net.recurrent.weight_hh_l0  # equation 10.22
            np.testing.assert_allclose(found.matrices[i, b], J.detach(), atol=1e-12)
            values = np.linalg.svd(J.detach())[1]
            np.testing.assert_allclose(found.singular_values[i, b], values, atol=1e-12)
            radius = np.abs(np.linalg.eigvals(J.detach())).max()
            assert found.spectral_radius[i, b] == pytest.approx(radius)


def test_forced_output_recurrence_has_jacobians_of_zero():
    net, y, x = make("output", "tanh", 5, B)
    assert (bptt.jacobians(net, y, x=x).matrices == 0).all()
    exponents = bptt.lyapunov_exponents(net, y, x=x).exponents
    assert (exponents == -np.inf).all()


def test_eigenvalues_are_complex_even_where_all_are_real():
    net, y, x = make("hidden", T=5)
    with torch.no_grad():
        net.recurrent.weight_hh_l0.copy_(torch.eye(4))
    assert bptt.jacobians(net, y, x=x).eigenvalues.dtype == np.complex128
    assert bptt.jacobians(net.float(), y, x=x.float()).eigenvalues.dtype == np.complex64


@pytest.mark.parametrize("cell", ["tanh", "lstm"])
def test_beyond_a_sequences_end_there_is_no_jacobian(cell):
    net, y, x = make("both", cell, T, 3)
    lengths = torch.tensor([6, 1, 4])
    found = bptt.jacobians(net, y, x=x, steps=None, lengths=lengths)
    whole = bptt.jacobians(net, y, x=x, steps=None)
    ended = found.steps[:, None] > lengths.numpy()
    assert np.isnan(found.matrices[ended]).all()
    for name in ("matrices", "singular_values", "eigenvalues", "spectral_radius"):
        mine, its = getattr(found, name), getattr(whole, name)
        assert np.isnan(mine[ended]).all()
        np.testing.assert_allclose(mine[~ended], its[~ended], atol=1e-12)


def linear(diagonal: list[float], T: int) -> tuple[bptt.Network, Tensor, Tensor]:
    """A relu network that stays above 0, with a diagonal W."""
    H = len(diagonal)
    net = bptt.Network(
        bptt.Gaussian(1), inputs=1, hidden=H, recurrence="hidden", cell="relu"
    ).double()
    with torch.no_grad():
        net.recurrent.weight_hh_l0.copy_(torch.diag(torch.tensor(diagonal, dtype=torch.float64)))
        net.recurrent.weight_ih_l0.fill_(1)
    return net, torch.zeros(T, B, 1).double(), torch.rand(T, B, 1).double() + 0.1


def test_exponents_of_a_diagonal_network_are_the_logs_of_its_eigenvalues():
    diagonal = [0.9, 0.3, 0.6, 0.1]
    net, y, x = linear(diagonal, 1500)
    found = bptt.lyapunov_exponents(net, y, x=x)
    expected = np.log(sorted(diagonal, reverse=True))
    np.testing.assert_allclose(found.exponents, expected, atol=1e-8)
    assert found.per_sequence.shape == (B, 4)
    largest = bptt.lyapunov_exponents(net, y, x=x, count=2)
    np.testing.assert_allclose(largest.exponents, expected[:2], atol=1e-8)


@pytest.mark.parametrize("cell", ["tanh", "gru"])
def test_exponents_are_the_growth_of_the_products_singular_values(cell):
    """Of 40 steps the smallest still stand above rounding; of 400 the largest is nearer."""
    torch.manual_seed(0)
    net, y, x = make("hidden", cell, 41, B)
    found = bptt.lyapunov_exponents(net, y, x=x, transient=0)
    assert found.steps.tolist() == [40] * B
    product = np.eye(4)
    for matrix in bptt.jacobians(net, y, x=x, steps=None).matrices:
        product = matrix @ product
    sizes = np.log(np.linalg.svd(product, compute_uv=False)) / 40
    np.testing.assert_allclose(found.per_sequence, sizes, atol=3 / 40)  # O(1 / steps): the start
    _, y, x = make("hidden", cell, 401, B)
    top = bptt.lyapunov_exponents(net, y, x=x, count=1, transient=0).per_sequence[:, 0]
    product, size = np.eye(4), 0.0
    for matrix in bptt.jacobians(net, y, x=x, steps=None).matrices:
        product = matrix @ product
        scale = np.linalg.norm(product, 2, axis=(1, 2))
        product, size = product / scale[:, None, None], size + np.log(scale)
    np.testing.assert_allclose(top, size / 400, atol=4 / 400)


def test_the_transient_does_not_count():
    net, y, x = make("hidden", T=60)
    assert bptt.lyapunov_exponents(net, y, x=x).steps.tolist() == [59 - 5] * 3
    late = bptt.lyapunov_exponents(net, y, x=x, transient=20)
    assert late.steps.tolist() == [39] * 3
    matrices = bptt.jacobians(net, y, x=x, steps=None).matrices[:39]
    volume = np.linalg.slogdet(matrices)[1].mean(0)
    np.testing.assert_allclose(late.per_sequence.sum(1), volume, atol=1e-9)


@pytest.mark.parametrize("cell", ["tanh", "gru", "lstm"])
def test_exponents_sum_to_the_log_of_the_volume(cell):
    """Σ λ is the mean log |det ∂hₘ/∂hₘ₋₁|, whatever the directions were."""
    torch.manual_seed(0)
    net, y, x = make("hidden", cell, 60, B)
    found = bptt.lyapunov_exponents(net, y, x=x)
    matrices = bptt.jacobians(net, y, x=x, steps=None).matrices
    counted = matrices[: found.steps[0]]  # back in time the first of them come last
    volume = np.linalg.slogdet(counted)[1].mean(0)
    np.testing.assert_allclose(found.per_sequence.sum(1), volume, atol=1e-9)


@pytest.mark.parametrize("cell", ["tanh", "gru"])
def test_each_stretch_of_a_ragged_batch_counts_as_if_it_were_alone(cell):
    """Σ λ of a sequence with an end and a reset is the volume of both stretches, by their steps."""
    torch.manual_seed(0)
    net, y, x = make("hidden", cell, 60, 3)
    lengths, resets = torch.tensor([60, 41, 1]), torch.zeros(60, 3, dtype=torch.bool)
    resets[25, :2] = True
    found = bptt.lyapunov_exponents(net, y, x=x, lengths=lengths, resets=resets)
    how = {"lengths": lengths, "resets": resets}
    matrices = bptt.jacobians(net, y, x=x, steps=None, **how).matrices  # [i] leads to step i + 1
    # Going back from an end, the first tenth of a stretch's steps is for the directions to align.
    counted = [[*range(24 - 2), *range(25, 59 - 3)], [*range(24 - 2), *range(25, 40 - 1)]]
    assert found.steps.tolist() == [len(counted[0]), len(counted[1]), 0]
    for b, steps in enumerate(counted):
        volume = np.linalg.slogdet(matrices[steps, b])[1].mean()
        np.testing.assert_allclose(found.per_sequence[b].sum(), volume, atol=1e-9)
    assert np.isnan(found.per_sequence[2]).all()
    shares = found.steps[:2] / found.steps.sum()
    np.testing.assert_allclose(found.exponents, shares @ found.per_sequence[:2])
    with pytest.raises(bptt.BpttError, match="no step counts"):
        bptt.lyapunov_exponents(net, y, x=x, lengths=torch.tensor([1, 1, 1]))


def henon(x: Tensor) -> Tensor:
    return torch.stack([1 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]])


def lorenz(x: Tensor, dt: float = 0.01) -> Tensor:
    def slope(v: Tensor) -> Tensor:
        a, b, c = v
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c])

    k1 = slope(x)
    k2 = slope(x + dt / 2 * k1)
    k3 = slope(x + dt / 2 * k2)
    k4 = slope(x + dt * k3)
    return x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def five_of_lorenz(x: Tensor) -> Tensor:
    """Five steps as one, between which the directions keep apart."""
    for _ in range(5):
        x = lorenz(x)
    return x


def test_exponents_of_henons_map():
    start = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0)).double() * 0.1
    found = bptt.lyapunov_spectrum(henon, start, 400)
    assert found[0] == pytest.approx(0.419, rel=0.01)
    assert found.sum() == pytest.approx(math.log(0.3), abs=1e-9)


def test_exponents_of_lorenzs_equations():
    start = 5 * torch.randn(2500, 3, generator=torch.Generator().manual_seed(0)).double()
    start += torch.tensor([0.0, 0.0, 25.0])
    for _ in range(2000):  # to the attractor, all at once and without slopes
        start = lorenz(start.T).T
    found = bptt.lyapunov_spectrum(five_of_lorenz, start, 160, transient=100) / 0.05
    assert found[0] == pytest.approx(0.906, rel=0.01)
    assert abs(found[1]) < 0.01
    assert found.sum() == pytest.approx(-(10 + 1 + 8 / 3), rel=1e-4)


def test_one_start_and_the_largest_alone():
    found = bptt.lyapunov_spectrum(henon, torch.tensor([0.1, 0.1]).double(), 500, count=1)
    assert found.shape == (1,)
    assert 0.3 < found[0] < 0.5


def test_a_step_of_trained_weights_leaves_no_graph_behind():
    W = torch.nn.Parameter(torch.eye(3).double() * 0.5)
    start = torch.ones(2, 3).double().requires_grad_()
    alive = []

    def step(v: Tensor) -> Tensor:
        alive.append(torch.is_grad_enabled())
        return W @ v

    found = bptt.lyapunov_spectrum(step, start, 20)
    np.testing.assert_allclose(found, np.log([0.5] * 3), atol=1e-12)
    assert (W.grad, start.grad) == (None, None)
    assert not alive[0]  # a graph would grow by every step


def test_torchs_random_numbers_and_the_network_are_left_alone():
    net, y, x = make("hidden", T=30)
    before, mode = torch.get_rng_state(), net.training
    bptt.lyapunov_exponents(net, y, x=x)
    bptt.jacobians(net, y, x=x)
    assert torch.equal(before, torch.get_rng_state())
    assert net.training == mode
    assert all(p.grad is None for p in net.parameters())


def test_bad_arguments(monkeypatch):
    net, y, x = make("hidden", T=9)
    with pytest.raises(bptt.BpttError, match="y has 1 step"):
        bptt.jacobians(net, y[:1], x=x[:1])
    with pytest.raises(bptt.BpttError, match="steps is 0"):
        bptt.jacobians(net, y, x=x, steps=0)
    with pytest.raises(bptt.BpttError, match=r"count is 5; expected a whole number from 1 to 4"):
        bptt.lyapunov_exponents(net, y, x=x, count=5)
    with pytest.raises(bptt.BpttError, match="got a Linear"):
        bptt.jacobians(torch.nn.Linear(2, 2), y, x=x)
    with pytest.raises(bptt.BpttError, match=r"step returned shape \(1,\); expected \(2,\)"):
        bptt.lyapunov_spectrum(lambda v: v[:1], torch.zeros(2), 5)
    with pytest.raises(bptt.BpttError, match="infinite in step 39"):
        bptt.lyapunov_spectrum(lambda v: 10 * v, torch.ones(2), 500)
    with pytest.raises(bptt.BpttError, match="slopes became infinite in step 1"):
        bptt.lyapunov_spectrum(torch.sqrt, torch.zeros(2), 5)
    with pytest.raises(bptt.BpttError, match="step returned a float; expected a tensor"):
        bptt.lyapunov_spectrum(lambda v: 1.0, torch.zeros(2), 5)  # type: ignore[arg-type, return-value]
    with pytest.raises(bptt.BpttError, match=r"dtype torch\.float64; expected torch\.float32"):
        bptt.lyapunov_spectrum(lambda v: v.double(), torch.zeros(2), 5)
    for x0 in (torch.zeros(2, dtype=torch.long), torch.zeros(2, 2, 2), torch.zeros(0, 2)):
        with pytest.raises(bptt.BpttError, match=r"x0 has shape .*; expected \(n,\) or \(B, n\)"):
            bptt.lyapunov_spectrum(henon, x0, 5)
    with pytest.raises(bptt.BpttError, match=r"transient is 8; expected .* from 0 to 7"):
        bptt.lyapunov_exponents(net, y, x=x, transient=8)
    with pytest.raises(bptt.BpttError, match="lengths"):
        bptt.jacobians(net, y, x=x, lengths=torch.tensor([10, 1, 1]))
    with torch.no_grad():
        net.recurrent.weight_hh_l0[0, 0] = math.nan
    with pytest.raises(bptt.BpttError, match="not finite"):
        bptt.lyapunov_exponents(net, y, x=x)
    net, y, x = make("hidden", T=90, B=3)
    monkeypatch.setattr("bptt.gradient.analysis.dynamics.memory_here", lambda: 5000)
    with pytest.raises(bptt.BpttError, match="steps of at most 13"):
        bptt.jacobians(net, y, x=x)
    monkeypatch.setattr("bptt.gradient.analysis.dynamics.memory_here", lambda: 383)  # one takes 384
    with pytest.raises(bptt.BpttError, match="expected fewer sequences or units"):
        bptt.jacobians(net, y, x=x)
