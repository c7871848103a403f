"""Incorrect estimators: correct ones with one defect each; the table names the check that detects it."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from lca import Adaptive, Cost, PathIntegral, StepAllocation, gauss_legendre
from tests.meta.animals import Altered, Passing, Through, Unchecked, Wrong, left, with_values


def _rule(nodes, weights, degree):
    return PathIntegral(Unchecked("wrong", nodes, weights, degree))


# --- values of the wrong parameter ----------------------------------------------------------------------


def _equal_tensors_swapped(a, step, objective):
    """The first two tensors of the same shape have their values exchanged."""
    tensors = objective.layout.unflatten(a.values.copy())
    by_shape: dict[Any, str] = {}
    for name, tensor in tensors.items():
        if tensor.shape in by_shape:
            other = by_shape[tensor.shape]
            tensors[name], tensors[other] = tensors[other], tensors[name]
            break
        by_shape[tensor.shape] = name
    return with_values(a, objective.layout.flatten(tensors))


def _neighbours_swapped(a, step, objective):
    return with_values(a, a.values[[1, 0, *range(2, len(a.values))]])


def _last_layer_flipped(a, step, objective):
    tensors = objective.layout.unflatten(a.values.copy())
    tensors[objective.layout.names[-1]] *= -1
    return with_values(a, objective.layout.flatten(tensors))


def _last_row_lost(a, step, objective):
    return with_values(a, np.append(a.values[:-1], a.values.dtype.type(0)))


def _helping_is_positive(a, step, objective):
    return with_values(a, -a.values)


def _biased(a, step, objective):
    return with_values(a, (1.001 * a.values).astype(a.values.dtype))


# --- made to add up -------------------------------------------------------------------------------------


def _shared_by(share):
    """The exact loss change, split in proportion to the movement and without any gradient."""

    def change(a, step, objective):
        weights = share(step.end - step.start)
        values = a.loss_change * weights / max(weights.sum(), 1e-300)
        return with_values(a, values.astype(a.values.dtype))

    return change


def _residual_to_all(a, step, objective):
    return with_values(a, (a.values + a.residual / len(a.values)).astype(a.values.dtype))


def _residual_to_the_moved(a, step, objective):
    moved = np.abs(step.end - step.start)
    values = a.values + a.residual * moved / max(moved.sum(), 1e-300)
    return with_values(a, values.astype(a.values.dtype))


def _residual_to_the_first(a, step, objective):
    values = a.values.copy()
    values[0] += a.residual
    return with_values(a, values)


def _rescaled(a, step, objective):
    """All values multiplied by the factor that makes them add up, unless their sum is too small."""
    total = float(a.values.sum(dtype=np.float64))
    factor = a.loss_change / total if abs(total) > 0.1 * a.mass else 1.0
    terms = {name: _times(term, factor) for name, term in a.terms.items()}
    return replace(_times(a, factor), terms=terms)


def _times(a, factor):
    return with_values(a, (a.values * factor).astype(a.values.dtype))


def _residual_as_state(a, step, objective):
    return replace(a, residual=0.0, state_change=a.residual)


def _terms_by_head_count(a, step, objective):
    """Every term of a sum gets the same fraction of the total."""
    n = len(a.terms)
    equal = replace(
        a,
        values=a.values / max(n, 1),
        loss_start=a.loss_start / max(n, 1),
        loss_end=a.loss_end / max(n, 1),
        residual=a.residual / max(n, 1),
        terms={},
    )
    return replace(a, terms=dict.fromkeys(a.terms, equal))


# --- arithmetic -----------------------------------------------------------------------------------------


def _float32_residual(a, step, objective):
    change = np.float32(a.loss_end) - np.float32(a.loss_start)
    return replace(a, residual=float(change - a.values.astype(np.float32).sum()))


def _offset_against_zero(a, step, objective):
    """As if 1e-8 had been added to every movement, to avoid a later division by 0."""
    return with_values(a, a.values + objective.loss_and_grad(step.start)[1] * a.values.dtype.type(1e-8))


def _always_float64(a, step, objective):
    return replace(a, values=a.values.astype(np.float64))


def _random_part(a, step, objective):
    noise = 1 + 1e-6 * np.random.default_rng().normal(size=a.values.shape)
    return with_values(a, (a.values * noise).astype(a.values.dtype))


def _walks_in_place(a, step, objective):
    """Moves the model along the step and back, which does not restore it exactly."""
    delta = step.end - step.start
    step.start[...] += delta / 3
    step.start[...] -= delta / 3
    return a


class Float32(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta.astype(np.float32), batch)
        return loss, grad.astype(theta.dtype)


class Float16(Passing):
    """Autocast: half precision with float32 parameters."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        if theta.dtype == np.float32:
            with np.errstate(over="ignore"):
                grad = grad.astype(np.float16).astype(np.float32)
        return loss, grad


