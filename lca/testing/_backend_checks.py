"""The laws of backends: on random networks, data and paths, a backend equals the NumPy reference."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Any, ClassVar

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import allocate
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators import PathIntegral
from lca.objective import Evaluation, Objective, Sampled, Sum, evaluate
from lca.reference._backend import ENTRY_POINT_GROUP, Backend, Dtype, NumpyBackend
from lca.reference._data import Batch, Dataset
from lca.reference._models import Dropout, Network, mlp
from lca.reference._optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from lca.step import Step, Trajectory
from lca.testing._laws import require, require_close
from lca.testing._process_state import arrays_in, process_state, same
from lca.testing._report import Check
from lca.testing.problems import random_batch, random_path
from lca.testing.strategies import Feature, networks, seeds

Array = np.ndarray
FRAMEWORKS = ("torch", "tensorflow", "jax")


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
        """What Hypothesis prints; by default it lists all numbers."""
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

BACKEND_CHECKS: list[Check] = []
Law = Callable[[Backend, Case], None]


def law(function: Law) -> Law:
    """Register a law of backends that is checked on random networks and data."""
    return _on(cases)(function)


def policy(*always: Feature) -> Callable[[Law], Law]:
    """Register a law that is checked on networks with exactly these features."""
    return _on(cases_of(networks(features=(), always=always)))


def _on(drawn: st.SearchStrategy[Case]) -> Callable[[Law], Law]:
    def register(function: Law) -> Law:
        BACKEND_CHECKS.append(Check(function.__name__, function, lambda backend: drawn, lambda backend: True))
        return function

    return register


def _numpy(vector: Vector) -> Array:
    return np.asarray(array_ops(vector).to_numpy(vector), np.float64)


@law
def layout_is_the_networks(backend: Backend, case: Case) -> None:
    """The layout has the tensors of the NumPy network: names, shapes, order, axes of neurons, other names."""
    layout, expected = case.objective(backend).layout, case.network.layout
    require(layout.names == expected.names, f"names are {layout.names}, expected {expected.names}.")
    require(layout.shapes == expected.shapes, f"shapes are {layout.shapes}, expected {expected.shapes}.")
    axes = f"the axes of neurons are {layout.neuron_axes}, expected {expected.neuron_axes}."
    require(layout.neuron_axes == expected.neuron_axes, axes)
    # A model that is a function has a tied tensor under one name only.
    known = not layout.tied or layout.tied == expected.tied
    require(known, f"other names of tensors are {layout.tied}, expected {expected.tied}.")


@law
def vectors_keep_their_numbers(backend: Backend, case: Case) -> None:
    """Converting a NumPy vector to the framework's type and back preserves values and precision."""
    vector = backend.vector(case.points[0])
    require(np.array_equal(_numpy(vector), case.points[0]), "a vector changed when converted and back.")
    eps = array_ops(vector).eps(vector)
    require(eps == case.eps, f"a {case.dtype} vector has machine epsilon {eps:.3g} in the framework.")


@law
def losses_equal_the_reference(backend: Backend, case: Case) -> None:
    """The losses of the whole data and of a batch equal those of the NumPy network in float64."""
    objective, reference = case.objective(backend), case.reference()
    batch = case.data.take(slice(7))
    for point in case.points:
        for part in (None, batch):
            expected = reference.loss(point.astype(np.float64), part)
            actual = objective.loss(backend.vector(point), part)
            tolerance = tolerances.summed(1 + abs(expected), case.eps)
            require_close(actual, expected, tolerance, "the loss of " + ("a batch" if part else "the data"))


@law
def allocations_equal_the_reference(backend: Backend, case: Case) -> None:
    """Every value of every step equals that of the NumPy network in float64, to a few eps·mass."""
    rule = PathIntegral()
    ours = Trajectory([backend.vector(point) for point in case.points])
    expected = allocate(case.reference(), Trajectory(case.points.astype(np.float64)), rule, check=False)
    for a, b in zip(allocate(case.objective(backend), ours, rule, check=False), expected, strict=True):
        tolerance = tolerances.allocation(b.mass, case.eps)
        require_close(_numpy(a.values), b.values, tolerance, f"step {a.step}: values")
        require_close(a.mass, b.mass, tolerance, f"step {a.step}: mass")


