"""The laws of training: a backend takes the path of the NumPy reference, and nothing disturbs it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from lca import tolerances
from lca.arrays import Vector, array_ops
from lca.objective import Objective
from lca.reference._backend import Backend, Dtype, NumpyBackend
from lca.reference._data import Batch
from lca.reference._optimizers import SGD, Adam, AdamW, Optimizer, RMSProp
from lca.step import Step
from lca.testing._backend_cases import Array, Case, cases_of, plain_cases, to_float64
from lca.testing._laws import require, require_close
from lca.testing._process_state import arrays_in, process_state, same
from lca.testing._report import Check
from lca.testing.strategies import networks

TRAINING_CHECKS: list[Check] = []


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
            start, end = to_float64(step.start).copy(), to_float64(step.end).copy()
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
_with_features = st.builds(
    Run, cases_of(networks(), unusual=False), st.just((SGD(0.05, momentum=0.9),)), st.just((5, 5, 5))
)
_without = plain_cases.flatmap(
    lambda case: st.builds(Run, st.just(case), _optimizers(case.dtype), _sizes, _penalties)
)
TrainingLaw = Callable[[Backend, Run], None]


def training(function: TrainingLaw) -> TrainingLaw:
    """Register a law that is checked on training runs."""
    runs = _with_features | _without
    TRAINING_CHECKS.append(Check(function.__name__, function, lambda backend: runs, lambda backend: True))
    return function


def require_path(found: list[Array], run: Run, optimizer: Optimizer, what: str) -> None:
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
        require_path(run.path(backend, objective, optimizer), run, optimizer, "")
    again = run.optimizers[0]
    require_path(run.path(backend, objective, again), run, again, ", run a second time")


@training
def measuring_does_not_disturb_training(backend: Backend, run: Run) -> None:
    """The path is the same if the objective is evaluated elsewhere between two updates."""
    objective, optimizer = run.objective(backend), run.optimizers[0]
    elsewhere = backend.vector(run.case.points[-1] + run.case.points.dtype.type(0.5))
    found = run.path(
        backend, objective, optimizer, lambda: (objective.loss(elsewhere), objective.loss_and_grad(elsewhere))
    )
    require_path(found, run, optimizer, ", with a measurement after each")


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
        kept = {name: to_float64(vector).copy() for name, vector in _vectors_of(step)}
        objective.loss(elsewhere)
        objective.loss_and_grad(elsewhere)
        for name, vector in _vectors_of(step):
            same_as_before = np.array_equal(to_float64(vector), kept[name])
            require(
                same_as_before, f"step {step.index}: Step.{name} has changed after a measurement; copy it."
            )
        if step.batch is not None:
            given = same(arrays_in(step.batch), arrays_in(batch))
            require(given, f"step {step.index}: Step.batch is not the batch of the update.")
        if step.gradient is not None:
            expected = to_float64(objective.loss_and_grad(step.start, batch)[1])
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


def optimizers_remember_their_state(backend: Backend, run: Run) -> None:
    """Every optimizer with a state keeps it over many updates, and the constants stay as they are."""
    objective = run.objective(backend)
    for optimizer in run.optimizers[:-1]:
        require_path(run.path(backend, objective, optimizer), run, optimizer, "")


def runs_do_not_depend_on_each_other(backend: Backend, run: Run) -> None:
    """A run is that of the reference after another one that was given up, and in turns with a third one."""
    objective, elsewhere = run.objective(backend), run.start * run.start.dtype.type(0.5)
    for optimizer in run.optimizers:
        next(backend.train(objective, elsewhere, optimizer, run.batches))  # and no more of it
        beside = backend.train(objective, elsewhere, optimizer, run.batches)
        next(beside)
        found = run.path(backend, objective, optimizer, lambda beside=beside: next(beside, None))  # type: ignore[misc]
        require_path(found, run, optimizer, ", after one that was given up, beside another")


_long_runs = plain_cases.flatmap(
    lambda case: st.builds(Run, st.just(case), _optimizers(case.dtype), st.just((7,) * UPDATES))
)


for _law, _runs in (
    (optimizers_remember_their_state, _long_runs),
    (runs_do_not_depend_on_each_other, _with_features | _without),
):
    TRAINING_CHECKS.append(
        Check(_law.__name__, _law, lambda backend, runs=_runs: runs, lambda backend: True, part=4)  # type: ignore[misc]
    )
