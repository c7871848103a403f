"""Incorrect objectives and backends that share memory or state, or fail for small, far or late numbers."""

import decimal
import io
import logging
import socket
import sys
from dataclasses import dataclass, replace

import numpy as np

from lca import Layout, Step
from lca.reference import Batch
from lca.reference._backend import NumpyBackend
from lca.testing import ObjectiveSubject
from tests.meta.animals import Passing, Wrong
from tests.meta.zoo_calls import Sampling, Scheduled, Selecting, dataset_loss, subject_of


class SmallIsNothing(Passing):
    """Drops entries of the gradient below a limit, as if to save memory."""

    limit = 1e-4

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        grad[np.abs(grad) < self.limit] = 0
        return loss, grad


class SmallerIsNothing(SmallIsNothing):
    limit = 1e-6


class BoundedTheta(Passing):
    """A vector with an entry beyond 10 is scaled to 10, in front of a gradient that does not know."""

    def _bounded(self, theta):
        largest = float(np.abs(theta).max())
        return theta * theta.dtype.type(10 / largest) if largest > 10 else theta

    def loss(self, theta, batch=None):
        return super().loss(self._bounded(theta), batch)

    def loss_and_grad(self, theta, batch=None):
        return super().loss_and_grad(self._bounded(theta), batch)


class Hinge:
    """A right objective that is exactly 0, with its gradient, at many points."""

    layout = Layout(("w",), ((5,),))
    shifts = np.array([1.0, 1.5, 3.0])

    def loss(self, theta, batch=None):
        self.layout.check(theta, "theta")
        return float(np.maximum(0, self._above(theta, batch)).sum(axis=1).mean())

    def loss_and_grad(self, theta, batch=None):
        loss = self.loss(theta, batch)
        return loss, (self._above(theta, batch) > 0).mean(axis=0).astype(theta.dtype)

    def _above(self, theta, batch):
        shifts = self.shifts if batch is None else batch
        return theta.astype(np.float64) - shifts[:, None]


class OneZeroGradient(Hinge):
    """Returns the same vector wherever the gradient is 0."""

    def __init__(self):
        self._zeros = {}

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad if grad.any() else self._zeros.setdefault(grad.dtype, grad)


class LateSingle:
    """Entries above index 1,000 of the gradient are computed in float32."""

    layout = Layout(("w", "v"), ((1500,), (10,)))
    directions = np.random.default_rng(0).normal(size=(8, 1510)) / 40

    def loss(self, theta, batch=None):
        self.layout.check(theta, "theta")
        return float(np.log(np.cosh(self.directions @ theta.astype(np.float64))).sum())

    def loss_and_grad(self, theta, batch=None):
        grad = np.tanh(self.directions @ theta.astype(np.float64)) @ self.directions
        grad[1000:1500] = grad[1000:1500].astype(np.float32)
        return self.loss(theta), grad.astype(theta.dtype)


class OneClone(Scheduled):
    """Every state is put into one and the same clone."""

    clone = None

    def at_state(self, state):
        self.clone = self.clone or Scheduled(self.objective)
        self.clone._factor = np.array(state["factor"])
        return self.clone


class LastStateEverywhere(Scheduled):
    """The gradient is that in the state in which an objective was made last."""

    def __init__(self, objective=None, factor=1.5, last=None):
        super().__init__(objective, factor)
        self._last = {} if last is None else last
        self._last["factor"] = factor

    def at_state(self, state):
        return LastStateEverywhere(self.objective, float(state["factor"][0]), self._last)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = self.objective.loss_and_grad(theta, batch)
        return float(self._factor[0]) * loss, grad * theta.dtype.type(self._last["factor"])


class CounterNotCopied(Scheduled):
    """The integers of a state are handed out by reference."""

    def __init__(self, objective=None, factor=1.5):
        super().__init__(objective, factor)
        self._count = np.array([2])

    def state(self):
        return super().state() | {"count": self._count}

    def loss(self, theta, batch=None):
        return super().loss(theta, batch) * int(self._count[0]) / 2


