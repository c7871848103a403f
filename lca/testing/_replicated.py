"""`Replicated`: any objective as the mean over examples that are all alike, and the fields of its steps.

Where all examples agree, a sample has no error. A stochastic estimator must then keep every law of
full-data estimators, so both are checked by the same laws.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from lca.allocation import Allocator, Estimator, StepAllocation, largest_cost_of
from lca.estimators._stochastic import StochasticEstimator
from lca.layout import Layout
from lca.objective import Objective, State, Stateful, Sum, at_state
from lca.step import ExampleScores, MicroBatch, Step
from lca.testing._instruments import Meter, limited
from lca.testing._report import CheckFailure

Array = np.ndarray
Batch = tuple[Array, Array]
EXAMPLES = 12
MOST_EVALUATIONS, MOST_ENTRIES = 2_000, 100_000_000


def micro_batches_of(estimator: Estimator) -> int:
    """The number of micro-batches that training has to supply; 2 unless the estimator says otherwise."""
    found = getattr(estimator, "micro_batches", 2)
    return found if isinstance(found, int) and found > 1 else 2


def batch_size(micro_batches: int) -> int:
    """Examples in a training batch, a multiple of ``micro_batches``; 6 for two or three of them."""
    return micro_batches * max(1, 6 // micro_batches)


@dataclass(eq=False)
class Replicated:
    """`EXAMPLES` examples with the loss of ``objective`` each.

    A batch is a pair (indices, weights). ``gradients`` and ``losses`` count the evaluated examples; an
    evaluation of the scores of examples is one of their losses.
    """

    objective: Objective
    weight: Array | None = None
    n_examples: int = EXAMPLES
    gradients: int = 0
    losses: int = 0
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        self.layout = self.objective.layout

    @property
    def labels(self) -> Array:
        return np.arange(self.n_examples) % 2

    def batch(self, index: Array, weight: Array | None = None) -> Batch:
        return index, np.ones(len(index)) if weight is None else weight

    def loss(self, theta: Array, batch: Batch | None = None) -> float:
        self.losses += self._size(batch)
        return self.objective.loss(theta)

    def loss_and_grad(self, theta: Array, batch: Batch | None = None) -> tuple[float, Array]:
        self.gradients += self._size(batch)
        return self.objective.loss_and_grad(theta)

    def scores(self, theta: Array, batch: Batch | None = None) -> Array:
        self.losses += self._size(batch)
        return np.ones(self._size(batch))

    def _size(self, batch: Batch | None) -> int:
        return self.n_examples if batch is None else len(batch[0])


class StatefulReplicated(Replicated):
    """The same of an objective with a state."""

    objective: Any

    def state(self) -> State | None:
        found: State | None = self.objective.state()
        return found

    def at_state(self, state: State) -> Replicated:
        return Replicated(self.objective.at_state(state))


def begin(
    estimator: Estimator,
    objective: Objective,
    *,
    more: Callable[[Step], Step] = lambda step: step,
    seen: Callable[[Step], object] = lambda step: None,
) -> Allocator:
    """Begin a run. A stochastic estimator gets examples that are all alike, and the fields it requires.

    ``more`` adds other fields, which the estimator does not require; ``seen`` is called with each step as the
    estimator gets it. A step that never ends raises `CheckFailure`.
    """
    meter = Meter(_most_evaluations(estimator, objective.layout.size))
    allocate_step = estimator.start(measured_by(estimator, limited(objective, meter)))
    if not callable(allocate_step):
        raise CheckFailure(f"start() returned {allocate_step!r}; it must return a function of a lca.Step.")

    def allocate(step: Step) -> StepAllocation:
        meter.reset()
        step = more(step)
        if isinstance(estimator, StochasticEstimator):
            step = with_fields(step, objective, estimator)
        seen(step)
        found = allocate_step(step)
        if not isinstance(found, StepAllocation):
            raise CheckFailure(f"a step gave a {type(found).__name__}; it must give a lca.StepAllocation.")
        return found

    return allocate


def measured_by(estimator: Estimator, objective: Objective) -> Objective:
    """The loss itself; for a stochastic estimator the mean over examples that all have it."""
    if not isinstance(estimator, StochasticEstimator):
        return objective
    if isinstance(objective, Sum):
        return Sum({name: measured_by(estimator, term) for name, term in objective.terms.items()})
    return (StatefulReplicated if isinstance(objective, Stateful) else Replicated)(objective)


def _most_evaluations(estimator: Estimator, size: int) -> int:
    """After how many evaluations a step is called endless: 2,000, and fewer with many parameters.

    More, if the estimator declares a step that costs as much.
    """
    declared = 0.0
    with suppress(Exception):  # whatever is wrong with it, `declarations_are_complete` will show it
        declared = sum(vars(largest_cost_of(estimator)).values())
    return int(max(8 * declared, min(MOST_EVALUATIONS, MOST_ENTRIES // size)))


def with_fields(step: Step, objective: Objective, estimator: StochasticEstimator) -> Step:
    """The step with the fields that the estimator requires, and no others, where all examples agree."""
    objective = at_state(objective, step.state[0] if step.state else None)
    wanted, batch = set(estimator.required_fields), np.arange(batch_size(micro_batches_of(estimator)))
    ends = {"": step.start, "next_": step.end}
    supplied: dict[str, Any] = {}
    for prefix, theta in ends.items():
        if f"{prefix}batch" in wanted:
            supplied[f"{prefix}batch"] = (batch, np.ones(len(batch)))
        if wanted & {f"{prefix}gradient", f"{prefix}micro_batches", f"{prefix}halves"}:
            gradient = objective.loss_and_grad(theta)[1]
            parts = tuple(
                # Updates are those of plain SGD: without one of several equal micro-batches the same.
                MicroBatch(gradient.copy(), step.end - step.start)
                for _ in range(micro_batches_of(estimator))
            )
            values = {
                f"{prefix}gradient": gradient,
                f"{prefix}micro_batches": parts,
                f"{prefix}halves": parts[:2],
            }
            supplied |= {name: value for name, value in values.items() if name in wanted}
    if "update_slope" in wanted:
        supplied["update_slope"] = 0.0  # updates that do not depend on the gradient of their batch
    if "scores" in wanted:
        supplied["scores"] = ExampleScores(batch, np.ones(len(batch)))
    return replace(step, **supplied)


def has_random_nodes(estimator: Estimator) -> bool:
    """Whether the values depend on the seed even where all examples agree.

    Tried in 10 runs of 6 steps, so that nodes are found that are drawn in one of ten steps only. Most laws
    ask this of the same estimator in turn, so the last answers are kept for estimators that have a hash.
    """
    if not isinstance(estimator, StochasticEstimator):
        return False
    try:
        hash(estimator)
    except TypeError:
        return _depends_on_seed(estimator)
    return _depends_on_seed_kept(estimator)  # type: ignore[arg-type]  # the protocol does not ask for a hash


def _depends_on_seed(estimator: StochasticEstimator) -> bool:
    points = [np.array([1.0, -0.5]), np.array([-0.5, 2.0])]
    first: list[Array] = []
    for seed in range(10):
        allocate_step = begin(estimator.reseeded(seed), _CURVED)
        for t in range(6):
            values = allocate_step(Step(points[t % 2], points[1 - t % 2], t)).values
            if seed == 0:
                first.append(values.copy())
            elif np.abs(values - first[t]).sum() > 1e-6 * np.abs(first[t]).sum():
                return True
    return False


_depends_on_seed_kept = lru_cache(maxsize=8)(_depends_on_seed)


class _Curved:
    """``θ_0^4 + θ_1^4 + θ_0 θ_1``."""

    layout = Layout(("a", "b"), ((1,), (1,)))

    def loss(self, theta: Array, batch: Any = None) -> float:
        return float(np.sum(theta**4) + np.prod(theta))

    def loss_and_grad(self, theta: Array, batch: Any = None) -> tuple[float, Array]:
        return self.loss(theta), 4 * theta**3 + theta[::-1]


_CURVED = _Curved()
