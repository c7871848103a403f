"""The laws of the optional members of an objective: samples, scores, state, and selected gradients."""

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from lca import tolerances
from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.layout import Layout
from lca.objective import (
    Batch,
    Objective,
    Sampled,
    Scaled,
    Scored,
    Selective,
    State,
    Stateful,
    Sum,
    at_state,
    differentiated_by,
    differentiating,
    leaves,
    state_of,
)
from lca.testing._gradient_checks import require_slope
from lca.testing._laws import require, require_close
from lca.testing._objective_laws import eps_of, evaluated, require_gradient, typical
from lca.testing._objective_subject import Draw, ObjectiveSubject, as_numpy, draws
from lca.testing._report import Check

Array = np.ndarray
Index = NDArray[np.intp]
REFUSALS = (LCAError, NotImplementedError)
"""How an objective says that it does not offer what its class has."""
FEW = 6
"""Examples in a sample."""
LONG, RARE = 300, 16
"""Some samples are long: in the first case, whose seed is 0, and in one of this many others."""
MANY, ENOUGH = 24, 12
"""Examples whose scores are compared with their gradients: how many, and how many are too few to tell."""
REVERSED = -0.9
"""Scores are in the reverse order of the losses if their rank correlation is smaller."""


def offers(use: Callable[[Objective], object]) -> Callable[[ObjectiveSubject], bool]:
    """Whether ``use(objective)`` returns something true and is not refused by the objective."""

    def applies(subject: ObjectiveSubject) -> bool:
        try:
            return bool(use(subject.example))
        except REFUSALS:
            return False

    return applies


def samples(objective: Objective) -> bool:
    return isinstance(objective, Sampled) and objective.batch(np.zeros(1, int)) is not None


def weighs(objective: Objective) -> bool:
    if not isinstance(objective, Sampled):
        return False
    return objective.batch(np.zeros(2, int), np.ones(2)) is not None and objective.n_examples > 0


def scores(objective: Objective) -> bool:
    return isinstance(objective, Scored) and len(np.shape(objective.n_examples)) == 0


def moves(objective: Objective) -> bool:
    return any(isinstance(leaf, Stateful) for leaf in leaves(objective)) and state_of(objective) is not None


def selects(objective: Objective) -> bool:
    return any(isinstance(leaf, Selective) for leaf in leaves(objective))


def holds(member: Callable[[Objective], bool], objective: Objective) -> bool:
    """Whether an objective has a member, and does not refuse it."""
    with suppress(*REFUSALS):
        return member(objective)
    return False


# --- samples ---------------------------------------------------------------------------------------------


def samples_are_means_of_their_examples(subject: ObjectiveSubject, draw: Draw) -> None:
    """The loss of `batch(index)` is the plain mean over these examples, repeats included."""
    objective, rng = subject.make(), draw.rng(70)
    index = _any_length(objective, draw, rng)
    _require_mean(subject, objective, draw, index, None)


