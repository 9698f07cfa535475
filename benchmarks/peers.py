"""A recurrent layer's training step as each peer computes it, each in a process of its own.

A process of its own, because libraries' idle threads spin, and would slow the others down.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

Shape = tuple[int, int, int, int]
Array = NDArray[numpy.float32]
Step = Callable[[], object]
Results = Callable[[], list[Array]]
"""h, and the gradients of x, U, W and b, as torch lays them out."""

ENOUGH = 0.15
"""Seconds that one timing takes at least, unless a single step takes longer."""


def data(cell: str, shape: Shape) -> list[Array]:
    """Return x, U, W, b and the gradient of the output: the same in every process."""
    T, B, I, H = shape  # noqa: E741
    draw = numpy.random.default_rng(0)
    G = {"gru": 3, "lstm": 4}.get(cell, 1) * H
    sizes = [((T, B, I), 1.0), ((G, I), I**-0.5), ((G, H), H**-0.5), ((G,), 0.1)]
    return [
        (scale * draw.standard_normal(size)).astype(numpy.float32)
        for size, scale in [*sizes, ((T, B, H), 1 / T)]
    ]


def torch_layer(
    cell: str, shape: Shape, threads: int, package: str = "torch"
) -> tuple[Step, Results]:
    """Return the training step of torch.nn's layer, or of ours."""
    import torch

    import bptt

    torch.set_num_threads(threads)
    modules = {
        ("torch", "tanh"): torch.nn.RNN,
        ("torch", "gru"): torch.nn.GRU,
        ("torch", "lstm"): torch.nn.LSTM,
        ("bptt", "tanh"): bptt.RNN,
        ("bptt", "gru"): bptt.GRU,
        ("bptt", "lstm"): bptt.LSTM,
    }
    layer: Any = modules[package, cell](*shape[2:])
    x, U, W, b, grad = (torch.from_numpy(array) for array in data(cell, shape))
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), (U, W, b, 0 * b), strict=True):
            parameter.copy_(value)
    wanted = [x.requires_grad_(), *layer.parameters()]

    def step() -> list[torch.Tensor]:
        output = layer(x)[0]
        return [output, *torch.autograd.grad(output, wanted, grad)]

    return step, lambda: [tensor.detach().numpy() for tensor in step()[:5]]


def kernel(cell: str, shape: Shape, threads: int) -> tuple[Step, Results]:
    """Return the training step of our kernel alone, without torch's graph."""
    import torch

    from bptt.cells.elman import elman
    from bptt.cells.gru import gru
    from bptt.kernel import ops
    from bptt.kernel.layout import DENSE
    from bptt.kernel.native_step import Inputs, Needs, Source
    from bptt.kernel.ops import Recipe
    from bptt.kernel.record import Traced

    torch.set_num_threads(threads)
    x, U, W, b, grad = (torch.from_numpy(array) for array in data(cell, shape))
    source, h0 = Source(x, U, b), torch.zeros(x.shape[1], len(W))
    recipe = Recipe(gru, (W,)) if cell == "gru" else Recipe(elman, (W,), (torch.tanh,))
    traced = ops.native(recipe, source, (h0,))
    assert isinstance(traced, Traced), traced
    native, inputs = traced.step, Inputs(source, [h0], [W], DENSE)

    def step() -> list[torch.Tensor]:
        kept = native.forward(inputs, keep=True)
        needs = Needs(True, True, True, (True,))
        of_x, of_U, of_b, _, of_W = native.backward(inputs, kept, [grad, None], needs)
        grads = [g for g in (of_x, of_U, of_W, of_b) if g is not None]
        return [kept[0][0], *grads]

    return step, lambda: [tensor.numpy() for tensor in step()]


def jax_scan(cell: str, shape: Shape, threads: int) -> tuple[Step, Results]:
    """Return the training step of a jitted scan; the projection is one product outside of it."""
    import jax
    import jax.numpy as jnp

    def loss(x: Any, U: Any, W: Any, b: Any, grad: Any) -> tuple[Any, Any]:
        def move(h: Any, p: Any) -> tuple[Any, Any]:
            h = jnp.tanh(p + h @ W.T)
            return h, h

        _, h = jax.lax.scan(move, jnp.zeros(grad.shape[1:]), x @ U.T + b)
        return jnp.sum(h * grad), h

    arrays = [jnp.asarray(array) for array in data(cell, shape)]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))

    def step() -> list[Any]:
        (_, h), grads = jax.block_until_ready(compiled(*arrays))
        return [h, *grads]

    return step, lambda: [numpy.asarray(array) for array in step()]


