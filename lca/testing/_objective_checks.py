"""The laws of objectives on their calls: one changes nothing, not even the result of another."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from lca import tolerances
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import Batch, Objective
from lca.testing._laws import require, require_close
from lca.testing._objective_laws import Array, eps_of, evaluated, law_into, require_gradient
from lca.testing._objective_subject import (
    Draw,
    ObjectiveSubject,
    as_numpy,
    on,
    usual_draws,
    written,
)
from lca.testing._places import raised_at
from lca.testing._process_state import arrays_in, same, state_and_warnings, threads
from lca.testing._report import Check, CheckFailure

OBJECTIVE_CHECKS: list[Check] = []
law, usual = law_into(OBJECTIVE_CHECKS), law_into(OBJECTIVE_CHECKS, usual_draws)


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
    """θ may be read-only, like that of stored points, and may be a column of a matrix."""
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