class SelectsOnTheWholeOnly(Selecting):
    def loss_and_grad(self, theta, batch=None):
        own = self if batch is None else type(self)(self.layout, self.coefficient)
        return super(SelectsOnTheWholeOnly, own).loss_and_grad(theta, batch)


class OneZeroIfNotAsked(Selecting):
    """Returns the same vector of zeros whenever no tensor is asked for."""

    zeros = None

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        if self.differentiated:
            return loss, grad
        if self.zeros is None:
            object.__setattr__(self, "zeros", grad)
        return loss, self.zeros


class PutsBack(Passing):
    """Moves θ in place and puts it back exactly, which stored points do not allow."""

    def loss_and_grad(self, theta, batch=None):
        kept = theta.copy()
        theta += theta.dtype.type(1)
        theta[...] = kept
        return super().loss_and_grad(theta, batch)


class TakesThePointer(Passing):
    """Passes the memory of θ on, as to a library in C, without its strides."""

    def loss(self, theta, batch=None):
        whole = theta if theta.base is None or theta.base.ndim == 1 else theta.base.ravel()[: len(theta)]
        return super().loss(whole if theta.ndim == 1 else theta, batch)

    def loss_and_grad(self, theta, batch=None):
        whole = theta if theta.base is None or theta.base.ndim == 1 else theta.base.ravel()[: len(theta)]
        return super().loss_and_grad(whole if theta.ndim == 1 else theta, batch)


class NoWeightIsCounted(Sampling):
    """A weight of 0 in a sample counts as 1."""

    def batch(self, index, weight=None):
        return super().batch(index, None if weight is None else np.where(weight, weight, 1.0))


class _Sets(Passing):
    """Sets a mode of the process in each call."""

    def set_mode(self):
        raise NotImplementedError

    def loss(self, theta, batch=None):
        self.set_mode()
        return super().loss(theta, batch)


class SetsDecimals(_Sets):
    def set_mode(self):
        decimal.getcontext().prec = 6


class SetsTimeout(_Sets):
    def set_mode(self):
        socket.setdefaulttimeout(30.0)


class SetsTheLevelOfLogs(_Sets):
    def set_mode(self):
        logging.getLogger().setLevel(logging.DEBUG)


class SilencesPrint(_Sets):
    def set_mode(self):
        sys.stdout = io.StringIO()


class SwitchesLater(_Sets):
    def set_mode(self):
        sys.setswitchinterval(0.25)


class HandlesFloatErrors(_Sets):
    def set_mode(self):
        np.seterrcall(lambda kind, flag: None)


# --- backends --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnewAtTwelve(NumpyBackend):
    """The optimizer's state is restarted at update 12, as if an epoch began."""

    def train(self, objective, theta, optimizer, batches):
        theta, state = theta.copy(), optimizer.init(theta)
        for t, batch in enumerate(batches):
            state = self.before(t, state, optimizer, theta)
            gradient = objective.loss_and_grad(theta, batch)[1]
            state, movement = optimizer.update(state, gradient, theta)
            step = Step(theta, theta + self.moved(t, movement), t, batch=batch, gradient=gradient)
            yield step
            theta = step.end

    def before(self, t, state, optimizer, theta):
        return optimizer.init(theta) if t == 12 else state

    def moved(self, t, movement):
        return movement


class RateDecays(AnewAtTwelve):
    """The learning rate is lower after ten updates."""

    def before(self, t, state, optimizer, theta):
        return state

    def moved(self, t, movement):
        return movement if t < 10 else movement * movement.dtype.type(0.99)


