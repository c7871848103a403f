"""All numeric tolerances of the project, each with the measurement or the argument that justifies it.

Tolerances for rounding are multiples of ``eps · scale``. eps is the machine epsilon of the dtype in which the
numbers were computed. The scale is the sum of the absolute values of the terms, before they cancel: for an
allocation the mass ``Σ_k |w_k| Σ_i |g_{k,i} Δ_i|``, for a loss its absolute value. The total of an allocation
is not a scale, because its terms cancel: errors of 110 eps·|ΣA| were observed in float32 where the error was
at most 1.25 eps·mass.

Every function returns an absolute tolerance in the units of its scale; compare with
``abs(a - b) <= tolerance``.

Examples
--------
>>> from lca import tolerances
>>> abs((0.1 + 0.2) - 0.3) <= tolerances.summed(0.3, tolerances.EPS64)
True
"""

import numpy as np

__all__ = [
    "EPS32",
    "EPS64",
    "adaptive_residual",
    "allocation",
    "central_difference",
    "conservation",
    "gradient",
    "halved",
    "moments",
    "polynomial",
    "rebatched",
    "repeat",
    "scipy_quadrature",
    "single_precision",
    "summed",
    "trained",
]

EPS64 = float(np.finfo(np.float64).eps)
"""Machine epsilon of float64, 2.2e-16."""
EPS32 = float(np.finfo(np.float32).eps)
"""Machine epsilon of float32, 1.2e-7."""


def moments(weight_mass: float) -> float:
    """The moments of a quadrature rule with ``Σ|w_k| = weight_mass``, in float64: 64 eps.

    The errors of the built-in rules are at most 2 eps, and 18 eps for Gauss-Legendre with 200 nodes.

    >>> moments(1.0) == 64 * EPS64
    True
    """
    return 64 * EPS64 * weight_mass


def repeat(loss: float, eps: float) -> float:
    """The same loss, or gradient entry, computed twice at the same point: 16 eps·|loss|.

    A parallel sum may add its terms in a different order. Randomness (dropout, augmentation) changes the loss
    by orders of magnitude more.

    >>> repeat(-2.0, EPS32) == 32 * EPS32
    True
    """
    return 16 * eps * abs(loss)


def allocation(mass: float, eps: float, nodes: float = 0) -> float:
    """Two computations of the same allocation, for each value or for the sum: (8 + nodes/2) eps·mass.

    Largest errors observed: 2.5 eps·mass for Simpson's rule against the closed form on 900 steps of random
    quartic ridges, and 1.2 eps·mass for float32 against float64 on 600 random networks. Each of many nodes
    that are added one by one rounds the sum by up to eps/2.

    >>> allocation(2.0, EPS64) == 16 * EPS64
    True
    """
    return (8 + nodes / 2) * eps * mass


def polynomial(mass: float, degree: int, eps: float, nodes: float = 0) -> float:
    """Two computations of an allocation on a polynomial: (8 (degree + 1) + nodes/2) eps·mass.

    A power of degree p multiplies the relative rounding error of its base by p. On 300 to 600 steps of random
    ridge polynomials for each degree, Gauss, Lobatto and composite rules differed from the closed form by at
    most 9.6 eps·mass at degree 2, 19 at degree 8 and 52 at degree 15; residuals were at most
    26 eps·(mass + |loss|).

    >>> polynomial(1.0, 3, EPS64) == 32 * EPS64
    True
    """
    return (8 * (degree + 1) + nodes / 2) * eps * mass


def conservation(mass: float, loss: float, eps: float) -> float:
    """The residual of a rule that is exact on the segment: 8 eps·(mass + |loss|).

    Each loss has a rounding error of about eps·|loss|, which does not decrease with the length of the step
    and dominates on short steps.

    >>> conservation(1.0, 1.0, EPS32) == 16 * EPS32
    True
    """
    return 8 * eps * (mass + abs(loss))


def gradient(scale: float, eps: float) -> float:
    """A gradient against a complex step, other chunk sizes, or another dtype: 16 eps·scale for each entry.

    ``scale`` bounds the sum of absolute values: it is the largest entry of
    ``Σ_n w_n (|∂ℓ_n/∂θ| + |∂f_n/∂θ|) / Σ_n w_n`` with outputs f. The derivative of the outputs is included
    because softmax - onehot cancels on confident examples. On 400 random networks (dense and convolutional,
    depth 0 to 3), errors were at most 1.9 eps·scale in float64 and 2.3 eps·scale in float32.

    >>> gradient(2.0, EPS64) == 32 * EPS64
    True
    """
    return 16 * eps * scale


