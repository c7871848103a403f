"""The NumPy backend passes the kit's check of backends, by name and as an object; a wrong one does not."""

from dataclasses import dataclass

import pytest

from lca.backend import NumpyBackend
from lca.testing import ConformanceError, check_backend


def test_the_numpy_backend_conforms():
    report = check_backend("numpy", samples=5)
    assert {result.status for result in report.results} == {"passed"}


@dataclass(frozen=True)
class Half(NumpyBackend):
    """Computes everything in float32, whatever was asked for."""

    def vector(self, theta):
        return theta.astype("float32")

    def objective(self, network, data, dtype):
        return super().objective(network, data, "float32")


@dataclass(frozen=True)
class Unweighted(NumpyBackend):
    """Drops the weights of the examples."""

    def objective(self, network, data, dtype):
        return super().objective(network, type(data)(data.x, data.y), dtype)


@dataclass(frozen=True)
class OffByOne(NumpyBackend):
    """Hands over each step one update late: the start of one with the end of the next."""

    def train(self, objective, theta, optimizer, batches):
        steps = list(super().train(objective, theta, optimizer, batches))
        return (type(a)(a.start, b.end, a.index) for a, b in zip(steps, [*steps[1:], steps[-1]], strict=True))


@pytest.mark.parametrize(
    ("backend", "check"),
    [
        (Half(), "vectors_keep_their_numbers"),
        (Unweighted(), "allocations_equal_the_reference"),
        (OffByOne(), "training_equals_the_reference"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_wrong_backends_are_refused(backend, check):
    with pytest.raises(ConformanceError) as refused:
        check_backend(backend, samples=5)
    assert f"{check}: FAILED" in str(refused.value)
