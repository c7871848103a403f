"""The laws every backend must keep: on random networks, data and paths it equals the NumPy reference."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from lca.allocation import allocate
from lca.backend import Backend, Dtype, NumpyBackend
from lca.data import Batch
from lca.estimators import PathIntegral
from lca.models import CrossEntropy, DatasetLoss, Network
from lca.objective import Objective
from lca.optimizers import SGD, Optimizer
from lca.step import Trajectory
from lca.testing import tolerances
from lca.testing.laws import require, require_close
from lca.testing.report import Check
from lca.testing.strategies import networks, seeds
from lca.vectors import Vector, vector_ops

Array = np.ndarray
FRAMEWORKS = ("torch", "tensorflow", "jax")


@dataclass(frozen=True, eq=False)
class Case:
    """A network with data (17 examples, some weighted), a path of parameters, and a precision."""

    network: Network
    data: Batch
    points: Array
    dtype: Dtype

    @property
    def eps(self) -> float:
        """Machine epsilon of the case's precision."""
        return float(np.finfo(self.dtype).eps)

    def objective(self, backend: Backend) -> Objective:
        """The backend's own objective."""
        return backend.objective(self.network, self.data, self.dtype)

    def reference(self) -> DatasetLoss:
        """The same loss in NumPy, in chunks of which the last is ragged; evaluated in float64."""
        return DatasetLoss(self.network, self.data.x, self.data.y, weight=self.data.weight, batch_size=5)

    def __repr__(self) -> str:
        sizes = [shape for shape in self.network.layout.shapes if len(shape) > 1]
        weights = "weighted" if self.data.weight is not None else "unweighted"
        return f"Case(weights {sizes}, {self.network.loss}, {self.dtype}, {weights})"


def make_case(network: Network, seed: int, dtype: Dtype, *, weighted: bool) -> Case:
    """Random data and a random path for a network; numbers that are exact in both precisions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(17, *network.input_shape)).astype(np.float32).astype(np.float64)
    y = (
        rng.integers(network.n_outputs, size=17)
        if isinstance(network.loss, CrossEntropy)
        else _targets(rng, network)
    )
    weight = rng.uniform(0.5, 2.0, size=17).astype(np.float32).astype(np.float64) if weighted else None
    walk = np.cumsum(0.2 * rng.normal(size=(4, network.layout.size)), axis=0)
    points = (network.init(seed) + walk).astype(np.float32).astype(dtype)
    return Case(network, Batch(x, y, weight), points, dtype)


def _targets(rng: np.random.Generator, network: Network) -> Array:
    return rng.normal(size=(17, network.n_outputs)).astype(np.float32).astype(np.float64)


cases = st.builds(
    make_case, networks(), seeds, st.sampled_from(["float32", "float64"]), weighted=st.booleans()
)

BACKEND_CHECKS: list[Check] = []
Law = Callable[[Backend, Case], None]


def law(function: Law) -> Law:
    """Register a law of backends, tried on random networks and data."""
    BACKEND_CHECKS.append(Check(function.__name__, function, lambda backend: cases, lambda backend: True))
    return function


def _numpy(vector: Vector) -> Array:
    return np.asarray(vector_ops(vector).to_numpy(vector), np.float64)


@law
def layout_is_the_networks(backend: Backend, case: Case) -> None:
    """Same tensor names and shapes, in the same order, as the NumPy network."""
    layout, expected = case.objective(backend).layout, case.network.layout
    require(layout.names == expected.names, f"names are {layout.names}, expected {expected.names}.")
    require(layout.shapes == expected.shapes, f"shapes are {layout.shapes}, expected {expected.shapes}.")


@law
def vectors_keep_their_numbers(backend: Backend, case: Case) -> None:
    """A NumPy vector made into the framework's own and back is the same, in the same precision."""
    vector = backend.vector(case.points[0])
    require(np.array_equal(_numpy(vector), case.points[0]), "a vector changed on the way in and out.")
    eps = vector_ops(vector).eps(vector)
    require(eps == case.eps, f"a {case.dtype} vector has machine epsilon {eps:.3g} in the framework.")


@law
def losses_equal_the_reference(backend: Backend, case: Case) -> None:
    """The loss over the data, and that of a batch, are those of the NumPy network in float64."""
    objective, reference = case.objective(backend), case.reference()
    batch = case.data.take(np.arange(7))
    for point in case.points:
        for part in (None, batch):
            expected = reference.loss(point.astype(np.float64), part)
            actual = objective.loss(backend.vector(point), part)
            tolerance = tolerances.summed(1 + abs(expected), case.eps)
            require_close(actual, expected, tolerance, "the loss of " + ("a batch" if part else "the data"))


@law
def allocations_equal_the_reference(backend: Backend, case: Case) -> None:
    """Every value of every step is that of the NumPy network in float64, in units of eps·mass."""
    rule = PathIntegral()
    ours = Trajectory([backend.vector(point) for point in case.points])
    expected = allocate(case.reference(), Trajectory(case.points.astype(np.float64)), rule, check=False)
    for a, b in zip(allocate(case.objective(backend), ours, rule, check=False), expected, strict=True):
        tolerance = tolerances.allocation(b.mass, case.eps)
        require_close(_numpy(a.values), b.values, tolerance, f"step {a.step}: values")
        require_close(a.mass, b.mass, tolerance, f"step {a.step}: mass")


@law
def training_equals_the_reference(backend: Backend, case: Case) -> None:
    """Three updates of momentum give the reference's path, each step starting where the last one ended."""
    optimizer = SGD(0.05, momentum=0.9)
    batches = [case.data.take(np.arange(i, i + 5)) for i in (0, 5, 10)]
    double = replace(case, points=case.points.astype(np.float64), dtype="float64")
    expected = _path(NumpyBackend(), double, optimizer, batches)
    actual = _path(backend, case, optimizer, batches)
    require(len(actual) == len(expected), f"{len(actual)} points, expected {len(expected)}.")
    for t, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        tolerance = tolerances.gradient(1 + float(np.abs(theirs).max()), case.eps)
        require_close(ours, theirs, tolerance, f"the parameters after {t} updates")


def _path(backend: Backend, case: Case, optimizer: Optimizer, batches: list[Batch]) -> list[Array]:
    steps = list(backend.train(case.objective(backend), case.points[0], optimizer, batches))
    for t, (step, after) in enumerate(zip(steps[:-1], steps[1:], strict=True)):
        require(step.index == t, f"step {t} is numbered {step.index}.")
        joined = np.array_equal(_numpy(step.end), _numpy(after.start))
        require(joined, f"step {t + 1} does not start where step {t} ended.")
    return [_numpy(steps[0].start), *(_numpy(step.end) for step in steps)]


def loads_no_other_framework(backend: Backend, samples: int, seed: int) -> None:
    """Loading the backend imports at most one of torch, tensorflow and jax: its own."""
    code = (
        "import sys; from lca.backend import load_backend; "
        f"load_backend({backend.name!r}); print(*[f for f in {FRAMEWORKS} if f in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    require(run.returncode == 0, f"load_backend({backend.name!r}) failed: {run.stderr.strip()[-500:]}")
    require(len(run.stdout.split()) <= 1, f"loading it imported {run.stdout.strip()}.")


BACKEND_CHECKS.append(Check("loads_no_other_framework", loads_no_other_framework, None, lambda backend: True))
