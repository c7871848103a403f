"""`ArraySubject` and `Values`: the array operations that are checked, and the numbers they are checked on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lca.arrays import ArrayOps, array_ops
from lca.layout import Layout
from lca.testing._laws import require
from lca.testing._report import Check

Array = np.ndarray


LAYOUT = Layout(("a.kernel", "a.bias", "b.filter", "c"), ((3, 2), (2,), (2, 2, 3), ()), (1, 0, 1, None))


EDGES = np.logspace(-3, 2, 11)


AT_EDGES = [*EDGES, *np.nextafter(EDGES, 0), *EDGES.astype(np.float32), 0.0, -0.0, 1e-30, 1e30]


SMALLEST = [1.2e-38, float(np.float32(1e-45)), 2.3e-308, 5e-324]
"""Subnormal, or subnormal when divided: numbers that some frameworks replace by 0."""


LONG = 2**16 + 7
"""More entries than NumPy and most implementations process at a time on a CPU."""


@dataclass(frozen=True)
class ArraySubject:
    """The operations of an array type under test, and how its vectors are made.

    Parameters
    ----------
    vector
        A function that converts a NumPy vector (K,) to the array type, with its dtype.
    ops
        The operations; by default those that are registered for the type (`lca.arrays.array_ops`).
    keeps_subnormals
        False if an operation may replace subnormal numbers by 0; each entry may then be off by the smallest
        normal number.

    Examples
    --------
    >>> ArraySubject(np.array).numpy(np.ones(2))
    array([1., 1.])
    """

    vector: Callable[[Array], Any]
    ops: ArrayOps = None  # type: ignore[assignment]
    keeps_subnormals: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.ops is None:
            object.__setattr__(self, "ops", array_ops(self.vector(np.ones(1))))

    def __repr__(self) -> str:
        return f"ArraySubject({getattr(self.vector, '__qualname__', self.vector)}, {type(self.ops).__name__})"

    def lost(self, dtype: Any) -> float:
        """The error that replacing subnormal numbers by 0 may cause in one entry."""
        return 0.0 if self.keeps_subnormals else float(np.finfo(dtype).tiny)

    def numpy(self, array: Any) -> Array:
        """The same numbers as a NumPy array."""
        return self.ops.to_numpy(array)

    def lines(self, case: "Values") -> list[str]:
        """Code that makes the vectors of a case, for a report."""
        return ["import numpy as np", *case.code()]


@dataclass(frozen=True)
class Values:
    """A drawn vector (21,), of which others follow; its layout has matrix, vector, filter and scalar."""

    numbers: Array
    drawn: dict[tuple[int, int], None] = field(default_factory=dict, compare=False)

    @property
    def dtype(self) -> Any:
        """The dtype of all vectors of the case."""
        return self.numbers.dtype

    def random(self, count: int, length: int = LONG) -> Array:
        """Random vectors (count, length) in the dtype of the numbers, the same for the same numbers."""
        self.drawn[count, length] = None
        seed = list(self.numbers.tobytes())
        return np.random.default_rng(seed).normal(size=(count, length)).astype(self.dtype)

    def code(self) -> list[str]:
        """Lines of Python that make the vectors that a law has used."""
        numbers = self.numbers.tolist()
        made = f"array({numbers}" if any(numbers) else f"zeros({len(numbers)}"
        return [
            f"values = np.{made}, np.{self.dtype})",
            *(
                f"vectors = np.random.default_rng(list(values.tobytes())).normal(size={size})"
                ".astype(values.dtype)"
                for size in self.drawn
            ),
        ]

    def lines(self, subject: ArraySubject) -> list[str]:
        """Code that makes the vectors."""
        return subject.lines(self)

    def __repr__(self) -> str:
        return "; ".join(self.code())


_special = st.sampled_from([sign * float(size) for size in [*AT_EDGES, *SMALLEST] for sign in (-1, 1)])


_number = st.floats(-1e3, 1e3, width=32) | _special


vectors = st.builds(
    lambda numbers, dtype: Values(np.array(numbers).astype(dtype)),
    st.lists(_number, min_size=LAYOUT.size, max_size=LAYOUT.size),
    st.sampled_from([np.float32, np.float64]),
)


Law = Callable[[ArraySubject, Values], None]


def law_into(checks: list[Check], *, part: int = 1) -> Callable[[Law], Law]:
    """Return a decorator that adds a law of array operations to ``checks``; ``part`` as in `Check`."""

    def law(function: Law) -> Law:
        checks.append(
            Check(function.__name__, function, lambda subject: vectors, lambda subject: True, part=part)
        )
        return function

    return law


def same_numbers(found: Any, expected: Any, what: str) -> None:
    """Require equal arrays, NaN included; the message names the first entry that differs."""
    a, b = np.asarray(found), np.asarray(expected)
    require(a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}.")
    differs = np.flatnonzero(~((a == b) | (np.isnan(a) & np.isnan(b))))
    if differs.size:
        at = int(differs[0])
        require(False, f"{what}: number {at} is {a.flat[at]!r}, expected {b.flat[at]!r}.")


def near(found: Any, expected: Any, error: Any, what: str) -> None:
    """Require ``abs(found - expected) <= error`` everywhere."""
    a, b = np.atleast_1d(np.asarray(found, np.float64)), np.atleast_1d(np.asarray(expected, np.float64))
    require(a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}.")
    bad = np.flatnonzero(~(np.abs(a - b) <= error))
    if bad.size:
        at = int(bad[0])
        allowed = float(np.broadcast_to(error, a.shape).flat[at])
        where = f" number {at}" if a.size > 1 else ""
        require(
            False,
            f"{what}:{where} is {float(a.flat[at])!r}, expected {float(b.flat[at])!r}; the tolerance is "
            f"{allowed:.3g}.",
        )


# --- arithmetic ------------------------------------------------------------------------------------------


SUBNORMAL = {
    f"{np.dtype(dtype).name}, {name}": Values(np.resize(np.array(entries, dtype), LAYOUT.size))
    for dtype in (np.float32, np.float64)
    for name, entries in {
        "among others": [*SMALLEST, 0.0, -1.0, *(-v for v in SMALLEST), 2.0],
        "alone": [*SMALLEST, 0.0, SMALLEST[0], -3 * SMALLEST[1]],
    }.items()
}
"""Fixed examples, found by random search: TensorFlow replaced 1.2e-38, divided by 2, by 0."""
