"""Estimators that are wrong where states jump, one batch is bad, scores mislead, or after many steps only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import nan
from typing import Any, ClassVar

import numpy as np

from lca import SIMPSON, TRAPEZOID, Cost, PathIntegral
from lca.errors import NonFiniteError
from lca.estimators import Integral, Path, check_required_fields, integrate
from lca.estimators._registry import REGISTRY
from lca.objective import Evaluation
from tests.meta.animals import Altered, Disguised, Wrong
from tests.meta.zoo_fields import Trapezoid, _Run, share_of
from tests.meta.zoo_runs import _stderr
from tests.meta.zoo_stochastic import FOUR, Changed

# --- of the full loss -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class InOtherStates(Disguised):
    """A correct estimator that gets ``change(step, last)`` for a step, with the step before it."""

    change: Callable[..., Any] = lambda step, last: step
    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        allocate_step, last = self.inner.start(objective), []

        def changed(step):
            given = self.change(step, last.pop() if last else None)
            last.append(step)
            return replace(allocate_step(given), source=None)

        return changed


def _as_it_ended(step, last):
    """The state is known from the last step if θ is."""
    if step.state is None or last is None or not np.array_equal(last.end, step.start):
        return step
    return replace(step, state=(last.state[1], step.state[1]))


def _close_is_the_same(step, last):
    """A state that hardly moves counts as one that does not."""
    if step.state is None:
        return step
    before, after = step.state
    close = all(np.allclose(before[name], after[name]) for name in before)
    return replace(step, state=(before, before)) if close else step


def _arrival_free(a, step, objective):
    moved = step.state is not None and step.state[0] is not step.state[1]
    return replace(a, cost=Cost(full_gradients=a.cost.full_gradients - 1)) if moved else a


@dataclass(frozen=True)
class CountsItself(Disguised):
    """An error names the number of the step in this run instead of its index."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        allocate_step, steps = self.inner.start(objective), []

        def counting(step):
            steps.append(step.index)
            try:
                return allocate_step(step)
            except NonFiniteError as error:
                message = str(error).replace(f"step {step.index}", f"step {len(steps) - 1}")
                raise NonFiniteError(message) from error

        return counting


@dataclass(frozen=True)
class FinerEvery24:
    """The trapezoid, and Simpson's rule in every 24th step; ``goes_on``: also of a run that is resumed."""

    goes_on: bool = True
    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 1
    cost: ClassVar[Cost] = Cost(full_gradients=1)
    largest_cost: ClassVar[Cost] = Cost(full_gradients=2)

    def start(self, objective):
        return self._from(objective, 0, 0)

    def resume(self, objective, memory):
        return self._from(objective, memory["steps"], memory["steps"] if self.goes_on else 0)

    def _from(self, objective, steps, phase):
        path, done = Path(objective), [steps, phase]

        def allocate_step(step):
            done[:] = done[0] + 1, done[1] + 1
            rule = TRAPEZOID if done[1] % 24 else SIMPSON
            a = integrate(path.segment(step), rule).allocation()
            return replace(a, memory={"steps": float(done[0])})

        return allocate_step


# --- on samples -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByScore(Trapezoid):
    """A trapezoid on examples that are drawn by score; ``floor`` is the part that is drawn by weight.

    ``normalised``: the importance weights are divided by their sum. ``late``: drawn by the scores of the
    node before.
    """

    floor: float = 0.1
    normalised: bool = False
    late: bool = False
    required_fields: ClassVar[tuple[str, ...]] = ("scores",)

    @property
    def cost(self):
        return Cost(examples=2 * self.size)

    def start(self, objective):
        rng, share = np.random.default_rng(self.seed), share_of(objective)
        scores, last = np.full(len(share), nan), [share]

        def gradient_at(objective, point):
            seen = point.step.scores
            scores[seen.index] = seen.values
            by_score = share * np.where(np.isnan(scores), np.nanmean(scores), scores)
            by_score = by_score if by_score.any() else share
            p = (1 - self.floor) * by_score / by_score.sum() + self.floor * share
            index = rng.choice(len(p), self.size, p=last.pop() if self.late else p)
            last.append(p)
            weight = share[index] / p[index]
            gradient = objective.loss_and_grad(point.theta, objective.batch(index, weight))[1]
            factor = 1.0 if self.normalised else float(weight.mean())
            return Evaluation(nan, factor * gradient), Cost(examples=self.size)

        path = Path(objective, gradient_at, sampled=True, reuse_ends=False)

        def allocate_step(step):
            check_required_fields(step, self.required_fields, "ByScore")
            return integrate(path.segment(step), TRAPEZOID).allocation()

        return allocate_step


@dataclass(frozen=True)
class SumsOfChanges(Trapezoid):
    """A full gradient every ``every`` nodes, to which differences of sampled gradients are added (SARAH)."""

    every: int = 10

    @property
    def cost(self):
        part = 1 / self.every
        return Cost(full_gradients=part, examples=2 * self.size * (1 - part))

    @property
    def largest_cost(self):
        return Cost(full_gradients=2, examples=4 * self.size)

    def start(self, objective):
        rng, share, last, nodes = np.random.default_rng(self.seed), share_of(objective), [], []

        def gradient_at(objective, point):
            nodes.append(point.time)
            if len(nodes) % self.every == 1:
                grad, cost = objective.loss_and_grad(point.theta)[1], Cost(full_gradients=1)
            else:
                theta, before, then = last.pop()
                batch = objective.batch(rng.choice(len(share), self.size, p=share))
                here, there = (
                    objective.loss_and_grad(point.theta, batch)[1],
                    then.loss_and_grad(theta, batch)[1],
                )
                grad, cost = before + here - there, Cost(examples=2 * self.size)
            last[:] = [(point.theta.copy(), grad, objective)]
            return Evaluation(nan, grad), cost

        path = Path(objective, gradient_at, sampled=True)
        return lambda step: integrate(path.segment(step), TRAPEZOID).allocation()


