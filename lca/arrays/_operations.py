"""`ArrayOps`: what the library needs from an array type beyond ``+ - *``, one class per type.

Estimators are written once, with arithmetic operators. Whatever differs between NumPy, torch, TensorFlow and
other frameworks is an operation here: sums in float64, counts, finiteness, detection of in-place changes. A
backend registers its class with ``array_ops.register(TensorType, lambda vector: MyOps())``.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import singledispatch

import numpy as np

from lca.arrays import _host as host
from lca.arrays._types import Native, Slices, Vector, WeightedProducts, WeightedVectors
from lca.errors import LayoutError


class ArrayOps(ABC):
    """Arithmetic and reductions over (K,) vectors of one array type, on the device of the vector.

    Scalars are Python floats. Reduced results are small NumPy arrays: float64 for sums, integers for counts.
    All sums are accumulated in float64. A subclass must define `to_numpy`, `vector`, `snapshot` and
    `unchanged`. The other methods have defaults: arithmetic uses operators, and reductions work on
    ``to_numpy(vector)`` (`lca.arrays._host`). A subclass overrides them for arithmetic in place, or for
    vectors that live on a device. `lca.testing.check_array_ops` checks the laws that every subclass must
    satisfy.

    Notes
    -----
    An entry counts as zero only if it equals 0 exactly; subnormal numbers are not zero.

    Attributes
    ----------
    collective
        Whether a vector is spread over processes, each of which must make the same calls. Default: no.
    one_pass
        Whether `products_and_sums` reads each vector once, so that the gradients of a short rule are best
        kept until all are there. Default: no.

    Examples
    --------
    >>> v = np.array([1.0, -3.0, 0.0])
    >>> ops = array_ops(v)
    >>> ops.total(v), ops.abs_total(v)
    (-2.0, 4.0)
    """

    collective = False
    one_pass = False

    def total(self, vector: Vector) -> float:
        """``Σ_i v_i``, accumulated in float64.

        >>> array_ops(np.zeros(2)).total(np.array([1.0, -3.0]))
        -2.0
        """
        return host.total(self.to_numpy(vector))

    def abs_total(self, vector: Vector) -> float:
        """``Σ_i |v_i|``, accumulated in float64.

        >>> array_ops(np.zeros(2)).abs_total(np.array([1.0, -3.0]))
        4.0
        """
        return host.abs_total(self.to_numpy(vector))

    def between(self, start: Vector, end: Vector, s: float) -> Vector:
        """``start + s (end - start)`` as a new vector.

        >>> array_ops(np.zeros(1)).between(np.array([1.0]), np.array([3.0]), 0.25)
        array([1.5])
        """
        return start + s * (end - start)

    def movement_sums(self, weighted: WeightedVectors, start: Vector, end: Vector) -> tuple[float, float]:
        """``Σ_i a_i`` and ``Σ_i |a_i|`` of ``a = (Σ_k w_k v_k) ∘ (end - start)``, without forming a.

        >>> gradient, start, end = np.array([2.0, 4.0]), np.zeros(2), np.array([1.0, -1.0])
        >>> array_ops(start).movement_sums([(0.5, gradient)], start, end)
        (-1.0, 3.0)
        """
        terms = [(weight, self.to_numpy(vector)) for weight, vector in weighted]
        return host.movement_sums(terms, self.to_numpy(start), self.to_numpy(end))

    def movement_sums_each(
        self, combinations: Sequence[WeightedVectors], start: Vector, end: Vector
    ) -> list[tuple[float, float]]:
        """`movement_sums` of several combinations, with a single synchronisation of host and device.

        >>> gradient, start, end = np.array([2.0, 4.0]), np.zeros(2), np.array([1.0, -1.0])
        >>> array_ops(start).movement_sums_each([[(0.5, gradient)], [(-1.0, gradient)]], start, end)
        [(-1.0, 3.0), (2.0, 6.0)]
        """
        return [self.movement_sums(weighted, start, end) for weighted in combinations]

    def times_movement(self, vector: Vector, start: Vector, end: Vector) -> Vector:
        """``v ∘ (end - start)``; may overwrite ``vector``, which belongs to the caller.

        >>> array_ops(np.zeros(1)).times_movement(np.array([2.0]), np.array([1.0]), np.array([0.5]))
        array([-1.])
        """
        return vector * (end - start)

    def products_sum(
        self, weighted: WeightedProducts, start: Vector, end: Vector, *, overwrite: bool = False
    ) -> tuple[Vector, float]:
        """``Σ_k w_k v_k ∘ f_k`` as a vector, and ``Σ_k |w_k| Σ_i |v_{k,i} f_{k,i}|``, in one pass.

        A factor f_k that is ``None`` is ``end - start``. The vector is a new one; with ``overwrite`` the
        factors belong to the caller, none is used twice, and they may be overwritten and one of them
        returned. The second number is a scale: it may be summed in the dtype of the vectors. It is finite
        only if every product is.

        >>> v, f, end = np.array([2.0, 4.0]), np.array([1.0, -1.0]), np.array([3.0, 1.0])
        >>> array_ops(v).products_sum([(0.5, v, f), (-1.0, v, None)], np.zeros(2), end)
        (array([-5., -6.]), 13.0)
        """
        total, mass, movement = None, 0.0, end - start
        for weight, vector, factor in weighted:
            product = weight * (vector * (movement if factor is None else factor))
            mass += self.abs_total(product)
            total = product if total is None else self.add_scaled(total, 1.0, product)
        return total, mass

    def products_and_sums(
        self, weighted: WeightedProducts, start: Vector, end: Vector, slices: Sequence[Slices]
    ) -> tuple[Vector, float, np.ndarray]:
        """`products_sum`, and the `sums` of the vector, which may be formed in the same pass.

        >>> v, start, end = np.array([2.0, 4.0]), np.zeros(2), np.array([1.0, -1.0])
        >>> array_ops(v).products_and_sums([(0.5, v, None)], start, end, [Slices(0, 1, 1, 2)])
        (array([ 1., -2.]), 3.0, array([-1.]))
        """
        values, mass = self.products_sum(weighted, start, end)
        return values, mass, self.sums(values, slices)

    def scaled(self, vector: Vector, factor: float) -> Vector:
        """``factor · v``; may overwrite ``vector``, which belongs to the caller.

        >>> array_ops(np.zeros(1)).scaled(np.array([2.0]), 0.25)
        array([0.5])
        """
        return factor * vector

    def add_scaled(self, total: Vector, factor: float, vector: Vector) -> Vector:
        """``total + factor · v``; may overwrite ``total``, which belongs to the caller.

        >>> array_ops(np.zeros(1)).add_scaled(np.array([1.0]), 0.5, np.array([4.0]))
        array([3.])
        """
        return total + factor * vector

    def all_finite(self, vector: Vector) -> bool:
        """Whether no entry is NaN or infinite.

        >>> array_ops(np.zeros(1)).all_finite(np.array([1.0, np.nan]))
        False
        """
        return host.all_finite(self.to_numpy(vector))

    def eps(self, vector: Vector) -> float:
        """Machine epsilon of the dtype of ``vector``.

        >>> array_ops(np.zeros(1)).eps(np.zeros(1)) == 2.0**-52
        True
        """
        return host.eps(self.to_numpy(vector))

    def equal(self, a: Native, b: Native) -> bool:
        """Whether two arrays of any shape and dtype are the same: type, shape, dtype and every number.

        NaN equals NaN here.

        >>> array_ops(np.zeros(1)).equal(np.array([True]), np.array([True])), array_ops(np.zeros(1)).equal(
        ...     np.array([1]), np.array([1.0]))
        (True, False)
        """
        return type(a) is type(b) and host.equal(self.to_numpy(a), self.to_numpy(b))

    def moved(self, start: Vector, end: Vector, parts: Sequence[slice]) -> list[bool]:
        """Whether two vectors differ anywhere in each of these parts, which are slices with both ends.

        >>> start, end = np.zeros(3), np.array([0.0, 0.0, 1.0])
        >>> array_ops(start).moved(start, end, [slice(0, 2), slice(1, 3)])
        [False, True]
        """
        return host.moved(self.to_numpy(start), self.to_numpy(end), parts)

    @abstractmethod
    def to_numpy(self, array: Vector | Native) -> np.ndarray:
        """The same numbers as a NumPy array; a view, possibly read-only, where the array type allows it.

        >>> array_ops(np.zeros(1)).to_numpy(np.ones(2))
        array([1., 1.])
        """

    @abstractmethod
    def vector(self, array: np.ndarray, like: Vector) -> Vector:
        """``array`` as a vector of the type, dtype and device of ``like``; it may share memory with it.

        >>> array_ops(np.zeros(1)).vector(np.ones(2), np.zeros(1, np.float32))
        array([1., 1.], dtype=float32)
        """

    @abstractmethod
    def snapshot(self, vector: Vector) -> object:
        """What `unchanged` needs to recognise this vector later: a copy, or a version counter."""

    @abstractmethod
    def unchanged(self, snapshot: object, vector: Vector) -> bool:
        """Whether ``vector`` still holds exactly the numbers that it held when the snapshot was taken.

        >>> v = np.ones(2)
        >>> snapshot = array_ops(v).snapshot(v)
        >>> v[0] = 2.0
        >>> array_ops(v).unchanged(snapshot, v)
        False
        """

    def size(self, vector: Vector) -> int:
        """K, the number of entries.

        >>> array_ops(np.zeros(1)).size(np.zeros(3))
        3
        """
        return host.size(self.to_numpy(vector))

    def sums(self, vector: Vector, slices: Sequence[Slices]) -> np.ndarray:
        """The sums of all slices, concatenated; float64, shape (sums,).

        >>> array_ops(np.zeros(1)).sums(np.arange(6.0), [Slices(0, 1, 2, 2), Slices(4, 1, 1, 2)])
        array([1., 5., 9.])
        """
        return host.sums(self.to_numpy(vector), slices)

    def sums_and_signs(self, vector: Vector, slices: Sequence[Slices]) -> tuple[np.ndarray, np.ndarray]:
        """The `sums`, and the numbers of negative and of positive entries in each, in one pass.

        Returns
        -------
        sums
            float64, shape (sums,); equal to `sums` bit by bit.
        signs
            int64, shape (2, sums): row 0 counts ``v < 0``, row 1 counts ``v > 0``.

        Examples
        --------
        >>> v = np.array([1.0, -3.0, 0.0])
        >>> array_ops(v).sums_and_signs(v, [Slices(0, 1, 1, 2), Slices(2, 1, 1, 1)])
        (array([-2.,  0.]), array([[1, 0],
               [1, 0]]))
        """
        return host.sums_and_signs(self.to_numpy(vector), slices)

    def magnitudes(self, vector: Vector, edges: np.ndarray) -> np.ndarray:
        """Histograms of |v| for negative and for positive entries; int64, shape (2, bins + 2).

        Row 0 counts the negative entries, row 1 the positive ones; zeros are not counted. Column b + 1 counts
        ``edges[b] ≤ |v| < edges[b + 1]``; the first column counts what lies below all edges, the last what
        lies at or above the last edge. ``edges`` is float64, ascending and evenly spaced in log |v|.

        >>> array_ops(np.zeros(1)).magnitudes(np.array([-5.0, 0.2, 0.0, 30.0]), np.array([0.1, 1.0, 10.0]))
        array([[0, 0, 1, 0],
               [0, 1, 0, 1]])
        """
        return host.magnitudes(self.to_numpy(vector), edges)

    def sums_signs_and_magnitudes(
        self, vector: Vector, slices: Sequence[Slices], edges: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`sums_and_signs` and `magnitudes`, with a single synchronisation of host and device.

        >>> v = np.array([1.0, -3.0])
        >>> array_ops(v).sums_signs_and_magnitudes(v, [Slices(0, 1, 1, 2)], np.array([0.1, 2.0]))[2]
        array([[0, 0, 1],
               [0, 1, 0]])
        """
        return *self.sums_and_signs(vector, slices), self.magnitudes(vector, edges)

    def take(self, vector: Vector, positions: np.ndarray) -> np.ndarray:
        """A NumPy array with the entries at these positions.

        >>> array_ops(np.zeros(1)).take(np.array([1.0, 2.0, 4.0]), np.array([2, 0]))
        array([4., 1.])
        """
        return host.take(self.to_numpy(vector), positions)

    def extremes(self, vector: Vector | Native, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the k smallest entries, in ascending order, and of the k largest, in descending order.

        >>> array_ops(np.zeros(1)).extremes(np.array([1.0, -2.0, 4.0]), 2)
        (array([1, 0]), array([2, 0]))
        """
        return host.extremes(self.to_numpy(vector), k)

    def products(self, basis: Native, vector: Vector | Native) -> np.ndarray:
        """``basis @ v`` in float64, shape (n,), for a basis of shape (n, K) made by `native`.

        >>> array_ops(np.zeros(1)).products(np.eye(2), np.array([1.0, -2.0]))
        array([ 1., -2.])
        """
        return host.products(self.to_numpy(basis), self.to_numpy(vector))

    def native(self, array: np.ndarray, like: Vector) -> Native:
        """``array`` where the reductions of ``like`` run: a NumPy array unless they run on a device.

        >>> array_ops(np.zeros(1)).native(np.ones(2), np.zeros(1))
        array([1., 1.])
        """
        return array

    def accumulated(self, total: Native | None, vector: Vector) -> Native:
        """``total + v`` in float64; overwrites ``total`` where possible. ``None`` stands for zero.

        >>> array_ops(np.zeros(1)).accumulated(None, np.array([0.5], np.float32))
        array([0.5])
        """
        return host.accumulated(total, self.to_numpy(vector))

    def signs(self, vector: Vector) -> Native:
        """-1, 0 or 1 for each entry, int8.

        >>> array_ops(np.zeros(1)).signs(np.array([-2.0, 0.0, 5e-324]))
        array([-1,  0,  1], dtype=int8)
        """
        return host.signs(self.to_numpy(vector))

    def changes(self, counts: Native, last: Native, signs: Native) -> tuple[Native, Native]:
        """Count changes of sign: add 1 to ``counts`` where ``signs`` and ``last`` are opposite.

        Returns the counts and the new ``last``, which keeps its old entry where ``signs`` is 0. Both
        ``counts`` and ``last`` may be overwritten.

        >>> last, signs = np.array([1, 1, -1], np.int8), np.array([-1, 0, -1], np.int8)
        >>> array_ops(np.zeros(1)).changes(np.zeros(3, np.int32), last, signs)
        (array([1, 0, 0], dtype=int32), array([-1,  1, -1], dtype=int8))
        """
        return host.changes(counts, last, signs)

    def ratio(self, vector: Vector, divisor: Vector) -> Native:
        """``v / divisor``, and 0 where the divisor is exactly 0.

        >>> array_ops(np.zeros(1)).ratio(np.array([1.0, 2.0]), np.array([4.0, 0.0]))
        array([0.25, 0.  ])
        """
        return host.ratio(self.to_numpy(vector), self.to_numpy(divisor))


@singledispatch
def array_ops(vector: Vector) -> ArrayOps:
    """The `ArrayOps` of the type of ``vector``; NumPy is built in, backends register their own.

    Raises
    ------
    LayoutError
        If no operations are registered for this type.

    Examples
    --------
    >>> array_ops(np.zeros(2)).total(np.array([1.0, 2.0]))
    3.0
    """
    raise LayoutError(
        f"a vector must be a NumPy array or a tensor of an imported backend, got "
        f"{type(vector).__module__}.{type(vector).__qualname__}; convert it with numpy.asarray, import its "
        "backend (lca_torch or lca_tensorflow), or register operations for its type with "
        "lca.arrays.array_ops.register, as docs/write_a_backend.md does for arrays of JAX."
    )
