from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bptt
from tests.networks import make


@pytest.mark.parametrize(("recurrence", "cell"), [("hidden", "tanh"), ("both", "relu")])
def test_values_are_those_of_w(recurrence, cell):
    net, _, _ = make(recurrence, cell, layers=2)
    W = net.recurrent.weight_hh_l1.detach().normal_().numpy()
    found = bptt.spectrum(net, layer=1)
    moduli = sorted(np.abs(np.linalg.eigvals(W)), reverse=True)
    np.testing.assert_allclose(np.abs(found.eigenvalues), moduli)
    assert found.spectral_radius == pytest.approx(moduli[0])
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(W)[1])


def test_powers_are_predicted_by_the_eigenvalues():
    torch.manual_seed(0)
    net, _, _ = make("hidden")
    net.recurrent.weight_hh_l0.detach().normal_(std=0.6)
    predicted, measured = bptt.spectrum(net).powers(np.ones(4), 30)
    assert predicted.shape == (31,)
    assert measured[0] == pytest.approx(2)
    np.testing.assert_allclose(predicted, measured, rtol=1e-9)
    W = net.recurrent.weight_hh_l0.detach().numpy()
    assert measured[3] == pytest.approx(np.linalg.norm(np.ones(4) @ W @ W @ W))


@pytest.mark.parametrize(("factor", "words"), [(0.9, "vanishes"), (1.1, "cannot be said")])
def test_the_sufficient_condition(factor, words):
    net, _, _ = make("hidden")
    net.recurrent.weight_hh_l0.detach().copy_(torch.eye(4) * factor)
    assert words in bptt.spectrum(net).verdict


@pytest.mark.parametrize("hidden", [4, 128])
def test_an_orthogonal_start_is_not_said_to_vanish(hidden):
    for seed in range(10):
        torch.manual_seed(seed)
        net = bptt.Network(bptt.Categorical(3), hidden=hidden)
        assert "cannot be said" in bptt.spectrum(net).verdict


def test_a_matrix_without_enough_eigenvectors():
    net, _, _ = make("hidden")
    net.recurrent.weight_hh_l0.detach().copy_(torch.ones(4, 4).triu(1).tril(1))
    with pytest.raises(bptt.BpttError, match="no full set of eigenvectors"):
        bptt.spectrum(net).powers(np.ones(4), 3)


def test_bad_arguments():
    net, _, _ = make("hidden")
    with pytest.raises(bptt.BpttError, match="layer is 1"):
        bptt.spectrum(net, layer=1)
    with pytest.raises(bptt.BpttError, match=r'cell is "gru".*bptt\.jacobians'):
        bptt.spectrum(make("hidden", "gru")[0])
    with pytest.raises(bptt.BpttError, match='recurrence is "output"'):
        bptt.spectrum(make("output")[0])
    with pytest.raises(bptt.BpttError, match="got a RNN"):
        bptt.spectrum(torch.nn.RNN(2, 2))
    with pytest.raises(bptt.BpttError, match="v has shape"):
        bptt.spectrum(net).powers(np.ones(3), 2)
    with torch.no_grad():
        net.recurrent.weight_hh_l0[0, 0] = math.nan
    with pytest.raises(bptt.BpttError, match="W is not finite"):
        bptt.spectrum(net)