def central_difference(scale: float, loss: float, eps: float = EPS64, shrink: float = 1.0) -> float:
    """A gradient against central differences with steps of eps^(1/3) / shrink.

    128 eps^(2/3) shrink·(scale + |loss|): truncation and rounding errors are both of order eps^(2/3) at a
    step of eps^(1/3), and rounding grows as the step gets smaller. On 150 random tanh networks, errors were
    at most 13 units of eps^(2/3) (median 0.3).

    >>> f"{central_difference(1.0, 1.0):.1e}", f"{central_difference(1.0, 1.0, shrink=16):.1e}"
    ('9.4e-09', '1.5e-07')
    """
    return 128 * float(eps ** (2 / 3)) * shrink * (scale + abs(loss))


def single_precision(scale: float, condition: float) -> float:
    """A loss or gradient computed in float32 against the same in float64: 256 eps·scale + 64 condition.

    ``scale`` is the size of the terms that are summed, as far as it is known: the largest of the norms of the
    whole and of its batches or examples. ``condition`` is how far the value moves if every parameter moves by
    eps. On 26 right objectives at up to 60 points, errors were at most 2.3 (eps·scale + condition / 4).
    The largest error of losses and gradients rounded to float16 or bfloat16 was 1,900 to 38,000 times that.

    >>> single_precision(1.0, 0.0) == 256 * EPS32
    True
    """
    return 256 * EPS32 * scale + 64 * condition


def trained(largest: float, condition: float, updates: int, eps: float) -> float:
    """The parameters after some updates, in another framework or dtype: 8 eps (1 + |θ|) (updates + 1).

    To this, 8 times ``condition`` is added: how far they move if every entry of θ_0 moves by eps. ``largest``
    is |θ|. In 100 runs of six optimizers in NumPy and 60 in PyTorch, with 3 to 7 updates, errors were at most
    0.34 of the unit that is multiplied by 8.

    >>> trained(0.0, 0.0, 0, EPS64) == 8 * EPS64
    True
    """
    return 8 * (eps * (1 + largest) * (updates + 1) + condition)


def summed(mass: float, eps: float) -> float:
    """The sum of the same numbers in a different order, with mass = Σ|terms|: 8 eps·mass.

    The losses of 400 random data sets, evaluated in one chunk and in several, differed by at most
    1.8 eps·|loss|.

    >>> summed(2.0, EPS32) == 16 * EPS32
    True
    """
    return 8 * eps * mass


def rebatched(loss: float, eps: float, condition: float = 0.0) -> float:
    """The loss of a batch against the mean over its parts: 256 eps·|loss| + 4 condition.

    The first term is at most |loss|/64. Other sizes of batches take other kernels, which round otherwise, and
    deep networks amplify that. The bound is for bfloat16 and float16, whose errors average out over the
    examples. A loss that is not a mean of its examples is off by 1e-3 to 1 on examples that differ.

    ``condition``, if it is known, is how far the losses of the batch and its parts move in the mean if every
    parameter moves by eps. It is large where large numbers cancel in the loss. In up to 1,500 updates of 14
    networks in float32 and under autocast to bfloat16, down to losses of 2e-11, the second term was needed in
    27 of some 16,000 comparisons, which were off by at most 0.08 condition.

    >>> rebatched(-2.0, EPS32) == 512 * EPS32
    True
    """
    return min(256 * eps, 1 / 64) * abs(loss) + 4 * condition


def halved(norm: float, eps: float) -> float:
    """The gradient of half of a batch, derived from the batch's, against the one taken: 256 eps·norm.

    At most norm/16. ``norm`` is the largest of their norms and that of the gradient subtracted. Mixed
    precision rounds the gradients of a batch and of its halves separately, and derivation doubles the errors:
    in 420 comparisons on 14 networks of up to 21 layers, the largest was 0.022 norm in bfloat16 (0.004 where
    halves are equal in size, but 0.016 for batches of two) and 0.043 norm in float16, where small gradients
    become 0. Gradients with dropout of 0.1, label smoothing of 0.1 or logits divided by 1.1 were off by 0.06
    to 1 (medians 0.08 to 0.47); a loss that is off by less than norm/16 passes in mixed precision.

    >>> halved(2.0, EPS32) == 512 * EPS32, halved(2.0, 2.0**-7)
    (True, 0.125)
    """
    return min(256 * eps, 1 / 16) * norm


def adaptive_residual(mass: float) -> float:
    """The residual of `lca.Adaptive` with 65 gradients on a step across kinks, or a part of it: mass / 1000.

    This is a quadrature error and not rounding: every kink of a ReLU or a pooling layer lowers the order.
    Between random points of small ReLU networks, the largest residual in 50 cases was 5e-3 at a mass of 19. A
    wrong gradient leaves a fixed fraction of the mass.

    >>> adaptive_residual(2.0)
    0.002
    """
    return 1e-3 * mass


def scipy_quadrature(mass: float) -> float:
    """A closed form against ``scipy.integrate.quad``, for each value: 2^12 eps·mass.

    Here mass is the largest integrand on the segment. It is called with a quarter of this tolerance on
    each smooth piece, and overestimates its own error.

    >>> scipy_quadrature(1.0) == 4096 * EPS64
    True
    """
    return 2.0**12 * EPS64 * mass