# --- training --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Training runs of one objective: optimizers with constants of their own, and the batch sizes."""

    case: Case
    optimizers: tuple[Optimizer, ...]
    sizes: tuple[int, ...]
    penalty: float = 0.0

    @property
    def batches(self) -> list[Batch]:
        """Batches of examples in no order, the same at each call."""
        rng = np.random.default_rng(len(self.sizes))
        data = self.case.data
        return [data.take(rng.permutation(len(data))[:size]) for size in self.sizes]

    @property
    def start(self) -> Array:
        """θ_0, a new array."""
        start: Array = self.case.points[0].copy()
        return start

    def objective(self, backend: Backend) -> Objective:
        """The objective that is trained."""
        return self.case.objective(backend, penalty=self.penalty)

    def path(
        self,
        backend: Backend,
        objective: Objective,
        optimizer: Optimizer,
        disturb: Callable[[], object] = lambda: None,
    ) -> list[Array]:
        """The points (K,) of a run, copied before the next update; ``disturb`` is called after each."""
        points: list[Array] = []
        for t, step in enumerate(backend.train(objective, self.start, optimizer, self.batches)):
            require(step.index == t, f"step {t} is numbered {step.index}.")
            for name, vector in _vectors_of(step):
                eps = array_ops(vector).eps(vector)
                right = f"step {t}: Step.{name} has machine epsilon {eps:.3g}, not that of {self.case.dtype}."
                require(eps == self.case.eps, right)
            start, end = _numpy(step.start).copy(), _numpy(step.end).copy()
            points = points or [start]
            require(
                np.array_equal(points[-1], start), f"step {t} does not start where the previous one ended."
            )
            points.append(end)
            disturb()
        require(
            len(points) == len(self.sizes) + 1, f"{len(self.sizes)} batches gave {len(points) - 1} steps."
        )
        return points

    def reference(self, optimizer: Optimizer, moved: float = 0.0) -> list[Array]:
        """The path of the NumPy reference in float64, from θ_0 with every entry moved relatively."""
        signs = np.random.default_rng(0).choice([-1.0, 1.0], size=self.case.points.shape)
        points = self.case.points.astype(np.float64) * (1 + moved * signs)
        run = replace(self, case=replace(self.case, points=points, dtype="float64"))
        return run.path(NumpyBackend(), run.objective(NumpyBackend()), optimizer)


def _optimizers(dtype: Dtype) -> st.SearchStrategy[tuple[Optimizer, ...]]:
    """Every family with constants that are not the defaults.

    Adam and RMSProp divide by the size of the gradient: in float32, a small ε would turn rounding errors of
    gradients that are 0 into updates of full size.
    """
    rates = st.sampled_from([0.01, 0.05])
    eps = st.sampled_from([1e-3, 1e-2] if dtype == "float32" else [1e-3, 1e-2, 1e-8])
    beta1, beta2 = st.sampled_from([0.5, 0.8]), st.sampled_from([0.95, 0.99])
    momentum = st.sampled_from([0.5, 0.9])
    return st.tuples(
        st.builds(SGD, rates, momentum=momentum),
        st.builds(SGD, rates, momentum=momentum, nesterov=st.just(True)),
        st.builds(RMSProp, rates, alpha=st.sampled_from([0.7, 0.97]), eps=eps),
        st.builds(Adam, rates, beta1, beta2, eps),
        st.builds(AdamW, rates, beta1, beta2, eps, weight_decay=st.sampled_from([0.05, 0.3])),
        st.builds(SGD, rates),
    )


UPDATES = 20
DECAY = AdamW(0.05, eps=1e-2, weight_decay=0.3)
"""Moves tensors also without a gradient."""
_sizes = st.lists(st.integers(3, 9), min_size=4, max_size=7).map(tuple)
_penalties = st.sampled_from([0.0, 0.25])
_plain = cases_of(networks(features=()), unusual=False)
_with_features = st.builds(
    Run, cases_of(networks(), unusual=False), st.just((SGD(0.05, momentum=0.9),)), st.just((5, 5, 5))
)
_without = _plain.flatmap(
    lambda case: st.builds(Run, st.just(case), _optimizers(case.dtype), _sizes, _penalties)
)
TrainingLaw = Callable[[Backend, Run], None]


