"""The laws of objectives on their numbers: the gradient is that of the loss, in the precision of θ."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from scipy.optimize import brentq

from lca import tolerances
from lca.allocation import allocate
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.estimators import Adaptive
from lca.layout import Layout
from lca.objective import Batch, Objective, at_state, differentiated_by, state_of
from lca.step import Trajectory
from lca.testing._laws import require, require_close
from lca.testing._objective_laws import Array, eps_of, evaluated, law_into, require_gradient, typical
from lca.testing._objective_subject import (
    EXACT,
    Draw,
    ObjectiveSubject,
    as_numpy,
    on,
    usual_draws,
)
from lca.testing._report import Check

SHRINKS = (1.0, 16.0, 256.0)
"""Finite differences are taken with several steps, since a kink may lie within the first."""


LENGTHS = (1.0, 1 / 8, 1 / 64, 1 / 512, 1 / 8192)
"""Lengths of the segments on which an allocation may add up, for losses that are stiff or have kinks."""


BLOCK = 512
"""Entries of a gradient that are looked at together; an error may begin at some index of a long tensor."""

GRADIENT_CHECKS: list[Check] = []
law, usual = law_into(GRADIENT_CHECKS), law_into(GRADIENT_CHECKS, usual_draws)


@law_into(GRADIENT_CHECKS, applies=lambda subject: "float64" in subject.dtypes)
def works_in_the_precision_of_theta(subject: ObjectiveSubject, draw: Draw) -> None:
    """At float64 parameters, loss and gradient have float64 precision; nothing is computed in float32."""
    objective = subject.make()
    for place, batch in [("the whole data", None), subject.pick(draw)]:
        points = [subject.theta(objective.layout, draw, stream) for stream in range(4)]
        found = [evaluated(objective, theta, batch) for theta in points]
        columns = {
            f"the loss of loss_and_grad on {place}": np.array([[loss] for loss, _ in found]),
            f"the loss on {place}": np.array([[objective.loss(theta, *on(batch))] for theta in points]),
        }
        grads = np.array([grad for _, grad in found])
        # What is 0 but for rounding, as before BatchNorm, is a small multiple of eps, and exact in float32.
        lost = tolerances.gradient(float(np.abs(grads).max()), eps_of(grads.dtype))
        grads = np.where(np.abs(grads) > lost, grads, 0)
        for name, entries in _blocks_of_entries(objective.layout):
            columns[f"every entry of the gradient of {name} on {place}"] = grads[:, entries]
        for what, rows in columns.items():
            # Constants such as 0 or 0.5 are exact in float32; entries that vary from point to point are not.
            varying = rows[:, (np.diff(np.sort(rows, axis=0), axis=0) > 0).sum(axis=0) > 1]
            narrow = rows.dtype == np.float64 and varying.size and _is_single(varying)
            require(not narrow, f"{what} at float64 parameters is exact in float32.")


def _blocks_of_entries(layout: Layout) -> Iterator[tuple[str, slice]]:
    """Each tensor with its entries, a long one in blocks: one part of a gradient may lose its digits."""
    start = 0
    for name, size in zip(layout.names, layout.sizes, strict=True):
        for first in range(start, start + size, BLOCK):
            last = min(first + BLOCK, start + size)
            yield (
                name if size <= BLOCK else f"{name}, entries {first - start} to {last - start - 1}",
                slice(first, last),
            )
        start += size


def _is_single(numbers: Array) -> bool:
    """Whether all numbers are exact in float32, and not because they are small integers or fractions."""
    with np.errstate(over="ignore"):
        single = np.array_equal(numbers, numbers.astype(np.float32))
    return single and not np.array_equal(numbers, np.round(numbers * 64) / 64)


@law
def gradient_matches_finite_differences(subject: ObjectiveSubject, draw: Draw) -> None:
    """The gradient's derivative in a random direction equals the central difference of the loss."""
    objective = subject.make()
    place, batch = [("the whole data", None), subject.pick(draw)][int(draw.rng(95).integers(2))]
    numbers: Array = subject.numbers(objective.layout, draw).astype(subject.widest)
    names, direction = _direction(objective, draw)
    require_slope(subject, objective, numbers, direction, f"on {place}, along {names}", batch=batch)


