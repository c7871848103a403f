"""The laws of calls to the optional members of an objective: what they may keep, change and depend on."""

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from lca import tolerances
from lca.arrays import array_ops
from lca.objective import Objective, Sum, at_state, differentiated_by, state_of
from lca.testing._laws import require, require_close
from lca.testing._member_checks import (
    REFUSALS,
    divided,
    drawn,
    moved_state,
    moves,
    offers,
    random_direction,
    samples,
    scores,
    weighs,
    whole_can_be_sampled,
)
from lca.testing._objective_checks import (
    eps_of,
    evaluated,
    require_gradient,
    require_nothing_else_changed,
    require_slope,
    typical,
    visible,
)
from lca.testing._objective_subject import Draw, ObjectiveSubject, as_numpy, draws, on, usual_draws
from lca.testing._report import Check

Array = np.ndarray


def batches_belong_to_their_examples(subject: ObjectiveSubject, draw: Draw) -> None:
    """`batch` leaves its arguments alone, and a batch stays the same when another one is made."""
    objective, rng = subject.make(), draw.rng(76)
    theta = subject.theta(objective.layout, draw)
    given: list[Array] = [drawn(objective, rng)]
    given += [rng.integers(2, 17, len(given[0])) / 8] if _holds(weighs, objective) else []
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
    given = [(index,)] + ([(index, rng.uniform(0.5, 2.0, len(index)))] if _holds(weighs, objective) else [])
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
    """`batch`, `scores`, `state` and `at_state` change neither θ, the model nor any global state."""
    objective, rng = subject.make(), draw.rng(78)
    theta = subject.theta(objective.layout, draw)
    np.random.seed(draw.seed % 2**32)  # noqa: NPY002 - a state that no objective sets by chance
    calls: dict[str, Callable[[], object]] = {}
    if _holds(samples, objective):
        index = drawn(objective, rng)
        calls["batch()"] = lambda: objective.batch(index)  # type: ignore[attr-defined]
    if _holds(scores, objective):
        calls["scores()"] = lambda: objective.scores(theta)  # type: ignore[attr-defined]
        calls["labels"] = lambda: objective.labels  # type: ignore[attr-defined]
    if _holds(moves, objective):
        calls["at_state()"] = lambda: at_state(objective, state_of(objective)).loss(theta)
    objective.loss_and_grad(theta)
    for call in calls.values():
        call()
    numbers, loss, before = as_numpy(theta), objective.loss(theta), visible(subject)
    for name, make in calls.items():
        make()
        require_nothing_else_changed(subject, before, f"after {name}")
        require(np.array_equal(as_numpy(theta), numbers), f"θ has changed after {name}; copy it first.")
        again, tolerance = objective.loss(theta), tolerances.repeat(loss, eps_of(subject.widest))
        require_close(again, loss, tolerance, f"the loss of the whole data, after {name}")


def _holds(member: Callable[[Objective], bool], objective: Objective) -> bool:
    with suppress(*REFUSALS):
        return member(objective)
    return False


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
    if _holds(whole_can_be_sampled, objective):
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


def classes_add_up_to_the_loss(subject: ObjectiveSubject, draw: Draw) -> None:
    """The terms of `by_class()` add up to the loss and its gradient, also on batches without some class."""
    objective = subject.make()
    theta, parts = subject.theta(objective.layout, draw), _by_class(objective)
    require(isinstance(parts, Sum), f"by_class() returned a {type(parts).__name__}, expected a lca.Sum.")
    for place, batch in [("the whole data", None), subject.pick(draw)]:
        try:
            found, found_grad = evaluated(parts, theta, batch)
        except REFUSALS:  # terms that hold their own examples need take no batches
            continue
        loss, grad = evaluated(objective, theta, batch)
        usual_loss, usual_grad = typical(subject, objective, draw, batch)
        tolerance = tolerances.rebatched(max(abs(loss), usual_loss), eps_of(subject.widest))
        require_close(found, loss, tolerance, f"the sum of the classes on {place}")
        size = max(float(np.abs(grad).max()), usual_grad)
        tolerance, what = tolerances.rebatched(size, eps_of(subject.widest)), f"the classes on {place}"
        require_gradient(objective.layout, found_grad, grad, tolerance, f"the gradient of {what}")
        alone = parts.loss(theta, *on(batch))
        require_close(alone, found, tolerances.repeat(usual_loss, eps_of(subject.widest)), f"loss of {what}")


def _by_class(objective: Objective) -> Sum:
    found: Sum = objective.by_class()  # type: ignore[attr-defined]
    return found


def _has_classes(objective: Objective) -> bool:
    return callable(getattr(objective, "by_class", None)) and _by_class(objective) is not None


def _members(objective: Objective) -> bool:
    return any(_holds(member, objective) for member in (samples, scores, moves))


def _moves_with_batches(subject: ObjectiveSubject) -> bool:
    return offers(moves)(subject) and (bool(subject.batches) or offers(whole_can_be_sampled)(subject))


MEMBER_CALLS = [
    Check(law.__name__, law, lambda subject, cases=cases: cases, applies)  # type: ignore[misc]
    for law, cases, applies in (
        (batches_belong_to_their_examples, draws, offers(samples)),
        (samples_are_like_theta, usual_draws, offers(samples)),
        (members_change_nothing, draws, offers(_members)),
        (scores_depend_on_theta_alone, draws, offers(scores)),
        (batches_are_in_the_state, draws, _moves_with_batches),
        (classes_add_up_to_the_loss, draws, offers(_has_classes)),
    )
]
