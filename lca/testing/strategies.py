"""Hypothesis strategies for what LCA works on: problems, networks, data, paths, rules, optimizers.

Structure (sizes, depths, names) is drawn by hypothesis, so that failures shrink; numbers come from a
drawn seed, so that they are generic: a check that only holds at round numbers proves nothing.
"""

import numpy as np
from hypothesis import strategies as st

from lca import quadrature
from lca.models import Network, mlp
from lca.optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from lca.quadrature import QuadratureRule
from lca.testing import problems
from lca.testing.problems import Problem

Array = np.ndarray

seeds = st.integers(0, 2**32 - 1)
"""Seeds of random numbers."""


def exact_problems(degree: int) -> st.SearchStrategy[Problem]:
    """Polynomial problems of at most ``degree`` along a segment, with closed-form allocations.

    Every second ridge has the highest degree, where a rule that is one short shows; but none more than
    16: there a Gauss rule that is one node short still misses by far more than rounding.
    """
    named = {1: [], 2: ["bowl", "saddle", "bilinear"], 4: ["quartic"]}
    names = [name for d, group in named.items() if d <= degree for name in group]
    top = min(degree, 16)
    ridges = st.builds(
        problems.ridge,
        seeds,
        st.just(top) | st.integers(1, top),
        size=st.integers(2, 8),
        steps=st.integers(1, 4),
    )
    if not names:
        return ridges
    return ridges | st.builds(problems.make_problem, st.sampled_from(names), seeds)


def smooth_problems(*, steps: int = 3) -> st.SearchStrategy[Problem]:
    """Small tanh networks on random data with random paths: smooth, but no polynomial."""
    return _network_problems("tanh", steps)


def kinked_problems(*, steps: int = 3) -> st.SearchStrategy[Problem]:
    """Small ReLU networks on random data with random paths: piecewise smooth."""
    return _network_problems("relu", steps)


def _network_problems(activation: str, steps: int) -> st.SearchStrategy[Problem]:
    sizes = st.lists(st.integers(2, 4), min_size=2, max_size=4).map(tuple)
    return st.builds(
        problems.network, seeds, activation=st.just(activation), sizes=sizes, steps=st.just(steps)
    )


def networks(*, max_width: int = 6, max_depth: int = 3) -> st.SearchStrategy[Network]:
    """MLPs of random sizes, activation and loss."""
    sizes = st.lists(st.integers(2, max_width), min_size=2, max_size=max_depth + 1)
    return st.builds(
        mlp,
        sizes,
        activation=st.sampled_from(["relu", "tanh"]),
        loss=st.sampled_from(["cross_entropy", "squared_error"]),
    )


def dtypes() -> st.SearchStrategy[np.dtype]:
    """The parameter dtypes every backend supports."""
    return st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])


def rules() -> st.SearchStrategy[QuadratureRule]:
    """Every kind of built-in quadrature rule."""
    plain = [
        quadrature.LEFT,
        quadrature.RIGHT,
        quadrature.MIDPOINT,
        quadrature.TRAPEZOID,
        quadrature.SIMPSON,
        quadrature.BOOLE,
    ]
    return st.one_of(
        st.sampled_from(plain),
        st.builds(quadrature.gauss_legendre, st.integers(1, 8)),
        st.builds(quadrature.gauss_lobatto, st.integers(2, 8)),
        st.builds(quadrature.composite, st.sampled_from(plain), st.integers(1, 5)),
    )


def optimizers() -> st.SearchStrategy[Optimizer]:
    """Every built-in optimizer with moderate settings."""
    lr = st.floats(1e-3, 0.3)
    momentum = st.floats(0.1, 0.95)
    return st.one_of(
        st.builds(SGD, lr),
        st.builds(SGD, lr, momentum=momentum, nesterov=st.booleans()),
        st.builds(RMSProp, lr),
        st.builds(Adam, lr),
        st.builds(AdamW, lr, weight_decay=st.floats(0.0, 0.1)),
    )
