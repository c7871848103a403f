"""Estimators that are right on a usual run, and wrong in one corner of the domain.

Each was written as a person might write it; the table names the check that detects it.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lca import SIMPSON, TRAPEZOID, Cost, PathIntegral, StepAllocation
from lca.errors import NonFiniteError
from lca.estimators import Integral, Path
from lca.objective import Sum, leaves
from tests.meta.animals import Altered, Disguised, Passing, Through, Wrong, left, with_values
from tests.meta.zoo_estimators import Remembering, Reusing

SIZE, LONG, SCALE, TERMS, STATE, FINITE, DECLARED = (
    "exact_for_models_of_any_size",
    "exact_in_long_runs",
    "exact_for_losses_of_any_scale",
    "terms_add_up",
    "state_is_kept_apart",
    "non_finite_numbers_are_refused",
    "declarations_are_complete",
)


# --- declarations ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Zeros:
    """Returns zeros."""

    target: Any = "full"
    degree: Any = 1
    cost: Any = field(default_factory=lambda: Cost(full_gradients=1))

    def start(self, objective):
        return lambda step: StepAllocation(0 * step.start, 0.0, 0.0, 0.0, 0.0, step.index)


# --- size -----------------------------------------------------------------------------------------------


def _in_chunks(a, step, objective):
    """Chunks of 1,024 parameters; the last one, if it is not full, is forgotten."""
    n = len(a.values) // 1024 * 1024
    return with_values(a, np.append(a.values[:n], 0 * a.values[n:])) if n else a


def _first_thousand(a, step, objective):
    return with_values(a, np.append(a.values[:1000], 0 * a.values[1000:]))


def _float32_if_large(a, step, objective):
    values = a.values.astype(np.float32) if len(a.values) > 1000 else a.values
    return with_values(a, values.astype(a.values.dtype))


def _tensors(change):
    """Change the values tensor by tensor: ``change(name, tensor, number)``."""

    def changed(a, step, objective):
        tensors = objective.layout.unflatten(a.values.copy())
        for i, (name, tensor) in enumerate(tensors.items()):
            tensors[name] = change(name, tensor, i)
        return with_values(a, objective.layout.flatten(tensors))

    return changed


def _no_scalars(name, tensor, i):
    return tensor if tensor.shape else 0 * tensor


def _at_most_16(name, tensor, i):
    return tensor if i < 16 else 0 * tensor


def _kernels_reversed(name, tensor, i):
    """Keras stores a kernel as (height, width, in, out), PyTorch the other way round."""
    if tensor.ndim < 4:
        return tensor
    return np.transpose(tensor).reshape(tensor.shape)


def _weights_only(a, step, objective):
    """Only tensors called weight; a model without any keeps all."""
    names = objective.layout.names
    if not any("weight" in name for name in names):
        return a
    return _tensors(lambda name, tensor, i: tensor if "weight" in name else 0 * tensor)(a, step, objective)


def _sorted_names(a, step, objective):
    """The tensors are put together in the order of their sorted names."""
    tensors = objective.layout.unflatten(a.values)
    return with_values(a, np.concatenate([tensors[name].ravel() for name in sorted(tensors)]))


def _one_a_layer(a, step, objective):
    """The values are kept by the name of the layer, so that its last tensor replaces the others."""
    tensors = objective.layout.unflatten(a.values)
    layers = {name.rpartition(".")[0]: name for name in tensors}
    kept = {n: t if layers[n.rpartition(".")[0]] == n else 0 * t for n, t in tensors.items()}
    return with_values(a, objective.layout.flatten(kept))


def _squeezed(a, step, objective):
    return replace(a, values=np.squeeze(a.values))


# --- long runs, and points that resemble each other -----------------------------------------------------


def _close(last, start):
    return np.allclose(last, start, rtol=1e-6)


def _same_first_entry(last, start):
    return last[0] == start[0]


def _same_norm(last, start):
    return abs(np.linalg.norm(last) - np.linalg.norm(start)) <= 1e-12 * np.linalg.norm(start)


class RoundedCache(Passing):
    """Gradients of points that are equal to six digits are evaluated once."""

    def __init__(self, objective):
        self.objective, self.answers = objective, {}

    def key(self, theta):
        return theta.round(6).tobytes()

    def loss_and_grad(self, theta, batch=None):
        key = self.key(theta)
        if key not in self.answers:
            self.answers[key] = super().loss_and_grad(theta)
        loss, grad = self.answers[key]
        return loss, grad.copy()


class HeadCache(RoundedCache):
    """Gradients of points with the same first 4,096 entries are evaluated once."""

    def key(self, theta):
        return theta[:4096].tobytes()


@dataclass(frozen=True, eq=False)
class ReusedByIndex(Disguised):
    """The gradient at the end of step t serves step t + 1, wherever that starts."""

    inner: Any = PathIntegral(TRAPEZOID)

    def start(self, objective):
        last = {}

        def allocate_step(step):
            reused = last.get("index") == step.index - 1
            before = last["node"] if reused else objective.loss_and_grad(step.start)
            after = objective.loss_and_grad(step.end)
            last.update(index=step.index, node=after)
            values = 0.5 * (before[1] + after[1]) * (step.end - step.start)
            mass = 0.5 * float(((np.abs(before[1]) + np.abs(after[1])) * np.abs(step.end - step.start)).sum())
            a = StepAllocation(values, before[0], after[0], 0.0, mass, step.index)
            return replace(a, residual=left(a, values), cost=Cost(full_gradients=2 - reused))

        return allocate_step


def _rests_every_tenth(a, step, memory):
    memory["count"] = memory.get("count", 0) + 1
    return with_values(a, 0 * a.values) if memory["count"] % 10 == 0 else a


def _ring_of_eight(a, step, memory):
    """Values are kept in a ring of eight rows, and handed out as views of it."""
    ring = memory.setdefault("ring", np.empty((8, len(a.values)), a.values.dtype))
    row = memory["row"] = (memory.get("row", -1) + 1) % 8
    ring[row] = a.values
    return replace(a, values=ring[row])


def _last_one_if_still(a, step, memory):
    """A step without movement returns the allocation of the step before."""
    if np.array_equal(step.start, step.end) and memory:
        return replace(a, values=memory["values"], mass=memory["mass"])
    memory.update(values=a.values, mass=a.mass)
    return a


def _per_length(a, step, objective):
    """Divided by the length of the step, and multiplied again: NaN for a step of length 0."""
    length = np.linalg.norm(step.end - step.start).astype(a.values.dtype)
    with np.errstate(invalid="ignore"):
        return replace(a, values=a.values / length * length)


# --- scale ----------------------------------------------------------------------------------------------


class PositiveLoss(Passing):
    """A loss is never negative, so the absolute value does no harm."""

    def loss(self, theta, batch=None):
        return abs(super().loss(theta))

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta)
        return abs(loss), grad


class Float32Loss(Passing):
    def loss(self, theta, batch=None):
        return float(np.float32(super().loss(theta)))

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta)
        return float(np.float32(loss)), grad


def _zero_means_missing(a, step, objective):
    """``loss_start or ...``: a loss of exactly 0 counts as not measured."""
    fixed = replace(a, loss_start=a.loss_start or a.loss_end)
    return replace(fixed, residual=left(fixed, a.values))


def _dust_swept(a, step, objective):
    return with_values(a, np.where(np.abs(a.values) < 1e-10, a.values.dtype.type(0), a.values))


def _below_the_noise(a, step, objective):
    return with_values(a, np.where(abs(a.values) < 1e-12 * abs(a.values).max(), 0, a.values))


def _clipped(a, step, objective):
    return with_values(a, a.values.clip(-1e6, 1e6))


def _small_changes_ignored(a, step, objective):
    return with_values(a, 0 * a.values) if abs(a.loss_change) < 1e-8 else a


# --- terms ----------------------------------------------------------------------------------------------


def _terms(change):
    """Change the terms: ``change(terms)`` returns them anew."""
    return lambda a, step, objective: replace(a, terms=change(dict(a.terms)))


def _two_terms(terms):
    return dict(list(terms.items())[:2])


def _terms_by_sorted_name(terms):
    return dict(zip(sorted(terms), terms.values(), strict=True))


def _ends_exchanged(terms):
    return {n: replace(t, loss_start=t.loss_end, loss_end=t.loss_start) for n, t in terms.items()}


def _no_residuals(terms):
    return {n: replace(t, residual=0.0) for n, t in terms.items()}


def _all_numbered_zero(terms):
    return {n: replace(t, step=0) for n, t in terms.items()}


def _massless(terms):
    return {n: replace(t, mass=0.0) for n, t in terms.items()}


# --- state ----------------------------------------------------------------------------------------------


class IgnoresState(Passing):
    """Passes loss and gradient on, but not the state."""


@dataclass(frozen=True)
class Steps(Disguised):
    """A correct estimator that gets changed steps."""

    change: Any
    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        allocate_step = self.inner.start(objective)
        return lambda step: allocate_step(self.change(step))


def _state_at_the_end(step):
    return replace(step, state=step.state and (step.state[1], step.state[1]))


def _state_at_the_start(step):
    return replace(step, state=step.state and (step.state[0], step.state[0]))


def _state_in_the_values(a, step, objective):
    share = np.abs(a.values) / max(float(np.abs(a.values).sum()), 1e-300)
    return replace(a, values=a.values + a.state_change * share, state_change=0.0)


def _state_change_reversed(a, step, objective):
    return replace(a, state_change=-a.state_change)


# --- NaN and infinity -----------------------------------------------------------------------------------


class Cleaned(Passing):
    """Some numbers that are not finite are replaced: those for which ``replaced(grad, call)`` is true."""

    def __init__(self, objective, replaced):
        self.objective, self.replaced, self.calls = objective, replaced, 0

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta)
        self.calls += 1
        bad = ~np.isfinite(grad) & self.replaced(grad, self.calls, self.layout)
        return loss, np.where(bad, grad.dtype.type(0), grad)


def _cleaned(replaced):
    return lambda: Through(lambda objective: Cleaned(objective, replaced))


def _after_the_first_tensor(grad, call, layout):
    return np.arange(len(grad)) >= layout.sizes[0]


def _after_the_first_step(grad, call, layout):
    return np.full(len(grad), call > 3)


def _infinity_only(grad, call, layout):
    return np.isinf(grad)


def _inside_the_step(grad, call, layout):
    """Simpson's rule evaluates start, middle, end; middle, end; ..."""
    return np.full(len(grad), call % 2 == 0)


