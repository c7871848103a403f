"""The laws of objectives: what estimators rely on when they evaluate a loss or a gradient."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
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
from lca.objective import Batch, Objective, differentiated_by
from lca.step import Trajectory
from lca.testing._laws import require, require_close
from lca.testing._objective_subject import (
    EXACT,
    Draw,
    ObjectiveSubject,
    as_numpy,
    draws,
    on,
    usual_draws,
    written,
)
from lca.testing._places import raised_at
from lca.testing._process_state import arrays_in, same, state_and_warnings, threads
from lca.testing._report import Check, CheckFailure

Array = np.ndarray
SHRINKS = (1.0, 16.0, 256.0)
"""Finite differences are taken with several steps, since a kink may lie within the first."""
LENGTHS = (1.0, 1 / 8, 1 / 64, 1 / 512, 1 / 8192)
"""Lengths of the segments on which an allocation may add up, for losses that are stiff or have kinks."""

BLOCK = 512
"""Entries of a gradient that are looked at together; an error may begin at some index of a long tensor."""

OBJECTIVE_CHECKS: list[Check] = []
Law = Callable[[ObjectiveSubject, Draw], None]
Applies = Callable[[ObjectiveSubject], bool]


def law(function: Law) -> Law:
    """Register a law of objectives that is checked at random points of all sizes."""
    return register(function, lambda subject: True)


def usual(function: Law) -> Law:
    """Register a law that is checked at points of the usual size."""
    OBJECTIVE_CHECKS.append(
        Check(function.__name__, function, lambda subject: usual_draws, lambda subject: True)
    )
    return function


def register(function: Law, applies: Applies) -> Law:
    """Register a law for the objectives for which ``applies`` is true."""
    OBJECTIVE_CHECKS.append(Check(function.__name__, function, lambda subject: draws, applies))
    return function


def require_gradient(layout: Layout, found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Raise `CheckFailure`, naming the parameter, unless two gradients agree to ``tolerance`` everywhere."""
    require(found.shape == expected.shape, f"{what} has shape {found.shape}, expected {expected.shape}.")
    with np.errstate(invalid="ignore"):  # inf - inf
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
    difference[np.isnan(difference)] = np.inf
    at = int(np.argmax(difference))
    require(
        bool(difference[at] <= tolerance),
        f"{what}: the entry of {layout.label(at)} is {float(found[at])!r}, expected {float(expected[at])!r}; "
        f"they differ by {difference[at]:.3g}, the tolerance is {tolerance:.3g}.",
    )


def evaluated(objective: Objective, theta: Vector, batch: Batch | None) -> tuple[float, Array]:
    loss, grad = objective.loss_and_grad(theta, *on(batch))
    return loss, as_numpy(grad)


def eps_of(dtype: Any) -> float:
    """Machine epsilon."""
    return float(np.finfo(dtype).eps)


def typical(
    subject: ObjectiveSubject, objective: Objective, draw: Draw, batch: Batch | None = None
) -> tuple[float, float]:
    """|loss| and the norm of the gradient at a point of the usual size.

    Where a loss is close to 0, such as that of a confident classifier, its terms are not: rounding errors are
    in units of this scale.
    """
    loss, grad = evaluated(objective, subject.theta(objective.layout, Draw(draw.seed), 8), batch)
    return abs(loss), float(np.linalg.norm(grad.astype(np.float64)))


# First, so that the first call of all is seen: a global mode may be set once and for all.
@law
def calls_change_nothing(subject: ObjectiveSubject, draw: Draw) -> None:
    """A call changes neither θ, batches, the model nor any global state, even if it raises an error."""
    objective = subject.make()
    theta = subject.theta(objective.layout, draw)
    np.random.seed(draw.seed % 2**32)  # noqa: NPY002 - a state that no objective sets by chance
    random.seed(draw.seed)
    with np.errstate(all="warn", under="ignore"):
        _require_nothing_changed(subject, objective, theta)


