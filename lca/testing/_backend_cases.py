"""The networks, data and paths on which laws compare backends with the NumPy reference."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.arrays import Vector, array_ops
from lca.objective import Evaluation, Objective
from lca.reference._backend import Backend, Dtype, NumpyBackend
from lca.reference._data import Batch, Dataset
from lca.reference._models import Dropout, Network
from lca.testing._laws import require_close
from lca.testing.problems import random_batch, random_path
from lca.testing.strategies import networks, seeds

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Case:
    """A random case: a network, 17 examples, a path of parameters (T + 1, K), and a precision.

    The loss is measured in batches of five examples; the last batch has two.
    """

    network: Network
    data: Batch
    points: Array
    dtype: Dtype
    batch_size: ClassVar[int] = 5

    @property
    def eps(self) -> float:
        """Machine epsilon of ``dtype``."""
        return float(np.finfo(self.dtype).eps)

    @property
    def measuring_batches(self) -> list[Batch]:
        """The data, split into measuring batches."""
        return list(Dataset(self.data.x, self.data.y, self.data.weight, self.batch_size))

    def objective(self, backend: Backend, *, penalty: float = 0.0) -> Objective:
        """The objective that ``backend`` makes of this case."""
        return backend.objective(
            self.network, self.data, self.dtype, penalty=penalty, batch_size=self.batch_size
        )

    def reference(self, *, penalty: float = 0.0) -> Objective:
        """The same loss, evaluated by the NumPy reference in float64."""
        return replace(self, dtype="float64").objective(NumpyBackend(), penalty=penalty)

    def __repr__(self) -> str:
        layers = [layer for layer in self.network.layers if layer.shapes or isinstance(layer, Dropout)]
        weights = "weighted" if self.data.weight is not None else "unweighted"
        policies = f"frozen {self.network.frozen}, tied {self.network.tied}"
        return f"Case({layers}, {policies}, {self.network.loss}, {self.dtype}, {weights})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print a short form for Hypothesis, which lists all numbers by default."""
        printer.text(repr(self))


def make_case(network: Network, seed: int, dtype: Dtype, *, weighted: bool, unusual: bool = False) -> Case:
    """A case with random data and a random path; all numbers are exact in float32 and float64.

    With ``unusual``, one feature is far from the others, and one example has no weight, another a large one.
    """
    data = random_batch(network, seed, weighted=weighted)
    data = _unusual(data, np.random.default_rng([seed, 5])) if unusual else data
    points = random_path(network.layout, seed + 1, 3, start=network.init(seed))
    return Case(network, data, points.astype(dtype), dtype)


def _unusual(data: Batch, rng: np.random.Generator) -> Batch:
    x, weight = data.x.copy(), data.weight
    at = int(rng.integers(x.size))
    x.flat[at] += np.copysign(FAR, x.flat[at])
    if weight is not None:
        weight = weight.copy()
        weight[rng.permutation(len(weight))[:2]] = 0.0, HEAVY
    return Batch(x, data.y, weight)


FAR, HEAVY = 12.0, 8.0


def cases_of(networks: st.SearchStrategy[Network], *, unusual: bool = True) -> st.SearchStrategy[Case]:
    """Cases with random data, path and precision for these networks; data may be unusual."""
    dtypes = st.sampled_from(["float32", "float64"])
    some = st.sampled_from([False, True, True, True] if unusual else [False])
    return st.builds(make_case, networks, seeds, dtypes, weighted=st.booleans(), unusual=some)


cases = cases_of(networks())
plain_cases = cases_of(networks(features=()), unusual=False)


def to_float64(vector: Vector) -> Array:
    return np.asarray(array_ops(vector).to_numpy(vector), np.float64)


def require_same(found: Evaluation, expected: Evaluation, case: Case, what: str, lost: float = 0.0) -> None:
    """``lost`` is the error of the reference in the precision of the case, of which 4 times are allowed."""
    tolerance = tolerances.summed(1 + abs(expected.loss), case.eps)
    require_close(found.loss, expected.loss, tolerance, f"the loss, {what}")
    tolerance = tolerances.gradient(1 + float(np.abs(expected.grad).max()), case.eps) + 4 * lost
    require_close(to_float64(found.grad), expected.grad, tolerance, f"the gradient, {what}")
