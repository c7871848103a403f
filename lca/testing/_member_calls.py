"""The laws of calls to the optional members of an objective: what they may keep, change and depend on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from lca import tolerances
from lca.arrays import Vector, array_ops
from lca.objective import (
    Batch,
    Checked,
    Objective,
    at_state,
    differentiated_by,
    differentiating,
    state_of,
)
from lca.testing._gradient_checks import require_slope
from lca.testing._laws import require, require_close
from lca.testing._member_checks import (
    REFUSALS,
    divided,
    drawn,
    holds,
    moved_state,
    moves,
    offers,
    random_direction,
    samples,
    scores,
    selects,
    weighs,
    whole_can_be_sampled,
)
from lca.testing._objective_checks import belongings, require_nothing_else_changed, visible
from lca.testing._objective_laws import eps_of, evaluated, require_gradient, typical
from lca.testing._objective_subject import Draw, ObjectiveSubject, as_numpy, draws, on, usual_draws
from lca.testing._report import Check, CheckFailure
from lca.testing._variant_checks import has_classes

Array = np.ndarray


def batches_belong_to_their_examples(subject: ObjectiveSubject, draw: Draw) -> None:
    """`batch` leaves its arguments alone, and a batch stays the same when another one is made."""
    objective, rng = subject.make(), draw.rng(76)
    theta = subject.theta(objective.layout, draw)
    given: list[Array] = [drawn(objective, rng)]
    given += [rng.integers(2, 17, len(given[0])) / 8] if holds(weighs, objective) else []
    before = [array.copy() for array in given]
    batch = objective.batch(*given)  # type: ignore[attr-defined]
    for name, array, copy in zip(("index", "weight"), given, before, strict=False):
        require(np.array_equal(array, copy), f"batch() has changed its argument {name}; copy it first.")
    expected = objective.loss(theta, batch)
    objective.batch((given[0] + 1) % objective.n_examples, *given[1:])  # type: ignore[attr-defined]
    found = objective.loss(theta, batch)
    tolerance = tolerances.repeat(expected, eps_of(subject.widest))
    require_close(found, expected, tolerance, "the loss of a batch, after another batch was made")
    again = (given[0], *(rng.permutation(weight + 1) for weight in given[1:]))
    fresh = subject.make()
    expected = fresh.loss(theta, fresh.batch(*again))  # type: ignore[attr-defined]
    found = objective.loss(theta, objective.batch(*again))  # type: ignore[attr-defined]
    tolerance = tolerances.repeat(expected, eps_of(subject.widest))
    require_close(found, expected, tolerance, "the loss of a batch of the same examples with other weights")


def samples_are_like_theta(subject: ObjectiveSubject, draw: Draw) -> None:
    """On a sample, the loss is a float and the gradient a new vector of the type, shape and dtype of θ."""
    objective, rng = subject.make(), draw.rng(77)
    index = drawn(objective, rng)
    given = [(index,)] + ([(index, rng.uniform(0.5, 2.0, len(index)))] if holds(weighs, objective) else [])
    for dtype in subject.dtypes:
        theta = subject.theta(objective.layout, draw, dtype=dtype)
        for arguments in given:
            sample = objective.batch(*arguments)  # type: ignore[attr-defined]
            loss, grad = objective.loss_and_grad(theta, sample)
            what = f"on a {'weighted ' if len(arguments) > 1 else ''}sample, in {dtype}"
            require(isinstance(loss, float), f"the loss {what} is a {type(loss).__name__}, not a float.")
            objective.layout.check(grad, f"the gradient {what}")
            types = type(grad).__name__, type(theta).__name__
            require(type(grad) is type(theta), f"the gradient {what} is a {types[0]}, θ a {types[1]}.")
            require(grad.dtype == theta.dtype, f"the gradient {what} is {grad.dtype}.")
            before = as_numpy(grad)
            objective.loss_and_grad(subject.theta(objective.layout, draw, 1, dtype), sample)
            kept = np.array_equal(as_numpy(grad), before)
            require(kept, f"a later call {what} modified a gradient already returned; return a copy.")
            array_ops(grad).add_scaled(grad, 1.0, subject.vector(np.ones_like(before)))
            again = evaluated(objective, theta, sample)[1]
            tolerance = tolerances.repeat(float(np.abs(before).max()), eps_of(dtype))
            what = f"the gradient {what}, after the first one was overwritten in place"
            require_gradient(objective.layout, again, before, tolerance, what)


def members_change_nothing(subject: ObjectiveSubject, draw: Draw) -> None:
    """No member, and no evaluation of a sample or a variant, changes θ, the model or any global state."""
    objective = subject.make()
    theta = subject.theta(objective.layout, draw)
    np.random.seed(draw.seed % 2**32)  # noqa: NPY002 - a state that no objective sets by chance
    numbers, loss = as_numpy(theta), objective.loss(theta)
    tolerance = tolerances.repeat(loss, eps_of(subject.widest))

    def unchanged(before: Mapping[str, Any], when: str) -> None:
        require_nothing_else_changed(subject, before, when)
        require(np.array_equal(as_numpy(theta), numbers), f"θ has changed {when}; copy it first.")
        require_close(objective.loss(theta), loss, tolerance, f"the loss of the whole data, {when}")

    before = belongings(subject)
    objective.loss_and_grad(theta)
    calls = {}
    for name, call in _calls(subject, objective, theta, draw):
        calls[name] = call
        call()  # a library may set up what the process shares in the first call
        unchanged(before, f"after {name}")
    before = visible(subject)
    for name, call in calls.items():
        call()
        unchanged(before, f"after {name}")


def _calls(
    subject: ObjectiveSubject, objective: Any, theta: Vector, draw: Draw
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Calls of all members that the objective has."""
    rng = draw.rng(78)
    if isinstance(objective, Checked):
        yield "check()", partial(_check, objective)
    if holds(samples, objective):
        index = drawn(objective, rng)
        yield "batch()", lambda: objective.batch(index)
        sample = partial(objective.batch, index)
        yield "evaluating a sample", partial(_evaluate, lambda: objective, theta, sample)
        if holds(weighs, objective):
            sample = partial(objective.batch, index, rng.uniform(0.5, 2.0, len(index)))
            yield "evaluating a weighted sample", partial(_evaluate, lambda: objective, theta, sample)
    if holds(scores, objective):
        yield "labels", lambda: objective.labels
        yield "scores()", lambda: objective.scores(theta)
        yield "scores() of a batch", lambda: objective.scores(theta, objective.batch(index))
    variants: dict[str, Callable[[], Objective]] = {}
    if holds(moves, objective):
        variants["at_state()"] = lambda: at_state(objective, moved_state(state_of(objective) or {}))
    if holds(selects, objective):
        names = [name for name in objective.layout.names if rng.integers(2)]
        variants[f"differentiating({names})"] = lambda: differentiating(objective, names)
    if holds(has_classes, objective):
        variants["by_class()"] = objective.by_class
    place, batch = subject.pick(draw)
    for name, make in variants.items():
        yield name, make
        yield f"evaluating {name}", partial(_evaluate, make, theta)
        if batch is not None:
            yield f"evaluating {name} on {place}", partial(_evaluate, make, theta, lambda: batch)


