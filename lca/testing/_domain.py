"""The domain of the laws: layouts, paths and losses of every kind that a training run may have.

Hypothesis draws the kind and a seed; the numbers come from a generator with that seed.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from hypothesis import strategies as st

from lca.layout import Layout
from lca.testing._instruments import Affine, Ripples, Staircase
from lca.testing.problems import Problem, RidgePolynomial, network
from lca.testing.strategies import seeds

Array = np.ndarray
Size: TypeAlias = Literal["one", "few", "many", "thousand", "large", "huge"]
"""One parameter; up to 6, 20 to 60 and over 1,000 tensors; over 1,000 and over 100,000 parameters."""
SIZES: tuple[Size, ...] = get_args(Size)
PREFIXES = ("layer", "blocks.", "encoder/h_", "θ", "Dense ", "")
SUFFIXES = ((".weight", ".bias"), ("/kernel:0", "/bias:0"), (".bn.γ", ".bn.β"), ("", ".scale"))
TERMS = ("zeta", "data/α", "test/α", "10", "9")
"""Names of losses: not sorted, and two that end alike."""
TOP_DEGREE = 16
"""At higher degrees, the error of a Gauss rule with one node too few is no longer far above rounding."""
_one_in_four = st.integers(0, 3).map(lambda i: i == 3)
_Event: TypeAlias = Literal["walk", "stay", "return", "near", "one entry", "permuted"]


def make_layout(size: Size, rng: np.random.Generator) -> Layout:
    """Tensors of 0 to 5 dimensions; the order of their names is neither sorted nor that of their numbers."""
    fewest, most = {"many": (20, 60), "thousand": (1_001, 1_100)}.get(size, (1, 6))
    shapes = [
        tuple(map(int, rng.integers(1, 4, size=rng.integers(6))))
        for _ in range(int(rng.integers(fewest, most + 1)))
    ]
    if size == "one":
        shapes = [((), (1,), (1, 1, 1))[rng.integers(3)]]
    if size == "many":
        shapes = [shape[:2] for shape in shapes]
    if size == "thousand":
        shapes = [shape[:1] for shape in shapes]
    if size in ("large", "huge"):
        width = int(rng.integers(251, 600))
        shapes.insert(int(rng.integers(len(shapes) + 1)), (width, 400 if size == "huge" else 4))
    prefix, numbers = PREFIXES[rng.integers(len(PREFIXES))], rng.permutation(len(shapes))
    # Two tensors of a layer share its number; other layers have tensors of the same kinds.
    names = [f"{prefix}{i // 2}{SUFFIXES[i // 2 % len(SUFFIXES)][i % 2]}" for i in numbers]
    return Layout(tuple(names), tuple(shapes))


def eventful_path(start: Array, steps: int, rng: np.random.Generator, scale: float = 1.0) -> Array:
    """A random path (steps + 1, K) that also stays, returns, moves by 1e-9, in one entry, or permutes θ.

    Such points have much in common: equal entries, equal norms, or all digits but the last.
    """
    points = [start]
    for _ in range(steps):
        last, size = points[-1], len(start)
        event: _Event = rng.choice(get_args(_Event), p=[0.3, 0.1, 0.15, 0.15, 0.15, 0.15])
        if event == "walk":
            new = start + scale * rng.normal(size=size)
        elif event == "return":
            new = points[rng.integers(len(points))].copy()
        elif event == "near":
            new = last * (1 + 1e-9 * rng.normal(size=size))
        elif event == "one entry":
            new = last.copy()
            new[rng.integers(size)] += scale * rng.normal()
        else:
            new = rng.permutation(last) if event == "permuted" else last.copy()
        points.append(new)
    return np.array(points)


def random_numbering(points: Array, rng: np.random.Generator) -> dict[str, Any]:
    """Which steps of a path are measured, and their indices: those of the run, or simply counted.

    After a step that is not measured, a start may resemble the last end.
    """
    skipped = np.flatnonzero(rng.random(len(points) - 1) < 0.3)
    skipped = skipped if len(skipped) < len(points) - 1 else skipped[1:]
    # Also past the numbers that int16, and exactly float32, can hold.
    return {
        "first": int(rng.integers(1_000)) + int(rng.choice([0, 2**24])),
        "skipped": frozenset(map(int, skipped)),
        "counted": bool(rng.random() < 0.5),
    }


def polynomial(
    seed: int,
    degree: int,
    *,
    size: Size = "few",
    steps: int = 3,
    eventful: bool = False,
    factor: float = 1.0,
    offset: float | None = 0.0,
    single: bool = False,
) -> Problem:
    """``factor · L + offset`` with a `RidgePolynomial` L, on any layout and path.

    With ``offset=None`` the loss is exactly 0 at the first point; ``single`` makes the points float32. In
    half of the cases the gradients of the parameters differ in size by up to 1e10.

    >>> polynomial(0, 3, size="large", steps=2)
    Problem('polynomial of degree 3 in 5 tensors, seed 0', K=1354, steps=2, float64)
    """
    rng = np.random.default_rng([seed, degree])
    layout = make_layout(size, rng)
    directions = rng.normal(size=(4, layout.size)) / np.sqrt(layout.size)
    if rng.random() < 0.5:
        directions *= 10.0 ** -rng.uniform(0, 10, size=layout.size)
    ridge = RidgePolynomial(directions, degree, layout)
    start = rng.normal(size=layout.size)
    points = eventful_path(np.zeros_like(start), steps, rng)[1:] if eventful else None
    points = rng.normal(size=(steps, layout.size)) if points is None else points
    points = np.concatenate([start[None], points])
    points = points.astype(np.float32) if single else points
    if offset is None:
        offset = -factor * ridge.loss(points[0])
    name = f"polynomial of degree {degree} in {len(layout.names)} tensors, seed {seed}"
    if factor != 1 or offset:
        name += f", times {factor:g} plus {offset:g}"
    return Problem(
        name,
        Affine(ridge, factor, offset),
        points,
        degree,
        lambda a, b: factor * ridge.exact_allocation(*_double(a, b)),
        lambda a, b: abs(factor) * ridge.scale(*_double(a, b)),
        lambda a: abs(factor) * ridge.loss_scale(*_double(a)) + abs(offset),
        **random_numbering(points, rng) if eventful else {},
    )


def _double(*vectors: Array) -> list[Array]:
    return [vector.astype(np.float64) for vector in vectors]


def _degrees(most: int) -> st.SearchStrategy[int]:
    """Half of the cases have the highest degree, which reveals a rule whose degree is one too low."""
    top = min(most, TOP_DEGREE)
    return st.just(top) | st.integers(1, top)


def large_models(degree: int) -> st.SearchStrategy[tuple[Problem, ...]]:
    """One parameter, 20 to 60 and 1,000 tensors, more than 1,000 parameters; one in eight has 100,000."""

    def models(seed: int, degree: int, steps: int, huge: bool, single: bool) -> tuple[Problem, ...]:
        if huge:
            return (polynomial(seed, min(degree, 4), size="huge", steps=1, single=single),)
        sizes: tuple[Size, ...] = ("one", "many", "thousand", "large")
        return tuple(polynomial(seed, degree, size=size, steps=steps, single=single) for size in sizes)

    huge = st.integers(0, 7).map(lambda i: i == 7)
    return st.builds(models, seeds, _degrees(degree), st.integers(1, 3), huge, _one_in_four)


def huge_models(degree: int) -> st.SearchStrategy[Problem]:
    """Models of more than 100,000 parameters; before the second step, only the last tenth of them moves."""

    def model(seed: int, degree: int, single: bool) -> Problem:
        problem = polynomial(seed, degree, size="huge", steps=3, single=single)
        first = problem.points.shape[1] * 9 // 10
        problem.points[2, :first] = problem.points[1, :first]
        return replace(problem, skipped=frozenset({1}))

    return st.builds(model, seeds, st.integers(1, min(degree, 4)), _one_in_four)


def long_runs(degree: int) -> st.SearchStrategy[Problem]:
    """Runs of 10 to 60 steps whose points repeat or nearly repeat, of which some are not measured."""
    return st.builds(
        polynomial,
        seeds,
        _degrees(degree),
        size=st.sampled_from(("few", "one", "many")),
        steps=st.sampled_from((10, 20, 40, 60)),
        eventful=st.just(True),
        single=_one_in_four,
    )


def sixty_steps() -> st.SearchStrategy[Problem]:
    """Runs of 60 steps: long enough that periodic work, such as an audit, is done more than once."""
    return st.builds(polynomial, seeds, st.integers(2, 6), steps=st.just(60))


def any_scale(degree: int) -> st.SearchStrategy[tuple[Problem, ...]]:
    """One loss of any size and sign: as it is, with a large offset, and exactly 0 at the first point."""

    def losses(seed: int, degree: int, steps: int, factor: float, offset: float) -> tuple[Problem, ...]:
        return tuple(
            polynomial(seed, degree, steps=steps, factor=factor, offset=b) for b in (0.0, offset, None)
        )

    factors = st.sampled_from((1e-12, -1e-12, 1e12, -1e12, -1.0, 1e-3, 1.0))
    return st.builds(
        losses, seeds, _degrees(degree), st.integers(1, 4), factors, st.sampled_from((1e6, -1e6))
    )


def anything(degree: int) -> st.SearchStrategy[Problem]:
    """Short runs of small models with everything else of the domain."""
    return st.builds(
        polynomial,
        seeds,
        _degrees(degree),
        size=st.sampled_from(("few", "one", "many")),
        steps=st.integers(2, 6),
        eventful=st.just(True),
        factor=st.sampled_from((1.0, -1.0, 1e-6, 1e6)),
        offset=st.sampled_from((0.0, 10.0, None)),
        single=_one_in_four,
    )


def corners(degree: int) -> st.SearchStrategy[tuple[Problem, ...]]:
    """A model of more than 1,000 parameters, and a run of 16 steps, for laws of single steps."""

    def models(seed: int, degree: int, single: bool) -> tuple[Problem, ...]:
        large = polynomial(seed, degree, size="large", steps=2, single=single)
        return large, polynomial(seed, degree, steps=16, eventful=True, single=single)

    return st.builds(models, seeds, _degrees(min(degree, 8)), _one_in_four)


def hard_steps() -> st.SearchStrategy[tuple[Problem, ...]]:
    """Long steps on which no refinement converges: across jumps, and across a million ripples."""

    def steps(seed: int, steps: int, single: bool) -> tuple[Problem, ...]:
        rng = np.random.default_rng([seed, 5])
        layout = make_layout("few", rng)
        direction = rng.normal(size=layout.size)
        points = 10 * rng.normal(size=(steps + 1, layout.size))
        points = points.astype(np.float32) if single else points
        height = float(10.0 ** rng.uniform(0, 6))
        return tuple(
            Problem(f"{name} of height {height:.3g}, seed {seed}", loss(direction, height, layout), points)
            for name, loss in (("a staircase", Staircase), ("ripples", Ripples))
        )

    return st.builds(steps, seeds, st.sampled_from((1, 3, 20)), _one_in_four)


Losses: TypeAlias = Mapping[str, Problem]
"""Three or more unrelated losses over one layout and one path, by name; the names are not sorted."""


def _unrelated_losses(seed: int, degree: int) -> Losses:
    rng = np.random.default_rng([seed, 3])
    kind = rng.choice(["short", "long", "large"], p=[0.3, 0.4, 0.3])
    layout = make_layout("large" if kind == "large" else "few", rng)
    steps = 24 if kind == "long" else int(rng.integers(2, 6))
    points = eventful_path(rng.normal(size=layout.size), steps, rng)
    numbering = random_numbering(points, rng)
    losses = {}
    more = [int(rng.integers(1, degree + 1)) for _ in range(rng.integers(1, 3))]
    powers = [degree, degree + 2, *more]
    zero = rng.random() < 0.3  # the last loss, such as a penalty with the factor 0
    for i, (name, power) in enumerate(zip(rng.permutation(TERMS), powers, strict=False)):
        directions = rng.normal(size=(4, layout.size)) / np.sqrt(layout.size)
        directions *= not (zero and i == len(powers) - 1)
        ridge = RidgePolynomial(directions, power, layout)
        scales = ridge.scale, ridge.loss_scale
        losses[str(name)] = Problem(
            str(name), ridge, points, ridge.power, ridge.exact_allocation, *scales, **numbering
        )
    return losses


def unrelated_losses(degree: int) -> st.SearchStrategy[Losses]:
    """Three or four unrelated polynomials, one of degree + 2 and the others of at most this degree.

    The last one may be 0 everywhere. Some models have more than 1,000 parameters, some runs 24 steps.
    """
    return st.builds(_unrelated_losses, seeds, _degrees(min(degree, 5)))


def eventful_networks() -> st.SearchStrategy[Problem]:
    """Smooth networks on runs whose points repeat or nearly repeat, of which some are not measured."""
    return st.builds(_eventful_network, seeds, st.integers(4, 7))


def _eventful_network(seed: int, steps: int) -> Problem:
    problem, rng = network(seed, batch_size=17), np.random.default_rng([seed, 4])
    points = eventful_path(problem.points[0], steps, rng, scale=0.3)
    return replace(problem, points=points, **random_numbering(points, rng))
