"""Hypothesis strategies for problems, networks, data, paths, quadrature rules and optimizers.

Hypothesis draws the structure (sizes, depths, features), so that failures shrink to small cases. Numbers come
from a random generator with a drawn seed, so that they are generic: hypothesis would prefer round numbers, at
which an incorrect formula may hold by coincidence.
"""

from collections.abc import Collection
from typing import Literal, TypeAlias, get_args

import numpy as np
from hypothesis import strategies as st

from lca import quadrature
from lca.errors import UnknownNameError
from lca.layout import Layout
from lca.quadrature import QuadratureRule
from lca.reference._data import Batch
from lca.reference._models import BatchNorm, Conv2d, Dense, Dropout, Flatten, Layer, Network, mlp, small_cnn
from lca.reference._optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from lca.testing import problems
from lca.testing.problems import Problem

__all__ = [
    "FEATURES",
    "Feature",
    "batches",
    "dtypes",
    "exact_problems",
    "kinked_problems",
    "networks",
    "optimizers",
    "paths",
    "rules",
    "seeds",
    "smooth_problems",
]

_Array = np.ndarray

seeds = st.integers(0, 2**32 - 1)
"""Seeds for random number generators."""
_NORM_EPS = 0.125
"""``eps`` of batch normalisation in random networks.

In measuring batches of five and two examples, a channel often has almost no variance. With eps = 1e-5 the
division by its root amplifies rounding (float32 against float64 over 400 networks: median 0.5, largest
4e4 eps·mass). With 0.1 it does not (median 0.2, largest 2.3), so the usual tolerances apply.
"""


