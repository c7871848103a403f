"""The laws of objectives: what estimators rely on when they evaluate a loss or a gradient."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca import tolerances
from lca.allocation import allocate
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators import Adaptive, PathIntegral
from lca.layout import Layout
from lca.objective import Batch, Objective
from lca.quadrature import TRAPEZOID
from lca.step import Trajectory
from lca.testing._laws import require, require_close, rounding
from lca.testing._report import Check, CheckFailure
from lca.testing.strategies import seeds

Array = np.ndarray


@dataclass(frozen=True)
class ObjectiveSubject:
    """An objective under test, and what the checks need to know about it.

    Parameters
    ----------
    make
        A function without arguments that returns a new objective, always the same one.
    vector
        A function that converts a NumPy vector to the framework's vector type; default: NumPy.
    scale
        Standard deviation of the random parameters at which the objective is evaluated.
    batches
        ``(weight, batch)`` pairs that together are the whole data set, if the objective accepts batches.
    state
        A function that returns everything a call must not change (parameters of the model, optimizer state,
        buffers) as arrays by name. The global generators of NumPy and Python are always compared as well.
    """

    make: Callable[[], Objective]
    vector: Callable[[Array], Vector] = np.asarray
    scale: float = 0.5
    batches: Sequence[tuple[float, Batch]] = ()
    state: Callable[[], Mapping[str, Array]] = dict

    def __repr__(self) -> str:
        return getattr(self.make, "__qualname__", repr(self.make))

    def theta(self, layout: Layout, seed: int, dtype: type = np.float64) -> Vector:
        """A random parameter vector (K,) of the framework's type."""
        numbers = self.scale * np.random.default_rng(seed).normal(size=layout.size)
        return self.vector(numbers.astype(dtype))

    def visible_state(self) -> dict[str, Any]:
        """A copy of everything a call must not change."""
        copies = {name: np.array(array) for name, array in self.state().items()}
        _, keys, position, *_ = np.random.get_state()  # noqa: NPY002 - this is the global state to watch
        return copies | {"numpy.random": np.append(keys, position), "random": np.array(random.getstate()[1])}


OBJECTIVE_CHECKS: list[Check] = []
Law = Callable[[ObjectiveSubject, int], None]


def law(function: Law) -> Law:
    """Register a law of objectives that is checked at random points."""
    OBJECTIVE_CHECKS.append(Check(function.__name__, function, lambda subject: seeds, lambda subject: True))
    return function


def _numpy(vector: Vector) -> Array:
    return np.array(array_ops(vector).to_numpy(vector), copy=True)


@law
def layout_round_trip(subject: ObjectiveSubject, seed: int) -> None:
    """``flatten(unflatten(θ))`` equals θ."""
    layout = subject.make().layout
    theta = np.random.default_rng(seed).normal(size=layout.size)
    tensors = layout.unflatten(theta)
    require(tuple(tensors) == layout.names, f"unflatten gave {tuple(tensors)}, expected {layout.names}.")
    require(np.array_equal(layout.flatten(tensors), theta), "flatten(unflatten(θ)) differs from θ.")


@law
def gradient_is_like_theta(subject: ObjectiveSubject, seed: int) -> None:
    """The loss is a float; the gradient is finite and has the type, shape and dtype of θ."""
    objective = subject.make()
    for dtype in (np.float32, np.float64):
        theta = subject.theta(objective.layout, seed, dtype)
        loss, grad = objective.loss_and_grad(theta)
        require(isinstance(loss, float), f"the loss is a {type(loss).__name__}; return float(loss).")
        types = type(grad).__name__, type(theta).__name__
        require(type(grad) is type(theta), f"the gradient is a {types[0]}, θ a {types[1]}.")
        objective.layout.check(grad, "the gradient")
        require(grad.dtype == theta.dtype, f"the gradient is {grad.dtype}, θ is {theta.dtype}.")
        require(array_ops(grad).all_finite(grad), "the gradient is not finite at a random point.")


@law
def non_finite_numbers_are_not_hidden(subject: ObjectiveSubject, seed: int) -> None:
    """At parameters that are all NaN, the loss or the gradient is not finite, or an error is raised."""
    objective = subject.make()
    theta = subject.vector(np.full(objective.layout.size, np.nan))
    try:
        with np.errstate(all="ignore"):
            loss, grad = objective.loss_and_grad(theta)
    except (LCAError, ArithmeticError):
        return
    visible = not np.isfinite(loss) or not array_ops(grad).all_finite(grad)
    require(visible, f"at NaN the loss is {loss!r} and the gradient is finite; is NaN replaced by 0?")