class ServesBoth(Path):
    """The end of a step is the start of the next one, in whatever state that begins."""

    def arrived(self, step, state, evaluation, names):
        super().arrived(step, step.state and step.state[1], evaluation, names)


@dataclass(frozen=True)
class OneSampleANode(Trapezoid):
    """A trapezoid whose sample at the end of a step serves the next one as well."""

    def start(self, objective):
        run = _Run(self, objective, np.random.default_rng(self.seed))
        path = ServesBoth(objective, run.gradient_at, sampled=True)
        return lambda step: run.allocate(path.segment(step), step)


@dataclass(frozen=True)
class SeedPlusStep(Trapezoid):
    """The generator of step t has the seed plus t, so that the next seed draws the same one step later."""

    def start(self, objective):
        run = _Run(self, objective, None)
        path = Path(objective, run.gradient_at, sampled=True, reuse_ends=False)

        def allocate_step(step):
            run.rng = np.random.default_rng(self.seed + step.index)
            return run.allocate(path.segment(step), step)

        return allocate_step


@dataclass(frozen=True)
class Roulette(Trapezoid):
    """The trapezoid; in a quarter of the steps, four times the difference to Simpson's rule is added."""

    degree: ClassVar[int] = 3

    @property
    def largest_cost(self):
        return Cost(examples=3 * self.size)

    def start(self, objective):
        rng, share, drawn = np.random.default_rng(self.seed), share_of(objective), {}

        def gradient_at(objective, point):
            _, grad = objective.loss_and_grad(point.theta, drawn["batch"])
            return Evaluation(nan, grad), Cost(examples=self.size)

        path = Path(objective, gradient_at, sampled=True, reuse_ends=False)

        def allocate_step(step):
            drawn["batch"] = objective.batch(rng.choice(len(share), self.size, p=share))
            factor = 4.0 if rng.random() < 0.25 else 0.0
            segment = path.segment(step)
            integral = Integral(segment)
            for s, weight in ((0.0, 0.5 - factor / 3), (0.5, 2 * factor / 3), (1.0, 0.5 - factor / 3)):
                if weight:
                    integral.add(weight, segment.at(s))
            return integral.allocation()

        return allocate_step


def _nanmean(gradients):
    return np.nanmean(gradients, axis=0).astype(gradients[0].dtype)


def _spread_beside(a, step, memory):
    """Beside the replicates the spread of one of four, not of their mean."""
    return replace(a, stderr=(2 * _stderr(a)).astype(a.values.dtype))


STATE, FINITE, SCORES = (
    "state_is_kept_apart",
    "non_finite_numbers_are_refused",
    "mean_is_right_for_misleading_scores",
)
WRONG_RARE: dict[str, Wrong] = {
    "state of the last end": Wrong(
        "the state in which the last step ended, although a schedule has moved it since",
        STATE,
        lambda: InOtherStates(_as_it_ended),
    ),
    "slow state ignored": Wrong(
        "states compared by allclose, so that slow statistics do not move",
        STATE,
        lambda: InOtherStates(_close_is_the_same),
    ),
    "arrival free of charge": Wrong(
        "the evaluation in the state after the step not reported",
        "reported_cost_is_true",
        lambda: Altered(_arrival_free),
    ),
    "counts itself": Wrong("errors that name the number of the step in this run", FINITE, CountsItself),
    "every 24th step forgotten": Wrong(
        "a resumed run begins anew to count the steps to the next finer one",
        "a_resumed_run_goes_on",
        lambda: FinerEvery24(goes_on=False),
    ),
}
WRONG_RARE_SAMPLES: dict[str, Wrong] = {
    "nanmean of the parts": Wrong(
        "np.nanmean over micro-batches, of which one is NaN",
        FINITE,
        lambda: Trapezoid(parts=4, join=_nanmean),
    ),
    "weights normalised": Wrong(
        "importance weights divided by their sum", SCORES, lambda: ByScore(normalised=True)
    ),
    "drawn by old scores": Wrong(
        "examples drawn by the scores of before, and weighed by those of now",
        SCORES,
        lambda: ByScore(late=True),
    ),
    "one sample a node": Wrong(
        "the sample at the end of a step also used for the next one, which begins in another state",
        "samples_are_in_the_state_of_the_step",
        OneSampleANode,
    ),
    "seed plus step": Wrong("a generator in each step with seed + t", "samples_do_not_recur", SeedPlusStep),
    "no floor": Wrong("examples with the score 0 are never drawn", SCORES, lambda: ByScore(floor=0.0)),
    "spread beside replicates": Wrong(
        "a wrong stderr beside right replicates",
        "standard_errors_are_calibrated",
        lambda: Changed(_spread_beside, FOUR),
    ),
}
RIGHT_RARE = {"finer every 24": FinerEvery24()}
RIGHT_RARE_SAMPLES = {
    "by score": ByScore(),
    "sums of changes": SumsOfChanges(),
    "roulette": Roulette(),
}
RULES = ("left", "right", "midpoint", "trapezoid", "simpson", "rk4", "boole")
NAMED = {f"lca check {name}": row.make(1e-3) for name, row in REGISTRY.items() if name not in RULES}
"""The estimators of `lca estimators` at their defaults; the simplest rules are among the others."""
NAMED_SAMPLED = {name: one for name, one in NAMED.items() if REGISTRY[name.split()[-1]].sampled}
NAMED_FULL = {name: one for name, one in NAMED.items() if name not in NAMED_SAMPLED}
