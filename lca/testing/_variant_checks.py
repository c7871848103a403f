"""The laws of variants of an objective: its states, selected gradients, classes, and variants of these."""

from collections.abc import Iterator

import numpy as np

from lca import tolerances
from lca.layout import Layout
from lca.objective import (
    Objective,
    Scaled,
    State,
    Sum,
    at_state,
    differentiated_by,
    differentiating,
    state_of,
)
from lca.testing._laws import require, require_close
from lca.testing._member_checks import REFUSALS, holds, moved_state, moves, offers, selects
from lca.testing._objective_laws import eps_of, evaluated, require_gradient, typical
from lca.testing._objective_subject import Draw, ObjectiveSubject, draws, on
from lca.testing._report import Check

Array = np.ndarray


def variants_keep_what_they_are(subject: ObjectiveSubject, draw: Draw) -> None:
    """A state is kept when tensors are asked for, and tensors in another state; what is asked last counts."""
    objective, rng = subject.make(), draw.rng(86)
    layout = objective.layout
    names, others = _some(layout, rng), _some(layout, rng)
    state = state_of(objective)
    last = None if state is None else moved_state(state)
    theta, fresh = subject.theta(layout, draw), at_state(objective, last)
    whole = differentiating(fresh, layout.names)
    places = [("the whole data", None), subject.pick(draw)]
    expected = [(fresh.loss(theta, *on(batch)), evaluated(whole, theta, batch)[1]) for _, batch in places]
    for how, variant in _ways(objective, last, names, others):
        told, what = differentiated_by(variant), f"{sorted(names)} were asked for by {how}"
        selected = holds(selects, variant) and not isinstance(variant, Sum | Scaled)
        require(not selected or told == names, f"{what}, but differentiated is {sorted(told)}.")
        for (place, batch), (loss, gradient) in zip(places, expected, strict=True):
            found, grad = evaluated(variant, theta, batch)
            usual_loss, usual_grad = typical(subject, objective, draw, batch)
            tolerance = tolerances.rebatched(max(abs(loss), usual_loss), eps_of(subject.widest))
            require_close(found, loss, tolerance, f"the loss on {place}, where {what}")
            size = max(float(np.abs(gradient).max()), usual_grad)
            right = _only(layout, gradient, names)
            grad = grad if selected else _only(layout, grad, names)
            tolerance = tolerances.rebatched(size, eps_of(subject.widest))
            require_gradient(layout, grad, right, tolerance, f"the gradient on {place}, where {what}")


def _some(layout: Layout, rng: np.random.Generator) -> frozenset[str]:
    return frozenset(name for name in layout.names if rng.integers(2)) or frozenset(layout.names[-1:])


def _ways(
    objective: Objective, state: State | None, names: frozenset[str], others: frozenset[str]
) -> Iterator[tuple[str, Objective]]:
    """Variants in ``state`` with the gradients of ``names``, by all orders of calls that they offer."""
    moved = at_state(objective, state)
    yield "at_state() and then differentiating()", differentiating(moved, names)
    yield "differentiating() twice", differentiating(differentiating(moved, others), names)
    first = differentiating(objective, names)
    if holds(moves, first):  # a variant may be a function of θ alone
        yield "differentiating() and then at_state()", at_state(first, state)
    if state is not None and holds(moves, differentiating(at_state(objective, moved_state(state)), names)):
        twice = at_state(differentiating(at_state(objective, moved_state(state)), names), state)
        yield "at_state() twice, before and after differentiating()", twice


def classes_add_up_to_the_loss(subject: ObjectiveSubject, draw: Draw) -> None:
    """The terms of `by_class()` add up to the loss and its gradient, on batches and in variants as well."""
    objective = subject.make()
    parts = by_class(objective)
    require(isinstance(parts, Sum), f"by_class() returned a {type(parts).__name__}, expected a lca.Sum.")
    every = frozenset(objective.layout.names)
    pairs: dict[str, tuple[Objective, Objective, frozenset[str]]] = {"the classes": (parts, objective, every)}
    if holds(selects, parts):
        names = _some(objective.layout, draw.rng(87))
        selected = differentiating(parts, names), differentiating(objective, names)
        pairs[f"the classes, asked for {sorted(names)},"] = *selected, names
    state = state_of(objective)
    if state is not None:
        moved = at_state(objective, moved_state(state))
        if holds(moves, parts):
            pairs["the classes in another state"] = at_state(parts, moved_state(state)), moved, every
        if holds(has_classes, moved):
            pairs["the classes of an objective in another state"] = by_class(moved), moved, every
    for what, (one, other, named) in pairs.items():
        _require_sum(subject, draw, what, one, other, names=named)


def _require_sum(
    subject: ObjectiveSubject,
    draw: Draw,
    name: str,
    parts: Objective,
    objective: Objective,
    *,
    names: frozenset[str],
) -> None:
    """Require that loss, and gradient of these tensors, are those of the parts together."""
    layout, eps = objective.layout, eps_of(subject.widest)
    theta = subject.theta(layout, draw)
    for place, batch in [("the whole data", None), subject.pick(draw)]:
        try:
            found, found_grad = evaluated(parts, theta, batch)
        except REFUSALS:  # terms that hold their own examples need take no batches
            continue
        loss, grad = evaluated(objective, theta, batch)
        usual_loss, usual_grad = typical(subject, objective, draw, batch)
        what = f"{name} on {place}"
        tolerance = tolerances.rebatched(max(abs(loss), usual_loss), eps)
        require_close(found, loss, tolerance, f"the sum of {what}")
        tolerance = tolerances.rebatched(max(float(np.abs(grad).max()), usual_grad), eps)
        found_grad, grad = (_only(layout, each, names) for each in (found_grad, grad))
        require_gradient(layout, found_grad, grad, tolerance, f"the gradient of {what}")
        alone = parts.loss(theta, *on(batch))
        require_close(alone, found, tolerances.repeat(usual_loss, eps), f"loss of {what}")


def _only(layout: Layout, gradient: Array, names: frozenset[str]) -> Array:
    """The gradient of these tensors; others may be computed or not."""
    kept = gradient.copy()
    for name, part in layout.unflatten(kept).items():
        part[...] *= name in names
    return kept


def by_class(objective: Objective) -> Sum:
    found: Sum = objective.by_class()  # type: ignore[attr-defined]
    return found


def has_classes(objective: Objective) -> bool:
    return callable(getattr(objective, "by_class", None)) and by_class(objective) is not None


def _has_variants(objective: Objective) -> bool:
    return holds(moves, objective) or holds(selects, objective)


VARIANT_CHECKS = [
    Check(law.__name__, law, lambda subject: draws, offers(use))
    for law, use in (
        (variants_keep_what_they_are, _has_variants),
        (classes_add_up_to_the_loss, has_classes),
    )
]