@law
def deterministic(subject: ObjectiveSubject, seed: int) -> None:
    """The same θ gives the same loss and gradient, also after an evaluation at another point."""
    objective = subject.make()
    theta, other = subject.theta(objective.layout, seed), subject.theta(objective.layout, seed + 1)
    loss, grad = objective.loss_and_grad(theta)
    objective.loss_and_grad(other)
    again, grad_again = objective.loss_and_grad(theta)
    require_close(again, loss, tolerances.repeat(loss, tolerances.EPS64), "the loss, evaluated again")
    scale = float(np.abs(_numpy(grad)).max())
    require_close(
        _numpy(grad_again), _numpy(grad), tolerances.repeat(scale, tolerances.EPS64), "the gradient again"
    )


@law
def works_in_the_precision_of_theta(subject: ObjectiveSubject, seed: int) -> None:
    """At float64 parameters the gradient has float64 precision; nothing is computed in float32."""
    objective = subject.make()
    points = (subject.theta(objective.layout, seed + i) for i in range(4))
    grads = np.array([_numpy(objective.loss_and_grad(theta)[1]) for theta in points])
    # Constants such as 0 or 0.5 are exact in float32; entries that vary from point to point are not.
    varying = grads[:, [len(np.unique(column)) > 2 for column in grads.T]]
    single = varying.astype(np.float32)
    narrow = grads.dtype == np.float64 and varying.size and np.array_equal(varying, single)
    require(not narrow, "every entry of the gradient at float64 parameters is exact in float32.")


@law
def loss_agrees_with_loss_and_grad(subject: ObjectiveSubject, seed: int) -> None:
    """``loss`` and ``loss_and_grad`` return the same loss."""
    objective = subject.make()
    theta = subject.theta(objective.layout, seed)
    loss = objective.loss(theta)
    tolerance = tolerances.repeat(loss, tolerances.EPS64)
    require_close(objective.loss_and_grad(theta)[0], loss, tolerance, "the loss of loss_and_grad")


@law
def gradients_are_not_overwritten(subject: ObjectiveSubject, seed: int) -> None:
    """A returned gradient is unchanged after the objective is called again."""
    objective = subject.make()
    grad = objective.loss_and_grad(subject.theta(objective.layout, seed))[1]
    before = _numpy(grad)
    objective.loss_and_grad(subject.theta(objective.layout, seed + 1))
    require(np.array_equal(_numpy(grad), before), "a later call modified a gradient already returned.")


@law
def gradients_may_be_overwritten(subject: ObjectiveSubject, seed: int) -> None:
    """The caller owns the gradient: modifying it in place does not affect later results."""
    objective = subject.make()
    theta = subject.theta(objective.layout, seed)
    grad = objective.loss_and_grad(theta)[1]
    before = _numpy(grad)
    array_ops(grad).scaled(grad, 2.0)
    after = _numpy(objective.loss_and_grad(theta)[1])
    tolerance = tolerances.repeat(float(np.abs(before).max()), tolerances.EPS64)
    require_close(after, before, tolerance, "the gradient, after the first one was doubled in place")


@law
def calls_change_nothing(subject: ObjectiveSubject, seed: int) -> None:
    """A call, or a call that raises, leaves θ, the model, its buffers and all random generators unchanged."""
    objective = subject.make()
    theta = subject.theta(objective.layout, seed)
    numbers, before = _numpy(theta), subject.visible_state()
    for call in (objective.loss, objective.loss_and_grad):
        call(theta)
        _require_same_state(subject, before, f"after {call.__name__}")
    require(np.array_equal(_numpy(theta), numbers), "a call modified θ.")
    with suppress(Exception):  # the error itself is checked by another law
        objective.loss_and_grad(_too_long(subject, objective))
    _require_same_state(subject, before, "after a refused vector")


@law
def wrong_vectors_are_refused(subject: ObjectiveSubject, seed: int) -> None:
    """A vector of the wrong length raises an `LCAError`, and the next valid call is correct."""
    objective = subject.make()
    theta = subject.theta(objective.layout, seed)
    loss = objective.loss(theta)
    _expect_refusal(subject, objective)
    tolerance = tolerances.repeat(loss, tolerances.EPS64)
    require_close(objective.loss(theta), loss, tolerance, "the loss after a refused vector")


