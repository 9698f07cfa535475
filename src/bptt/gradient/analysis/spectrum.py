"""What W does when it is applied again and again: Wⁿ = Q⁻¹ Λⁿ Q."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

from bptt.cells.registry import ELMAN
from bptt.errors import BpttError, require_shape, require_whole
from bptt.gradient.precision import require_precision
from bptt.model.call import as_numbers
from bptt.model.entry import enter
from bptt.model.network import Network

GAMMA = 1.0
"""The bound γ on |f′|: 1 for tanh and for relu."""


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues and singular values of W, (H, H), of one layer; γ bounds |f′|.

    eigenvalues: by falling modulus. singular_values: the largest first.
    """

    W: Float[np.ndarray, "H H"]
    eigenvalues: Complex[np.ndarray, " H"]
    singular_values: Float[np.ndarray, " H"]
    gamma: float = GAMMA

    @property
    def spectral_radius(self) -> float:
        """The largest modulus of an eigenvalue."""
        return float(np.abs(self.eigenvalues[0]))

    @property
    def verdict(self) -> str:
        """What follows for sure from W alone (Pascanu, Mikolov and Bengio 2013, section 2.1).

        The largest singular value below 1/γ suffices for the gradient to vanish; for it to explode
        the largest singular value has to be above.
        """
        largest = float(self.singular_values[0])
        rounding = len(self.W) * float(np.finfo(self.W.dtype).eps)  # an orthogonal W is not below 1
        if largest < (1 - rounding) / self.gamma:
            return f"Its largest singular value, {largest:.3g}, is below 1: the gradient vanishes."
        return (
            f"Its largest singular value, {largest:.3g}, is not below 1: from W alone it cannot be "
            "said whether the gradient vanishes or explodes."
        )

    def powers(
        self, v: Float[np.ndarray, " H"], n: int
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Return the norms of v Wᵏ, k = 0 … n: predicted from Λᵏ, and measured by multiplying.

        (Goodfellow et al. 2016, equations 10.36 to 10.39: with W = Q⁻¹ Λ Q each part of v along an
        eigenvector is multiplied by λᵏ.) Raises BpttError where W has no full set of eigenvectors.
        """
        require_whole("n", n, 0)
        v = as_numbers("v", v).numpy()
        require_shape("v", v.shape, "(H,)", (len(self.W),))
        values, columns = np.linalg.eig(self.W.T)  # W = Q⁻¹ Λ Q, with the eigenvectors as Q's rows
        if np.linalg.cond(columns) > 1 / np.finfo(self.W.dtype).eps:
            raise BpttError(
                "W has no full set of eigenvectors; expected one that can be written as Q⁻¹ Λ Q"
            )
        along = np.linalg.solve(columns, v.astype(columns.dtype))
        power = np.arange(n + 1)[:, None]
        predicted = np.linalg.norm((along * values**power) @ columns.T, axis=1)
        measured = [v]
        for _ in range(n):
            measured.append(measured[-1] @ self.W)
        return predicted, np.linalg.norm(np.stack(measured), axis=1)


def spectrum(net: Network, layer: int = 0) -> Spectrum:
    """Return the eigenvalues and singular values of a layer's W, for tanh and relu.

    >>> import bptt
    >>> net = bptt.Network(bptt.Categorical(5), hidden=8)
    >>> round(bptt.spectrum(net).spectral_radius, 3)  # W starts orthogonal
    1.0
    """
    if not isinstance(net, Network):
        raise BpttError(f"got a {type(net).__name__}; expected a bptt.Network")
    require_whole("layer", layer, 0, int(net.recurrent.num_layers) - 1)
    if net.f is None:
        raise BpttError(
            f'the cell is "{net.cell}"; expected {" or ".join(ELMAN)}, for gates multiply '
            "more than W: see bptt.jacobians"
        )
    if net.recurrence == "output":
        raise BpttError('the recurrence is "output"; expected "hidden" or "both", which have a W')
    if net.loop.beside_w:
        raise BpttError(
            f"the network has {' and '.join(net.loop.beside_w)}; expected W alone in its loop: for "
            "the whole loop see bptt.jacobians"
        )
    require_precision(net, "be looked into")
    W = enter(net.parts).recurrent.part("weight_hh", f"_l{layer}").detach().cpu().numpy()
    if not np.isfinite(W).all():
        raise BpttError("W is not finite; expected a network without NaN or infinity")
    values = np.linalg.eigvals(W).astype(complex)
    order = np.argsort(-np.abs(values), kind="stable")
    return Spectrum(W, values[order], np.linalg.svd(W, compute_uv=False))
