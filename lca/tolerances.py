"""The one place with numeric tolerances, each with the measurement or the argument behind it.

Rounding is judged in units of ``eps · scale``, where eps belongs to the dtype the numbers were computed
in and scale is what was summed *before* anything cancelled: the mass ``Σ_k |w_k| Σ_i |g_{k,i} Δ_i|`` for
an allocation, the absolute value for a loss. A total is never a scale: allocations cancel, and float32
errors of 110 eps·|ΣA| were seen where 1.25 eps·mass bounded them.

Every function returns an absolute tolerance; compare with ``abs(a - b) <= tolerance``.
"""

import numpy as np

EPS64 = float(np.finfo(np.float64).eps)
EPS32 = float(np.finfo(np.float32).eps)


def moments(weight_mass: float) -> float:
    """Moments of a quadrature rule with ``Σ|w_k| = weight_mass``, in float64: 64 eps.

    Built-in rules miss by ≤ 2 eps; Golub-Welsch nodes (Gauss with 200 nodes) by 4e-15 = 18 eps.
    """
    return 64 * EPS64 * weight_mass


def repeat(loss: float, eps: float) -> float:
    """The same loss computed twice at the same point: 16 eps.

    A parallel sum may take its terms in another order; anything random (dropout, augmentation)
    changes the loss by orders of magnitude more.
    """
    return 16 * eps * abs(loss)


def allocation(mass: float, eps: float) -> float:
    """Two ways of computing the same allocation, entry by entry or in sum: 8 eps·mass.

    Seen at most: Simpson against the closed form on 900 steps of random quartic ridges, 2.5 eps·mass;
    float32 against float64 over 600 random networks, 1.2 eps·mass.
    """
    return 8 * eps * mass


def polynomial(mass: float, degree: int, eps: float) -> float:
    """An allocation on a polynomial of this degree, whatever the route: 8 (degree + 1) eps·mass.

    A power multiplies the relative rounding error of its base. On 300 to 600 steps of random ridges for
    each degree, Gauss, Lobatto and composite rules differed from the closed form by at most 9.6 eps·mass
    at degree 2, 19 at 8 and 52 at 15, and left residuals of at most 26 eps·(mass + |loss|).
    """
    return 8 * (degree + 1) * eps * mass


def conservation(mass: float, loss: float, eps: float) -> float:
    """``loss_end - loss_start - Σ values`` for a rule that is exact on the segment: 8 eps·(mass + |loss|).

    The loss at either end carries a rounding error of its own, of some eps·|loss|, which does not
    shrink with the step; on short steps it is the larger part.
    """
    return 8 * eps * (mass + abs(loss))


def gradient(scale: float, eps: float) -> float:
    """A hand-derived gradient against a complex step, other chunks, or float64: 16 eps·scale, largest entry.

    ``scale`` bounds what is summed before anything cancels: the largest entry of
    ``Σ_n w_n (|∂ℓ_n/∂θ| + |∂f_n/∂θ|) / Σ_n w_n``. The outputs' own derivative belongs to it because
    softmax - onehot cancels on confident examples. Over 400 random networks (dense and convolutional,
    depth 0 to 3) at most 1.9 eps·scale in float64 and 2.3 in float32 were seen.
    """
    return 16 * eps * scale


def central_difference(scale: float, loss: float) -> float:
    """A gradient against central float64 differences with steps of eps^(1/3): 128 eps^(2/3)·(scale + |loss|).

    Truncation and rounding are both of order eps^(2/3) there. Over 150 random tanh networks at most 13
    such units were seen (median 0.3).
    """
    return 128 * float(EPS64 ** (2 / 3)) * (scale + abs(loss))


def summed(mass: float, eps: float) -> float:
    """The same few numbers added up or multiplied in another order, mass = Σ|terms|: 8 eps·mass.

    Losses over 400 random data sets, in one chunk and in several, differed by at most 1.8 eps·|loss|.
    """
    return 8 * eps * mass


def refined(mass: float) -> float:
    """What `Adaptive` with 257 gradients may leave of a long step over a network with kinks: 1e-3 (1 + mass).

    No rounding, but quadrature: every ReLU or pooling kink on the way costs order. Between random points of
    small ReLU networks 5e-3 of a mass of 19 was seen, once in 50 times; a wrong gradient leaves a share
    of the mass itself.
    """
    return 1e-3 * (1 + mass)


def quadrature_oracle(mass: float) -> float:
    """A closed form against `scipy.integrate.quad`, entry by entry: 2^12 eps·mass.

    ``quad`` estimates its own error generously, and is asked for a quarter of this on smooth pieces;
    mass is the largest integrand on the segment.
    """
    return 2.0**12 * EPS64 * mass