class OnePointForAllRuns(NumpyBackend):
    """Two runs of one objective go on from each other's parameters, as in one model."""

    def train(self, objective, theta, optimizer, batches):
        points, state = vars(objective).setdefault("_points", {}), optimizer.init(theta)
        points["now"] = theta.copy()
        for t, batch in enumerate(batches):
            start = points["now"]
            state, movement = optimizer.update(state, objective.loss_and_grad(start, batch)[1], start)
            points["now"] = start + movement
            yield Step(start, points["now"], t, batch=batch)


class _Live(Passing):
    """Keeps its last gradient in one buffer."""

    def __init__(self, objective):
        super().__init__(objective)
        self.live = {}

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        self.live.setdefault(grad.dtype, np.empty_like(grad))[...] = grad
        return loss, grad


class LiveGradient(NumpyBackend):
    """`Step.gradient` is the buffer into which every later gradient is written."""

    def objective(self, network, data, dtype, **options):
        return _Live(super().objective(network, data, dtype, **options))

    def train(self, objective, theta, optimizer, batches):
        for step in super().train(objective, theta, optimizer, batches):
            yield replace(step, gradient=objective.live[step.start.dtype])


class TrainsInDouble(NumpyBackend):
    """Steps of a float32 objective are float64."""

    def train(self, objective, theta, optimizer, batches):
        return super().train(objective, theta.astype(np.float64), optimizer, batches)


class _OtherData(NumpyBackend):
    def changed(self, data):
        raise NotImplementedError

    def objective(self, network, data, dtype, **options):
        return super().objective(network, self.changed(data), dtype, **options)


class ScalesLargeInputs(_OtherData):
    """Features are divided by 255 where one of them exceeds 10, as if they were pixels."""

    def changed(self, data):
        return Batch(data.x / 255, data.y, data.weight) if np.abs(data.x).max() > 10 else data


class ClipsInputs(_OtherData):
    def changed(self, data):
        return Batch(np.clip(data.x, -10, 10), data.y, data.weight)


class NoWeightIsOne(_OtherData):
    def changed(self, data):
        return Batch(data.x, data.y, None if data.weight is None else np.where(data.weight, data.weight, 1.0))


class BoundedWeights(_OtherData):
    def changed(self, data):
        return Batch(data.x, data.y, None if data.weight is None else np.minimum(data.weight, 4.0))


class SmallMeasuringBatches(NumpyBackend):
    def objective(self, network, data, dtype, *, penalty=0.0, batch_size=1000):
        return super().objective(network, data, dtype, penalty=penalty, batch_size=min(batch_size, 9))


class AnotherDefaultSize(NumpyBackend):
    def objective(self, network, data, dtype, *, penalty=0.0, batch_size=10):
        return super().objective(network, data, dtype, penalty=penalty, batch_size=batch_size)


class BoundedPenalty(NumpyBackend):
    def objective(self, network, data, dtype, *, penalty=0.0, batch_size=1000):
        return super().objective(network, data, dtype, penalty=min(penalty, 0.5), batch_size=batch_size)


def _hinge(kind):
    return lambda: ObjectiveSubject(kind, batches=[(1.0, Hinge.shifts[:1]), (2.0, Hinge.shifts[1:])])


def _selecting(kind):
    return lambda: ObjectiveSubject(lambda: kind(dataset_loss().layout, 0.3), batches=[(1.0, "all")])


