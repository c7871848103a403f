"""Objectives with a closed-form allocation, against which estimators are tested.

``exact_allocation(start, end)`` evaluates ``A_i = Δ_i ∫₀¹ ∂_i L(a + s Δ) ds``, with a = ``start`` and
Δ = ``end - start``, in float64 and without quadrature. These objectives have no data: ``batch`` is accepted
and ignored.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Batch

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Quadratic:
    """``L(θ) = ½ θᵀHθ + bᵀθ``, a quadratic loss.

    The gradient ``Hθ + b`` is linear in s, so its mean over the segment is its value at the midpoint:
    ``A_i = Δ_i (H (a + Δ/2) + b)_i``. Every rule of degree ≥ 1 is exact.

    Parameters
    ----------
    hessian
        H (K, K), symmetric.
    linear
        b (K,); default: zeros.
    name
        Name of the single tensor in the layout.

    Raises
    ------
    LCAError
        If H is not square and symmetric, or b has another length.

    Examples
    --------
    >>> bowl = Quadratic([[2.0, 0.0], [0.0, 4.0]])
    >>> bowl.exact_allocation(np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    array([-1.,  0.])
    """

    hessian: npt.ArrayLike
    linear: npt.ArrayLike | None = None
    name: str = "theta"
    layout: Layout = field(init=False)
    _curvature: Array = field(init=False, repr=False)
    _slope: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        hessian = np.array(self.hessian, dtype=np.float64)
        if hessian.ndim != 2 or not np.array_equal(hessian, hessian.T):
            raise LCAError(
                f"a quadratic needs a square, symmetric Hessian, got shape {hessian.shape}; use "
                "(H + H.T) / 2."
            )
        linear = np.zeros(len(hessian)) if self.linear is None else _vector(self.linear)
        if linear.shape != hessian.shape[:1]:
            raise LCAError(f"linear must have shape {hessian.shape[:1]}, got {linear.shape}.")
        object.__setattr__(self, "_curvature", hessian)
        object.__setattr__(self, "_slope", linear)
        object.__setattr__(self, "layout", Layout((self.name,), (linear.shape,)))

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        wide = _wide(self.layout, theta)
        curved = self._curvature @ wide
        return _answer(wide @ (curved / 2 + self._slope), curved + self._slope, theta)

    def exact_allocation(self, start: Array, end: Array) -> Array:
        """A (K,), float64."""
        a, delta = _segment(self.layout, start, end)
        allocation: Array = delta * (self._curvature @ (a + delta / 2) + self._slope)
        return allocation


def bowl(n: int) -> Quadratic:
    """A convex `Quadratic` in n parameters; the eigenvalues of its Hessian are 1, 2, ..., n.

    Examples
    --------
    >>> bowl(3).loss(np.zeros(3))
    0.0
    """
    return Quadratic(_rotated(np.arange(1.0, n + 1)))


def saddle(n: int) -> Quadratic:
    """A `Quadratic` in n parameters; the eigenvalues of its Hessian are 1, -2, 3, -4, ....

    Examples
    --------
    >>> np.linalg.eigvalsh(saddle(2).hessian).round(12)
    array([-2.,  1.])
    """
    return Quadratic(_rotated(np.arange(1.0, n + 1) * (-1.0) ** np.arange(n)))


@dataclass(frozen=True, eq=False)
class Quartic:
    """``L(θ) = ¼ (Σ_j c_j θ_j²)²``: a polynomial of degree 4 that couples all parameters.

    Along the segment ``q(s) = Σ c_j θ_j(s)² = q_0 + q_1 s + q_2 s²`` with ``q_0 = Σ c a²``,
    ``q_1 = 2 Σ c a Δ``, ``q_2 = Σ c Δ²``, and the gradient is ``c_i θ_i q``. Integrated term by term:
    ``A_i = c_i Δ_i [a_i (q_0 + q_1/2 + q_2/3) + Δ_i (q_0/2 + q_1/3 + q_2/4)]``. Simpson's rule is exact, and
    the trapezoid is not.

    Parameters
    ----------
    coefficients
        c (K,).
    name
        Name of the single tensor in the layout.

    Examples
    --------
    >>> Quartic([1.0]).exact_allocation(np.array([0.0]), np.array([2.0]))
    array([4.])
    """

    coefficients: npt.ArrayLike
    name: str = "theta"
    layout: Layout = field(init=False)
    _c: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_c", _vector(self.coefficients))
        object.__setattr__(self, "layout", Layout((self.name,), (self._c.shape,)))

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        wide = _wide(self.layout, theta)
        scaled = self._c * wide
        q = scaled @ wide
        return _answer(q * q / 4, scaled * q, theta)

    def exact_allocation(self, start: Array, end: Array) -> Array:
        """A (K,), float64."""
        a, delta = _segment(self.layout, start, end)
        c = self._c
        q0, q1, q2 = (c * a) @ a, 2 * (c * a) @ delta, (c * delta) @ delta
        allocation: Array = c * delta * (a * (q0 + q1 / 2 + q2 / 3) + delta * (q0 / 2 + q1 / 3 + q2 / 4))
        return allocation


@dataclass(frozen=True)
class Bilinear:
    """``L(u, v) = Σ_j u_j v_j`` with θ = (u, v) and K = 2n, a linear network with two layers.

    The gradient in u is v, which is linear in s: ``A_u = Δ_u (v_start + v_end)/2``, and likewise for v. Every
    rule of degree ≥ 1 is exact.

    Parameters
    ----------
    n
        Number of entries of u and of v.
    names
        Names of the two tensors in the layout.

    Examples
    --------
    >>> Bilinear(1).exact_allocation(np.array([0.0, 0.0]), np.array([1.0, 3.0]))
    array([1.5, 1.5])
    """

    n: int
    names: tuple[str, str] = ("u", "v")
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(self.names, ((self.n,), (self.n,))))

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        wide = _wide(self.layout, theta)
        return _answer(wide[: self.n] @ wide[self.n :], np.roll(wide, self.n), theta)

    def exact_allocation(self, start: Array, end: Array) -> Array:
        """A (2n,), float64."""
        a, delta = _segment(self.layout, start, end)
        return delta * np.roll(a + delta / 2, self.n)


@dataclass(frozen=True, eq=False)
class ReluKink:
    """``L(θ) = max(0, z)`` with ``z = mᵀθ + b``: linear except for a kink at z = 0.

    The gradient is m where z > 0 and 0 elsewhere, so ``A_i = Δ_i m_i f``, where f is the fraction of the
    segment with z > 0. As z is linear in s, ``f = (max(0, z_end) - max(0, z_start)) / (z_end - z_start)``; if
    z is constant, f is 0 or 1. A rule is exact only if the kink is not inside the segment.

    Parameters
    ----------
    normal, offset
        m (K,) and b.
    name
        Name of the single tensor in the layout.

    Examples
    --------
    >>> ReluKink([1.0]).exact_allocation(np.array([-1.0]), np.array([3.0]))
    array([3.])
    """

    normal: npt.ArrayLike
    offset: float = 0.0
    name: str = "theta"
    layout: Layout = field(init=False)
    _m: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_m", _vector(self.normal))
        object.__setattr__(self, "layout", Layout((self.name,), (self._m.shape,)))

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        z = self._m @ _wide(self.layout, theta) + self.offset
        active = z.real > 0
        return _answer(z * active, self._m * active, theta)

    def exact_allocation(self, start: Array, end: Array) -> Array:
        """A (K,), float64."""
        a, delta = _segment(self.layout, start, end)
        z0 = self._m @ a + self.offset
        z1 = self._m @ (a + delta) + self.offset
        positive = float(z0 > 0) if z0 == z1 else (max(z1, 0.0) - max(z0, 0.0)) / (z1 - z0)
        allocation: Array = delta * self._m * positive
        return allocation


def _vector(values: npt.ArrayLike) -> Array:
    vector = np.array(values, dtype=np.float64)
    if vector.ndim != 1:
        raise LCAError(f"expected one number per parameter, shape (K,), got shape {vector.shape}.")
    return vector


def _rotated(curvatures: Array) -> Array:
    """A Hessian with these eigenvalues and no axis-aligned eigenvector, so that all parameters interact."""
    mirror = np.arange(1.0, len(curvatures) + 1)
    reflection = np.eye(len(curvatures)) - 2 * np.outer(mirror, mirror) / (mirror @ mirror)
    hessian = reflection @ (curvatures[:, None] * reflection)
    return (hessian + hessian.T) / 2


def _wide(layout: Layout, theta: Array) -> Array:
    """θ in float64, or complex128 if it is complex; raises if it does not fit the layout."""
    layout.check(theta, "theta")
    return theta.astype(np.result_type(theta, np.float64), copy=False)


def _answer(loss: np.generic, grad: Array, theta: Array) -> tuple[float, Array]:
    """Loss and gradient in the types that `Objective` promises: a float, and a vector in θ's dtype."""
    return loss.item(), grad.astype(theta.dtype)


def _segment(layout: Layout, start: Array, end: Array) -> tuple[Array, Array]:
    """The start of the segment and Δ, both in float64."""
    a = _wide(layout, start)
    return a, _wide(layout, end) - a