def training(function: TrainingLaw) -> TrainingLaw:
    """Register a law that is checked on training runs."""
    runs = _with_features | _without
    BACKEND_CHECKS.append(Check(function.__name__, function, lambda backend: runs, lambda backend: True))
    return function


def _require_path(found: list[Array], run: Run, optimizer: Optimizer, what: str) -> None:
    expected, moved = run.reference(optimizer), run.reference(optimizer, run.case.eps)
    for t, (ours, theirs, near) in enumerate(zip(found, expected, moved, strict=True)):
        condition = float(np.abs(near - theirs).max())
        tolerance = tolerances.trained(float(np.abs(theirs).max()), condition, t, run.case.eps)
        require_close(ours, theirs, tolerance, f"the parameters after {t} updates of {optimizer}{what}")


@training
def training_equals_the_reference(backend: Backend, run: Run) -> None:
    """Every optimizer, with its constants and its state over many updates, gives the reference's path."""
    objective = run.objective(backend)
    for optimizer in run.optimizers:
        _require_path(run.path(backend, objective, optimizer), run, optimizer, "")
    again = run.optimizers[0]
    _require_path(run.path(backend, objective, again), run, again, ", run a second time")


def optimizers_remember_their_state(backend: Backend, run: Run) -> None:
    """Every optimizer with a state keeps it over many updates, and the constants stay as they are."""
    objective = run.objective(backend)
    for optimizer in run.optimizers[:-1]:
        _require_path(run.path(backend, objective, optimizer), run, optimizer, "")


def runs_do_not_depend_on_each_other(backend: Backend, run: Run) -> None:
    """A run is that of the reference after another one that was given up, and in turns with a third one."""
    objective, elsewhere = run.objective(backend), run.start * run.start.dtype.type(0.5)
    for optimizer in run.optimizers:
        next(backend.train(objective, elsewhere, optimizer, run.batches))  # and no more of it
        beside = backend.train(objective, elsewhere, optimizer, run.batches)
        next(beside)
        found = run.path(backend, objective, optimizer, lambda beside=beside: next(beside, None))  # type: ignore[misc]
        _require_path(found, run, optimizer, ", after one that was given up, beside another")


_long_runs = _plain.flatmap(
    lambda case: st.builds(Run, st.just(case), _optimizers(case.dtype), st.just((7,) * UPDATES))
)
for _law, _runs in (
    (optimizers_remember_their_state, _long_runs),
    (runs_do_not_depend_on_each_other, _with_features | _without),
):
    BACKEND_CHECKS.append(
        Check(_law.__name__, _law, lambda backend, runs=_runs: runs, lambda backend: True, part=4)  # type: ignore[misc]
    )


@training
def measuring_does_not_disturb_training(backend: Backend, run: Run) -> None:
    """The path is the same if the objective is evaluated elsewhere between two updates."""
    objective, optimizer = run.objective(backend), run.optimizers[0]
    elsewhere = backend.vector(run.case.points[-1] + run.case.points.dtype.type(0.5))
    found = run.path(
        backend, objective, optimizer, lambda: (objective.loss(elsewhere), objective.loss_and_grad(elsewhere))
    )
    _require_path(found, run, optimizer, ", with a measurement after each")