class LossOfLastTime(Passing):
    def __init__(self, objective):
        self.objective, self.last = objective, 0.0

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta)
        self.last = loss if np.isfinite(loss) else self.last
        return self.last, grad


@dataclass(frozen=True)
class Terse(Disguised):
    """Says that something is NaN, but not where."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        allocate_step = self.inner.start(objective)

        def terse(step):
            try:
                return allocate_step(step)
            except NonFiniteError:
                raise NonFiniteError("NaN found.") from None

        return terse


# --- the world outside ----------------------------------------------------------------------------------


def _seeds_numpy(a, step, objective):
    np.random.seed(0)  # noqa: NPY002 - the defect
    return a


def _silences_numpy(a, step, objective):
    np.seterr(over="ignore", invalid="ignore")
    return a


def _zeroes_the_start(a, step, objective):
    step.start[...] = 0
    return a


@dataclass(frozen=True)
class TrainingGradient(Disguised):
    """Simpson's rule that takes the gradient at the start from training, where there is one."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        path = Path(objective)

        def allocate_step(step):
            segment = path.segment(step)
            integral = Integral(segment)
            for s, weight in zip(SIMPSON.nodes, SIMPSON.weights, strict=True):
                node = segment.at(s)
                if s == 0 and step.gradient is not None:
                    node = replace(node, grad=step.gradient)
                integral.add(weight, node)
            return integral.allocation()

        return allocate_step


