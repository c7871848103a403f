"""The laws of an objective with losses of single examples (`lca.by_example.Separable`)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from lca import tolerances
from lca.arrays import Vector
from lca.by_example import ExampleSlopes, Separable
from lca.groups import Groups
from lca.layout import Layout
from lca.objective import Objective, at_state, differentiated_by, differentiating, state_of
from lca.testing._laws import require, require_close
from lca.testing._member_checks import LONG, RARE, moved_state, offers, weighs
from lca.testing._objective_checks import require_nothing_else_changed, visible
from lca.testing._objective_laws import eps_of, evaluated, typical
from lca.testing._objective_subject import Draw, ObjectiveSubject, as_numpy
from lca.testing._report import Check
from lca.testing.strategies import seeds

Array = np.ndarray
FEW = 5
"""The number of examples that are checked one by one."""
MANY = 256
"""The largest number of examples of which all are summed; of more, a sample is."""
GROUPINGS = ("tensor", "layer", "neuron")
MOST_GROUPS = 64
"""A model with more groups than this is grouped by layer instead."""
FEW_ENTRIES = 50
"""A movement of at most this many entries is printed with a case."""
TINY = 2.0**-40
"""A power of 2: slopes along a movement that is smaller by this factor are exactly as much smaller."""


@dataclass(frozen=True)
class _Draw(Draw):
    """A case whose lines repeat the call of `by_example`."""

    def lines(self, subject: ObjectiveSubject) -> list[str]:
        """The point, the movement, the groups and the first examples of the case."""
        case, start = _case(subject, self), subject.lines(self)
        numbers = as_numpy(case.movement)
        few = [f"movement = np.array({numbers.tolist()})"] if len(numbers) <= FEW_ENTRIES else []
        return [
            *start[: next(i for i, line in enumerate(start) if line.startswith("objective.loss"))],
            *(few or ["movement = ...  # too many entries to print"]),
            *(["# The check calls objective.at_state() before, with larger numbers."] * case.moved_state),
            f"groups = objective.layout.groups({case.by!r})",
            f"index = np.array({_some(case.data, self).tolist()})",
            "objective.by_example(theta, movement, groups, index)",
        ]


class _Case(NamedTuple):
    """A point, a movement from it, and a partition of the parameters.

    ``data`` has the examples; ``objective`` is the same in a state, with the slopes of all that moves.
    """

    data: Any
    objective: Any
    theta: Vector
    movement: Vector
    groups: Groups
    by: str
    moved_state: bool

    def slopes(self, index: Array, **options: Any) -> ExampleSlopes:
        found: ExampleSlopes = self.objective.by_example(
            self.theta, self.movement, self.groups, index, **options
        )
        shape = len(self.groups), len(index)
        losses, slopes = (np.asarray(each) for each in found)
        require(losses.shape == shape[1:], f"losses have shape {losses.shape}, expected {shape[1:]}.")
        require(slopes.shape == shape, f"slopes have shape {slopes.shape}, expected {shape}.")
        return ExampleSlopes(losses, slopes)

    def along(self, gradient: Array) -> Array:
        """The slope of each group, computed from a gradient."""
        wide: Array = self.groups.total(gradient.astype(np.float64) * as_numpy(self.movement))
        return wide


def _case(subject: ObjectiveSubject, draw: Draw) -> _Case:
    data = subject.make()
    layout, rng = data.layout, draw.rng(80)
    movement = _movement(subject, layout, draw, rng)
    moved = {name for name, part in layout.unflatten(movement).items() if part.any()}
    state = state_of(data)
    elsewhere = state is not None and bool(rng.integers(2))
    if elsewhere:
        state = moved_state(state or {})
    # As `ByExample` does: in the state of the step, and every tensor that moves is differentiated.
    objective = differentiating(at_state(data, state), differentiated_by(data) | moved)
    kind = type(objective).__name__
    require(hasattr(objective, "by_example"), f"at_state() or differentiating() gave a {kind}, without it.")
    by = GROUPINGS[rng.integers(len(GROUPINGS))]
    if len(layout.groups(by)) > MOST_GROUPS:
        by = "layer"
    theta = subject.vector(subject.numbers(layout, draw).astype(subject.widest))
    return _Case(data, objective, theta, subject.vector(movement), layout.groups(by), by, elsewhere)


def _movement(subject: ObjectiveSubject, layout: Layout, draw: Draw, rng: np.random.Generator) -> Array:
    """A movement to another point; or one tensor stays; or one moves by 0, a, -a, a, ..., adding up to 0."""
    start, end = (subject.numbers(layout, draw, stream) for stream in (0, 1))
    movement: Array = ((end - start) / 8).astype(subject.widest)
    parts = list(layout.unflatten(movement).values())
    kind = rng.integers(3)
    if kind == 1 and len(parts) > 1:
        parts[rng.integers(len(parts))][...] = 0
    if kind == 2:
        size = movement[0]
        for part in parts:
            flat = part.reshape(-1)
            flat[:] = size
            flat[1::2] *= -1
            flat[: 2 - len(flat) % 2] = 0
    return movement


def _some(objective: Any, draw: Draw, most: int = FEW) -> NDArray[np.intp]:
    """Distinct examples in random order."""
    count = int(objective.n_examples)
    return draw.rng(81).permutation(count)[: min(most, count)]


def _tolerance(subject: ObjectiveSubject, case: _Case, draw: Draw, gradients: list[Array]) -> float:
    """Tolerance for the rounding error of a slope, from the typical size of gradient times movement."""
    _, usual = typical(subject, case.objective, draw)
    moved = float(np.linalg.norm(as_numpy(case.movement).astype(np.float64)))
    largest = max(float(np.linalg.norm(gradient.astype(np.float64))) for gradient in gradients)
    return tolerances.rebatched(moved * (usual + largest), eps_of(subject.widest))


def examples_have_their_own_slopes(subject: ObjectiveSubject, draw: Draw) -> None:
    """The loss and slopes of an example are those of a batch of it alone, by its gradient, in any index."""
    case = _case(subject, draw)
    index = _some(case.data, draw)
    found = case.slopes(index)
    usual, _ = typical(subject, case.objective, draw)
    alone = [
        evaluated(case.objective, case.theta, case.data.batch(index[n : n + 1])) for n in range(len(index))
    ]
    tolerance = _tolerance(subject, case, draw, [gradient for _, gradient in alone])
    for n, (loss, gradient) in enumerate(alone):
        what = f"of example {index[n]}, among {index.tolist()}, against a batch of it alone"
        rounding = tolerances.rebatched(max(abs(loss), usual), eps_of(subject.widest))
        require_close(found.losses[n], loss, rounding, f"the loss {what}")
        require_close(found.slopes[:, n], case.along(gradient), tolerance, f"the slopes {what}", "group")
    rounding = tolerances.rebatched(max(usual, *(abs(loss) for loss, _ in alone)), eps_of(subject.widest))
    count = LONG if draw.seed % RARE == 0 else FEW
    orders = {
        f"the examples {index.tolist()} backwards": np.arange(len(index))[::-1],
        f"{count} examples with repeats": draw.rng(82).integers(len(index), size=count),
    }
    for what, order in orders.items():
        again = case.slopes(index[order])
        require_close(again.losses, found.losses[order], rounding, f"the losses of {what}", "example")
        require_close(again.slopes, found.slopes[:, order], tolerance, f"the slopes of {what}", "entry")


def examples_add_up_to_the_loss(subject: ObjectiveSubject, draw: Draw) -> None:
    """The weighted mean of the losses and slopes of all examples is that of the loss and its gradient."""
    case = _case(subject, draw)
    count, weight = int(case.data.n_examples), case.data.weight
    index = _some(case.data, draw, MANY)
    weights = np.ones(count) if weight is None else np.asarray(weight, np.float64)
    own = weights[index] / weights[index].sum()
    batch = None
    if len(index) < count:
        batch = case.data.batch(index, None if weight is None else weights[index])
    loss, gradient = evaluated(case.objective, case.theta, batch)
    found = case.slopes(index)
    usual, _ = typical(subject, case.objective, draw)
    what = f"the weighted mean over {len(index)} examples, against"
    rounding = tolerances.rebatched(max(abs(loss), usual), eps_of(subject.widest))
    require_close(float(found.losses @ own), loss, rounding, f"{what} the loss")
    tolerance = _tolerance(subject, case, draw, [gradient])
    require_close(found.slopes @ own, case.along(gradient), tolerance, f"{what} the gradient", "group")


def groups_do_not_depend_on_each_other(subject: ObjectiveSubject, draw: Draw) -> None:
    """Slopes are the same in chunks of any size, and as small as the movement; at rest they are exactly 0."""
    case = _case(subject, draw)
    index = _some(case.data, draw)
    found = case.slopes(index)
    _, gradient = evaluated(case.objective, case.theta, case.data.batch(index))
    tolerance = _tolerance(subject, case, draw, [gradient])
    for chunk in (1, int(draw.rng(83).integers(2, max(3, len(case.groups))))):
        slopes = case.slopes(index, chunk=chunk).slopes
        require_close(slopes, found.slopes, tolerance, f"the slopes with chunk={chunk}", "entry")
    tiny = case._replace(movement=subject.vector(as_numpy(case.movement) * TINY)).slopes(index)
    what = "the slopes along 2^-40 times the movement, times 2^40"
    require_close(tiny.slopes / TINY, found.slopes, tolerance, what, "entry")
    still = np.flatnonzero(case.groups.signs(case.movement).zero == case.groups.sizes)
    what = f"the group {case.groups.names[still[0]]} does not move and has slopes" if len(still) else ""
    require(not found.slopes[still].any(), f"{what}; they must be exactly 0.")
    nowhere = case._replace(movement=subject.vector(np.zeros(case.objective.layout.size, subject.widest)))
    at_rest = nowhere.slopes(index)
    require(not at_rest.slopes.any(), "slopes along no movement are not exactly 0.")
    usual, _ = typical(subject, case.objective, draw)
    rounding = tolerances.rebatched(max(float(np.abs(found.losses).max()), usual), eps_of(subject.widest))
    require_close(at_rest.losses, found.losses, rounding, "the losses, where no group moves", "example")


def by_example_changes_nothing(subject: ObjectiveSubject, draw: Draw) -> None:
    """A call changes neither θ, the movement, the index nor any global state; the next one gives the same."""
    case = _case(subject, draw)
    index = _some(case.data, draw)
    given = {"θ": as_numpy(case.theta), "the movement": as_numpy(case.movement), "the index": index.copy()}
    first = case.slopes(index)
    before = visible(subject)
    elsewhere = case._replace(theta=subject.theta(case.objective.layout, draw, 2))
    elsewhere.slopes(index)
    again = case.slopes(index)
    require_nothing_else_changed(subject, before, "after by_example")
    now = {"θ": as_numpy(case.theta), "the movement": as_numpy(case.movement), "the index": index}
    for name, value in given.items():
        require(np.array_equal(value, now[name]), f"{name} has changed after by_example.")
    eps = eps_of(subject.widest)
    for name, one, two in zip(ExampleSlopes._fields, first, again, strict=True):
        rounding = tolerances.repeat(float(np.abs(one).max()), eps)
        require_close(two, one, rounding, f"the {name} at the same θ, after a call at another", "entry")


def separates(objective: Objective) -> bool:
    return isinstance(objective, Separable) and objective.batch(np.zeros(1, int)) is not None


def _adds_up(objective: Objective) -> bool:
    if not separates(objective):
        return False
    count, weight = objective.n_examples, objective.weight  # type: ignore[attr-defined]
    return weight is None or count <= MANY or weighs(objective)


BY_EXAMPLE_CHECKS = [
    Check(law.__name__, law, lambda subject: st.builds(_Draw, seeds), offers(use))
    for law, use in (
        (examples_have_their_own_slopes, separates),
        (examples_add_up_to_the_loss, _adds_up),
        (groups_do_not_depend_on_each_other, separates),
        (by_example_changes_nothing, separates),
    )
]
