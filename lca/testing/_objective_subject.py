"""`ObjectiveSubject`: an objective under test with what its author declares, and `Draw`, a random case."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Batch, Objective
from lca.testing._report import CheckFailure
from lca.testing.strategies import seeds

Array = np.ndarray
Size = Literal["usual", "small", "large", "one large entry"]
_SIZES: dict[Size, float] = {"usual": 1.0, "small": 0.25, "large": 4.0, "one large entry": 1.0}
OUTLIER = 20.0
"""One entry of θ is at least this many times `ObjectiveSubject.scale`, so that limits on entries are met."""


@dataclass(frozen=True)
class Draw:
    """A random case: the seed of all its numbers, and how large the parameters are."""

    seed: int
    size: Size = "usual"

    def rng(self, stream: int) -> np.random.Generator:
        """An independent generator for each purpose."""
        return np.random.default_rng([stream, self.seed])

    def lines(self, subject: "ObjectiveSubject") -> list[str]:
        """Code that repeats the evaluation at the point of this case."""
        return subject.lines(self)


draws = st.builds(Draw, seeds, st.sampled_from(list(_SIZES)))
usual_draws = st.builds(Draw, seeds)


@dataclass(frozen=True)
class ObjectiveSubject:
    """An objective under test, and what the checks need to know about it.

    Parameters
    ----------
    make
        A function without arguments that returns a new objective, always the same one.
    vector
        A function that converts a NumPy vector to the framework's vector type; default: NumPy.
    scale
        Standard deviation of the random parameters at which the objective is evaluated. Some cases have a
        quarter or four times of it, or one entry that is at least 20 times as large.
    batches
        ``(weight, batch)`` pairs that together are the whole data set, if the objective accepts batches.
    state
        A function that returns everything a call must not change (parameters of the model, optimizer state,
        buffers) as arrays by name. The global state of Python, NumPy, PyTorch, Keras and JAX (random
        generators, modes, threads) and the batches are always compared as well.
    points
        For an objective with a restricted domain: a function from a `numpy.random.Generator` to a point (K,)
        in it. The straight line between two points, and a small neighbourhood of each, must be in it as well.
    dtypes
        The dtypes of θ that the objective supports; the first law that needs another is not applied.

    Raises
    ------
    LCAError
        If an argument is not of this form.

    Examples
    --------
    The logarithm is defined for positive θ:

    >>> from lca import Layout
    >>> class Logarithm:
    ...     layout = Layout(("w",), ((2,),))
    ...     def loss(self, theta):
    ...         self.layout.check(theta, "theta")
    ...         return float(np.log(theta.astype(np.float64)).sum())
    ...     def loss_and_grad(self, theta):
    ...         return self.loss(theta), 1 / theta
    >>> subject = ObjectiveSubject(Logarithm, points=lambda rng: rng.uniform(0.5, 2.0, size=2))
    >>> bool(subject.numbers(Logarithm.layout, Draw(0)).min() > 0)
    True
    """

    make: Callable[[], Objective]
    vector: Callable[[Array], Vector] = field(default_factory=lambda: np.asarray)
    scale: float = 0.5
    batches: Sequence[tuple[float, Batch]] = ()
    state: Callable[[], Mapping[str, Array]] = dict
    points: Callable[[np.random.Generator], Array] | None = None
    dtypes: tuple[str, ...] = ("float32", "float64")

    def __post_init__(self) -> None:
        if not callable(self.make) or isinstance(self.make, Objective) and not isinstance(self.make, type):
            raise LCAError(
                f"expected a function that returns a new objective, got {self.make!r}; pass lambda: ..."
            )
        for name in ("vector", "state", "points"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise LCAError(f"{name} must be a function, got {getattr(self, name)!r}.")
        if not 0 < self.scale < float("inf"):
            raise LCAError(f"scale must be a finite number > 0, got {self.scale!r}.")
        dtypes = tuple(np.dtype(dtype).name for dtype in self.dtypes)
        if not dtypes or not set(dtypes) <= {"float32", "float64"}:
            raise LCAError(f"dtypes must be float32, float64 or both, got {self.dtypes!r}.")
        object.__setattr__(self, "dtypes", dtypes)
        object.__setattr__(self, "batches", _pairs(self.batches))

    @cached_property
    def example(self) -> Objective:
        """An objective that is looked at, to see which checks apply to its kind."""
        return self.make()

    def __repr__(self) -> str:
        return getattr(self.make, "__qualname__", repr(self.make))

    @property
    def widest(self) -> type:
        """The most precise dtype that the objective supports."""
        return np.float64 if "float64" in self.dtypes else np.float32

    @property
    def places(self) -> list[tuple[str, Batch | None]]:
        """Where the objective can be evaluated: the whole data, and each of its batches, with their names."""
        return [("the whole data", None), *((f"batch {i}", b) for i, (_, b) in enumerate(self.batches))]

    def numbers(self, layout: Layout, draw: Draw, stream: int = 0) -> Array:
        """A random point (K,) of the domain, float64; in streams from ``EXACT`` on it is exact in float32.

        Raises
        ------
        CheckFailure
            If the points that were given have another shape than the layout.
        """
        rng = draw.rng(stream)
        if self.points is not None:
            drawn = np.asarray(self.points(rng), np.float64)
            if drawn.shape != (layout.size,):
                raise CheckFailure(f"points() returned shape {drawn.shape}, expected ({layout.size},).")
        else:
            drawn = self.scale * _SIZES[draw.size] * rng.normal(size=layout.size)
            if draw.size == "one large entry":
                at = rng.integers(layout.size)
                drawn[at] = OUTLIER * (drawn[at] + np.copysign(self.scale, drawn[at]))
        # Elsewhere, numbers that are exact in float32 would hide what computes in float32.
        return drawn.astype(np.float32).astype(np.float64) if stream >= EXACT else drawn

    def theta(self, layout: Layout, draw: Draw, stream: int = 0, dtype: Any = None) -> Vector:
        """A random parameter vector (K,) of the framework's type; each stream gives another one."""
        return self.vector(self.numbers(layout, draw, stream).astype(dtype or self.widest))

    def pick(self, draw: Draw, stream: int = 90) -> tuple[str, Batch | None]:
        """One of the batches, or the whole data if there are none."""
        places = self.places[1:] or self.places
        return places[int(draw.rng(stream).integers(len(places)))]

    def lines(self, draw: Draw) -> list[str]:
        """Code that evaluates the objective at the first point of a case."""
        made = getattr(self.make, "__qualname__", "")
        module = getattr(self.make, "__module__", "")
        named = made.isidentifier() and module not in ("__main__", "builtins")
        start = [f"from {module} import {made}"] if named else []
        name = made if made.isidentifier() else "make_objective"
        if self.points is None:
            point = f"{self.scale * _SIZES[draw.size]:g} * rng.normal(size=objective.layout.size)"
        else:
            point = "points(rng)"
        large = [
            "i = rng.integers(len(theta))",
            f"theta[i] = {OUTLIER:g} * (theta[i] + np.copysign({self.scale:g}, theta[i]))",
        ] * (draw.size == "one large entry")
        return [
            "import numpy as np",
            *start,
            f"objective, rng = {name}(), np.random.default_rng([0, {draw.seed}])",
            f"theta = {point}",
            *(large if self.points is None else []),
            "objective.loss(theta), objective.loss_and_grad(theta)",
            *(
                [f"# The check also evaluates {self.pick(draw)[0]} of the batches declared."]
                if self.batches
                else []
            ),
        ]


EXACT = 1000
"""Streams from here on give points that are exact in float32."""


def _pairs(batches: Any) -> tuple[tuple[float, Batch], ...]:
    found = tuple(batches)
    for i, pair in enumerate(found):
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not isinstance(pair[0], Real):
            raise LCAError(
                f"batches must be (weight, batch) pairs, got a {type(pair).__name__} as number {i}; the "
                "weight is that of the batch in the mean over the data, usually its number of examples."
            )
        if not 0 < float(pair[0]) < float("inf"):
            raise LCAError(f"the weight of batch {i} must be a finite number > 0, got {pair[0]!r}.")
    return tuple((float(weight), batch) for weight, batch in found)


def on(batch: Batch | None) -> tuple[Batch, ...]:
    """The batch as arguments: an objective without batches need not have the parameter."""
    return () if batch is None else (batch,)


def as_numpy(vector: Vector) -> Array:
    """A copy of a vector as a NumPy array."""
    return np.array(array_ops(vector).to_numpy(vector), copy=True)


def written(vector: Vector, numbers: Vector) -> bool:
    """Overwrite a vector in place; False where its type does not allow it."""
    with suppress(TypeError, AttributeError, NotImplementedError):
        vector[...] = numbers
        return True
    return False
