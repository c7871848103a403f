"""`allocate` and `allocate_each`: lazy, O(K), exact about several losses, clear about bad steps."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given

from lca import SIMPSON, Adaptive, Cost, PathIntegral, Step, Sum, Trajectory, allocate, allocate_each
from lca.errors import LayoutError, LCAError, NonDeterministicError, NonFiniteError, TrajectoryError
from lca.layout import Layout
from lca.reference import L2Penalty, bowl
from lca.testing import problems, tolerances
from lca.testing._instruments import CountingObjective
from lca.testing.strategies import seeds

Array = np.ndarray
ESTIMATORS = [PathIntegral(SIMPSON), Adaptive(tol=1e-4)]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=["simpson", "adaptive"])


@dataclass(eq=False)
class Drifting:
    """A loss that is larger by ``drift`` at every call, as with dropout left on."""

    objective: object
    drift: float
    calls: int = 0

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Array, batch: object = None) -> float:
        return self.loss_and_grad(theta)[0]

    def loss_and_grad(self, theta: Array, batch: object = None) -> tuple[float, Array]:
        self.calls += 1
        loss, grad = self.objective.loss_and_grad(theta)
        return loss + self.drift * self.calls, grad


@dataclass(eq=False)
class Watched:
    """Steps that note when they are taken."""

    points: Array
    taken: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[Step]:
        for step in Trajectory(self.points):
            self.taken.append(step.index)
            yield step


def eps_of(a) -> float:
    return float(np.finfo(a.values.dtype).eps)


# --- lazy, and small -------------------------------------------------------------------------------------


@each_estimator
def test_a_step_is_taken_and_evaluated_only_when_asked_for(estimator):
    problem = problems.network(1, steps=4)
    counting, steps = CountingObjective(problem.objective), Watched(problem.points)
    allocations = allocate(counting, steps, estimator)
    assert (steps.taken, counting.points) == ([], [])
    next(allocations)
    assert steps.taken == [0]
    spent = len(counting.points)
    next(allocations)
    assert steps.taken == [0, 1]
    assert len(counting.points) > spent


@each_estimator
def test_memory_does_not_grow_with_the_number_of_steps(estimator):
    size = 2_000
    penalty = L2Penalty(Layout(("w",), ((size,),)), 1.0)

    def walk(steps: int) -> Iterator[Step]:
        rng, theta = np.random.default_rng(0), np.zeros(size)
        for t in range(steps):
            start, theta = theta, theta + rng.normal(size=size)
            yield Step(start, theta, t)

    def peak(steps: int) -> int:
        tracemalloc.start()
        for _ in allocate(penalty, walk(steps), estimator):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(2)  # whatever is imported or cached at first use
    vector = size * 8
    assert peak(500) < peak(50) + vector


def test_steps_carry_their_own_index():
    problem = problems.network(1)
    steps = [Step(step.start, step.end, index=step.index + 40) for step in problem.trajectory]
    assert [a.step for a in allocate(problem.objective, steps, PathIntegral())] == [40, 41, 42]


def test_costs_add_up_by_kind():
    assert Cost(1, 2, 3, 4) + Cost(10, 20, 30, 40) == Cost(11, 22, 33, 44)
    assert Cost(11, 22, 33, 44) - Cost(10, 20, 30, 40) == Cost(1, 2, 3, 4)


def test_the_loss_change_is_end_less_start():
    problem = problems.network(1)
    for a in allocate(problem.objective, problem.trajectory, PathIntegral()):
        assert a.loss_change == a.loss_end - a.loss_start != 0


# --- what is refused -------------------------------------------------------------------------------------


def test_points_instead_of_steps_are_refused():
    problem = problems.network(1)
    message = r"iterable of Step, got an item of type ndarray; wrap stored points .* Trajectory\(points\)"
    with pytest.raises(TrajectoryError, match=message):
        next(allocate(problem.objective, problem.points, PathIntegral()))


@pytest.mark.parametrize("check", [True, False])
def test_a_consumed_trajectory_is_refused(check):
    problem = problems.network(1)
    steps = iter(problem.trajectory)
    list(allocate(problem.objective, steps, PathIntegral(), check=check))
    with pytest.raises(TrajectoryError, match="no step to allocate; was the trajectory already consumed"):
        next(allocate(problem.objective, steps, PathIntegral(), check=check))


def test_no_objective_at_all_is_refused():
    with pytest.raises(LCAError, match="measuring needs at least one objective; pass"):
        allocate_each({}, problems.network(1).trajectory, PathIntegral())


@pytest.mark.parametrize("wrong", [SIMPSON, PathIntegral, "rk4", None])
def test_what_is_no_estimator_is_refused_at_once(wrong):
    problem = problems.network(1)
    with pytest.raises(LCAError, match=r"expected an Estimator, got .*lca.PathIntegral\(lca.SIMPSON\)"):
        allocate(problem.objective, problem.trajectory, wrong)


def test_an_objective_with_two_values_at_one_point_is_refused():
    problem = problems.network(1)
    with pytest.raises(NonDeterministicError, match="at the same parameters.*Turn off dropout"):
        next(allocate(Drifting(problem.objective, 0.01), problem.trajectory, PathIntegral()))


def test_any_of_several_objectives_is_checked():
    problem = problems.network(1)
    losses = {"train": problem.objective, "heldout": Drifting(problem.objective, 0.01)}
    with pytest.raises(NonDeterministicError):
        next(allocate_each(losses, problem.trajectory, PathIntegral()))


def test_without_check_two_values_at_one_point_pass():
    problem = problems.network(1)
    drifting = Drifting(problem.objective, 0.01)
    assert len(list(allocate(drifting, problem.trajectory, PathIntegral(), check=False))) == 3


def test_rounding_between_two_calls_is_no_randomness():
    problem = problems.network(1)
    loss = problem.objective.loss(problem.points[0])
    shaking = Drifting(problem.objective, tolerances.repeat(loss, tolerances.EPS64) / 8)
    assert len(list(allocate(shaking, problem.trajectory, PathIntegral()))) == 3


def test_the_checks_of_three_steps_cost_two_gradients_and_a_loss():
    problem = problems.network(1)
    counting = CountingObjective(problem.objective)
    list(allocate(counting, problem.trajectory, PathIntegral(SIMPSON)))
    assert counting.cost == Cost(full_gradients=2 + 1 + 2 * 3, full_losses=1)


def test_an_objective_whose_gradient_alone_is_random_is_refused():
    class AnySample:
        layout = bowl(2).layout
        draw = np.random.default_rng(0)

        def loss(self, theta, batch=None):
            return 1.0

        def loss_and_grad(self, theta, batch=None):
            return 1.0, self.draw.normal(size=2)

    with pytest.raises(NonDeterministicError, match="gradients that differ"):
        next(allocate(AnySample(), Trajectory(np.eye(2)), PathIntegral()))


def test_a_read_only_gradient_is_refused_with_the_copy_to_return():
    class AsOfJax:
        layout = bowl(2).layout

        def loss(self, theta, batch=None):
            return 1.0

        def loss_and_grad(self, theta, batch=None):
            gradient = np.ones(2)
            gradient.flags.writeable = False
            return 1.0, gradient

    with pytest.raises(LCAError, match=r"read-only array, as np.asarray .* return .* np.array\(gradient\)"):
        next(allocate(AsOfJax(), Trajectory(np.eye(2)), PathIntegral()))


POINTS = problems.network(1).points
BAD_ENDS = [
    (POINTS[:, :-1], LayoutError, r"end of step 1: expected shape \(26,\).* fc1.weight.* got \(25,\)"),
    (
        POINTS.astype(int),
        LayoutError,
        "end of step 1: expected a floating-point dtype, got int64; use .astype",
    ),
    (
        POINTS.tolist(),
        LayoutError,
        "must be a NumPy array .* got builtins.list; convert it with numpy.asarray",
    ),
    (
        POINTS.astype(np.float32),
        TrajectoryError,
        "step 1 goes from float64 to float32; store all points in one",
    ),
]


@each_estimator
@pytest.mark.parametrize(("others", "error", "message"), BAD_ENDS, ids=["length", "ints", "list", "float32"])
def test_a_point_of_another_kind_is_refused_and_its_step_named(estimator, others, error, message):
    problem = problems.network(1)
    allocations = allocate(problem.objective, Trajectory([*problem.points[:2], others[2]]), estimator)
    next(allocations)
    with pytest.raises(error, match=message):
        next(allocations)


@each_estimator
def test_a_step_to_a_wider_dtype_is_refused(estimator):
    step = Step(POINTS[0].astype(np.float32), POINTS[1])
    with pytest.raises(TrajectoryError, match="step 0 goes from float32 to float64"):
        next(allocate(problems.network(1).objective, [step], estimator))


@pytest.mark.parametrize("others", [POINTS[:, :-1], POINTS.astype(int)], ids=["length", "ints"])
def test_a_first_point_of_another_kind_names_its_step_too(others):
    problem = problems.network(1)
    with pytest.raises(LayoutError, match="start of step 0"):
        next(allocate(problem.objective, Trajectory(list(others)), PathIntegral()))


@each_estimator
@pytest.mark.parametrize(("bad", "where"), [(0, "start of step|start"), (2, "end")])
def test_nan_parameters_are_refused_and_step_and_tensor_named(estimator, bad, where):
    problem = problems.network(1)
    layout = problem.objective.layout
    name = layout.names[-1]
    points = problem.points.copy()
    points[bad, layout.offsets[-1]] = np.nan
    allocations = allocate(problem.objective, Trajectory(points), estimator)
    step = max(bad - 1, 0)
    for _ in range(step):
        next(allocations)
    others = "|".join(layout.names[:-1])
    message = rf"step {step}: NaN or Inf in the parameters at the ({where}), in (?!{others}){name};"
    with pytest.raises(NonFiniteError, match=message):
        next(allocations)


# --- several losses along one path -----------------------------------------------------------------------


@each_estimator
@given(seed=seeds)
def test_allocate_each_equals_separate_runs_bit_for_bit(estimator, seed):
    problem, other = problems.network(seed), problems.network(seed + 1)
    losses = {"train": problem.objective, "heldout": other.objective}
    together = list(allocate_each(losses, problem.trajectory, estimator))
    assert [list(rows) for rows in together] == [["train", "heldout"]] * 3
    for name, objective in losses.items():
        alone = allocate(objective, problem.trajectory, estimator)
        for rows, a in zip(together, alone, strict=True):
            np.testing.assert_array_equal(rows[name].values, a.values)
            bare = [replace(b, values=None, source=None) for b in (rows[name], a)]
            assert vars(bare[0]) == vars(bare[1])


def test_allocate_each_takes_every_step_once():
    problem = problems.network(1)
    steps = Watched(problem.points)
    list(allocate_each({"a": problem.objective, "b": problem.objective}, steps, PathIntegral()))
    assert steps.taken == [0, 1, 2]


def classes_and_penalty(problem) -> dict[str, object]:
    return {
        **problem.objective.by_class().terms,
        "penalty": L2Penalty(problem.objective.layout, 0.1),
    }


@each_estimator
@given(seed=seeds)
def test_rows_by_class_and_penalty_add_up_to_the_total(estimator, seed):
    problem = problems.network(seed)
    for a in allocate(Sum(classes_and_penalty(problem)), problem.trajectory, estimator):
        rows = list(a.terms.values())
        assert list(a.terms) == ["class 0", "class 1", "penalty"]
        mass = sum(row.mass for row in rows)
        off = np.abs(sum(row.values for row in rows) - a.values).max()
        assert off <= tolerances.allocation(mass, eps_of(a))
        scale = sum(abs(row.loss_start) + abs(row.loss_end) for row in rows)
        off = abs(sum(row.loss_change for row in rows) - a.loss_change)
        assert off <= tolerances.conservation(mass, scale, eps_of(a))
        assert {row.step for row in rows} == {a.step}


@given(seed=seeds)
def test_each_row_is_the_allocation_of_its_term_alone(seed):
    problem = problems.network(seed)
    terms = classes_and_penalty(problem)
    together = list(allocate(Sum(terms), problem.trajectory, PathIntegral(SIMPSON)))
    for name, term in terms.items():
        alone = allocate(term, problem.trajectory, PathIntegral(SIMPSON))
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a.terms[name].values, b.values)
            assert (a.terms[name].residual, a.terms[name].mass) == (b.residual, b.mass)


@given(seed=seeds)
def test_the_total_is_the_allocation_of_data_and_penalty(seed):
    problem = problems.network(seed)
    terms = classes_and_penalty(problem)
    total = allocate(Sum(terms), problem.trajectory, PathIntegral(SIMPSON))
    losses = {"data": problem.objective, "penalty": terms["penalty"]}
    parts = allocate_each(losses, problem.trajectory, PathIntegral(SIMPSON))
    for a, rows in zip(total, parts, strict=True):
        mass = sum(row.mass for row in a.terms.values())
        off = np.abs(rows["data"].values + rows["penalty"].values - a.values).max()
        assert off <= tolerances.allocation(mass, eps_of(a))