def _direction(objective: Objective, draw: Draw) -> tuple[str, Array]:
    """All differentiated parameters, a tensor of them, or one: which, and a random direction (K,)."""
    layout, rng = objective.layout, draw.rng(96)
    names = sorted(differentiated_by(objective), key=layout.names.index)
    some = {0: names, 1: [names[rng.integers(len(names))]]}.get(int(rng.integers(3)))
    mask = layout.unflatten(np.zeros(layout.size))
    for name in some or names:
        mask[name][...] = 1.0
    direction = np.concatenate([part.ravel() for part in mask.values()])
    if some is None:
        at = int(rng.choice(np.flatnonzero(direction)))
        direction[:] = 0
        direction[at] = 1.0
        return layout.label(at), direction
    direction *= rng.normal(size=layout.size) / np.sqrt(direction.sum())
    return (some[0] if len(some) < len(names) else "a random direction"), direction


def require_slope(
    subject: ObjectiveSubject,
    objective: Objective,
    numbers: Array,
    direction: Array,
    where: str,
    *,
    batch: Batch | None = None,
) -> None:
    """Require that gradient times direction is the slope of the loss at a point (K,).

    It is enough to agree at one of several steps h: a kink of the loss, or another period of a steep one, may
    lie within the largest. A wrong gradient agrees at no step. Where two steps give the same slope, there is
    none, and the larger step tells, whose tolerance is smaller.
    """
    loss, grad = evaluated(objective, subject.vector(numbers), batch)
    eps = eps_of(numbers.dtype)
    terms = grad.astype(np.float64) * direction
    scale = float(np.abs(terms).sum())
    usual_loss, _ = typical(subject, objective, Draw(0), batch)
    found: list[tuple[float, float]] = []
    unit = min(1.0, 2 * subject.scale)  # small parameters need small steps
    for factor in SHRINKS if numbers.dtype == np.float64 else SHRINKS[:1]:
        shrink = factor / unit
        h = float(eps ** (1 / 3)) / shrink
        points = [(numbers + s * h * direction).astype(numbers.dtype) for s in (1, -1)]
        ahead, behind = (objective.loss(subject.vector(point), *on(batch)) for point in points)
        slope = (ahead - behind) / (2 * h)
        tolerance = tolerances.central_difference(
            scale, max(usual_loss, *map(abs, (loss, ahead, behind))), eps, shrink
        )
        if found and abs(slope - found[-1][0]) <= found[-1][1] / 2:
            break  # the loss is smooth there, and the gradient agreed at no larger step
        if abs(terms.sum() - slope) <= tolerance:
            return
        found.append((slope, tolerance))
    slope, tolerance = found[-1]
    require_close(terms.sum(), slope, tolerance, f"the derivative {where}, against finite differences")


@usual
def small_gradients_are_right(subject: ObjectiveSubject, draw: Draw) -> None:
    """Where an entry of the gradient passes through 0 between two points, it is right close to it."""
    objective = subject.make()
    place, batch = [("the whole data", None), subject.pick(draw)][int(draw.rng(101).integers(2))]
    start, end = (subject.numbers(objective.layout, draw, stream) for stream in (0, 1))

    def at(s: float) -> Array:
        point: Array = (start + s * (end - start)).astype(subject.widest)
        return point

    def gradient(s: float) -> Array:
        return evaluated(objective, subject.vector(at(s)), batch)[1].astype(np.float64)

    first, last = gradient(0.0), gradient(1.0)
    crossing = np.flatnonzero(first * last < 0)
    if not crossing.size:
        return
    entry = int(draw.rng(102).choice(crossing))
    root = brentq(lambda s: gradient(s)[entry], 0.0, 1.0, xtol=1e-14, maxiter=ROOT_STEPS, disp=False)
    size = min(abs(first[entry]), abs(last[entry]))
    direction = np.zeros(objective.layout.size)
    direction[entry] = 1.0
    where = f"on {place}, along {objective.layout.label(entry)}, whose gradient passes through 0 near there"
    for distance in NEAR_ROOT:
        s = root + distance
        if abs(gradient(s)[entry]) < SMALL * size:  # otherwise it jumps over 0, at a kink
            require_slope(subject, objective, at(s), direction, where, batch=batch)