def _require_nothing_changed(subject: ObjectiveSubject, objective: Objective, theta: Vector) -> None:
    numbers, before, modules, alive = as_numpy(theta), visible(subject), len(sys.modules), 0
    for i, (place, batch) in enumerate(subject.places):
        for call in (objective.loss, objective.loss_and_grad):
            call(theta, *on(batch))
            when = f"after {call.__name__} on {place}"
            if (
                len(sys.modules) > modules
            ):  # a library that is imported in the first call sets modes of its own
                before |= state_and_warnings()
                modules = len(sys.modules)
            require_nothing_else_changed(subject, before, when)
            moved = not np.array_equal(as_numpy(theta), numbers)
            if moved:
                raise CheckFailure(_writes(subject, objective, numbers, batch, f"θ has changed {when}"))
        alive = threads() if i == 0 else alive
    _require_any_memory(subject, objective, numbers)
    for _ in range(2):
        objective.loss(theta)
    more = threads() - alive  # a library may start its threads in the first call
    require(
        more < 2, f"{more} more threads are alive than after the first call; end those that a call starts."
    )
    with suppress(Exception):  # the error itself is checked by another law
        objective.loss_and_grad(_too_long(subject, objective))
    require_nothing_else_changed(subject, before, "after a refused vector")


def _require_any_memory(subject: ObjectiveSubject, objective: Objective, numbers: Array) -> None:
    """θ may be read-only, as that of stored points, and may be a column of a matrix."""
    theta = subject.vector(numbers.copy())
    if not isinstance(theta, np.ndarray):
        return
    loss, grad = evaluated(objective, theta, None)
    theta.flags.writeable = False
    column = np.stack([numbers, numbers + 1], axis=1)[:, 0]
    for vector, what in ((theta, "a read-only θ"), (column, "a θ whose entries are not side by side")):
        try:
            found, found_grad = evaluated(objective, vector, None)
        except ValueError as error:
            raise CheckFailure(f"{what} raised {error}; copy it before changing it.") from error
        eps = eps_of(numbers.dtype)
        require_close(found, loss, tolerances.repeat(loss, eps), f"the loss at {what}")
        tolerance = tolerances.repeat(float(np.abs(grad).max()), eps)
        require_gradient(objective.layout, found_grad, grad, tolerance, f"the gradient at {what}")


def visible(subject: ObjectiveSubject) -> dict[str, Any]:
    """A copy of everything that a call must not change."""
    return state_and_warnings() | belongings(subject)


def belongings(subject: ObjectiveSubject) -> dict[str, Any]:
    """A copy of the state and the batches that the subject declares; not even a first call changes them."""
    declared = {name: np.array(array) for name, array in subject.state().items()}
    given = {
        f"batch {i}{at}": a for i, (_, b) in enumerate(subject.batches) for at, a in arrays_in(b).items()
    }
    return given | declared


def require_nothing_else_changed(subject: ObjectiveSubject, before: Mapping[str, Any], when: str) -> None:
    """Raise `CheckFailure` unless what a call must not change is as ``before``."""
    for name, value in visible(subject).items():
        require(name not in before or same(value, before[name]), f"{name} has changed {when}.")


def _writes(
    subject: ObjectiveSubject, objective: Objective, numbers: Array, batch: Batch | None, what: str
) -> str:
    """The message for an objective that writes into θ, with its line if a read-only array finds it."""
    theta = subject.vector(numbers.copy())
    message = f"{what}; copy it before changing it: theta = theta.copy()."
    if not isinstance(theta, np.ndarray):
        return message
    theta.flags.writeable = False
    for call in (objective.loss, objective.loss_and_grad):
        try:
            call(theta, *on(batch))
        except Exception as error:
            return "\n".join([message, *raised_at(error)])
    return message


@law
def layout_round_trip(subject: ObjectiveSubject, draw: Draw) -> None:
    """``flatten(unflatten(θ))`` equals θ, and the shapes are always the same."""
    layout, again = subject.make().layout, subject.example.layout
    # Not the names: Keras numbers the layers of each new model on.
    require(layout.shapes == again.shapes, "two objectives have two layouts.")
    theta = draw.rng(0).normal(size=layout.size)
    tensors = layout.unflatten(theta)
    require(tuple(tensors) == layout.names, f"unflatten gave {tuple(tensors)}, expected {layout.names}.")
    require(np.array_equal(layout.flatten(tensors), theta), "flatten(unflatten(θ)) differs from θ.")


