"""Incorrect backends: the NumPy backend with one defect that a backend of a framework might have."""

from dataclasses import dataclass, replace
from importlib.metadata import entry_points

import numpy as np

from lca.errors import LCAError
from lca.layout import Layout
from lca.reference import BatchNorm, Dataset, Dropout
from lca.reference._backend import ENTRY_POINT_GROUP, Backend, NumpyBackend, load_backend
from tests.meta.animals import Passing, Wrong


def _installed() -> tuple[dict[str, Backend], dict[str, str]]:
    """Every installed backend by its entry point, and why the others cannot be loaded."""
    found, missing = {}, {}
    for name in sorted(entry_points(group=ENTRY_POINT_GROUP).names):
        try:
            found[name] = load_backend(name)
        except LCAError as error:
            missing[name] = str(error)
    return found, missing


RIGHT_BACKENDS, MISSING_BACKENDS = _installed()


@dataclass(frozen=True)
class Half(NumpyBackend):
    """Computes everything in float32, whatever the requested dtype."""

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
    """Yields each step with the start of one update and the end of the next."""

    def train(self, objective, theta, optimizer, batches):
        steps = list(super().train(objective, theta, optimizer, batches))
        return (type(a)(a.start, b.end, a.index) for a, b in zip(steps, [*steps[1:], steps[-1]], strict=True))


@dataclass(frozen=True)
class SummedBatch(NumpyBackend):
    """Adds up the losses of a batch instead of averaging them."""

    def objective(self, network, data, dtype, **options):
        right = super().objective(network, data, dtype, **options)

        def loss(theta, batch=None):
            return right.loss(theta, batch) * (1 if batch is None else batch.total_weight)

        return Replaced(right, loss, right.loss_and_grad)


@dataclass(eq=False)
class Alphabetical(Passing):
    """Uses vectors in which the tensors are sorted by name."""

    @property
    def layout(self):
        shapes = dict(zip(self.objective.layout.names, self.objective.layout.shapes, strict=True))
        return Layout(tuple(sorted(shapes)), tuple(shapes[name] for name in sorted(shapes)))

    def loss(self, theta, batch=None):
        return self.objective.loss(self._reordered(theta, self.layout, self.objective.layout), batch)

    def loss_and_grad(self, theta, batch=None):
        theirs = self.objective.layout
        loss, grad = self.objective.loss_and_grad(self._reordered(theta, self.layout, theirs), batch)
        return loss, self._reordered(grad, theirs, self.layout)

    @staticmethod
    def _reordered(theta, layout, other):
        tensors = layout.unflatten(theta)
        return other.flatten({name: tensors[name] for name in other.names})


@dataclass(frozen=True)
class SortedByName(NumpyBackend):
    """Flattens a dictionary of tensors in the order of its keys."""

    def objective(self, network, data, dtype, **options):
        return Alphabetical(super().objective(network, data, dtype, **options))


@dataclass(frozen=True)
class Replaced:
    """An objective derived from another one by replacing some of its methods."""

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
    """Uses the running statistics of BatchNorm instead of those of the batch."""

    statistics = "batch", "frozen"

    def objective(self, network, data, dtype, **options):
        asked, used = self.statistics

        def change(layer):
            wrong = isinstance(layer, BatchNorm) and layer.statistics == asked
            return replace(layer, statistics=used) if wrong else layer

        return super().objective(with_layers(network, change), data, dtype, **options)


@dataclass(frozen=True)
class TrainingMode(RunningStatistics):
    """Uses the statistics of the batch instead of the running statistics."""

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

        return Replaced(right, right.loss, loss_and_grad)


@dataclass(frozen=True)
class OneRow(NumpyBackend):
    """Adds the penalty to the loss of the data instead of making it a separate term."""

    def objective(self, network, data, dtype, **options):
        both = super().objective(network, data, dtype, **options)
        return Replaced(both, both.loss, both.loss_and_grad) if options.get("penalty") else both


@dataclass(frozen=True)
class MeanOfMeans(NumpyBackend):
    """Averages the means of the batches with equal weights, also that of a smaller last batch."""

    def objective(self, network, data, dtype, *, batch_size=1000, **options):
        right = super().objective(network, data, dtype, batch_size=batch_size, **options)
        parts = list(Dataset(data.x, data.y, data.weight, batch_size))

        def loss(theta, batch=None):
            if batch is not None:
                return right.loss(theta, batch)
            return sum(right.loss(theta, part) for part in parts) / len(parts)

        return right if options.get("penalty") else Replaced(right, loss, right.loss_and_grad)


WRONG_BACKENDS: dict[str, Wrong] = {
    "sorted by name": Wrong(
        "JAX flattens a dictionary by its sorted keys: bias before weight",
        "layout_is_the_networks",
        SortedByName,
    ),
    "float32 everywhere": Wrong(
        "the framework's default precision, whatever the requested dtype", "vectors_keep_their_numbers", Half
    ),
    "batch summed": Wrong("reduction='sum' left on for batches", "losses_equal_the_reference", SummedBatch),
    "weights dropped": Wrong(
        "the weights of the examples are ignored", "allocations_equal_the_reference", Unweighted
    ),
    "one update late": Wrong(
        "gradient taken after the update, paired with the next one: off by one",
        "training_equals_the_reference",
        OffByOne,
    ),
    "dropout left on": Wrong("no eval(), so units are dropped while measuring", "dropout_is_off", DropoutOn),
    "eval() for batch statistics": Wrong(
        "eval() disables dropout and also switches BatchNorm to its running statistics",
        "batch_statistics_are_those_of_the_measuring_batch",
        RunningStatistics,
    ),
    "train() for frozen statistics": Wrong(
        "train() uses the statistics of the batch instead of the running statistics",
        "frozen_statistics_are_used",
        TrainingMode,
    ),
    "frozen tensors thawed": Wrong(
        "requires_grad forgotten: a frozen tensor has a gradient", "frozen_parameters_get_zero", Thawed
    ),
    "one use of a tied tensor": Wrong(
        "a tied tensor copied, so only one of its uses is differentiated",
        "tied_parameters_count_once",
        TiedTwice,
    ),
    "penalty mixed in": Wrong(
        "the penalty is added to the loss of the data instead of being a separate term",
        "penalty_is_a_separate_term",
        OneRow,
    ),
    "mean of means": Wrong(
        "the original LCA code: the smaller last batch has the same weight as a full one",
        "batches_are_weighted_by_size",
        MeanOfMeans,
    ),
}