ROOT_STEPS, SMALL = 12, 1e-2


NEAR_ROOT = (0.0, 1e-3, -1e-5, 1e-6, -1e-7)
"""Distances from the point where an entry of the gradient is 0, at which this entry is checked."""


LARGEST_SINGLE = float(np.finfo(np.float32).max) / 4


def _has_both(subject: ObjectiveSubject) -> bool:
    """Whether the dtypes are float32 and float64."""
    return set(subject.dtypes) == {"float32", "float64"}


@law_into(GRADIENT_CHECKS, applies=_has_both)
def float32_agrees_with_float64(subject: ObjectiveSubject, draw: Draw) -> None:
    """Loss and gradient at a float32 θ equal those at the same numbers in float64, to float32 rounding."""
    objective = subject.make()
    numbers = subject.numbers(objective.layout, draw, EXACT)
    rng = draw.rng(97)
    for place, batch in [("the whole data", None), subject.pick(draw)]:
        theta, moved = numbers, numbers * (1 + tolerances.EPS32 * rng.choice([-1.0, 1.0], len(numbers)))
        loss, grad = evaluated(objective, subject.vector(theta), batch)
        if not max(abs(loss), float(np.abs(grad).max(initial=0))) < LARGEST_SINGLE:
            continue  # float32 has no such numbers
        near, near_grad = evaluated(objective, subject.vector(moved), batch)
        sizes = [(abs(loss), float(np.linalg.norm(grad))), typical(subject, objective, draw, batch)]
        if batch is None:
            sizes += _sizes_of_terms(subject, objective, subject.vector(theta), draw)
        single = subject.vector(theta.astype(np.float32))
        found, found_grad = evaluated(objective, single, batch)
        tolerance = tolerances.single_precision(max(size for size, _ in sizes), abs(near - loss))
        require_close(found, loss, tolerance, f"the loss on {place} in float32")
        found = objective.loss(single, *on(batch))
        require_close(found, loss, tolerance, f"loss() on {place} in float32")
        condition = float(np.linalg.norm(near_grad - grad))
        tolerance = tolerances.single_precision(max(size for _, size in sizes), condition)
        error = float(np.linalg.norm(found_grad.astype(np.float64) - grad))
        what = f"the norm of the error of the float32 gradient on {place}"
        require_close(error, 0.0, tolerance, what)
        again = evaluated(objective, subject.vector(theta), batch)[1]
        tolerance = tolerances.repeat(float(np.abs(grad).max(initial=0)), tolerances.EPS64)
        what = f"the float64 gradient on {place}, after a call at the same numbers in float32"
        require_gradient(objective.layout, again, grad, tolerance, what)


def _sizes_of_terms(
    subject: ObjectiveSubject, objective: Objective, theta: Vector, draw: Draw
) -> Iterator[tuple[float, float]]:
    """|loss| and |gradient| of batches, or of a few single examples: what cancels in the whole."""
    batches = [batch for _, batch in subject.batches][:8]
    with suppress(LCAError, NotImplementedError, AttributeError):
        index = draw.rng(98).integers(objective.n_examples, size=8)  # type: ignore[attr-defined]
        batches += [objective.batch(np.array([i])) for i in index]  # type: ignore[attr-defined]
    found = [evaluated(objective, theta, batch) for batch in batches]
    if found:
        yield (
            float(np.mean([abs(loss) for loss, _ in found])),
            float(np.mean([np.linalg.norm(grad) for _, grad in found])),
        )