SMALL, ALONE, NOTHING = (
    "small_gradients_are_right",
    "states_do_not_depend_on_each_other",
    "calls_change_nothing",
)
OWN, ASKED = "gradients_may_be_overwritten", "asked_tensors_are_differentiated"
WRONG_HABITS: dict[str, Wrong] = {
    "small is nothing": Wrong(
        "entries of the gradient below 1e-4 set to 0", SMALL, subject_of(SmallIsNothing)
    ),
    "smaller is nothing": Wrong("entries below 1e-6 set to 0", SMALL, subject_of(SmallerIsNothing)),
    "θ bounded": Wrong(
        "θ scaled where an entry exceeds 10", "gradient_matches_finite_differences", subject_of(BoundedTheta)
    ),
    "one zero gradient": Wrong("one vector returned for every gradient of 0", OWN, _hinge(OneZeroGradient)),
    "late single": Wrong(
        "the gradient above index 1,000 in float32",
        "works_in_the_precision_of_theta",
        lambda: ObjectiveSubject(LateSingle),
    ),
    "one clone": Wrong("every state is put into one clone", ALONE, lambda: ObjectiveSubject(OneClone)),
    "last state everywhere": Wrong(
        "the gradient is that in the last state of all", ALONE, lambda: ObjectiveSubject(LastStateEverywhere)
    ),
    "counter not copied": Wrong(
        "integers of a state by reference",
        "state_is_copied_and_used",
        lambda: ObjectiveSubject(CounterNotCopied),
    ),
    "selects on the whole only": Wrong(
        "a selection ignored on batches", ASKED, _selecting(SelectsOnTheWholeOnly)
    ),
    "one zero if not asked": Wrong(
        "one vector of zeros returned if no tensor is asked for", ASKED, _selecting(OneZeroIfNotAsked)
    ),
    "puts back": Wrong("θ moved in place and put back exactly", NOTHING, subject_of(PutsBack)),
    "takes the pointer": Wrong("a strided θ read without its strides", NOTHING, subject_of(TakesThePointer)),
    "no weight is counted": Wrong(
        "a weight of 0 in a sample counts as 1",
        "weighted_samples_are_weighted_means",
        lambda: ObjectiveSubject(NoWeightIsCounted),
    ),
    "sets decimals": Wrong("the precision of decimal numbers set", NOTHING, subject_of(SetsDecimals)),
    "sets timeout": Wrong("the time limit of sockets set", NOTHING, subject_of(SetsTimeout)),
    "sets log level": Wrong("the level of the root logger set", NOTHING, subject_of(SetsTheLevelOfLogs)),
    "silences print": Wrong("sys.stdout replaced", NOTHING, subject_of(SilencesPrint)),
    "switches later": Wrong("the switch interval of threads set", NOTHING, subject_of(SwitchesLater)),
    "handles float errors": Wrong("np.seterrcall", NOTHING, subject_of(HandlesFloatErrors)),
}
RIGHT_HABITS = {"hinge": _hinge(Hinge)()}

LASTS, FIELDS, REFERENCE = (
    "optimizers_remember_their_state",
    "steps_report_what_made_them",
    "losses_equal_the_reference",
)
STATISTICS = "batch_statistics_are_those_of_the_measuring_batch"
WRONG_BACKEND_HABITS: dict[str, Wrong] = {
    "anew at twelve": Wrong("an optimizer that begins anew at update 12", LASTS, AnewAtTwelve),
    "rate decays": Wrong("the learning rate decays after 10 updates", LASTS, RateDecays),
    "one point for all runs": Wrong(
        "two runs share their parameters", "runs_do_not_depend_on_each_other", OnePointForAllRuns
    ),
    "trains in double": Wrong(
        "steps of a float32 objective in float64", "training_equals_the_reference", TrainsInDouble
    ),
    "live gradient": Wrong("Step.gradient is overwritten by measuring", FIELDS, LiveGradient),
    "large inputs scaled": Wrong("features divided where one exceeds 10", REFERENCE, ScalesLargeInputs),
    "inputs clipped": Wrong("features clipped to ±10", REFERENCE, ClipsInputs),
    "no weight is one": Wrong("a weight of 0 counts as 1", REFERENCE, NoWeightIsOne),
    "bounded weights": Wrong("weights clipped at 4", REFERENCE, BoundedWeights),
    "small measuring batches": Wrong("measuring batches of 9 at most", STATISTICS, SmallMeasuringBatches),
    "another default size": Wrong("measuring batches of 10 by default", STATISTICS, AnotherDefaultSize),
    "bounded penalty": Wrong("a penalty of 0.5 at most", "penalty_is_a_separate_term", BoundedPenalty),
}