@usual
def gradient_is_like_theta(subject: ObjectiveSubject, draw: Draw) -> None:
    """The loss is a float; the gradient is finite and has the type, shape and dtype of θ."""
    objective = subject.make()
    for dtype in subject.dtypes:
        theta = subject.theta(objective.layout, draw, dtype=dtype)
        for place, batch in [("the whole data", None), subject.pick(draw)]:
            loss, grad = objective.loss_and_grad(theta, *on(batch))
            for name, value in (("loss_and_grad", loss), ("loss", objective.loss(theta, *on(batch)))):
                what = f"the loss of {name} on {place}"
                require(isinstance(value, float), f"{what} is a {type(value).__name__}; return float(loss).")
                require(bool(np.isfinite(value)), f"{what} is {value!r} at a random point; {_DOMAIN}")
            types = type(grad).__name__, type(theta).__name__
            require(type(grad) is type(theta), f"the gradient on {place} is a {types[0]}, θ a {types[1]}.")
            objective.layout.check(grad, f"the gradient on {place}")
            same_dtype = grad.dtype == theta.dtype
            require(same_dtype, f"the gradient on {place} is {grad.dtype}, θ is {theta.dtype}.")
            finite = array_ops(grad).all_finite(grad)
            require(finite, f"the gradient on {place} is not finite at a random point; {_DOMAIN}")


_DOMAIN = "if the loss is defined for some θ only, declare it by points= or scale=."


@law
def non_finite_numbers_are_not_hidden(subject: ObjectiveSubject, draw: Draw) -> None:
    """At a NaN, loss and gradient are not both finite, or an error is raised; the next call is right."""
    objective = subject.make()
    numbers: Array = subject.numbers(objective.layout, draw).astype(subject.widest)
    place, batch = [("the whole data", None), subject.pick(draw)][int(draw.rng(91).integers(2))]
    loss, gradient = evaluated(objective, subject.vector(numbers), batch)
    used = np.flatnonzero(gradient)  # one that the loss does not depend on may be NaN unseen
    one = used[draw.rng(92).integers(len(used), size=min(1, len(used)))]
    for where in (np.arange(len(numbers)), one) if len(used) else ():
        spoilt = numbers.copy()
        spoilt[where] = np.nan
        name = "θ" if len(where) > 1 else objective.layout.label(int(where[0]))
        for call in (objective.loss_and_grad, objective.loss):
            seen = _is_visible(lambda call=call, spoilt=spoilt: call(subject.vector(spoilt), *on(batch)))  # type: ignore[misc]
            hidden = f"{call.__name__} is finite on {place} although {name} is NaN; is NaN replaced by 0?"
            require(seen, hidden)
    again, gradient_again = evaluated(objective, subject.vector(numbers), batch)
    eps, what = eps_of(subject.widest), f"on {place}, after calls at NaN"
    require_close(again, loss, tolerances.repeat(loss, eps), f"the loss {what}")
    tolerance = tolerances.repeat(float(np.abs(gradient).max()), eps)
    require_gradient(objective.layout, gradient_again, gradient, tolerance, f"the gradient {what}")


def _is_visible(call: Callable[[], Any]) -> bool:
    try:
        with np.errstate(all="ignore"):
            found = call()
    except (LCAError, ArithmeticError, ValueError):
        return True
    loss, *grads = found if isinstance(found, tuple) else (found,)
    return not np.isfinite(loss) or not all(array_ops(grad).all_finite(grad) for grad in grads)


@law
def deterministic(subject: ObjectiveSubject, draw: Draw) -> None:
    """The same θ gives the same loss and gradient, also after an evaluation at another point."""
    objective = subject.make()
    theta, other = (subject.theta(objective.layout, draw, stream) for stream in (0, 1))
    loss, grad = evaluated(objective, theta, None)
    objective.loss_and_grad(other)
    again, grad_again = evaluated(objective, theta, None)
    eps = eps_of(subject.widest)
    require_close(again, loss, tolerances.repeat(loss, eps), "the loss at the same θ, evaluated again")
    tolerance = tolerances.repeat(float(np.abs(grad).max()), eps)
    require_gradient(objective.layout, grad_again, grad, tolerance, "the gradient at the same θ, again")


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


register(works_in_the_precision_of_theta, lambda subject: "float64" in subject.dtypes)


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
def loss_agrees_with_loss_and_grad(subject: ObjectiveSubject, draw: Draw) -> None:
    """``loss`` and ``loss_and_grad`` return the same loss, on the data and on batches, in every dtype."""
    objective = subject.make()
    for dtype in subject.dtypes:
        theta = subject.theta(objective.layout, draw, dtype=dtype)
        for place, batch in [("the whole data", None), subject.pick(draw)]:
            loss = objective.loss(theta, *on(batch))
            tolerance = tolerances.repeat(loss, eps_of(dtype))
            found = objective.loss_and_grad(theta, *on(batch))[0]
            require_close(found, loss, tolerance, f"the loss of loss_and_grad on {place}, in {dtype}")


