"""Every rule of differentiation against autograd; and with its sign turned, which is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bptt.kernel import rules
from bptt.kernel.program import ALONG_A_ROW, ELEMENTWISE, Builder, Expr, Program, Value, evaluate
from bptt.kernel.rules import RULES, Backward, reverse

WIDTH = 7
ARGUMENTS = {
    "where": 3,
    **dict.fromkeys(
        ["add", "sub", "mul", "div", "minimum", "maximum", "greater", "at_least", "equal"], 2
    ),
}
AT = {"pow": (2.5,)}
POSITIVE = ("log", "log1p", "sqrt", "pow", "div")
# The rule of max says where it may stand; the others give the number of a column.
DIFFERENTIATED = [op for op in RULES if op not in ("max", "argmax", "choose")]


def program_of(op: str) -> Program:
    """Return a step whose new state is one operation on state parts."""
    builder = Builder()
    widths = [1 if op == "spread" else WIDTH] * ARGUMENTS.get(op, 1)
    args = [builder.source("state", width, i, 0, 1) for i, width in enumerate(widths)]
    lines = tuple(arg.line for arg in args)
    result = Value(op, lines, 1 if op == "sum" else WIDTH, AT.get(op, ()))
    return builder.finish({("new", 0, 0): Expr(builder, builder.line(result))})


def inputs(op: str) -> list[Tensor]:
    """Return rows for each argument, among them equal ones and zeros."""
    torch.manual_seed(0)
    width = 1 if op == "spread" else WIDTH
    rows = [torch.randn(5, width).double() for _ in range(ARGUMENTS.get(op, 1))]
    if op in POSITIVE:
        rows = [row.abs() + 0.1 for row in rows]
    else:
        rows[0][0] = 0.0
    if len(rows) > 1:
        rows[1][1] = rows[0][1]
    return [row.requires_grad_() for row in rows]


def gradients(op: str, rows: list[Tensor], d: Tensor) -> dict[int, Tensor]:
    """Return ∂L/∂ of each argument by the rules."""
    program = program_of(op)
    backward: Backward = reverse(program)
    every = Program(program.values, {("line", i): i for i in range(len(program.values))})
    lines = evaluate(every, lambda v: rows[v.at[0]], lambda _: d)

    def source(v: Value) -> Tensor:
        known: dict[str, Any] = {
            "arrived": lambda: d,
            "above": lambda: torch.zeros_like(d),
            "state": lambda: rows[v.at[0]],
            "new": lambda: lines["line", program.results["new", 0, 0]],
            "saved": lambda: lines["line", v.at[0]],
            "constant": lambda: d.new_full((len(d), v.width), v.at[0]),
        }
        return known[v.op]()  # type: ignore[no-any-return]

    results = evaluate(backward.program, source, lambda _: d)
    return {name[1]: grad.detach() for name, grad in results.items() if name[0] == "state"}


def differs(op: str) -> list[bool]:
    """Return of which arguments the gradient differs from autograd's."""
    rows = inputs(op)
    results = evaluate(program_of(op), lambda v: rows[v.at[0]], lambda _: rows[0])
    y = results["new", 0, 0]
    d = torch.randn_like(y)
    expected = [torch.zeros_like(row) for row in rows]
    if y.requires_grad:
        grads = torch.autograd.grad(y, rows, d, allow_unused=True)
        expected = [e if g is None else g for e, g in zip(expected, grads, strict=True)]
    mine = gradients(op, rows, d)
    return [
        not torch.allclose(mine.get(i, torch.zeros_like(its)), its, rtol=1e-12, atol=1e-12)
        for i, its in enumerate(expected)
    ]


@pytest.mark.parametrize("op", DIFFERENTIATED)
def test_a_rule_is_the_derivative(op: str) -> None:
    assert not any(differs(op))


@pytest.mark.parametrize("op", DIFFERENTIATED)
def test_a_rule_with_its_sign_turned_is_seen(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = RULES[op]
    for turned in range(ARGUMENTS.get(op, 1)):

        def wrong(*arguments: Any, which: int = turned) -> tuple[Expr | None, ...]:
            grads = rule(*arguments)
            return tuple(
                -grad if grad is not None and i == which else grad for i, grad in enumerate(grads)
            )

        monkeypatch.setitem(rules.RULES, op, wrong)  # type: ignore[arg-type]
        flat = ("detach", "trunc", "greater", "at_least", "equal")
        has_derivative = op not in flat and (op, turned) != ("where", 0)
        assert differs(op)[turned] == has_derivative


def test_every_operation_that_a_step_has_is_differentiated() -> None:
    fused = ("lerp", "mul_add", "mul_rest", "mul_difference", "tanh_back", "sigmoid_back")
    assert set(RULES) == {*ELEMENTWISE, *ALONG_A_ROW, "spread"} - {*fused}