def exact_problems(degree: int) -> st.SearchStrategy[Problem]:
    """Problems whose loss is a polynomial of at most ``degree``, with closed-form allocations.

    Half of the ridge polynomials have the highest degree, which reveals a rule whose degree is one too low.
    The degree is limited to 16, where the error of a Gauss rule with one node too few is still far above
    rounding.
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
    """Small tanh networks on random data with random paths: smooth, but not polynomial.

    Parameters
    ----------
    steps
        The number of steps of each path.
    """
    return _network_problems("tanh", steps)


def kinked_problems(*, steps: int = 3) -> st.SearchStrategy[Problem]:
    """Small ReLU networks on random data with random paths: piecewise smooth.

    Parameters
    ----------
    steps
        The number of steps of each path.
    """
    return _network_problems("relu", steps)


def _network_problems(activation: str, steps: int) -> st.SearchStrategy[Problem]:
    sizes = st.lists(st.integers(2, 4), min_size=2, max_size=4).map(tuple)
    # In one chunk, which takes a third of the time: estimators do not see how the data are cut.
    return st.builds(
        problems.network,
        seeds,
        activation=st.just(activation),
        sizes=sizes,
        steps=st.just(steps),
        batch_size=st.just(17),
    )


Feature: TypeAlias = Literal["batch_norm", "frozen_norm", "dropout", "frozen", "tied", "images"]
FEATURES: tuple[Feature, ...] = get_args(Feature)


def networks(
    *,
    max_width: int = 6,
    max_depth: int = 3,
    features: Collection[Feature] = FEATURES,
    always: Collection[Feature] = (),
) -> st.SearchStrategy[Network]:
    """Networks of random size, activation and loss, with random features.

    The features are batch normalisation with batch statistics (``batch_norm``) or with random running
    statistics (``frozen_norm``), dropout, frozen tensors, tied tensors, and convolutions on images.

    Parameters
    ----------
    max_width, max_depth
        Largest layer width and number of dense layers of an MLP.
    features
        Features that may occur, each in about one of five networks; ``()`` gives plain MLPs.
    always
        Features that every network has.

    Raises
    ------
    UnknownNameError
        If there is no feature of this name.
    """
    unknown = {*features, *always} - set(FEATURES)
    if unknown:
        raise UnknownNameError("feature", min(unknown), FEATURES)
    return _networks(max_width, max_depth, frozenset(features), frozenset(always))


@st.composite
def _networks(
    draw: st.DrawFn,
    max_width: int,
    max_depth: int,
    features: frozenset[Feature],
    always: frozenset[Feature],
) -> Network:
    # 4, the largest of 0..4: hypothesis shrinks towards 0, that is, towards a network without the feature.
    has = {f for f in FEATURES if f in always or (f in features and draw(st.integers(0, 4)) == 4)}
    plain = draw(_images() if "images" in has else _mlps(max_width, max_depth, has))
    numbers = np.random.default_rng(draw(seeds))
    layers = _with_features(plain, has, numbers)
    tied = _tied(layers, plain) if "tied" in has else {}
    network = Network(layers, plain.loss, plain.input_shape, tied=tied)
    if "frozen" not in has:
        return network
    names = network.layout.names
    most = min(2, len(names) - 1)  # frameworks refuse a model without trainable parameters
    frozen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=most, unique=True))
    return Network(layers, plain.loss, plain.input_shape, tied=tied, frozen=tuple(frozen))


def _mlps(max_width: int, max_depth: int, has: Collection[Feature]) -> st.SearchStrategy[Network]:
    depths = st.integers(1 if set(has) <= {"frozen"} else 2, max(2, max_depth))
    widths = st.integers(2, max_width)
    # With equal widths there are two tensors of the same shape to tie.
    equal = st.builds(lambda width, depth: [width] * (depth + 1), widths, depths)
    free = depths.flatmap(lambda depth: st.lists(widths, min_size=depth + 1, max_size=depth + 1))
    return st.builds(
        mlp,
        equal if "tied" in has else free,
        activation=st.sampled_from(["relu", "tanh"]),
        loss=st.sampled_from(["cross_entropy", "squared_error"]),
    )


def _images() -> st.SearchStrategy[Network]:
    """Two convolutions and two dense layers, with widths that give biases of equal shape to tie."""
    return st.builds(
        lambda channels, side, width: small_cnn(
            (channels, 4, side), 3, channels=(width, width), hidden=(width,)
        ),
        st.integers(1, 2),
        st.integers(4, 6),
        st.integers(2, 3),
    )


def _with_features(
    plain: Network, has: Collection[Feature], numbers: np.random.Generator
) -> tuple[Layer, ...]:
    """The layers, with normalisation after hidden dense and convolutional layers and dropout after others."""
    layers: list[Layer] = []
    for layer in plain.layers[:-1]:
        layers.append(layer)
        if isinstance(layer, Dense | Conv2d):
            layers += _normalisation(layer.n_out if isinstance(layer, Dense) else layer.c_out, has, numbers)
        elif "dropout" in has and not isinstance(layer, Flatten):
            layers.append(Dropout(0.5))
    return (*layers, plain.layers[-1])


def _normalisation(n: int, has: Collection[Feature], numbers: np.random.Generator) -> list[Layer]:
    """At most one normalisation layer. It always gets running statistics, which "batch" must ignore."""
    kinds = [kind for kind in ("batch_norm", "frozen_norm") if kind in has]
    if not kinds:
        return []
    mean = numbers.normal(size=n).astype(np.float32)
    variance = numbers.uniform(0.25, 4.0, size=n).astype(np.float32)
    statistics: Literal["batch", "frozen"] = "batch" if numbers.choice(kinds) == "batch_norm" else "frozen"
    return [BatchNorm(n, statistics, tuple(mean), tuple(variance), eps=_NORM_EPS)]


def _tied(layers: tuple[Layer, ...], plain: Network) -> dict[str, str]:
    """Tie the last two weights, or the last two biases, that have the same shape."""
    layout = Network(layers, plain.loss, plain.input_shape).layout
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    alike = [
        (name, other)
        for i, name in enumerate(layout.names)
        for other in layout.names[:i]
        if shapes[name] == shapes[other] and name.rpartition(".")[2] == other.rpartition(".")[2]
    ]
    return dict(alike[-1:])


def batches(network: Network, *, n: int = 17) -> st.SearchStrategy[Batch]:
    """Random data of ``n`` examples for a network, with or without weights; exact in float32 as well.

    Parameters
    ----------
    network
        A model of `lca.reference`.
    n
        The number of examples.
    """
    return st.builds(problems.random_batch, st.just(network), seeds, st.just(n), weighted=st.booleans())


def paths(layout: Layout, steps: int = 3, *, start: _Array | None = None) -> st.SearchStrategy[_Array]:
    """Random walks (steps + 1, K) that begin near ``start``; float64, and exact in float32 as well.

    Parameters
    ----------
    layout
        Names and shapes of the parameters.
    steps
        The number of steps.
    start
        The point (K,) near which the paths begin; ``None``: random parameters near 0.
    """
    return st.builds(problems.random_path, st.just(layout), seeds, st.just(steps), start=st.just(start))


def dtypes() -> st.SearchStrategy[np.dtype]:
    """The parameter dtypes that every backend supports."""
    return st.sampled_from([np.dtype(np.float32), np.dtype(np.float64)])


def rules() -> st.SearchStrategy[QuadratureRule]:
    """Built-in quadrature rules of every kind."""
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
    """Built-in optimizers of every kind, with moderate settings."""
    lr = st.floats(1e-3, 0.3)
    momentum = st.floats(0.1, 0.95)
    return st.one_of(
        st.builds(SGD, lr),
        st.builds(SGD, lr, momentum=momentum, nesterov=st.booleans()),
        st.builds(RMSProp, lr),
        st.builds(Adam, lr),
        st.builds(AdamW, lr, weight_decay=st.floats(0.0, 0.1)),
    )