@law
def earlier_calls_change_no_result(subject: ObjectiveSubject, draw: Draw) -> None:
    """Losses and gradients depend on θ and the batch alone, not on which calls were made before.

    One objective gets a series of calls in one buffer that is written in place, another one the same calls
    backwards with new vectors. The points are close to each other, permuted, or differ in one entry.
    """
    one, other = subject.make(), subject.make()
    plan = list(_plan(subject, one.layout, draw))
    buffers: dict[str, Vector] = {}
    forwards = [_outcome(one, call, _filled(buffers, subject, call)) for call in plan]
    backwards = [_outcome(other, call, subject.vector(call[0])) for call in reversed(plan)]
    for i, (found, expected) in enumerate(zip(forwards, reversed(backwards), strict=True)):
        numbers, place, _, method = plan[i]
        eps, what = eps_of(numbers.dtype), f"{method} on {place} in {numbers.dtype}, after {i} other calls"
        tolerance = tolerances.repeat(expected[0], eps)
        require_close(found[0], expected[0], tolerance, f"the loss of {what}")
        tolerance = tolerances.repeat(float(np.abs(expected[1]).max(initial=0)), eps)
        if len(found[1]):
            require_gradient(one.layout, found[1], expected[1], tolerance, f"the gradient of {what}")


Call = tuple[Array, str, Batch | None, str]


def _plan(subject: ObjectiveSubject, layout: Layout, draw: Draw) -> Iterator[Call]:
    """Calls at related points, on two places, then several times on every batch."""
    rng, base = draw.rng(93), subject.numbers(layout, draw)
    points = [base, *_related(subject, layout, draw, base)]
    two = [("the whole data", None), subject.pick(draw)]
    same_call = bool(rng.integers(2))
    for i in rng.permutation(2 * len(points)):
        place, batch = two[0 if same_call else rng.integers(len(two))]
        method = ("loss", "loss_and_grad")[0 if same_call and draw.seed % 2 else int(rng.integers(2))]
        dtype = subject.widest if rng.integers(4) else subject.dtypes[0]
        yield points[i % len(points)].astype(dtype), place, batch, method
    if subject.batches:
        for i in rng.permutation(3 * len(subject.batches))[:24]:
            place, batch = subject.places[1 + i % len(subject.batches)]
            yield points[0].astype(subject.widest), place, batch, "loss_and_grad"


def _related(subject: ObjectiveSubject, layout: Layout, draw: Draw, base: Array) -> Iterator[Array]:
    """Points that an impatient cache takes for ``base``; those between two points stay in any domain."""
    rng, other = draw.rng(94), subject.numbers(layout, draw, 1)
    yield other
    yield base + 1e-9 * (other - base)
    yield base + 1e-12 * (other - base)
    yield base + tolerances.EPS32 / 8 * (other - base)
    if subject.points is None:
        yield np.append(base[:-1], other[-1])
        changed, at = base.copy(), int(rng.integers(len(base)))
        changed[at] = other[at]
        yield changed
        order = rng.permutation(len(base))
        yield base[order]
        yield base * rng.choice([-1.0, 1.0], len(base))
        i, j = order[0], order[-1]
        swapped = base.copy()
        swapped[i], swapped[j] = base[j], base[i]
        yield swapped


def _filled(buffers: dict[str, Vector], subject: ObjectiveSubject, call: Call) -> Vector:
    """The point of a call in the buffer of its dtype, or in a new vector where none can be written."""
    numbers, name = call[0], call[0].dtype.name
    if name not in buffers or not written(buffers[name], subject.vector(numbers)):
        buffers[name] = subject.vector(numbers.copy())
    return buffers[name]


def _outcome(objective: Objective, call: Call, theta: Vector) -> tuple[float, Array]:
    _, _, batch, method = call
    if method == "loss":
        return objective.loss(theta, *on(batch)), np.zeros(0)
    return evaluated(objective, theta, batch)