@dataclass(frozen=True)
class FewerTerms(Disguised):
    """A `Sum` is measured as one loss."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        return self.inner.start(Passing(objective) if isinstance(objective, Sum) else objective)


@dataclass(frozen=True)
class LastTermOnly(Disguised):
    """The innermost objective that comes last is taken for all."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        return self.inner.start([*leaves(objective)][-1] if isinstance(objective, Sum) else objective)


@dataclass(frozen=True)
class MiddleOfOldBuffer(Disguised):
    """Evaluates the middle node in one work vector, which is also returned as the values."""

    inner: Any = PathIntegral(SIMPSON)

    def start(self, objective):
        path, work = Path(objective), np.empty(objective.layout.size)

        def allocate_step(step):
            segment, integral = path.segment(step), None
            integral = Integral(segment)
            for s, weight in zip(SIMPSON.nodes, SIMPSON.weights, strict=True):
                integral.add(weight, segment.at(s))
            a = integral.allocation()
            buffer = work.astype(a.values.dtype) if a.values.dtype != work.dtype else work
            buffer[...] = a.values
            return replace(a, values=buffer)

        return allocate_step


WRONG_IN_A_CORNER: dict[str, Wrong] = {
    "target in capitals": Wrong(
        "'Full' for 'full': no law applied, and zeros passed", DECLARED, lambda: Zeros("Full")
    ),
    "degree as a float": Wrong("3.0 for 3", DECLARED, lambda: Zeros(degree=3.0)),
    "degree below zero": Wrong("-1 for 'unknown'", DECLARED, lambda: Zeros(degree=-1)),
    "cost as a number": Wrong("2 for Cost(full_gradients=2)", DECLARED, lambda: Zeros(cost=2)),
    "cost of NaN": Wrong("a cost that is not known yet", DECLARED, lambda: Zeros(cost=Cost(float("nan")))),
    "sampled without declarations": Wrong(
        "target 'probe' without bias, required_fields and reseeded", DECLARED, lambda: Zeros("probe")
    ),
    # size
    "last chunk forgotten": Wrong(
        "chunks of 1,024 parameters without the remainder", SIZE, lambda: Altered(_in_chunks)
    ),
    "first thousand": Wrong("a limit for plots left in", SIZE, lambda: Altered(_first_thousand)),
    "float32 if large": Wrong(
        "single precision above 1,000 parameters, to save memory", SIZE, lambda: Altered(_float32_if_large)
    ),
    "no scalars": Wrong("tensors of shape () dropped", SIZE, lambda: Altered(_tensors(_no_scalars))),
    "sixteen tensors": Wrong("tensors after the 16th dropped", SIZE, lambda: Altered(_tensors(_at_most_16))),
    "kernels reversed": Wrong(
        "the axes of convolution kernels in the order of another framework",
        SIZE,
        lambda: Altered(_tensors(_kernels_reversed)),
    ),
    "weights only": Wrong("tensors found by the word weight", SIZE, lambda: Altered(_weights_only)),
    "names sorted": Wrong(
        "tensors in the order of their sorted names: layer10 before layer2",
        SIZE,
        lambda: Altered(_sorted_names),
    ),
    "one a layer": Wrong("one tensor of each layer kept", SIZE, lambda: Altered(_one_a_layer)),
    "squeezed": Wrong("np.squeeze, which turns shape (1,) into ()", SIZE, lambda: Altered(_squeezed)),
    # long runs
    "reuse by closeness": Wrong("np.allclose for the same point", LONG, lambda: Reusing(_close)),
    "reuse by first entry": Wrong(
        "the first entry for the whole vector", LONG, lambda: Reusing(_same_first_entry)
    ),
    "reuse by norm": Wrong("equal norms for the same point", LONG, lambda: Reusing(_same_norm)),
    "reuse by rounded point": Wrong(
        "a cache whose key is θ to six digits", LONG, lambda: Through(RoundedCache)
    ),
    "cached by the head": Wrong(
        "a cache whose key is the first 4,096 entries of θ, to save time",
        "exact_for_huge_models",
        lambda: Through(HeadCache),
    ),
    "reuse by index": Wrong(
        "the gradient of step t used for step t + 1, which begins elsewhere", LONG, ReusedByIndex
    ),
    "rests every tenth": Wrong(
        "every tenth step of a run left out", LONG, lambda: Remembering(_rests_every_tenth)
    ),
    "ring of eight": Wrong("values overwritten after eight steps", LONG, lambda: Remembering(_ring_of_eight)),
    "one work vector": Wrong("the work vector returned as the values", LONG, MiddleOfOldBuffer),
    "last one if still": Wrong(
        "a step without movement gets the values of the step before",
        "unmoved_parameters_get_exactly_zero",
        lambda: Remembering(_last_one_if_still),
    ),
    "per length": Wrong(
        "divided by the length of the step, which may be 0",
        "unmoved_parameters_get_exactly_zero",
        lambda: Altered(_per_length),
    ),
    # scale
    "loss made positive": Wrong("abs(loss)", SCALE, lambda: Through(PositiveLoss)),
    "float32 loss": Wrong("a loss in single precision", SCALE, lambda: Through(Float32Loss)),
    "zero means missing": Wrong(
        "`loss or other` for a loss of exactly 0", SCALE, lambda: Altered(_zero_means_missing)
    ),
    "noise floor": Wrong(
        "values below 1e-12 of the largest one set to 0",
        "small_values_keep_their_digits",
        lambda: Altered(_below_the_noise),
    ),
    "dust swept": Wrong("values below 1e-10 set to 0", SCALE, lambda: Altered(_dust_swept)),
    "values clipped": Wrong("values limited to ±1e6", SCALE, lambda: Altered(_clipped)),
    "small changes ignored": Wrong(
        "steps that change the loss by less than 1e-8 skipped", SCALE, lambda: Altered(_small_changes_ignored)
    ),
    # terms
    "two terms": Wrong("data and penalty, and no third term", TERMS, lambda: Altered(_terms(_two_terms))),
    "terms by sorted name": Wrong(
        "names sorted, allocations not", TERMS, lambda: Altered(_terms(_terms_by_sorted_name))
    ),
    "ends of terms exchanged": Wrong(
        "start and end of a term exchanged", TERMS, lambda: Altered(_terms(_ends_exchanged))
    ),
    "terms without residual": Wrong("terms reported as exact", TERMS, lambda: Altered(_terms(_no_residuals))),
    "terms numbered zero": Wrong(
        "the default index left in the terms", TERMS, lambda: Altered(_terms(_all_numbered_zero))
    ),
    "terms without mass": Wrong("the default mass in the terms", TERMS, lambda: Altered(_terms(_massless))),
    "a sum as one loss": Wrong("a Sum measured without its terms", TERMS, FewerTerms),
    "last term for all": Wrong("one term of a Sum measured for all", TERMS, LastTermOnly),
    # state
    "state ignored": Wrong(
        "every point evaluated in the model's present state", STATE, lambda: Through(IgnoresState)
    ),
    "state of the end": Wrong(
        "the whole step in the state after it", STATE, lambda: Steps(_state_at_the_end)
    ),
    "state of the start": Wrong(
        "the end in the state before the step", STATE, lambda: Steps(_state_at_the_start)
    ),
    "state in the values": Wrong(
        "the effect of running statistics given to the parameters",
        STATE,
        lambda: Altered(_state_in_the_values),
    ),
    "state change reversed": Wrong("before minus after", STATE, lambda: Altered(_state_change_reversed)),
    "state not in the key": Wrong(
        "a gradient reused where θ is the same and the state is not", STATE, lambda: Reusing(np.array_equal)
    ),
    "frozen tensors left out": Wrong(
        "the gradient of tensors that do not train taken for 0, although they move",
        "frozen_tensors_that_move_are_measured",
        lambda: Through(IgnoresState),
    ),
    "training gradient": Wrong(
        "Step.gradient, of the batch and after clipping, taken for that of the data",
        "other_fields_change_nothing",
        TrainingGradient,
    ),
    # NaN and infinity
    "first tensor looked at": Wrong(
        "NaN in a later tensor set to 0", FINITE, _cleaned(_after_the_first_tensor)
    ),
    "first step looked at": Wrong(
        "NaN after the first step set to 0", FINITE, _cleaned(_after_the_first_step)
    ),
    "only NaN looked at": Wrong("infinity set to 0", FINITE, _cleaned(_infinity_only)),
    "only ends looked at": Wrong("NaN inside the step set to 0", FINITE, _cleaned(_inside_the_step)),
    "loss of last time": Wrong(
        "a loss that is not finite replaced by the last one", FINITE, lambda: Through(LossOfLastTime)
    ),
    "says no place": Wrong("an error without step and tensor", FINITE, Terse),
    # the world outside
    "numpy seeded": Wrong(
        "np.random.seed called while measuring", "inputs_are_left_alone", lambda: Altered(_seeds_numpy)
    ),
    "numpy silenced": Wrong(
        "np.seterr called while measuring", "inputs_are_left_alone", lambda: Altered(_silences_numpy)
    ),
    "start set to zero": Wrong(
        "the start used as a work vector", "inputs_are_left_alone", lambda: Altered(_zeroes_the_start)
    ),
}