@training
def steps_report_what_made_them(backend: Backend, run: Run) -> None:
    """`Step.batch` and `Step.gradient`, where a backend sets them, are those of the update.

    A step stays the same while the objective is evaluated at other points.
    """
    objective = run.objective(backend)
    batches = run.batches
    elsewhere = backend.vector(run.case.points[-1] + run.case.points.dtype.type(0.5))
    for step, batch in zip(
        backend.train(objective, run.start, run.optimizers[0], batches), batches, strict=True
    ):
        kept = {name: _numpy(vector).copy() for name, vector in _vectors_of(step)}
        objective.loss(elsewhere)
        objective.loss_and_grad(elsewhere)
        for name, vector in _vectors_of(step):
            same_as_before = np.array_equal(_numpy(vector), kept[name])
            require(
                same_as_before, f"step {step.index}: Step.{name} has changed after a measurement; copy it."
            )
        if step.batch is not None:
            given = same(arrays_in(step.batch), arrays_in(batch))
            require(given, f"step {step.index}: Step.batch is not the batch of the update.")
        if step.gradient is not None:
            expected = _numpy(objective.loss_and_grad(step.start, batch)[1])
            tolerance = tolerances.gradient(1 + float(np.abs(expected).max()), run.case.eps)
            require_close(kept["gradient"], expected, tolerance, f"step {step.index}: Step.gradient")


def _vectors_of(step: Step) -> Iterator[tuple[str, Vector]]:
    for name in ("start", "end", "gradient"):
        if getattr(step, name) is not None:
            yield name, getattr(step, name)


@training
def training_changes_nothing_else(backend: Backend, run: Run) -> None:
    """Training writes neither the start vector nor batches, data, or global state."""
    objective = run.objective(backend)
    theta, batches = run.start, run.batches
    measured = backend.vector(run.case.points[-1].copy())
    loss = objective.loss(measured)
    np.random.seed(len(batches))  # noqa: NPY002 - a state that no backend sets by chance
    before = process_state() | arrays_in(batches, "the batches")
    for _ in backend.train(objective, theta, run.optimizers[0], batches):
        pass
    require(np.array_equal(theta, run.start), "training wrote into the vector θ_0 that was passed.")
    after = process_state() | arrays_in(batches, "the batches")
    for name, value in before.items():
        require(same(value, after[name]), f"training has changed {name}.")
    again = objective.loss(measured)
    tolerance = tolerances.repeat(loss, run.case.eps)
    require_close(again, loss, tolerance, "the loss of the whole data at the same θ, after training")


@training
def steps_come_one_at_a_time(backend: Backend, run: Run) -> None:
    """A step is yielded after its update, before the next batch is drawn and one more is computed."""
    drawn = 0

    def batches() -> Iterator[Batch]:
        nonlocal drawn
        for batch in run.batches:
            drawn += 1
            yield batch

    objective = run.objective(backend)
    for t, _ in enumerate(backend.train(objective, run.start, run.optimizers[0], batches())):
        require(drawn <= t + 2, f"{drawn} batches were drawn before step {t} was yielded.")
        return


def samples_equal_the_reference(backend: Backend, case: Case) -> None:
    """`batch(index)` of the objective is the mean over exactly these examples, as in the reference."""
    objective, reference = case.objective(backend), case.reference()
    index = np.random.default_rng(len(case.network.layout.names)).integers(len(case.data), size=5)
    ours, theirs = objective.batch(index), reference.batch(index)  # type: ignore[attr-defined]
    found = evaluate(objective, backend.vector(case.points[0]), ours)
    expected = evaluate(reference, case.points[0].astype(np.float64), theirs)
    _require_same(found, expected, case, f"of the examples {index.tolist()}")


def _makes_samples(backend: Backend) -> bool:
    network = mlp((3, 4, 2), activation="tanh")
    objective = make_case(network, 0, "float64", weighted=False).objective(backend)
    try:
        return isinstance(objective, Sampled) and objective.batch(np.zeros(1, int)) is not None
    except (LCAError, NotImplementedError):
        return False


BACKEND_CHECKS.append(
    Check("samples_equal_the_reference", samples_equal_the_reference, lambda backend: _plain, _makes_samples)
)


# --- policies: each gets a law of its own, so that a failure names it --------------------------------------


@policy("dropout")
def dropout_is_off(backend: Backend, case: Case) -> None:
    """Losses and gradients equal those of the network without its dropout layers."""
    _require_reference(backend, case, "with dropout layers, which must be disabled")


