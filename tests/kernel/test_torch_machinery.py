"""Whatever torch can do to a module: our layers give torch.nn's values, gradients, and errors.

One list of layers times one list of what can be done to them. Each entry gets a layer and an input,
and returns tensors: once from torch.nn's layer, once from ours with the same weights.
"""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import bptt
from bptt.kernel.plain import is_plain
from tests.oracles import FLOAT32

T, B, I, H = 5, 3, 4, 6  # noqa: E741

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tanh": ("RNN", {}),
    "relu": ("RNN", {"nonlinearity": "relu", "bias": False}),
    "gru": ("GRU", {}),
    "gru stack": ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "tanh stack": ("RNN", {"num_layers": 2, "batch_first": True}),
    "lstm": ("LSTM", {}),
}
Run = Callable[[nn.Module, Tensor], list[Tensor]]
MACHINERY: dict[str, Run] = {}


def machinery(run: Run) -> Run:
    MACHINERY[run.__name__.replace("_", " ").strip()] = run
    return run


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Return torch.nn's layer and ours, with the same weights."""
    kind, options = LAYERS[name]
    theirs, ours = getattr(nn, kind)(I, H, **options), getattr(bptt, kind)(I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def flat(result: Any) -> list[Tensor]:
    """Return the tensors of (output, state)."""
    output, state = result
    return [output, *(state if isinstance(state, tuple) else [state])]


def loss_of(outputs: list[Tensor]) -> Tensor:
    return sum(((k + 1) * out.square()).sum() for k, out in enumerate(outputs))


def backward(layer: nn.Module, x: Tensor, outputs: list[Tensor]) -> list[Tensor]:
    """Return the outputs and every gradient, first derivatives."""
    wanted = [p for p in [x, *layer.parameters()] if p.requires_grad]
    return [*outputs, *torch.autograd.grad(loss_of(outputs), wanted, allow_unused=True)]


@machinery
def as_it_is(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return backward(layer, x, flat(layer(x)))


@machinery
def a_single_sequence(layer: nn.Module, x: Tensor) -> list[Tensor]:
    one = x[0] if layer.batch_first else x[:, 0]
    return backward(layer, x, flat(layer(one)))


@machinery
def no_grad(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return flat(layer(x))


@machinery
def inference_mode(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        outputs = flat(layer(x * 2))
    return [out.clone() for out in outputs]


@machinery
def tensors_of_inference_outside(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.inference_mode():
        x = x.detach() * 2
    layer.requires_grad_(False)
    return flat(layer(x))


@machinery
def frozen_weights(layer: nn.Module, x: Tensor) -> list[Tensor]:
    layer.weight_hh_l0.requires_grad_(False)
    return backward(layer, x, flat(layer(x)))


@machinery
def retained_graph(layer: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = flat(layer(x))
    loss_of(outputs).backward(retain_graph=True)
    loss_of(outputs).backward()
    return [x.grad, *(p.grad for p in layer.parameters())]


@machinery
def retained_gradient_of_outputs(layer: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = flat(layer(x))
    for out in outputs:
        out.retain_grad()
    loss_of(outputs).backward()
    return [out.grad for out in outputs]


@machinery
def hooks_on_outputs(layer: nn.Module, x: Tensor) -> list[Tensor]:
    outputs, seen = flat(layer(x)), {}
    for i, out in enumerate(outputs):
        out.register_hook(lambda grad, i=i: seen.setdefault(i, grad.clone()))
    loss_of(outputs).backward()
    return [seen[i] for i in sorted(seen)]


@machinery
def hooks_where_one_output_is_used(layer: nn.Module, x: Tensor) -> list[Tensor]:
    if isinstance(layer, nn.LSTM | bptt.LSTM):
        return []  # of what is not used torch hands None to its hook, and so do we: by torch's own
    seen = []
    for used, unused in ((0, 1), (1, 0)):
        outputs = flat(layer(x))
        outputs[used].register_hook(lambda grad: seen.append(grad.clone()))
        outputs[unused].register_hook(lambda grad: seen.append(grad.clone()))
        outputs[used].square().sum().backward()
    return seen


@machinery
def hooks_that_change_the_gradient(layer: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = flat(layer(x))
    for out in outputs:
        out.register_hook(torch._neg_view)
    return backward(layer, x, outputs)


@machinery
def hooks_of_modules(layer: nn.Module, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, args: (2 * args[0],))
    layer.register_forward_hook(lambda _, args, out: seen.append(args[0]))
    layer.register_full_backward_hook(lambda _, grads, outs: seen.extend([grads[0], outs[0]]))
    return [*backward(layer, x, flat(layer(x))), *seen]


@machinery
def detached_in_place(layer: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = flat(layer(x))
    for out in outputs[:1] if isinstance(layer, nn.LSTM) else outputs:
        out.detach_()
    assert not outputs[0].requires_grad
    return outputs


@machinery
def state_detached_in_place_and_carried(layer: nn.Module, x: Tensor) -> list[Tensor]:
    _, state = layer(x)
    for part in state if isinstance(state, tuple) else [state]:
        part.detach_()
    return backward(layer, x, flat(layer(x, state)))


@machinery
def state_zeroed_in_place(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        _, state = layer(x)
    for part in state if isinstance(state, tuple) else [state]:
        part[:, 1] = 0
    return backward(layer, x, flat(layer(x, state)))


@machinery
def activation_checkpointing(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return backward(layer, x, flat(checkpoint(layer, x, use_reentrant=False)))


@machinery
def reentrant_checkpointing(layer: nn.Module, x: Tensor) -> list[Tensor]:
    output, _ = checkpoint(layer, x, use_reentrant=True)
    output.square().sum().backward()
    return [x.grad, *(p.grad for p in layer.parameters())]


@machinery
def saved_tensors_hooks(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True), torch.from_numpy):
        outputs = flat(layer(x))
    return backward(layer, x, outputs)


@machinery
def saved_on_cpu(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.autograd.graph.save_on_cpu():
        outputs = flat(layer(x))
    return backward(layer, x, outputs)


@machinery
def anomaly_detection(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly():
            return backward(layer, x, flat(layer(x)))


@machinery
def second_derivatives(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().double().requires_grad_()
    wanted = [x, *layer.double().parameters()]
    first = torch.autograd.grad(loss_of(flat(layer(x))), wanted, create_graph=True)
    return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)]


@machinery
def hessian_vector_product(layer: nn.Module, x: Tensor) -> list[Tensor]:
    value = torch.autograd.functional.hvp(lambda x: layer(x)[0].square().sum(), x, x.detach())
    return list(value)


@machinery
def batched_gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    output, _ = layer(x)
    grads = torch.randn(4, *output.shape, generator=torch.Generator().manual_seed(0))
    wanted = [x, *layer.parameters()]
    return list(torch.autograd.grad(output, wanted, grads, is_grads_batched=True))


@machinery
def gradient_without_memory(layer: nn.Module, x: Tensor) -> list[Tensor]:
    output, _ = layer(x)
    zeros = torch._efficientzerotensor(output.shape)
    return [*torch.autograd.grad(output, [x, *layer.parameters()], zeros)]


@machinery
def forward_mode(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with forward_ad.dual_level():
        output, _ = layer(forward_ad.make_dual(x.detach(), torch.ones_like(x)))
        return list(forward_ad.unpack_dual(output))


def forward_differences(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return what `forward_mode` does, by central differences in float64."""
    exact, at, step = copy.deepcopy(layer).double(), x.double(), 1e-5
    with torch.no_grad():
        (after, _), (before, _) = exact(at + step), exact(at - step)
        output, _ = layer(x)
    return [output, ((after - before) / (2 * step)).to(x.dtype)]


@machinery
def autocast_to_bfloat16(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """As `weights_of_bfloat16`; of LSTMs torch has none on processors without such products."""
    exact = flat(layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        try:
            outputs = flat(layer(x))
        except RuntimeError:
            assert type(layer) is nn.LSTM
            outputs = exact
    if type(layer).__module__.startswith("torch"):
        outputs = [out.to(low.dtype) for out, low in zip(exact, outputs, strict=True)]
    return backward(layer, x, outputs)


@machinery
def weights_of_bfloat16(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Ours are computed in float32, and rounded at the end: so is what they are held to."""
    x, dtype = x.detach().bfloat16().requires_grad_(), torch.bfloat16
    if isinstance(layer.bfloat16(), bptt.RNN | bptt.GRU | bptt.LSTM):
        return backward(layer, x, flat(layer(x)))
    assert all(out.dtype == dtype for out in backward(layer, x, flat(layer(x))))
    x = x.detach().float().requires_grad_()
    return [out.to(dtype) for out in backward(layer.float(), x, flat(layer(x)))]


@machinery
def weights_of_float64(layer: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.detach().double().requires_grad_()
    return backward(layer.double(), x, flat(layer(x)))


@machinery
def weights_and_input_of_two_dtypes(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer.double()(x))


@machinery
def negated_view(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return backward(layer, x, flat(layer(torch._neg_view(x))))


@machinery
def negated_state(layer: nn.Module, x: Tensor) -> list[Tensor]:
    _, state = layer(x)
    negated = tuple(map(torch._neg_view, state)) if isinstance(state, tuple) else state
    negated = negated if isinstance(state, tuple) else torch._neg_view(state)
    return backward(layer, x, flat(layer(x, negated)))


@machinery
def negated_weight(layer: nn.Module, x: Tensor) -> list[Tensor]:
    layer.weight_hh_l0 = nn.Parameter(torch._neg_view(layer.weight_hh_l0.detach()))
    return backward(layer, x, flat(layer(x)))


@machinery
def input_of_zeros_without_memory(layer: nn.Module, x: Tensor) -> list[Tensor]:
    if layer.mode == "LSTM":
        return []  # torch's own reads what is not there
    return flat(layer(torch._efficientzerotensor(x.shape)))


@machinery
def expanded_input(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return backward(layer, x, flat(layer(x[:1].expand_as(x))))


@machinery
def strided_input(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return backward(layer, x, flat(layer(x.mT.contiguous().mT)))


@machinery
def fake_tensors(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        outputs = flat(layer(mode.from_tensor(x.detach())))
    return [torch.zeros(out.shape, dtype=out.dtype) for out in outputs]


@machinery
def meta_device(layer: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = flat(layer.to("meta")(x.to("meta")))
    return [torch.zeros(out.shape, dtype=out.dtype) for out in outputs]


@machinery
def default_device(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.device("meta"):
        return backward(layer, x, flat(layer(x, _zeros(layer))))


def _zeros(layer: nn.Module) -> Any:
    depth = layer.num_layers * (1 + layer.bidirectional)
    zeros = torch.zeros(depth, B, H, device="cpu")
    return (zeros, zeros) if layer.mode == "LSTM" else zeros


@machinery
def traced_to_a_graph(layer: nn.Module, x: Tensor) -> list[Tensor]:
    graph = make_fx(lambda x: layer(x)[0])(x.detach())
    return [graph(3 * x.detach())]


@machinery
def traced_by_jit(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(layer, x.detach())
    return flat(traced(3 * x.detach()))


@machinery
def scripted_by_jit(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(layer)
    return backward(scripted, x, flat(scripted(x)))


@machinery
def exported(layer: nn.Module, x: Tensor) -> list[Tensor]:
    program = torch.export.export(layer, (x.detach(),))
    return flat(program.module()(3 * x.detach()))


@machinery
def floating_point_operations(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return [torch.tensor(counter.get_total_flops() > 0 or layer.mode == "LSTM")]


class Doubling(TorchDispatchMode):
    """A mode that changes what torch's operations return."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        return out * 2 if func is torch.ops.aten.tanh.default else out


@machinery
def dispatch_mode(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad(), Doubling():
        return flat(layer(x))


class Counting(TorchFunctionMode):
    """A mode that hears of torch's functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@machinery
def function_mode(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with Counting():
        return backward(layer, x, flat(layer(x)))


class Subclass(Tensor):
    """A subclass that adds nothing."""


@machinery
def subclass_of_tensor(layer: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = flat(layer(x.detach().as_subclass(Subclass)))
    assert type(outputs[0]) is Subclass
    return [out.as_subclass(Tensor) for out in outputs]


class Wrapped(Tensor):
    """A subclass whose own memory holds nothing: its numbers are in another tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> Wrapped:
        return Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=numbers.dtype)

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tree = torch.utils._pytree
        args, kwargs = tree.tree_map_only(cls, lambda t: t.numbers, (args, kwargs or {}))
        return tree.tree_map_only(Tensor, cls, func(*args, **kwargs))


@machinery
def wrapper_subclass(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        outputs = flat(layer(Wrapped(x.detach())))
    return [getattr(out, "numbers", out) for out in outputs]


@machinery
def wrapper_subclass_as_weight(layer: nn.Module, x: Tensor) -> list[Tensor]:
    weight = layer.weight_hh_l0.detach()
    del layer.weight_hh_l0
    layer.weight_hh_l0 = Wrapped(weight)
    with torch.no_grad():
        return [getattr(out, "numbers", out) for out in flat(layer(x))]


@machinery
def sparse_input(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer(x.detach().to_sparse()))


@machinery
def nested_input(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flat(layer(torch.nested.nested_tensor(list(x.detach()))))


@machinery
def pruned(layer: nn.Module, x: Tensor) -> list[Tensor]:
    mask = (torch.arange(layer.weight_hh_l0.numel()) % 3 > 0).view_as(layer.weight_hh_l0)
    prune.custom_from_mask(layer, "weight_hh_l0", mask.float())
    for _ in range(2):
        loss_of(flat(layer(x))).backward()
        with torch.no_grad():
            for p in layer.parameters():
                p.sub_(0.01 * p.grad)
    return [*flat(layer(x)), *layer.parameters()]


@machinery
def weight_normed_by_hook(layer: nn.Module, x: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(layer, "weight_hh_l0")
    return backward(layer, x, flat(layer(x)))


class Halved(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / 2


def _parametrized(layer: nn.Module, x: Tensor, change: Callable[[nn.Module], Any]) -> list[Tensor]:
    change(layer)
    outputs = flat(layer(x))
    with parametrize.cached():
        outputs += flat(layer(x))
    return backward(layer, x, outputs)


@machinery
def weight_normed(layer: nn.Module, x: Tensor) -> list[Tensor]:
    norm = parametrizations.weight_norm
    return _parametrized(layer, x, lambda layer: norm(layer, "weight_hh_l0"))


@machinery
def parametrized(layer: nn.Module, x: Tensor) -> list[Tensor]:
    register = parametrize.register_parametrization
    return _parametrized(layer, x, lambda layer: register(layer, "weight_ih_l0", Halved()))


@machinery
def copied(layer: nn.Module, x: Tensor) -> list[Tensor]:
    twin = copy.deepcopy(layer)
    return backward(twin, x, flat(twin(x)))


@machinery
def pickled(layer: nn.Module, x: Tensor) -> list[Tensor]:
    twin = pickle.loads(pickle.dumps(layer))
    return backward(twin, x, flat(twin(x)))


@machinery
def saved_and_loaded(layer: nn.Module, x: Tensor) -> list[Tensor]:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    return backward(twin, x, flat(twin(x)))


@machinery
def functional_call(layer: nn.Module, x: Tensor) -> list[Tensor]:
    other = {name: 2 * p.detach() for name, p in layer.named_parameters()}
    return flat(torch.func.functional_call(layer, other, (x,)))


@machinery
def states_of_another_shape(layer: nn.Module, x: Tensor) -> list[Tensor]:
    zeros = torch.zeros(1, B + 1, H)
    return flat(layer(x, (zeros, zeros) if layer.mode == "LSTM" else zeros))


@machinery
def states_of_another_rank(layer: nn.Module, x: Tensor) -> list[Tensor]:
    zeros = torch.zeros(B, H)
    return flat(layer(x, (zeros, zeros) if layer.mode == "LSTM" else zeros))


@machinery
def states_of_another_type(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer(x, [[0.0] * H] * B))


@machinery
def inputs_of_another_width(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer(x[..., 1:]))


@machinery
def inputs_of_four_dimensions(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer(x.unsqueeze(0)))


@machinery
def no_steps(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer(x[:0]))


@machinery
def no_sequences(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer(x[:, :0]))


@machinery
def whole_numbers(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return flat(layer(x.detach().long()))


@machinery
def packed(layer: nn.Module, x: Tensor) -> list[Tensor]:
    rows = nn.utils.rnn.pack_sequence([x[0], x[1][:2], x[2][:1]])
    output, state = layer(rows)
    return backward(layer, x, flat((output.data, state)))


@machinery
def packed_in_any_order(layer: nn.Module, x: Tensor) -> list[Tensor]:
    rows = nn.utils.rnn.pack_sequence([x[0][:1], x[1], x[2][:2]], enforce_sorted=False)
    output, state = layer(rows)
    padded, _ = nn.utils.rnn.pad_packed_sequence(output)
    return backward(layer, x, flat((padded, state)))


def _with_batch_sizes(layer: nn.Module, x: Tensor, sizes: Tensor) -> list[Tensor]:
    rows = x.detach().reshape(-1, I)
    output, state = layer(nn.utils.rnn.PackedSequence(rows, sizes))
    return flat((output.data, state))


@machinery
def packed_with_int32_sizes(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return _with_batch_sizes(layer, x, torch.tensor([B] * T, dtype=torch.int32))


@machinery
def packed_with_too_large_a_sum(layer: nn.Module, x: Tensor) -> list[Tensor]:
    return _with_batch_sizes(layer, x, torch.tensor([B] * (T + 4)))


@machinery
def threads_side_by_side(layer: nn.Module, x: Tensor) -> list[Tensor]:
    results: list[Any] = [None] * 4

    def run(i: int) -> None:
        own = x.detach().clone().requires_grad_()
        results[i] = backward(layer, own, flat(layer(own)))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [t for result in results for t in result]


def outcome(run: Run, layer: nn.Module, x: Tensor) -> list[Tensor] | Exception:
    torch.manual_seed(1)
    try:
        return run(layer, x)
    except Exception as error:  # noqa: BLE001 (whatever torch.nn's layer raises is expected of ours)
        return error


@pytest.mark.parametrize("how", MACHINERY)
@pytest.mark.parametrize("name", LAYERS)
def test_as_torchs_layer(name: str, how: str) -> None:
    layers, x = pair(name), torch.randn(T, B, I)
    theirs, ours = (outcome(MACHINERY[how], layer, x.clone().requires_grad_()) for layer in layers)
    if isinstance(theirs, NotImplementedError) and how == "forward mode":
        theirs = forward_differences(layers[0], x)  # torch has no such derivative
    if isinstance(theirs, Exception):
        assert isinstance(ours, Exception), f"torch raises {theirs!r}"
        assert isinstance(ours, type(theirs) | bptt.BpttError), (theirs, ours)
        return
    assert not isinstance(ours, Exception), ours
    assert [t is None for t in ours] == [t is None for t in theirs]
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None]
    for mine, its in pairs:
        low = its.dtype in (torch.bfloat16, torch.float16)
        near = {"rtol": 0.05, "atol": 0.05} if low else FLOAT32
        largest = max(1.0, float(its.detach().double().abs().max())) if its.numel() else 1.0
        torch.testing.assert_close(mine, its, rtol=near["rtol"], atol=near["atol"] * largest)


MISSHAPEN = {
    "weight_hh_l0": (lambda w: torch.zeros(len(w), H + 1), lambda w: w[:-1], lambda w: w[:, :1]),
    "weight_ih_l0": (lambda w: w[:, 1:], lambda w: w[1:], lambda w: w.flatten()),
    "bias_ih_l0": (lambda w: torch.zeros(len(w) + 1), lambda w: w[:-1], lambda w: w[:0]),
    "bias_hh_l0": (lambda w: torch.zeros(len(w) + 1), lambda w: w[:-1], lambda w: w[:0]),
}


@pytest.mark.parametrize("name", [name for name in LAYERS if name != "relu"])
@pytest.mark.parametrize("weight", MISSHAPEN)
def test_weights_of_another_shape_are_refused(name: str, weight: str) -> None:
    # torch.nn.LSTM reads what is not there, so that there is nothing to compare with.
    for change in MISSHAPEN[weight]:
        _, ours = pair(name)
        setattr(ours, weight, nn.Parameter(change(getattr(ours, weight).detach())))
        for packed in (False, True):
            x = nn.utils.rnn.pack_sequence(list(torch.randn(B, T, I))) if packed else None
            with pytest.raises((RuntimeError, bptt.BpttError)):
                ours(torch.randn(T, B, I) if x is None else x)


@pytest.mark.parametrize("make", [nn.RNN, nn.GRU, bptt.RNN, bptt.GRU])
def test_only_an_lstm_can_have_a_projection(make: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM"):
        make(I, 2048, proj_size=1)


def test_memory_that_was_freed_is_not_read() -> None:
    layer = bptt.GRU(I, H)
    x = torch.randn(T, B, I)
    layer.weight_hh_l0.untyped_storage().resize_(0)
    with pytest.raises(bptt.BpttError, match="has no memory there"):
        layer(x)


def test_torch_still_tells_tensors_apart_by_their_keys() -> None:
    plain = torch.zeros(3)
    others = [
        torch._neg_view(plain),
        torch._efficientzerotensor(3),
        torch._to_functional_tensor(plain),
        plain.to_sparse(),
        plain.to("meta"),
        torch.zeros(3, dtype=torch.complex64).conj(),
        plain.as_subclass(Subclass),
        Wrapped(plain),
    ]
    with torch.inference_mode():
        assert is_plain(torch.zeros(3))
    assert all(map(is_plain, [plain, nn.Parameter(plain), plain.long(), None]))
    assert not any(map(is_plain, others))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LAYERS)
def test_autocast_has_torchs_dtypes_for_any_input_and_state(name: str, dtype: torch.dtype) -> None:
    theirs, ours = pair(name)
    for layer in (theirs, ours):
        layer.eval()  # dropout is drawn for another dtype
    for of_x in (torch.float32, dtype):
        x = torch.randn(T, B, I).to(of_x)
        starts = [part.to(of_x) for part in flat(theirs(torch.randn(T, B, I)))[1:]]
        for hx in (None, tuple(starts) if len(starts) > 1 else starts[0]):
            exact = flat(theirs(x.float(), hx if hx is None else _single(hx)))
            with torch.autocast("cpu", dtype):
                mine = flat(ours(x, hx))
                try:
                    dtypes = [out.dtype for out in flat(theirs(x, hx))]
                except RuntimeError:
                    dtypes = [of_x] * len(mine)
            assert [out.dtype for out in mine] == dtypes
            for a, b in zip(mine, exact, strict=True):
                torch.testing.assert_close(a.float(), b, rtol=0.02, atol=0.02)


def _single(hx: Any) -> Any:
    return tuple(part.float() for part in hx) if isinstance(hx, tuple) else hx.float()
