"""Laws about what an estimator reports: declarations, cost, convergence, invalid input, precision."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from numbers import Integral
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from lca import tolerances
from lca.allocation import Allocator, Cost, Estimator, StepAllocation
from lca.errors import IncompleteStepError, LCAError, NonFiniteError
from lca.estimators._stochastic import StochasticEstimator, required_fields_of
from lca.layout import Layout
from lca.objective import Batch, Objective
from lca.step import Step
from lca.testing._domain import anything, hard_steps
from lca.testing._estimator_checks.law import any_problem, between, law_into, measures_full_loss, run
from lca.testing._instruments import CountingObjective, NonFiniteAt, OddGradient, Scheduled
from lca.testing._laws import require, require_close, rounding
from lca.testing._replicated import Replicated, batch_size, begin, micro_batches_of, with_fields
from lca.testing._report import Check, CheckFailure
from lca.testing.problems import Problem, network
from lca.testing.strategies import exact_problems, kinked_problems, seeds, smooth_problems

Array = np.ndarray
CHECKS: list[Check] = []
law = law_into(CHECKS)
TARGETS = ("full", "batch", "probe")
_STEP_FIELDS = tuple(f.name for f in fields(Step) if f.name not in ("start", "end", "index"))


@law(lambda estimator: st.just("as declared"), lambda estimator: True)
def declarations_are_complete(estimator: Estimator, case: str) -> None:
    """``target``, ``degree``, ``cost`` and, for a stochastic estimator, everything else are declared."""
    target, degree, cost = estimator.target, estimator.degree, estimator.cost
    require(target in TARGETS, f"target is {target!r}; it must be one of {', '.join(map(repr, TARGETS))}.")
    whole = isinstance(degree, Integral) and not isinstance(degree, bool) and degree >= 0
    require(whole, f"degree is {degree!r}; it must be a whole number ≥ 0.")
    require(isinstance(cost, Cost), f"cost is {cost!r}; it must be a lca.Cost.")
    spent = [getattr(cost, f.name) for f in fields(Cost)]
    require(
        all(isfinite(n) and n >= 0 for n in spent), f"{cost!r} holds a number that is not finite and ≥ 0."
    )
    require(callable(estimator.start), f"start is {estimator.start!r}; it must be a method.")
    stochastic = ("unbiased", "bias", "required_fields", "reseeded")
    missing = [name for name in stochastic if not hasattr(estimator, name)]
    if missing and target != "full":
        raise CheckFailure(
            f"target {target!r} means an estimator on batches or samples "
            "(lca.estimators.StochasticEstimator), which also needs "
            f"{', '.join(missing)}; declare them, or target = 'full'."
        )
    if not missing:
        _require_stochastic_declarations(estimator)  # type: ignore[arg-type]


def _require_stochastic_declarations(estimator: StochasticEstimator) -> None:
    unbiased, bias, wanted = estimator.unbiased, estimator.bias, estimator.required_fields
    require(isinstance(unbiased, bool), f"unbiased is {unbiased!r}; it must be True or False.")
    require(isinstance(bias, str) and bias.strip() != "", f"bias is {bias!r}; say in words what remains.")
    require(isinstance(wanted, tuple), f"required_fields is {wanted!r}; it must be a tuple of names.")
    unknown = [name for name in wanted if name not in _STEP_FIELDS]
    require(
        not unknown,
        f"required_fields names {', '.join(map(repr, unknown))}, which lca.Step has not; its fields are "
        f"{', '.join(_STEP_FIELDS)}.",
    )
    other = estimator.reseeded(1)
    for name in ("target", "degree", "cost", "unbiased", "bias", "required_fields"):
        now, was = getattr(other, name, None), getattr(estimator, name)
        require(now == was, f"reseeded(1) has {name} = {now!r}, but the estimator itself {was!r}.")


@law(any_problem)
def reported_cost_is_true(estimator: Estimator, problem: Problem) -> None:
    """The ``cost`` of each step equals the evaluations counted in the objective, and is no ``largest_cost``.

    Also where a state besides θ moves. Those of ``start()`` are part of the first step, which may cost more
    than the largest cost, as may one that does not begin where the last one ended.
    """
    if isinstance(estimator, StochasticEstimator):
        _require_true_examples(estimator, problem)
        return
    counting, steps = CountingObjective(problem.objective), problem.trajectory
    _require_true_evaluations(estimator, counting, counting, steps)
    states = [{"factor": np.ones(1), "shift": np.full(1, float(t // 2))} for t in range(len(steps) + 1)]
    moved = [replace(step, state=(states[t], states[t + 1])) for t, step in enumerate(steps)]
    counting = CountingObjective(problem.objective)
    _require_true_evaluations(estimator, Scheduled(counting, states[0]), counting, moved)


def _require_true_evaluations(
    estimator: Estimator, measured: Objective, counting: CountingObjective, steps: Sequence[Step]
) -> None:
    """Compare each reported cost with what ``counting``, the loss behind ``measured``, has counted."""
    allocate_step, before, last = begin(estimator, measured), Cost(), np.empty(0)
    for n, step in enumerate(steps):
        of = f"step {step.index}{', in which a state moves,' if step.state else ''}"
        reported = allocate_step(step).cost
        require(
            before + reported == counting.cost,
            f"{of} reported {reported}, but counted {_minus(counting.cost, before)}.",
        )
        before = counting.cost
        largest = getattr(estimator, "largest_cost", None)
        follows, last = n > 0 and np.array_equal(step.start, last), step.end
        if follows and largest is not None and step.state is None:
            over = any(spent > getattr(largest, name) for name, spent in vars(reported).items())
            require(not over, f"{of} cost {reported}, but largest_cost is {largest}.")


def _require_true_examples(estimator: StochasticEstimator, problem: Problem) -> None:
    """The same in examples, of which a gradient on a training batch has as many as the batch."""
    counting = Replicated(problem.objective)
    allocate_step, n = estimator.start(counting), counting.n_examples
    size = batch_size(micro_batches_of(estimator))
    for step in problem.trajectory:
        cost = allocate_step(with_fields(step, problem.objective, estimator)).cost
        gradients = n * cost.full_gradients + size * cost.batch_gradients + cost.examples
        for what, reported, counted in (
            ("gradients", gradients, counting.gradients),
            ("losses or scores", n * cost.full_losses, counting.losses),
        ):
            limit = tolerances.summed(counted, tolerances.EPS64)
            require_close(reported, counted, limit, f"step {step.index}: examples whose {what} it reports")
        counting.gradients = counting.losses = 0


@law(lambda estimator: exact_problems(estimator.degree + 1), measures_full_loss)
def declared_cost_is_met(estimator: Estimator, problem: Problem) -> None:
    """After the first step, the cheapest step of a run has the cost that the estimator declares."""
    counting = CountingObjective(problem.objective)
    allocate_step, costs = begin(estimator, counting), []
    for step in between(np.concatenate([problem.points, problem.points[::-1][1:]] * 2)):
        if np.array_equal(step.start, step.end):
            continue  # may cost less
        allocate_step(step)
        costs.append(counting.cost)
    steps = [_minus(b, a) for a, b in zip(costs, costs[1:], strict=False)]
    cheapest = min(steps, key=lambda cost: (cost.full_gradients, cost.full_losses))
    require(cheapest == estimator.cost, f"declares {estimator.cost}, but the cheapest step took {cheapest}.")


def _minus(a: Cost, b: Cost) -> Cost:
    return Cost(
        a.full_gradients - b.full_gradients,
        a.full_losses - b.full_losses,
        a.batch_gradients - b.batch_gradients,
        a.examples - b.examples,
    )


@law(lambda estimator: kinked_problems() | smooth_problems() | anything(4))
def converged_steps_are_within_tolerance(estimator: Estimator, problem: Problem) -> None:
    """The residual of a step with ``converged=True`` is within the tolerance that the step reports."""
    wide = problem.points[0] + 4 * (problem.points - problem.points[0])  # long steps across kinks
    require_known_residuals(run(estimator, problem.objective, between(wide)))


@law(lambda estimator: hard_steps())
def hard_steps_end(estimator: Estimator, problems: tuple[Problem, ...]) -> None:
    """Refinement ends where it does not help; a step that misses its tolerance has ``converged=False``."""
    for problem in problems:
        with suppress(LCAError):  # says so as well
            require_known_residuals(run(estimator, problem.objective, problem.trajectory))


def require_known_residuals(allocations: Iterable[StepAllocation]) -> None:
    """A residual beyond the tolerance is no convergence, and a step that has not converged says why."""
    for a in allocations:
        left = a.loss_end - a.loss_start - a.state_change - float(np.sum(a.values, dtype=np.float64))
        within = a.tolerance is None or abs(left) <= a.tolerance
        require(
            within or not a.converged,
            f"step {a.step} has converged=True, but its residual is {left:.3g}, tolerance {a.tolerance}.",
        )
        require(
            a.converged or bool(a.reason),
            f"step {a.step} is not converged and gives no reason; say why in StepAllocation.reason.",
        )


@dataclass(eq=False)
class _Listening:
    """Lists the points (θ as bytes) at which a gradient was evaluated."""

    objective: Objective
    points: list[bytes] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        return self.objective.loss(theta, batch)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        self.points.append(theta.tobytes())
        return self.objective.loss_and_grad(theta, batch)


@dataclass(frozen=True)
class Fault:
    """One number that is not finite: where (a fraction of the evaluations and of θ), and its value."""

    what: str
    when: float
    entry: float
    value: float


def _make_faults(seed: int) -> tuple[Fault, ...]:
    """One of each kind, each somewhere else."""
    rng = np.random.default_rng(seed)
    infinite, any_value = rng.choice([np.inf, -np.inf]), rng.choice([np.nan, np.inf, -np.inf], size=2)
    kinds = (
        ("gradient", np.nan),
        ("gradient", infinite),
        ("loss", any_value[0]),
        ("parameters", any_value[1]),
    )
    return tuple(Fault(what, rng.random(), rng.random(), float(value)) for what, value in kinds)


@law(lambda estimator: st.tuples(smooth_problems(), seeds.map(_make_faults)))
def non_finite_numbers_are_refused(estimator: Estimator, case: tuple[Problem, tuple[Fault, ...]]) -> None:
    """NaN or infinity anywhere, for one step only, raises `NonFiniteError`, which names step and tensor."""
    problem, faults = case
    clean = _Listening(problem.objective)
    expected = run(estimator, clean, _late_steps(problem.points))
    if measures_full_loss(estimator):
        _require_bad_state_refused(estimator, problem, faults[0].when)
    if isinstance(estimator, StochasticEstimator) and clean.points:
        _require_bad_batch_refused(estimator, problem, faults[0], len(clean.points), expected)
    for fault in faults:
        measured = {"loss": not expected[0].sampled, "gradient": bool(clean.points)}
        if measured.get(fault.what, True):
            _require_fault_refused(estimator, problem, fault, clean.points, expected)


def _require_fault_refused(
    estimator: Estimator,
    problem: Problem,
    fault: Fault,
    evaluated: list[bytes],
    expected: list[StepAllocation],
) -> None:
    points, objective = problem.points.copy(), problem.objective
    entry, at = int(fault.entry * points.shape[1]), int(fault.when * len(points))
    faulty: Objective = objective
    if fault.what == "parameters":
        points[at, entry] = fault.value
    elif fault.what == "gradient":
        point = evaluated[int(fault.when * len(evaluated))]
        faulty = NonFiniteAt(objective, point, "gradient", entry, fault.value)
    else:
        faulty = NonFiniteAt(objective, points[at].tobytes(), "loss", 0, fault.value)
    named = "" if fault.what == "loss" else objective.layout.tensor_at(entry)
    what = f"{fault.value} in the {fault.what}"
    refused = _is_refused(begin(estimator, faulty), _late_steps(points), expected, what, named)
    # Not every gradient is used: the one at the end of a run may be meant for the next step.
    require(refused or fault.what == "gradient", f"{what} was accepted without an error.")


def _late_steps(points: Array) -> list[Step]:
    """The steps between the points, numbered as if they came late in a run."""
    return [replace(step, index=step.index + 1_000) for step in between(points)]


def _require_bad_batch_refused(
    estimator: Estimator, problem: Problem, fault: Fault, gradients: int, expected: list[StepAllocation]
) -> None:
    """A single gradient, such as that of one micro-batch of several, is NaN.

    It may be accepted only if it is not used: if no other number in its place changes the values.
    """
    call, entry = int(fault.when * gradients), int(fault.entry * problem.points.shape[1])
    steps = _late_steps(problem.points)
    other = run(estimator, OddGradient(problem.objective, call, entry, 1e6), steps)
    used = [not np.array_equal(a.values, clean.values) for a, clean in zip(other, expected, strict=True)]
    if any(used):
        allocate_step = begin(estimator, OddGradient(problem.objective, call, entry, np.nan))
        what, tensor = "NaN in a single batch or micro-batch", problem.objective.layout.tensor_at(entry)
        refused = _is_refused(allocate_step, steps[: used.index(True) + 1], expected, what, tensor)
        require(refused, f"step {steps[used.index(True)].index}: {what} was accepted without an error.")


def _require_bad_state_refused(estimator: Estimator, problem: Problem, when: float) -> None:
    """The loss is NaN in the state in which one step ends, and in no other."""
    good, bad = ({"factor": np.ones(1), "shift": np.full(1, shift)} for shift in (0.0, np.nan))
    steps = _late_steps(problem.points)
    at = int(when * len(steps))
    steps[at], index = replace(steps[at], state=(good, bad)), steps[at].index
    allocate_step = begin(estimator, Scheduled(problem.objective, good))
    for step in steps[: at + 1]:
        try:
            allocate_step(step)
        except NonFiniteError as error:
            require(f"step {index}" in str(error), f"the error does not name step {index}: {error}")
            require(step.index == index, f"step {step.index} was refused, which is finite: {error}")
            return
    raise CheckFailure(
        f"step {index}: a loss of NaN in the state after the step was accepted without an error."
    )


def _is_refused(
    allocate_step: Allocator,
    steps: Iterable[Step],
    expected: Iterable[StepAllocation],
    what: str,
    tensor: str,
) -> bool:
    """Whether a step raises `NonFiniteError`, which must name it; the steps before it must be as expected."""
    for step, clean in zip(steps, expected, strict=False):
        try:
            with np.errstate(all="ignore"):
                a = allocate_step(step)
        except NonFiniteError as error:
            require(f"step {step.index}" in str(error), f"the error does not name step {step.index}: {error}")
            require(tensor in str(error), f"the error does not name the tensor {tensor!r}: {error}")
            return True
        same = np.array_equal(a.values, clean.values) and (a.sampled or a.loss_end == clean.loss_end)
        require(same, f"step {step.index}: {what} gave other numbers, and no error.")
    return False


@law(lambda estimator: smooth_problems(steps=1))
def float32_agrees_with_float64(estimator: Estimator, problem: Problem) -> None:
    """Values in float32 equal those in float64, to a few float32 eps·mass."""
    single = problem.points.astype(np.float32)
    [a] = run(estimator, problem.objective, between(single))
    [b] = run(estimator, problem.objective, between(single.astype(np.float64)))
    assume(a.cost == b.cost)  # an adaptive estimator may refine only one of them, near its threshold
    require_close(a.values, b.values, rounding(a), "values in float32")


def _requires_fields(estimator: Estimator) -> bool:
    """Whether fields of the step are required."""
    return bool(required_fields_of(estimator))


@law(lambda estimator: st.sampled_from(required_fields_of(estimator)), _requires_fields)
def incomplete_steps_are_refused(estimator: Estimator, name: str) -> None:
    """A step without a field of ``required_fields`` raises `IncompleteStepError`, which names the field."""
    assert isinstance(estimator, StochasticEstimator)
    problem = network(0, steps=1)
    [step] = problem.trajectory
    complete = with_fields(step, problem.objective, estimator)
    empty: Any = () if name in ("micro_batches", "next_micro_batches") else None
    objective = Replicated(problem.objective)
    estimator.start(objective)(complete)
    try:
        estimator.start(objective)(replace(complete, **{name: empty}))
    except IncompleteStepError as error:
        require(name in str(error), f"the error does not name Step.{name}: {error}")
        return
    raise CheckFailure(f"a step without {name}, one of required_fields, was accepted.")