@law
def allocation_adds_up(subject: ObjectiveSubject, draw: Draw) -> None:
    """With enough gradients, the allocation of a step adds up to its loss change."""
    objective = subject.make()
    start, end = (subject.numbers(objective.layout, draw, stream) for stream in (0, 1))
    left = tolerance = mass = 0.0
    for length in LENGTHS:
        points: list[Array] = [
            point.astype(subject.widest) for point in (start, start + length * (end - start))
        ]
        slope = np.abs(
            evaluated(objective, subject.vector(points[0]), None)[1] * (points[1] - points[0])
        ).sum()
        # The gradient of another loss leaves a residual that neither refinement nor a shorter step removes.
        refine = Adaptive(tol=max(tolerances.adaptive_residual(float(slope)) / 4, 1e-300), max_gradients=65)
        path = Trajectory([subject.vector(point) for point in points])
        [a] = allocate(objective, path, refine, check=False)
        rounding = tolerances.conservation(
            a.mass, max(abs(a.loss_start), abs(a.loss_end)), eps_of(subject.widest)
        )
        left, mass = abs(a.residual), a.mass
        tolerance = tolerances.adaptive_residual(a.mass) + rounding
        if left <= tolerance:
            return
    require(
        False,
        f"the values of a step do not add up to its loss change: {left:.3g} is left of a mass of {mass:.3g}, "
        f"the tolerance is {tolerance:.3g}.",
    )


@usual
def losses_do_not_jump(subject: ObjectiveSubject, draw: Draw) -> None:
    """Between two points, the loss has no jump, which no gradient shows and no allocation adds up over."""
    objective, eps = subject.make(), eps_of(subject.widest)
    place, batch = [("the whole data", None), subject.pick(draw)][int(draw.rng(103).integers(2))]
    start, end = (subject.numbers(objective.layout, draw, stream) for stream in (0, 1))
    movement = end - start
    for name, part in objective.layout.unflatten(movement).items():
        part[...] *= name in differentiated_by(objective)
    usual_loss, _ = typical(subject, objective, draw, batch)

    def at(s: float) -> tuple[float, float, float]:
        """The loss at a point of the segment, its slope, and the size of their rounding errors."""
        point = (start + s * movement).astype(subject.widest)
        loss, grad = evaluated(objective, subject.vector(point), batch)
        wide = grad.astype(np.float64)
        return loss, float(wide @ movement), float(np.abs(wide) @ np.abs(point)) + abs(loss)

    def left(a: float, b: float) -> float:
        """The loss change minus the trapezoidal rule: at a jump it stays large in the shortest interval."""
        return values[b][0] - values[a][0] - (b - a) * (values[a][1] + values[b][1]) / 2

    a, b, values = 0.0, 1.0, {0.0: at(0.0), 1.0: at(1.0)}
    change = abs(values[1.0][0] - values[0.0][0])
    for _ in range(HALVINGS[subject.widest]):
        middle = (a + b) / 2
        values[middle] = at(middle)
        a, b = (a, middle) if abs(left(a, middle)) > abs(left(middle, b)) else (middle, b)
        steep = (b - a) * (change + abs(values[a][1]) + abs(values[b][1]))
        rounding = tolerances.rebatched(max(usual_loss, values[a][2], values[b][2]), eps)
        if abs(left(a, b)) <= rounding:
            return
    require(
        abs(left(a, b)) <= rounding + JUMP * steep,  # the slope changes at a kink, or is wrong
        f"the loss on {place} jumps by {left(a, b):.3g} between two points that differ by {b - a:.1g} of a "
        "step; do the branches of a condition have different values where they meet?",
    )


JUMP = 64.0
"""A loss that changes by this many times the change that its slopes predict has a jump."""