def onednn(cell: str, shape: Shape, threads: int) -> tuple[Step, Results]:
    """Return the training step of oneDNN's primitive, on arrays that are there already."""
    library = ctypes.CDLL(str(built_onednn()))
    library.make.restype = ctypes.c_void_p
    x, U, W, b, grad = data(cell, shape)
    turned = [x, numpy.ascontiguousarray(U.T), numpy.ascontiguousarray(W.T), b, grad]
    layer = ctypes.c_void_p(library.make(*shape, *(ctypes.c_void_p(a.ctypes.data) for a in turned)))

    def results() -> list[Array]:
        library.train(layer)
        found = [numpy.empty_like(array) for array in (grad, *turned[:4])]
        library.fetch(layer, *shape, *(ctypes.c_void_p(array.ctypes.data) for array in found))
        return [found[0], found[1], found[2].T, found[3].T, found[4]]

    return lambda: library.train(layer), results


def built_onednn() -> Path:
    """Return the library of onednn_rnn.cpp, built where oneDNN is installed in this environment."""
    target = Path(tempfile.gettempdir()) / f"bptt_onednn_{os.getppid()}.so"
    if not target.exists():
        source, prefix = Path(__file__).parent / "onednn_rnn.cpp", Path(sys.prefix)
        command = f"{os.environ.get('CXX', 'c++')} -O2 -std=c++17 -shared -fPIC".split()
        where = [f"-I{prefix}/include", f"-L{prefix}/lib", "-ldnnl", f"-Wl,-rpath,{prefix}/lib"]
        subprocess.run([*command, str(source), *where, "-o", str(target)], check=True)
    return target


def installed(before: Path | None = None) -> list[str]:
    """Return the peers that are there; before: the interpreter that has an earlier bptt."""
    header = Path(sys.prefix) / "include" / "oneapi" / "dnnl" / "dnnl.hpp"
    has_compiler = shutil.which(os.environ.get("CXX", "c++")) is not None
    absent = {
        "jax": importlib.util.find_spec("jax") is None,
        "oneDNN": not (header.exists() and has_compiler),
        "before": before is None,
    }
    return [name for name in MAKERS if not absent.get(name, False)]


MAKERS: dict[str, Callable[[str, Shape, int], tuple[Step, Results]]] = {
    "torch": torch_layer,
    "jax": jax_scan,
    "oneDNN": onednn,
    "kernel": kernel,
    "before": functools.partial(torch_layer, package="bptt"),
    "bptt": functools.partial(torch_layer, package="bptt"),
}


def _serve(pipe: Connection, peer: str, threads: int) -> None:
    """Answer a (cell, shape) with its results, and None with the seconds that a step takes."""
    step: Step = list
    while (asked := pipe.recv()) != "stop":
        if asked is None:
            pipe.send(_seconds(step))
            continue
        cell, shape = asked
        step, results = MAKERS[peer](cell, shape, threads)
        pipe.send(results())


def _seconds(step: Step) -> float:
    began = time.perf_counter()
    count = 0
    while time.perf_counter() - began < ENOUGH:
        step()
        count += 1
    return (time.perf_counter() - began) / count


class Peer:
    """A peer's process, which runs only while it is asked."""

    def __init__(self, name: str, threads: int, interpreter: Path | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        context.set_executable(str(interpreter or sys.executable))
        self.pipe, theirs = context.Pipe()
        os.environ["OMP_NUM_THREADS"] = str(threads)
        arguments = (theirs, name, threads)
        self.process = context.Process(target=_serve, args=arguments, name=name, daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, question: object) -> Any:
        """Send a question to the process and return its answer."""
        self.pipe.send(question)
        try:
            return self.pipe.recv()
        except EOFError:
            raise SystemExit(f"the process of {self.process.name} died: see above") from None

    def close(self) -> None:
        """End the process."""
        self.pipe.send("stop")
        self.process.join()