def _check(objective: Checked) -> None:
    """Call `check()`, which may raise nothing, as the objective has not changed."""
    try:
        objective.check()
    except Exception as error:
        raise CheckFailure(
            f"check() of an unchanged objective raised {type(error).__name__}: {error}"
        ) from error


def _evaluate(
    make: Callable[[], Objective], theta: Vector, make_batch: Callable[[], Batch | None] = lambda: None
) -> None:
    """Both evaluations, the loss first: what it puts back, the other may leave."""
    objective = make()
    with suppress(*REFUSALS):  # terms that hold their own examples need take no batches
        batch = make_batch()
        objective.loss(theta, *on(batch))
        objective.loss_and_grad(theta, *on(batch))


def scores_depend_on_theta_alone(subject: ObjectiveSubject, draw: Draw) -> None:
    """`scores` are those of the θ that is passed, whatever was evaluated before."""
    one, other = subject.make(), subject.make()
    points = [subject.theta(one.layout, draw, stream) for stream in (0, 1)]
    index = drawn(one, draw.rng(79))
    places = [("the whole data", ()), ("a batch", (one.batch(index),))]  # type: ignore[attr-defined]
    alone = [[np.asarray(other.scores(theta, *given)) for _, given in places] for theta in points[::-1]][::-1]  # type: ignore[attr-defined]
    for i in (0, 1, 0):
        one.loss_and_grad(points[1 - i])
        for (place, given), expected in zip(places, alone[i], strict=True):
            found = np.asarray(one.scores(points[i], *given))  # type: ignore[attr-defined]
            tolerance = tolerances.repeat(max(1.0, float(expected.max())), eps_of(subject.widest))
            require_close(
                found, expected, tolerance, f"the scores of {place}, after calls at another θ", "example"
            )


def batches_are_in_the_state(subject: ObjectiveSubject, draw: Draw) -> None:
    """In another state, the whole is the mean of its batches, or samples, and their gradients are right."""
    objective = subject.make()
    state = state_of(objective)
    assert state is not None
    other = at_state(objective, moved_state(state))
    theta, rng = subject.theta(objective.layout, draw), draw.rng(85)
    divisions = {"batches": list(subject.batches)}
    if holds(whole_can_be_sampled, objective):
        divisions["samples"] = list(divided(objective, rng))
    whole, usual = other.loss(theta), typical(subject, objective, draw)[0]
    for name, pairs in divisions.items():
        if not pairs:
            continue
        parts = [(weight, other.loss(theta, batch)) for weight, batch in pairs]
        ignored = len(parts) > 1 and whole != 0 and all(part == whole for _, part in parts)
        require(not ignored, f"in another state, all {name} have the loss of the whole; is `batch` ignored?")
        total = sum(weight for weight, _ in parts)
        size = max(sum(abs(w * part) for w, part in parts) / total, usual)
        mean = sum(w * part for w, part in parts) / total
        what = f"in another state, the weighted mean of the losses of its {name}"
        require_close(mean, whole, tolerances.rebatched(size, eps_of(subject.widest)), what)
        at = int(rng.integers(len(pairs)))
        direction = random_direction(draw, objective.layout, differentiated_by(other))
        where = f"on number {at} of the {name} in another state"
        require_slope(subject, other, as_numpy(theta), direction, where, batch=pairs[at][1])


def _members(objective: Objective) -> bool:
    members = (samples, scores, moves, selects, has_classes)
    return isinstance(objective, Checked) or any(holds(member, objective) for member in members)


def _moves_with_batches(subject: ObjectiveSubject) -> bool:
    return offers(moves)(subject) and (bool(subject.batches) or offers(whole_can_be_sampled)(subject))


FIRST_CALLS = Check("members_change_nothing", members_change_nothing, lambda subject: draws, offers(_members))
"""Before other laws: what a first call of all leaves behind is there ever after."""
MEMBER_CALLS = [
    Check(law.__name__, law, lambda subject, cases=cases: cases, applies)  # type: ignore[misc]
    for law, cases, applies in (
        (batches_belong_to_their_examples, draws, offers(samples)),
        (samples_are_like_theta, usual_draws, offers(samples)),
        (scores_depend_on_theta_alone, draws, offers(scores)),
        (batches_are_in_the_state, draws, _moves_with_batches),
    )
]