class NanToZero(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, np.nan_to_num(grad)


class Clipped(Passing):
    """The gradient clipping of the training loop is also applied while measuring."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad / max(1.0, float(np.linalg.norm(grad)))


class WeightDecay(Passing):
    """The measured gradient includes the weight decay of the optimizer."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad + theta.dtype.type(1e-3) * theta


# --- state between steps --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Remembering:
    """A correct estimator, and a function that changes its allocations with the help of ``memory``."""

    change: Any
    inner: Any = PathIntegral()
    target: ClassVar[str] = "full"
    degree: ClassVar[int] = PathIntegral().degree
    cost: ClassVar[Cost] = PathIntegral().cost

    def start(self, objective):
        allocate_step = self.inner.start(objective)
        memory: dict[str, Any] = {}
        return lambda step: self.change(allocate_step(step), step, memory)


def _change_one_step_off(a, step, memory):
    shifted = replace(a, loss_start=memory.get("loss", a.loss_start))
    memory["loss"] = a.loss_start
    return replace(shifted, residual=left(shifted, a.values))


def _smoothed(a, step, memory):
    values = 0.9 * a.values + 0.1 * memory.get("values", a.values)
    memory["values"] = a.values
    return with_values(a, values.astype(a.values.dtype))


def _error_feedback(a, step, memory):
    """The residual of the last step is added to the values of this one."""
    share = a.values / max(float(np.abs(a.values).sum()), 1e-300)
    values = a.values + memory.get("residual", 0.0) * share
    memory["residual"] = a.residual
    return with_values(a, values.astype(a.values.dtype))


def _one_buffer_for_all_steps(a, step, memory):
    buffer = memory.setdefault("values", np.empty_like(a.values))
    buffer[...] = a.values
    return replace(a, values=buffer)


def _own_count_of_steps(a, step, memory):
    memory["count"] = memory.get("count", -1) + 1
    return replace(a, step=memory["count"])


@dataclass(frozen=True, eq=False)
class Reusing:
    """A trapezoid rule; ``same(last end, start)`` decides whether the last gradient is reused."""

    same: Any
    memory: Any = dict
    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 1
    cost: ClassVar[Cost] = Cost(full_gradients=1)

    def start(self, objective):
        last = self.memory()

        def allocate_step(step):
            reused = bool(last) and self.same(last["theta"], step.start)
            before = last["node"] if reused else objective.loss_and_grad(step.start)
            after = objective.loss_and_grad(step.end)
            last.update(theta=step.end, node=after)
            delta, weighted = step.end - step.start, 0.5 * (before[1] + after[1])
            values = weighted * delta
            mass = 0.5 * float((np.abs(before[1] * delta) + np.abs(after[1] * delta)).sum())
            a = StepAllocation(values, before[0], after[0], 0.0, mass, step.index)
            return replace(a, residual=left(a, values), cost=Cost(full_gradients=2 - reused))

        return allocate_step


@dataclass(frozen=True)
class StartsAtTheLastEnd:
    """Assumes that the array at which the last step ended still has the same numbers."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 3
    cost: ClassVar[Cost] = PathIntegral().cost

    def start(self, objective):
        allocate_step = PathIntegral().start(objective)
        ends = []

        def from_the_last_end(step):
            ends.append(step.end)
            return allocate_step(replace(step, start=ends[-2] if len(ends) > 1 else step.start))

        return from_the_last_end


def _never(last, start):
    return False


def _without_looking(last, start):
    return True


def _same_object(last, start):
    return last is start


@dataclass(frozen=True, eq=False)
class CachedByTheta:
    """Gradients are cached with θ as the only key, for example by `functools.cache` on a method."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 3
    cost: ClassVar[Cost] = Cost(full_gradients=2)

    def start(self, objective):
        return PathIntegral().start(_Cached(objective))


class _Cached(Passing):
    answers: ClassVar[dict[bytes, Any]] = {}

    def loss_and_grad(self, theta, batch=None):
        key = theta.tobytes()
        if key not in self.answers:
            self.answers[key] = super().loss_and_grad(theta, batch)
        return self.answers[key]


# --- declarations ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Declaring:
    """A correct estimator with an incorrect declaration."""

    inner: Any
    degree: int
    cost: Cost
    target: ClassVar[str] = "full"

    def start(self, objective):
        return self.inner.start(objective)


@dataclass(frozen=True)
class CheapWhenShort:
    """Short steps use the gradient at their start only."""

    target: ClassVar[str] = "full"
    degree: ClassVar[int] = 3
    cost: ClassVar[Cost] = PathIntegral().cost

    def start(self, objective):
        long, short = PathIntegral().start(objective), _rule((0.0,), (1.0,), 3).start(objective)
        return lambda step: (short if np.abs(step.end - step.start).max() < 0.2 else long)(step)


def _cost_of_a_later_step(a, step, objective):
    return replace(a, cost=PathIntegral().cost)


def _converged(a, step, objective):
    return replace(a, converged=True)


def _no_residual(a, step, objective):
    return replace(a, residual=0.0)


def _mass_of_the_total(a, step, objective):
    return replace(a, mass=abs(float(a.values.sum())))


def _mass_padded(a, step, objective):
    return replace(a, mass=1e12 * (1 + a.mass))


WRONG_ESTIMATORS: dict[str, Wrong] = {
    # the integral
    "start gradient only": Wrong(
        "three public LCA re-implementations: first order, shown as the integral",
        "exact_up_to_declared_degree",
        lambda: _rule((0.0,), (1.0,), 1),
    ),
    "end gradient only": Wrong(
        "public LCA re-implementation: gradient taken after the update, used as if before",
        "reversal_changes_the_sign",
        lambda: _rule((1.0,), (1.0,), 1),
    ),
    "trapezoid of n-1 panels over n": Wrong(
        "captum approximation_methods.py: trapezoid weights that do not sum to one",
        "exact_up_to_declared_degree",
        lambda: _rule((0, 0.25, 0.5, 0.75, 1), (0.1, 0.2, 0.2, 0.2, 0.1), 1),
    ),
    "composite node overwritten": Wrong(
        "the shared node of two Simpson panels set instead of added: 1 4 1 4 1",
        "additive_along_the_path",
        lambda: _rule((0, 0.25, 0.5, 0.75, 1), tuple(w / 12 for w in (1, 4, 1, 4, 1)), 3),
    ),
    "bias of 1 in 1,000": Wrong(
        "a constant copied with three digits", "exact_up_to_declared_degree", lambda: Altered(_biased)
    ),
    "cheap when short": Wrong(
        "small steps skipped to save gradients",
        "error_falls_at_declared_order",
        CheapWhenShort,
    ),
    "degree too high": Wrong(
        "a Gauss rule declared with the degree of a longer one",
        "exact_up_to_declared_degree",
        lambda: Declaring(PathIntegral(gauss_legendre(3)), 6, Cost(full_gradients=3, full_losses=1)),
    ),
    "degree far too high": Wrong(
        "a degree that only a polynomial of high degree can refute",
        "exact_up_to_declared_degree",
        lambda: Declaring(PathIntegral(gauss_legendre(7)), 15, Cost(full_gradients=7, full_losses=1)),
    ),
    "clipped gradient": Wrong(
        "measured with the training loop's gradient, after clipping",
        "linear_in_the_loss",
        lambda: Through(Clipped),
    ),
    "weight decay in the gradient": Wrong(
        "measured with the optimizer's gradient; decay is movement, not loss",
        "unused_parameters_get_exactly_zero",
        lambda: Through(WeightDecay),
    ),
    # values of the wrong parameter
    "equal-shaped tensors swapped": Wrong(
        "tensors matched by shape, or by another order of names",
        "exact_up_to_declared_degree",
        lambda: Altered(_equal_tensors_swapped),
    ),
    "neighbours swapped": Wrong(
        "an index off by one within a tensor, which leaves the sums correct",
        "exact_up_to_declared_degree",
        lambda: Altered(_neighbours_swapped),
    ),
    "sign of one layer": Wrong(
        "one layer's update subtracted twice",
        "exact_up_to_declared_degree",
        lambda: Altered(_last_layer_flipped),
    ),
    "last row lost": Wrong(
        "the original LCA code: more than 4 workers lose rows",
        "exact_up_to_declared_degree",
        lambda: Altered(_last_row_lost),
    ),
    "helping is positive": Wrong(
        "the sign convention of saliency maps",
        "exact_up_to_declared_degree",
        lambda: Altered(_helping_is_positive),
    ),
    # made to add up
    "share of |Δ|": Wrong(
        "the true change split by how far each parameter moved; adds up exactly",
        "exact_up_to_declared_degree",
        lambda: Altered(_shared_by(np.abs)),
    ),
    "share of Δ²": Wrong(
        "the true change split by squared movement; depends on the units",
        "follows_a_change_of_order_and_units",
        lambda: Altered(_shared_by(np.square)),
    ),
    "residual to all": Wrong(
        "'completeness' by distributing the residual evenly, also to parameters that did not move",
        "unmoved_parameters_get_exactly_zero",
        lambda: Altered(_residual_to_all),
    ),
    "residual to the moved": Wrong(
        "the residual distributed in proportion to |Δ|, also to parameters that are not in the loss",
        "unused_parameters_get_exactly_zero",
        lambda: Altered(_residual_to_the_moved),
    ),
    "residual to the first": Wrong(
        "the residual added to the first parameter",
        "follows_a_change_of_order_and_units",
        lambda: Altered(_residual_to_the_first),
    ),
    "rescaled": Wrong(
        "'completeness' by a common factor: zeros, signs and the order of the error are correct",
        "agrees_with_an_adaptive_reference",
        lambda: Altered(_rescaled),
    ),
    "residual as state change": Wrong(
        "the residual reported as the effect of buffers that do not exist",
        "state_change_is_zero_without_state",
        lambda: Altered(_residual_as_state),
    ),
    "terms by head count": Wrong(
        "terms of a sum get equal fractions of the total, which add up",
        "terms_add_up",
        lambda: Altered(_terms_by_head_count),
    ),
    "terms in full": Wrong(
        "every term gets the total",
        "terms_add_up",
        lambda: Altered(lambda a, step, objective: replace(a, terms=dict.fromkeys(a.terms, a))),
    ),
    # arithmetic
    "float16 sums": Wrong(
        "autocast left on while measuring", "float32_agrees_with_float64", lambda: Through(Float16)
    ),
    "float64 in float32": Wrong(
        "a framework's default dtype", "exact_up_to_declared_degree", lambda: Through(Float32)
    ),
    "float32 residual": Wrong(
        "the difference of two losses, taken in float32",
        "residual_is_what_is_left",
        lambda: Altered(_float32_residual),
    ),
    "1e-8 against division by zero": Wrong(
        "zeros counted as helping or hurting because of rounding",
        "unmoved_parameters_get_exactly_zero",
        lambda: Altered(_offset_against_zero),
    ),
    "wrong dtype": Wrong(
        "a float64 weight widens float32 values",
        "returns_one_value_per_parameter",
        lambda: Altered(_always_float64),
    ),
    "not reproducible": Wrong(
        "a random node, drawn anew in each run", "runs_are_independent", lambda: Altered(_random_part)
    ),
    "NaN to zero": Wrong(
        "dattri tracin.py, trak.py: NaN turned into 0 inside attributions",
        "non_finite_numbers_are_refused",
        lambda: Through(NanToZero),
    ),
    "non-finite ignored": Wrong(
        "NaN returned without an error", "non_finite_numbers_are_refused", lambda: Reusing(_never)
    ),
    # state between steps
    "change one step off": Wrong(
        "public LCA re-implementation: true loss change of the step before",
        "reports_the_true_losses",
        lambda: Remembering(_change_one_step_off),
    ),
    "own count of steps": Wrong(
        "a counter instead of the step's index: wrong as soon as steps are skipped",
        "keeps_the_index_of_the_step",
        lambda: Remembering(_own_count_of_steps),
    ),
    "smoothed over steps": Wrong(
        "a moving average meant for plots", "additive_along_the_path", lambda: Remembering(_smoothed)
    ),
    "error feedback": Wrong(
        "the residual of one step added to the next",
        "reused_end_points_change_nothing",
        lambda: Remembering(_error_feedback),
    ),
    "one buffer for all steps": Wrong(
        "values overwritten by the next step",
        "exact_up_to_declared_degree",
        lambda: Remembering(_one_buffer_for_all_steps),
    ),
    "reuse without looking": Wrong(
        "stale gradient at the end-point: assumes that steps join",
        "reused_end_points_change_nothing",
        lambda: Reusing(_without_looking),
    ),
    "reuse by identity": Wrong(
        "stale gradient at the end-point: the same array, changed in place",
        "end_points_written_over_are_seen",
        lambda: Reusing(_same_object),
    ),
    "start kept by reference": Wrong(
        "the buffer of a training loop kept without a copy, so that start and end are equal",
        "in_place_updates_are_seen",
        StartsAtTheLastEnd,
    ),
    "memory shared between runs": Wrong(
        "state in a class attribute, which two runs share",
        "runs_are_independent",
        lambda: Reusing(_without_looking, memory=lambda shared={}: shared),
    ),
    "cache by parameters alone": Wrong(
        "cached gradients of one loss returned for another",
        "linear_in_the_loss",
        CachedByTheta,
    ),
    "walks in place": Wrong(
        "the model moved along the step and back, which does not restore it exactly",
        "inputs_are_left_alone",
        lambda: Altered(_walks_in_place),
    ),
    # honesty
    "first step under-counted": Wrong(
        "the gradient at the very first point is free",
        "reported_cost_is_true",
        lambda: Altered(_cost_of_a_later_step),
    ),
    "cost declared too low": Wrong(
        "Simpson's rule declared with the cost of the trapezoid",
        "declared_cost_is_met",
        lambda: Declaring(PathIntegral(), 3, Cost(full_gradients=1)),
    ),
    "always converged": Wrong(
        "the original LCA code: refinement gives up silently at its limit",
        "converged_steps_are_within_tolerance",
        lambda: Altered(_converged, Adaptive(tol=1e-4, max_gradients=3)),
    ),
    "residual forged": Wrong(
        "the residual reported as 0", "residual_is_what_is_left", lambda: Altered(_no_residual)
    ),
    "mass of the total": Wrong(
        "the absolute total reported as the mass",
        "mass_bounds_the_values",
        lambda: Altered(_mass_of_the_total),
    ),
    "mass padded": Wrong(
        "a mass so large that every tolerance is met",
        "mass_is_no_larger_than_the_step",
        lambda: Altered(_mass_padded),
    ),
}