@policy("batch_norm")
def batch_statistics_are_those_of_the_measuring_batch(backend: Backend, case: Case) -> None:
    """BatchNorm "batch" uses the biased statistics of the measuring batch, and differentiates them."""
    _require_reference(backend, case, "with the statistics of the measuring batch")
    every: list[dict[str, int]] = [{"batch_size": 12}, {}]  # by default, 17 examples are one batch
    for options in every:
        ours = backend.objective(case.network, case.data, case.dtype, **options)
        reference = NumpyBackend().objective(case.network, case.data, "float64", **options)
        found = evaluate(ours, backend.vector(case.points[0]), None)
        expected = evaluate(reference, case.points[0].astype(np.float64), None)
        _require_same(found, expected, case, f"in measuring batches of {options or 'the default size'}")


@policy("frozen_norm")
def frozen_statistics_are_used(backend: Backend, case: Case) -> None:
    """BatchNorm "frozen" uses the given running statistics as constants."""
    _require_reference(backend, case, "with frozen statistics")


@policy("frozen")
def frozen_parameters_get_zero(backend: Backend, case: Case) -> None:
    """A frozen tensor is part of the layout, has gradient exactly 0, and is not moved by training."""
    objective = case.objective(backend)
    theta = backend.vector(case.points[0])
    grads = case.network.layout.unflatten(_numpy(objective.loss_and_grad(theta)[1]))
    for name in case.network.frozen:
        require(not grads[name].any(), f"frozen tensor {name!r} has a gradient of {grads[name].ravel()}.")
    sizes = tuple(len(batch) for batch in case.measuring_batches)
    run = Run(case, (SGD(0.05, momentum=0.9), DECAY), sizes)
    for optimizer in run.optimizers:
        path = run.path(backend, objective, optimizer)
        moved = case.network.layout.unflatten(path[-1] - path[0])
        for name in case.network.frozen:
            require(not moved[name].any(), f"{optimizer} moved the frozen tensor {name!r}.")
        _require_path(path, run, optimizer, ", with frozen tensors")


@policy("tied")
def tied_parameters_count_once(backend: Backend, case: Case) -> None:
    """A tied tensor occurs in the layout once, and its gradient is the sum over all its uses."""
    layout = case.objective(backend).layout
    twice = [name for name in case.network.tied if name in layout.names]
    require(not twice, f"{', '.join(twice)} is tied to another tensor, but has entries of its own in θ.")
    _require_reference(backend, case, "with tied tensors")
    run = Run(case, (DECAY,), (5, 5, 5))
    _require_path(run.path(backend, case.objective(backend), DECAY), run, DECAY, ", with tied tensors")


@policy()
def penalty_is_a_separate_term(backend: Backend, case: Case) -> None:
    """With a penalty, the objective is a Sum of the unchanged term ``data`` and the term ``penalty``."""
    for penalty in (0.25, 3.0):
        objective, reference = case.objective(backend, penalty=penalty), case.reference(penalty=penalty)
        names = sorted(objective.terms) if isinstance(objective, Sum) else type(objective).__name__
        require(names == ["data", "penalty"], f"expected a Sum of the terms data and penalty, got {names}.")
        for point in case.points[:2]:
            for batch, where in ((None, "the data"), (case.measuring_batches[-1], "a batch of two")):
                found = evaluate(objective, backend.vector(point), batch).terms
                expected = evaluate(reference, point.astype(np.float64), batch).terms
                for name in names:
                    _require_same(found[name], expected[name], case, f"the term {name!r} on {where}")


@policy("frozen", "tied")
def penalty_counts_what_trains_once(backend: Backend, case: Case) -> None:
    """The penalty is ``½ c Σ θ_i²`` over the tensors that are not frozen, a tied one once, and so trained."""
    objective, reference = case.objective(backend, penalty=0.25), case.reference(penalty=0.25)
    point = case.points[-1]
    found = evaluate(objective, backend.vector(point), None).terms["penalty"]
    expected = evaluate(reference, point.astype(np.float64), None).terms["penalty"]
    _require_same(found, expected, case, "the penalty of a network with frozen and tied tensors")
    run = Run(case, (SGD(0.05, momentum=0.9),), (5, 5, 5), penalty=0.25)
    [optimizer] = run.optimizers
    _require_path(run.path(backend, objective, optimizer), run, optimizer, ", with a penalty")