HALVINGS: dict[Any, int] = {np.float64: 44, np.float32: 16}
"""How often a segment is halved, until its parts are nearly as short as the spacing of numbers."""


def _takes_batches(subject: ObjectiveSubject) -> bool:
    """Whether batches are declared."""
    return bool(subject.batches)


@law_into(GRADIENT_CHECKS, applies=_takes_batches)
def whole_is_the_mean_of_its_batches(subject: ObjectiveSubject, draw: Draw) -> None:
    """Loss and gradient of the whole data are the weighted means over its batches, in any order."""
    objective, eps = subject.make(), eps_of(subject.widest)
    theta = subject.theta(objective.layout, draw)
    loss, grad = evaluated(objective, theta, None)
    order = draw.rng(99).permutation(len(subject.batches))
    pairs = [subject.batches[i] for i in order]
    parts = [(weight, *evaluated(objective, theta, batch)) for weight, batch in pairs]
    ignored = len(parts) > 1 and loss != 0 and all(part == loss for _, part, _ in parts)
    require(not ignored, "every batch has exactly the loss of the whole data; is `batch` ignored?")
    total = sum(weight for weight, _, _ in parts)
    usual_loss, usual_grad = typical(subject, objective, draw)
    size = sum(abs(w * part) for w, part, _ in parts) / total
    tolerance = tolerances.rebatched(max(size, usual_loss), eps)
    mean = sum(w * part for w, part, _ in parts) / total
    require_close(
        mean, loss, tolerance, "the weighted mean of the losses of the batches, against the whole data"
    )
    mean_grad = sum(w * part for w, _, part in parts) / total
    scale = max(float(np.abs(w * part).max()) for w, _, part in parts) * len(parts) / total
    what = "the weighted mean of the gradients of the batches, against the whole data"
    tolerance = tolerances.rebatched(max(scale, usual_grad), eps)
    require_gradient(objective.layout, mean_grad, grad, tolerance, what)


def _evaluates_together(subject: ObjectiveSubject) -> bool:
    return bool(subject.batches) and hasattr(subject.example, "evaluate_together")


@law_into(GRADIENT_CHECKS, applies=_evaluates_together)
def batches_together_are_as_one_by_one(subject: ObjectiveSubject, draw: Draw) -> None:
    """``evaluate_together`` gives each batch its own loss and gradient, which the caller may overwrite."""
    objective, eps = subject.make(), eps_of(subject.widest)
    theta, order = subject.theta(objective.layout, draw), draw.rng(104).permutation(len(subject.places))
    chosen = [subject.places[i] for i in (*order[:3], order[0])]
    expected = [evaluated(objective, theta, batch) for _, batch in chosen]
    usual_sizes = [typical(subject, objective, draw, batch) for _, batch in chosen]
    variant = at_state(objective, state_of(objective))
    for measured in (objective,) if variant is objective else (objective, variant):
        parts = [(measured, batch) for _, batch in chosen]
        for gradient in (False, True):
            found = measured.evaluate_together(parts, theta, gradient=gradient)  # type: ignore[attr-defined]
            if found is None:  # they are evaluated one by one
                continue
            require(
                len(found) == len(parts), f"evaluate_together returned {len(found)} of {len(parts)} results."
            )
            for (place, _), one, (loss, grad), sizes in zip(
                chosen, found, expected, usual_sizes, strict=True
            ):
                what = f"on {place}, evaluated together with others"
                tolerance = tolerances.rebatched(max(abs(loss), sizes[0]), eps)
                require_close(one[0], loss, tolerance, f"the loss {what}")
                if gradient:
                    size = max(float(np.abs(grad).max(initial=0)), sizes[1])
                    tolerance = tolerances.rebatched(size, eps)
                    what = f"the gradient {what}"
                    require_gradient(objective.layout, as_numpy(one[1]), grad, tolerance, what)
                    array_ops(one[1]).scaled(one[1], 0.0)  # the caller owns it