def weighted_samples_are_weighted_means(subject: ObjectiveSubject, draw: Draw) -> None:
    """The loss of `batch(index, weight)` is ``Σ v ℓ / Σ v``; the weights of the data do not count in it."""
    objective, rng = subject.make(), draw.rng(71)
    index = _any_length(objective, draw, rng)
    # Exact in float32: a framework may convert weights to the dtype of its losses. Not in float16.
    weight = rng.integers(2**12, 2**16, len(index)) / 2.0 ** rng.integers(6, 22, len(index))
    weight[1 : 1 + len(weight) // 4] = 0.0
    _require_mean(subject, objective, draw, index, weight)


def drawn(objective: Objective, rng: np.random.Generator) -> Index:
    """Random examples in no order, one of them twice; some samples are longer than a small data set."""
    count: int = objective.n_examples  # type: ignore[attr-defined]
    size = count + 1 if count < MANY and not rng.integers(4) else FEW
    index = rng.integers(count, size=size)
    index[-1] = index[0]
    return index


def _any_length(objective: Objective, draw: Draw, rng: np.random.Generator) -> Index:
    """A sample as `drawn`; in a few cases a long one, of few examples."""
    index = drawn(objective, rng)
    return rng.choice(index[:FEW], LONG) if draw.seed % RARE == 0 else index


def listed(index: Index) -> str:
    """The examples of a sample, of which a long one has but few."""
    few = f"{len(index)} examples with repeats, of {np.unique(index).tolist()}"
    return f"the examples {index.tolist()}" if len(index) < LONG else few


def _require_mean(
    subject: ObjectiveSubject, objective: Objective, draw: Draw, index: Index, weight: Array | None
) -> None:
    theta = subject.theta(objective.layout, draw)
    given = (index,) if weight is None else (index, weight)
    alone = {i: _example(objective, theta, i) for i in set(index.tolist())}
    weights = np.ones(len(index)) if weight is None else weight
    sample = objective.batch(*given)  # type: ignore[attr-defined]
    loss, grad = evaluated(objective, theta, sample)
    what = f"the {'' if weight is None else 'weighted '}sample of {listed(index)}"
    weighted = [(v, alone[i]) for v, i in zip(weights, index.tolist(), strict=True)]
    _compare(subject, objective, draw, what, found=(loss, grad), parts=weighted)
    found = objective.loss(theta, sample), grad
    _compare(subject, objective, draw, f"{what} without its gradient", found=found, parts=weighted)


def _example(objective: Objective, theta: Vector, i: int) -> tuple[float, Array]:
    return evaluated(objective, theta, objective.batch(np.array([i])))  # type: ignore[attr-defined]


def _compare(
    subject: ObjectiveSubject,
    objective: Objective,
    draw: Draw,
    what: str,
    *,
    found: tuple[float, Array],
    parts: list[tuple[float, tuple[float, Array]]],
) -> None:
    """Require that loss and gradient are the weighted means of the parts."""
    eps, total = eps_of(subject.widest), sum(weight for weight, _ in parts)
    usual_loss, usual_grad = typical(subject, objective, draw)
    mean = sum(weight * loss for weight, (loss, _) in parts) / total
    size = sum(weight * abs(loss) for weight, (loss, _) in parts) / total
    expected = f"{what}, against the mean of its parts"
    require_close(found[0], mean, tolerances.rebatched(max(size, usual_loss), eps), f"the loss of {expected}")
    mean_grad = np.sum([weight * grad for weight, (_, grad) in parts], axis=0) / total
    size = sum(weight * float(np.abs(grad).max()) for weight, (_, grad) in parts) / total
    tolerance = tolerances.rebatched(max(size, usual_grad), eps)
    require_gradient(objective.layout, found[1], mean_grad, tolerance, f"the gradient of {expected}")


def whole_is_the_mean_of_its_examples(subject: ObjectiveSubject, draw: Draw) -> None:
    """The whole data is the mean over examples 0 ... N - 1 with their weights, however they are divided."""
    objective = subject.make()
    count, weight = objective.n_examples, objective.weight  # type: ignore[attr-defined]
    require(isinstance(count, int | np.integer) and bool(count > 0), f"n_examples is {count!r}.")
    if weight is not None:
        weight = np.asarray(weight)
        require(weight.shape == (count,), f"weight has shape {weight.shape}, expected ({count},).")
        require(bool((weight >= 0).all() and weight.sum() > 0), "the weights are negative, or all 0.")
    theta = subject.theta(objective.layout, draw)
    parts = [(v, evaluated(objective, theta, block)) for v, block in divided(objective, draw.rng(72))]
    whole = evaluated(objective, theta, None)
    what = f"the whole data of {count} examples"
    _compare(subject, objective, draw, what, found=whole, parts=parts)


def divided(objective: Any, rng: np.random.Generator) -> Iterator[tuple[float, Batch]]:
    """Up to four samples that together hold every example once, with the weight of each."""
    count, weight = objective.n_examples, objective.weight
    for block in np.array_split(rng.permutation(count), min(4, count)):
        if weight is None:
            yield float(len(block)), objective.batch(block)
        elif (own := np.asarray(weight)[block]).sum() > 0:
            yield float(own.sum()), objective.batch(block, own)


def whole_can_be_sampled(objective: Objective) -> bool:
    return samples(objective) and (objective.weight is None or weighs(objective))  # type: ignore[attr-defined]


# --- scores ----------------------------------------------------------------------------------------------


def scores_belong_to_their_examples(subject: ObjectiveSubject, draw: Draw) -> None:
    """Scores are numbers ≥ 0, one for each example and in their order, larger where gradients are larger."""
    objective, rng = subject.make(), draw.rng(73)
    theta = subject.theta(objective.layout, draw)
    count: int = objective.n_examples  # type: ignore[attr-defined]
    labels = objective.labels  # type: ignore[attr-defined]
    if labels is not None:
        labels = np.asarray(labels)
        integers = labels.dtype.kind in "iu" and labels.shape == (count,)
        require(integers, f"labels are {labels.dtype} {labels.shape}, expected integers ({count},) or None.")
    found = _checked_scores(objective, theta, None, count)
    index = drawn(objective, rng)
    of_batch = _checked_scores(objective, theta, objective.batch(index), len(index))  # type: ignore[attr-defined]
    tolerance = tolerances.rebatched(max(1.0, float(found.max())), eps_of(subject.widest))
    what = f"the scores of the examples {index.tolist()}, against those of all"
    require_close(of_batch, found[index], tolerance, what, "example")
    some = rng.choice(count, size=min(MANY, count), replace=False)
    losses, grads = zip(*(_example(objective, theta, int(i)) for i in some), strict=True)
    norms = np.linalg.norm(grads, axis=1)
    if len(some) >= ENOUGH and min(np.std(losses), norms.std(), found[some].std()) > 0:
        with_losses, with_norms = (float(spearmanr(each, found[some])[0]) for each in (losses, norms))
        # Right scores may be unlike the gradients of a few examples, but not in the reverse order of losses.
        opposite = (
            f"scores are small where losses and gradients are large (rank correlations {with_losses:.2f} "
            f"and {with_norms:.2f}); are they p instead of 1 - p?"
        )
        require(with_losses > REVERSED or with_norms > 0, opposite)


def _checked_scores(objective: Objective, theta: Vector, batch: Batch | None, count: int) -> Array:
    given = () if batch is None else (batch,)
    found = np.asarray(objective.scores(theta, *given))  # type: ignore[attr-defined]
    what = "scores of the whole data" if batch is None else "scores of a batch"
    require(found.shape == (count,), f"{what} have shape {found.shape}, expected ({count},).")
    require(found.dtype.kind == "f", f"{what} are {found.dtype}, not floating-point numbers.")
    require(bool(np.isfinite(found).all() and (found >= 0).all()), f"{what} are negative or not finite.")
    return found


# --- state and selection ---------------------------------------------------------------------------------


def state_is_copied_and_used(subject: ObjectiveSubject, draw: Draw) -> None:
    """`state` is a copy; `at_state` gives the loss in another state and leaves the objective as it is."""
    objective = subject.make()
    layout, eps = objective.layout, eps_of(subject.widest)
    points = [subject.theta(layout, draw, stream) for stream in range(3)]
    losses = [objective.loss(theta) for theta in points]
    tolerance = tolerances.repeat(max(map(abs, losses)), eps)
    state = state_of(objective)
    assert state is not None
    same = [at_state(objective, state).loss(theta) for theta in points]
    require_close(same, losses, tolerance, "the losses in the objective's own state, against its losses")
    moved = moved_state(state)
    other = at_state(objective, moved)
    found = [other.loss(theta) for theta in points]
    if any(moved[name] is not state[name] for name in moved):
        used = max(abs(a - b) for a, b in zip(found, losses, strict=True)) > tolerance
        require(used, f"the loss is the same in another state of {', '.join(moved)}; is it used?")
    told = state_of(other) if holds(moves, other) else moved
    for name in moved:
        kept = (
            told is not None and name in told and np.array_equal(_numbers(told[name]), _numbers(moved[name]))
        )
        require(kept, f"{name} of the state in at_state() is not that of the state() that it was given.")
    loss, _ = evaluated(other, points[0], None)
    require_close(
        loss, found[0], tolerances.repeat(loss, eps), "loss_and_grad in another state, against loss"
    )
    direction = random_direction(draw, layout, differentiated_by(other))
    require_slope(subject, other, as_numpy(points[0]), direction, "in another state")
    for name, value in state.items():
        _overwrite(value)
        after = [objective.loss(theta) for theta in points]
        what = f"the losses, after at_state() and after {name} of the returned state was overwritten"
        require_close(after, losses, tolerance, f"{what}; return a copy")


def states_do_not_depend_on_each_other(subject: ObjectiveSubject, draw: Draw) -> None:
    """Objectives in two states give their own losses and gradients in turn, and change none of each other."""
    objective = subject.make()
    state = state_of(objective)
    assert state is not None
    eps, theta = eps_of(subject.widest), subject.theta(objective.layout, draw)
    kinds: dict[str, Callable[[Objective], Objective]] = {
        "its own state": lambda one: at_state(one, state_of(one)),
        "another state": lambda one: at_state(one, moved_state(state_of(one) or {})),
        "a third state": lambda one: at_state(one, moved_state(moved_state(state_of(one) or {}))),
    }
    alone = {name: evaluated(make(subject.make()), theta, None) for name, make in kinds.items()}
    alone["no state given"] = evaluated(subject.make(), theta, None)
    together = {name: make(objective) for name, make in kinds.items()} | {"no state given": objective}
    for name in [*draw.rng(100).permutation(list(together)), *together]:
        loss, grad = evaluated(together[name], theta, None)
        what = f"with {name}, while objectives in other states exist"
        require_close(loss, alone[name][0], tolerances.repeat(alone[name][0], eps), f"the loss {what}")
        tolerance = tolerances.repeat(float(np.abs(alone[name][1]).max()), eps)
        require_gradient(objective.layout, grad, alone[name][1], tolerance, f"the gradient {what}")


def random_direction(draw: Draw, layout: Layout, names: Collection[str]) -> Array:
    """A direction (K,) that moves the tensors ``names`` only."""
    direction: Array = draw.rng(74).normal(size=layout.size) / np.sqrt(layout.size)
    for name, part in layout.unflatten(direction).items():
        part[...] *= name in names
    return direction


def _is_floating(value: object) -> bool:
    return "float" in str(getattr(value, "dtype", ""))


def moved_state(state: State) -> dict[str, Vector]:
    """Another state, in which every floating-point number is a little larger, and has many digits."""
    return {name: _moved(value) for name, value in state.items()}


def _moved(value: Vector) -> Vector:
    """The same array with every number a little larger; other entries of a state are kept."""
    return value * 1.0625 + 1 / 15 if _is_floating(value) else value


def _numbers(value: Vector) -> Array:
    return as_numpy(value) if hasattr(value, "shape") else np.asarray(value)


def _overwrite(value: Vector) -> None:
    """Change an array in place where its type allows that."""
    if _is_floating(value) or "int" in str(getattr(value, "dtype", "")):
        try:
            value[...] = value + 1
        except (TypeError, ValueError, AttributeError, NotImplementedError):
            return


def asked_tensors_are_differentiated(subject: ObjectiveSubject, draw: Draw) -> None:
    """`differentiating(names)` is the same loss with the gradient of these tensors, and of no others."""
    objective, rng = subject.make(), draw.rng(75)
    layout = objective.layout
    names = [name for name in layout.names if rng.integers(2)] or [layout.names[-1]]
    numbers: Array = subject.numbers(layout, draw).astype(subject.widest)
    loss, before = evaluated(objective, subject.vector(numbers), None)
    other = differentiating(objective, names)
    after = evaluated(objective, subject.vector(numbers), None)[1]
    tolerance = tolerances.repeat(float(np.abs(before).max()), eps_of(subject.widest))
    what = f"the gradient of the objective itself, after differentiating({names})"
    require_gradient(layout, after, before, tolerance, what)
    tolerance = tolerances.repeat(loss, eps_of(subject.widest))
    require_close(other.loss(subject.vector(numbers)), loss, tolerance, f"the loss, differentiating {names}")
    direction = random_direction(draw, layout, names)
    require_slope(subject, other, numbers, direction, f"along {', '.join(names)}, which were asked for")
    place, batch = subject.pick(draw)
    where = f"on {place}, along {', '.join(names)}, which were asked for"
    require_slope(subject, other, numbers, direction, where, batch=batch)
    named = differentiated_by(other)
    require(named == set(names), f"after differentiating({names}), differentiated is {sorted(named)}.")
    if not isinstance(other, Sum | Scaled):  # terms that are not selective compute all gradients
        for where, given in (("the whole data", None), (place, batch)):
            gradient = evaluated(other, subject.vector(numbers), given)[1]
            for name, part in layout.unflatten(gradient).items():
                zero = name in names or not part.any()
                require(zero, f"{name} was not asked for, and has a gradient ≠ 0 on {where}.")
        _require_own_zeros(subject, other, names, numbers)


def _require_own_zeros(subject: ObjectiveSubject, other: Objective, names: list[str], numbers: Array) -> None:
    """The zeros of tensors that were not asked for are new in every gradient: the caller owns them too."""
    with suppress(*REFUSALS):
        for asked in (names, []):
            selected = differentiating(other, asked)
            ops, grad = array_ops(subject.vector(numbers)), selected.loss_and_grad(subject.vector(numbers))[1]
            before = as_numpy(grad)
            ops.add_scaled(grad, 1.0, subject.vector(np.ones_like(numbers)))
            again = as_numpy(selected.loss_and_grad(subject.vector(numbers))[1])
            zero = (before == 0) & (again != 0)
            asked_for = ", ".join(asked) or "no tensor"
            require(
                not zero.any(),
                f"asked for {asked_for}: zeros of the gradient changed with one that was overwritten; make "
                "new ones for each call.",
            )


MEMBER_CHECKS = [
    Check(law.__name__, law, lambda subject: draws, offers(use))
    for law, use in (
        (samples_are_means_of_their_examples, samples),
        (weighted_samples_are_weighted_means, weighs),
        (whole_is_the_mean_of_its_examples, whole_can_be_sampled),
        (scores_belong_to_their_examples, scores),
        (state_is_copied_and_used, moves),
        (states_do_not_depend_on_each_other, moves),
        (asked_tensors_are_differentiated, selects),
    )
]
