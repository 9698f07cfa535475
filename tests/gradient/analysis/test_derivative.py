"""A step's derivative along a run is autograd's of the step, one time step after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bptt.gradient.analysis.derivative import Derivative, StepDerivative, StepPassed
from bptt.gradient.analysis.layer import derivative_at
from bptt.gradient.analysis.parameters import Parameters, Site
from bptt.gradient.analysis.plain_derivative import PlainDerivative
from bptt.kernel.ops import Recipe
from tests.kernel.steps_of_users import STEPS, recipe
from tests.oracles import FLOAT64

T, B, H = 6, 3, 4
STEPS_BACK = slice(2, 5)
Run = tuple[Recipe, Tensor, list[Tensor]]


def run_of(name: str) -> Run:
    """A step, its input, and states before each time step."""
    torch.manual_seed(0)
    p = torch.randn(T, B, STEPS[name].p * H).double()
    before = [torch.randn(T, B, width * H).double() for width in STEPS[name].parts]
    return recipe(name, H, torch.float64), p, before


def by_autograd(run: Run, t: int, grads: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """∂/∂p, ∂/∂ of the parts before, and ∂/∂ of the tensors, of one step with these gradients."""
    made_of, p, before = run
    leaves = [rows[t].clone().requires_grad_() for rows in (p, *before)]
    outputs = made_of.step(leaves[0], tuple(leaves[1:]))
    total = sum((out * d).sum() for out, d in zip(outputs, grads, strict=True))
    inputs = [*leaves, *made_of.tensors]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    known = [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]
    return known[0], known[1 : len(leaves)], known[len(leaves) :]


def derivative(way: str, run: Run) -> StepDerivative:
    found = derivative_at(*run) if way == "program" else PlainDerivative(*run)
    assert isinstance(found, Derivative) == (way == "program")
    return found


def joined(site: Site, passed: StepPassed) -> Tensor:
    return torch.cat([piece for _, piece in site.deltas(passed)], -1)


@pytest.mark.parametrize("way", ["program", "plain"])
@pytest.mark.parametrize("name", STEPS)
def test_gradients_at_many_steps_at_once(name: str, way: str) -> None:
    run = run_of(name)
    found = derivative(way, run)
    d = tuple(torch.randn(3, *part.shape[1:]).double() for part in run[2])
    passed = found.back(d, STEPS_BACK)
    expected = [
        by_autograd(run, t, [part[i] for part in d]) for i, t in enumerate(range(T)[STEPS_BACK])
    ]
    torch.testing.assert_close(passed.p, torch.stack([e[0] for e in expected]), **FLOAT64)
    for part, wanted in zip(
        passed.before, zip(*[e[1] for e in expected], strict=True), strict=True
    ):
        torch.testing.assert_close(part, torch.stack(wanted), **FLOAT64)
    made_of = {str(i): tensor for i, tensor in enumerate(run[0].tensors)}
    parameters = Parameters(made_of, found.weights, found.is_turned)
    sites = parameters.sites(found, found.uses())
    each = [joined(site, passed).mT @ site.z[STEPS_BACK] for site in sites]
    for lead, totals in (("each", each), ("all", [total.sum(0) for total in each])):
        gradient = parameters.gradient(sites, totals)
        assert set(gradient) == set(made_of)
        for i, wanted in enumerate(zip(*[e[2] for e in expected], strict=True)):
            by_step = torch.stack(wanted)
            by_step = by_step if lead == "each" else by_step.sum(0)
            torch.testing.assert_close(gradient[str(i)], by_step, **FLOAT64)


@pytest.mark.parametrize("way", ["program", "plain"])
@pytest.mark.parametrize("name", ["gru", "without product", "normalised gru"])
def test_many_gradients_at_one_step(name: str, way: str) -> None:
    run = run_of(name)
    d = tuple(torch.randn(5, *part.shape[1:]).double() for part in run[2])
    passed = derivative(way, run).back(d, slice(3, 4))
    for i in range(5):
        p, before, _ = by_autograd(run, 3, [part[i] for part in d])
        torch.testing.assert_close(passed.p[i], p, **FLOAT64)
        for part, wanted in zip(passed.before, before, strict=True):
            torch.testing.assert_close(part[i], wanted, **FLOAT64)


def test_a_step_that_reads_no_state_has_no_loop() -> None:
    p, before = torch.randn(T, B, H).double(), [torch.randn(T, B, H).double()]
    alone = Recipe(lambda: lambda p, _: (torch.tanh(p),), ())
    assert not derivative_at(alone, p, before).has_loop
    assert derivative_at(run_of("tanh")[0], p, before).has_loop
