"""The NumPy backend passes the kit's check of backends, by name and as an object; a wrong one does not."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from lca.backend import NumpyBackend
from lca.data import Dataset
from lca.models import BatchNorm, Dropout
from lca.testing import ConformanceError, check_backend
from lca.testing.backend_checks import BACKEND_CHECKS
from lca.testing.report import run_checks


def test_the_numpy_backend_conforms():
    report = check_backend("numpy", samples=5)
    assert {result.status for result in report.results} == {"passed"}


@dataclass(frozen=True)
class Half(NumpyBackend):
    """Computes everything in float32, whatever was asked for."""

    def vector(self, theta):
        return theta.astype("float32")

    def objective(self, network, data, dtype, **options):
        return super().objective(network, data, "float32", **options)


@dataclass(frozen=True)
class Unweighted(NumpyBackend):
    """Drops the weights of the examples."""

    def objective(self, network, data, dtype, **options):
        return super().objective(network, type(data)(data.x, data.y), dtype, **options)


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


@dataclass(frozen=True)
class Wrong:
    """An objective made of another one, with parts of it replaced."""

    right: object
    loss: object
    loss_and_grad: object

    @property
    def layout(self):
        return self.right.layout


def with_layers(network, change):
    layers = tuple(change(layer) for layer in network.layers)
    return replace(network, layers=layers)


@dataclass(frozen=True)
class DropoutOn(NumpyBackend):
    """Leaves dropout on: a unit is dropped at every call."""

    def objective(self, network, data, dtype, **options):
        @dataclass(frozen=True)
        class Dropping(Dropout):
            def forward(self, params, x):
                return x * (np.arange(x.shape[-1]) > 0), None

        dropping = with_layers(network, lambda a: Dropping(a.p) if isinstance(a, Dropout) else a)
        return super().objective(dropping, data, dtype, **options)


@dataclass(frozen=True)
class RunningStatistics(NumpyBackend):
    """Uses the running values of BatchNorm where those of the batch were asked for."""

    statistics = "batch", "frozen"

    def objective(self, network, data, dtype, **options):
        asked, used = self.statistics

        def change(layer):
            wrong = isinstance(layer, BatchNorm) and layer.statistics == asked
            return replace(layer, statistics=used) if wrong else layer

        return super().objective(with_layers(network, change), data, dtype, **options)


@dataclass(frozen=True)
class TrainingMode(RunningStatistics):
    """Normalises by the batch where running values were asked for."""

    statistics = "frozen", "batch"


@dataclass(frozen=True)
class Thawed(NumpyBackend):
    """Gives frozen tensors their gradient."""

    def objective(self, network, data, dtype, **options):
        return super().objective(replace(network, frozen=()), data, dtype, **options)


@dataclass(frozen=True)
class TiedTwice(NumpyBackend):
    """Takes the gradient of only one use of a tied tensor."""

    def objective(self, network, data, dtype, **options):
        right = super().objective(network, data, dtype, **options)
        if not network.tied:
            return right
        free = super().objective(replace(network, tied={}, frozen=()), data, dtype, **options)
        home = free.layout

        def loss_and_grad(theta, batch=None):
            tensors = network.layout.unflatten(theta)
            apart = home.flatten({name: tensors[network.tied.get(name, name)] for name in home.names})
            loss, grad = free.loss_and_grad(apart, batch)
            grads = home.unflatten(grad)
            return loss, network.layout.flatten({name: grads[name] for name in network.layout.names})

        return Wrong(right, right.loss, loss_and_grad)


@dataclass(frozen=True)
class OneRow(NumpyBackend):
    """Adds the penalty to the data's loss instead of keeping it apart."""

    def objective(self, network, data, dtype, **options):
        both = super().objective(network, data, dtype, **options)
        return Wrong(both, both.loss, both.loss_and_grad) if options.get("penalty") else both


@dataclass(frozen=True)
class MeanOfMeans(NumpyBackend):
    """Averages the means of the batches, a ragged one counting as much as a full one."""

    def objective(self, network, data, dtype, *, batch_size=1000, **options):
        right = super().objective(network, data, dtype, batch_size=batch_size, **options)
        parts = list(Dataset(data.x, data.y, data.weight, batch_size))

        def loss(theta, batch=None):
            if batch is not None:
                return right.loss(theta, batch)
            return sum(right.loss(theta, part) for part in parts) / len(parts)

        return right if options.get("penalty") else Wrong(right, loss, right.loss_and_grad)


POLICIES = {
    "dropout_is_off": DropoutOn(),
    "batch_statistics_are_those_of_the_measuring_batch": RunningStatistics(),
    "frozen_statistics_are_used": TrainingMode(),
    "frozen_parameters_get_zero": Thawed(),
    "tied_parameters_count_once": TiedTwice(),
    "penalty_is_a_row_of_its_own": OneRow(),
    "ragged_data_count_by_size": MeanOfMeans(),
}


@pytest.mark.parametrize("check", POLICIES)
def test_a_wrong_policy_is_refused_by_the_check_named_for_it(check):
    named = [each for each in BACKEND_CHECKS if each.name in POLICIES]
    report = run_checks(named, POLICIES[check], samples=5, shrink=False)
    if check == "ragged_data_count_by_size":  # every law that compares a loss sees this one
        assert check in {result.check.name for result in report.failed}
    else:
        assert [result.check.name for result in report.failed] == [check], str(report)