def _expect_refusal(subject: ObjectiveSubject, objective: Objective) -> None:
    try:
        objective.loss_and_grad(_too_long(subject, objective))
    except LCAError:
        return
    except Exception as error:
        raise CheckFailure(
            f"a vector with one entry too many raised {type(error).__name__}, which is not an LCAError; call "
            "layout.check(theta) first."
        ) from error
    raise CheckFailure("a vector with one entry too many was accepted; call layout.check(theta) first.")


def _too_long(subject: ObjectiveSubject, objective: Objective) -> Vector:
    return subject.vector(np.zeros(objective.layout.size + 1))


def _require_same_state(subject: ObjectiveSubject, before: Mapping[str, Array], when: str) -> None:
    for name, array in subject.visible_state().items():
        require(np.array_equal(array, before[name]), f"{name} has changed {when}.")


@law
def gradient_matches_finite_differences(subject: ObjectiveSubject, seed: int) -> None:
    """The gradient's derivative in a random direction equals the central difference of the loss (float64)."""
    objective = subject.make()
    rng = np.random.default_rng(seed)
    theta = _numpy(subject.theta(objective.layout, seed)).astype(np.float64)
    direction = rng.normal(size=theta.shape) / np.sqrt(theta.size)
    loss, grad = objective.loss_and_grad(subject.vector(theta))
    h = float(tolerances.EPS64 ** (1 / 3))
    ahead, behind = (objective.loss(subject.vector(theta + s * h * direction)) for s in (1, -1))
    terms = _numpy(grad) * direction
    tolerance = tolerances.central_difference(float(np.abs(terms).sum()), loss)
    require_close(terms.sum(), (ahead - behind) / (2 * h), tolerance, "the directional derivative")


@law
def float32_agrees_with_float64(subject: ObjectiveSubject, seed: int) -> None:
    """The allocation of a step in float32 equals that in float64, to a few float32 eps·mass."""
    objective = subject.make()
    layout = objective.layout
    points = [_numpy(subject.theta(layout, seed + i, np.float32)) for i in range(2)]
    runs = []
    for dtype in (np.float32, np.float64):
        path = Trajectory([subject.vector(point.astype(dtype)) for point in points])
        runs += list(allocate(objective, path, PathIntegral(TRAPEZOID), check=False))
    single, double = runs
    require_close(_numpy(single.values), _numpy(double.values), rounding(single), "values in float32")


@law
def allocation_adds_up(subject: ObjectiveSubject, seed: int) -> None:
    """With enough gradients, the allocation of a step adds up to its loss change."""
    objective = subject.make()
    points = [subject.theta(objective.layout, seed + i) for i in range(2)]
    # The gradient of another loss leaves a residual that no refinement removes.
    refine = Adaptive(tol=tolerances.adaptive_residual(0.0), max_gradients=257)
    for a in allocate(objective, Trajectory(points), refine, check=False):
        left, tolerance = abs(a.residual), tolerances.adaptive_residual(a.mass)
        require(left <= tolerance, f"the residual is {left:.3g} of a mass of {a.mass:.3g}: {a.reason}.")


def _takes_batches(subject: ObjectiveSubject) -> bool:
    return bool(subject.batches)


def whole_is_the_mean_of_its_batches(subject: ObjectiveSubject, seed: int) -> None:
    """Loss and gradient of the whole data set are the weighted means over its batches of unequal size."""
    objective = subject.make()
    theta = subject.theta(objective.layout, seed)
    loss, grad = objective.loss_and_grad(theta)
    parts = [(weight, *objective.loss_and_grad(theta, batch)) for weight, batch in subject.batches]
    ignored = len(parts) > 1 and all(part == loss for _, part, _ in parts)
    require(not ignored, "every batch has exactly the loss of the whole data set; is `batch` ignored?")
    total = sum(weight for weight, _, _ in parts)
    tolerance = tolerances.summed(sum(abs(w * part) for w, part, _ in parts) / total, tolerances.EPS64)
    require_close(sum(w * part for w, part, _ in parts) / total, loss, tolerance, "the mean of the losses")
    mean = sum(w * _numpy(part) for w, _, part in parts) / total
    scale = max(float(np.abs(w * _numpy(part)).max()) for w, _, part in parts) * len(parts) / total
    tolerance = tolerances.gradient(scale, tolerances.EPS64)
    require_close(mean, _numpy(grad), tolerance, "the mean of the gradients")


OBJECTIVE_CHECKS.append(
    Check(
        "whole_is_the_mean_of_its_batches",
        whole_is_the_mean_of_its_batches,
        lambda subject: seeds,
        _takes_batches,
    )
)