@policy()
def objectives_are_independent(backend: Backend, case: Case) -> None:
    """Objectives of one network with other data, penalty or precision do not affect each other."""
    halves = [  # of equal shape
        replace(case, data=case.data.take(slice(0, 8))),
        replace(case, data=case.data.take(slice(9, 17))),
    ]
    other: Dtype = "float32" if case.dtype == "float64" else "float64"
    cases = [case, *halves, replace(case, points=case.points.astype(other), dtype=other)]
    objectives = [each.objective(backend) for each in cases]
    penalised = case.objective(backend, penalty=0.25)
    for each, objective in zip(cases, objectives, strict=True):
        expected = evaluate(each.reference(), each.points[0].astype(np.float64), None)
        found = evaluate(objective, backend.vector(each.points[0]), None)
        what = f"of {len(each.data)} examples in {each.dtype}, beside objectives of other data and dtypes"
        _require_same(found, expected, each, what)
    expected = evaluate(case.reference(penalty=0.25), case.points[0].astype(np.float64), None)
    _require_same(
        evaluate(penalised, backend.vector(case.points[0]), None),
        expected,
        case,
        "with a penalty, beside others",
    )


@policy()
def batches_are_weighted_by_size(backend: Backend, case: Case) -> None:
    """The loss of the data is the mean over all examples, although the last batch is smaller."""
    theta, objective = backend.vector(case.points[0]), case.objective(backend)
    weighted = [batch.total_weight * objective.loss(theta, batch) for batch in case.measuring_batches]
    mean = sum(weighted) / case.data.total_weight
    require_close(objective.loss(theta), mean, tolerances.summed(1 + abs(mean), case.eps), "the mean loss")


def _require_reference(backend: Backend, case: Case, what: str) -> None:
    """Loss and gradient of the whole data and of a batch equal those of the reference."""
    theta, objective, reference = case.points[0], case.objective(backend), case.reference()
    single = replace(case, dtype="float32").objective(NumpyBackend())
    for batch in (None, case.measuring_batches[0]):
        found = evaluate(objective, backend.vector(theta), batch)
        expected = evaluate(reference, theta.astype(np.float64), batch)
        rounded = evaluate(single, theta.astype(np.float32), batch)
        # Some networks lose digits on the way to the gradient, also those of the reference.
        lost = float(np.abs(rounded.grad - expected.grad).max()) / tolerances.EPS32 * case.eps
        _require_same(found, expected, case, what, lost)


def _require_same(found: Evaluation, expected: Evaluation, case: Case, what: str, lost: float = 0.0) -> None:
    """``lost`` is the error of the reference in the precision of the case, of which 4 times are allowed."""
    tolerance = tolerances.summed(1 + abs(expected.loss), case.eps)
    require_close(found.loss, expected.loss, tolerance, f"the loss, {what}")
    tolerance = tolerances.gradient(1 + float(np.abs(expected.grad).max()), case.eps) + 4 * lost
    require_close(_numpy(found.grad), expected.grad, tolerance, f"the gradient, {what}")


def loads_no_other_framework(backend: Backend, samples: int, seed: int) -> None:
    """Loading the backend imports no framework (torch, tensorflow, jax) but its own."""
    code = f"from lca.reference._backend import load_backend; load_backend({backend.name!r})"
    loaded = _frameworks_after(code)
    # A framework may import another one itself: TensorFlow imports JAX where that is installed.
    own = len(loaded) <= 1 or any(loaded <= _frameworks_after(f"import {name}") for name in loaded)
    require(own, f"loading the backend imported {', '.join(sorted(loaded))}.")


def _frameworks_after(code: str) -> set[str]:
    """The frameworks that a new interpreter has imported after running ``code``."""
    code += f"; import sys; print('imported:', *[name for name in {FRAMEWORKS} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    require(run.returncode == 0, f"running {code!r} failed: {run.stderr.strip()[-500:]}")
    return set(run.stdout.rpartition("imported:")[2].split())


def _is_installed(backend: Backend) -> bool:
    return backend.name in entry_points(group=ENTRY_POINT_GROUP).names


BACKEND_CHECKS.append(Check("loads_no_other_framework", loads_no_other_framework, None, _is_installed))