@law
def gradients_are_not_overwritten(subject: ObjectiveSubject, draw: Draw) -> None:
    """A returned gradient is unchanged after the objective is called again."""
    objective = subject.make()
    grad = objective.loss_and_grad(subject.theta(objective.layout, draw))[1]
    before = as_numpy(grad)
    for place, batch in [("the whole data", None), subject.pick(draw)]:
        objective.loss_and_grad(subject.theta(objective.layout, draw, 1), *on(batch))
        kept = np.array_equal(as_numpy(grad), before)
        require(kept, f"a later call on {place} modified a gradient already returned; return a copy.")


@law
def gradients_may_be_overwritten(subject: ObjectiveSubject, draw: Draw) -> None:
    """The caller owns the gradient: modifying it in place does not affect later results."""
    objective = subject.make()
    theta = subject.theta(objective.layout, draw)
    grad = objective.loss_and_grad(theta)[1]
    before = as_numpy(grad)
    if isinstance(grad, np.ndarray) and not grad.flags.writeable:
        raise CheckFailure(
            "the gradient is a read-only array; return a copy, which the caller may overwrite."
        )
    ops = array_ops(grad)
    ones = subject.vector(np.ones(objective.layout.size, subject.widest))
    ops.add_scaled(ops.scaled(grad, 2.0), 1.0, ones)  # also of a gradient that is 0
    what = "the gradient, after the first one was overwritten in place"
    tolerance = tolerances.repeat(float(np.abs(before).max()), eps_of(subject.widest))
    require_gradient(objective.layout, as_numpy(objective.loss_and_grad(theta)[1]), before, tolerance, what)
    elsewhere, (place, batch) = subject.theta(objective.layout, draw, 1), subject.pick(draw)
    expected = evaluated(subject.make(), elsewhere, batch)[1]
    found = evaluated(objective, elsewhere, batch)[1]
    tolerance = tolerances.repeat(float(np.abs(expected).max()), eps_of(subject.widest))
    what = f"the gradient at another θ on {place}, after the first one was overwritten in place"
    require_gradient(objective.layout, found, expected, tolerance, what)


@usual
def wrong_vectors_are_refused(subject: ObjectiveSubject, draw: Draw) -> None:
    """A vector of the wrong length or shape raises an `LCAError`, and the next valid call is correct."""
    objective = subject.make()
    theta, size = subject.theta(objective.layout, draw), objective.layout.size
    loss = objective.loss(theta)
    numbers = as_numpy(theta)
    wrong = {
        "with one entry too many": np.append(numbers, numbers[:1]),
        "without its last entry": numbers[:-1],
        "of one entry": numbers[:1],
        "of twice the length": np.tile(numbers, 2),
        f"of shape (1, {size})": numbers[None],
        f"of shape ({size}, 1)": numbers[:, None],
    }
    for call in (objective.loss_and_grad, objective.loss):
        for name, vector in wrong.items():
            if vector.shape != numbers.shape:
                _expect_refusal(call, subject.vector(vector), f"{call.__name__}: a vector {name}")
    tolerance = tolerances.repeat(loss, eps_of(subject.widest))
    require_close(objective.loss(theta), loss, tolerance, "the loss after a refused vector")


def _expect_refusal(call: Callable[..., Any], vector: Vector, what: str) -> None:
    try:
        with np.errstate(all="ignore"):
            call(vector)
    except LCAError:
        return
    except Exception as error:
        raise CheckFailure(
            f"{what} raised {type(error).__name__}, which is not an LCAError; call "
            'self.layout.check(theta, "theta") first.'
        ) from error
    raise CheckFailure(f'{what} was accepted; call self.layout.check(theta, "theta") first.')


def _too_long(subject: ObjectiveSubject, objective: Objective) -> Vector:
    return subject.vector(np.zeros(objective.layout.size + 1))


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
"""Where an entry is as small as these parts of its usual size."""


LARGEST_SINGLE = float(np.finfo(np.float32).max) / 4


def _has_both(subject: ObjectiveSubject) -> bool:
    return set(subject.dtypes) == {"float32", "float64"}


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


register(float32_agrees_with_float64, _has_both)


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
        """What the trapezoidal rule leaves of the loss change: a jump, however short the interval is."""
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
"""A loss that changes so many times as much as its slopes say has a jump."""
HALVINGS: dict[Any, int] = {np.float64: 44, np.float32: 16}
"""How often a segment is halved, until its parts are nearly as short as the spacing of numbers."""


def _takes_batches(subject: ObjectiveSubject) -> bool:
    return bool(subject.batches)


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


register(whole_is_the_mean_of_its_batches, _takes_batches)
