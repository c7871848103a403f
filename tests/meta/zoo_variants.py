"""An objective with every optional member, and incorrect ones whose defect shows in its variants.

A variant is what `at_state`, `differentiating` and `by_class` return, and what these return again.
"""

import copy
from dataclasses import replace
from typing import ClassVar

import numpy as np

from lca import Layout
from lca.errors import LCAError
from lca.objective import Sum
from lca.reference import Batch, DatasetLoss, mlp
from lca.testing import ObjectiveSubject
from tests.meta.animals import Wrong
from tests.meta.zoo_calls import CUTS, Sampling, X, Y

WEIGHT = np.linspace(0.5, 2.0, len(X))
NETWORK = mlp((3, 4, 3), activation="tanh")
EACH_CLASS = range(3)


class EveryMember:
    """Right: a loss of inputs minus a mean that moves, of the tensors that are asked for, or of one class."""

    layout, weight, labels, n_examples = NETWORK.layout, WEIGHT, Y, len(X)

    def __init__(self):
        self.mean, self.label, self.differentiated = np.full(3, 0.25), None, self.trained()

    def trained(self):
        return frozenset(self.layout.names)

    def batch(self, index, weight=None):
        return Batch(X[index], Y[index], weight)

    def _inside(self):
        return DatasetLoss(NETWORK, X - self.mean, Y, weight=WEIGHT, batch_size=5, only_label=self.label)

    def _shifted(self, batch):
        return () if batch is None else (replace(batch, x=batch.x - self.mean),)

    def _asked(self, vector):
        kept = vector.copy()
        for name, part in self.layout.unflatten(kept).items():
            part[...] *= name in self.differentiated
        return kept

    def loss(self, theta, batch=None):
        return self._inside().loss(theta, *self._shifted(batch))

    def loss_and_grad(self, theta, batch=None):
        loss, grad = self._inside().loss_and_grad(theta, *self._shifted(batch))
        return loss, self._asked(grad)

    def scores(self, theta, batch=None):
        return self._inside().scores(theta, *self._shifted(batch))

    def by_example(self, theta, movement, groups, index, *, chunk=8):
        return self._inside().by_example(theta, self._asked(movement), groups, index, chunk=chunk)

    def state(self):
        return {"mean": self.mean.copy()}

    def at_state(self, state):
        return self._but(mean=state["mean"])

    def differentiating(self, names):
        return self._but(differentiated=frozenset(names))

    def by_class(self):
        return Sum({f"class {label}": self._but(label=label) for label in EACH_CLASS})

    def _but(self, **changed):
        other = copy.copy(self)
        vars(other).update(changed)
        return other


class TrainsItsHead(EveryMember):
    """Right: the first layer is frozen, unless its gradient is asked for."""

    def trained(self):
        return frozenset({"fc2.weight", "fc2.bias"})


class SlopesOfAll(TrainsItsHead):
    """Right: gives the slopes of every tensor that moves, as a forward pass of derivatives does."""

    def _asked(self, vector):
        return vector

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, EveryMember._asked(self, grad)


class SlopesOfTheHead(TrainsItsHead):
    """The slopes of the tensors that train, whatever is asked for."""

    def by_example(self, theta, movement, groups, index, *, chunk=8):
        trained = self._but(differentiated=self.trained())
        return EveryMember.by_example(trained, theta, movement, groups, index, chunk=chunk)


# --- samples ---------------------------------------------------------------------------------------------


class LossWithoutWeights(EveryMember):
    """``loss`` was written for plain means."""

    def loss(self, theta, batch=None):
        return super().loss(theta, batch if batch is None else replace(batch, weight=None))


class OneGradientOfSamples(EveryMember):
    """All gradients of samples without weights lie in one buffer."""

    buffers: ClassVar[dict] = {}

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        if batch is None or batch.weight is not None:
            return loss, grad
        buffer = self.buffers.setdefault(grad.dtype, np.empty_like(grad))
        buffer[...] = grad
        return loss, buffer


class InPartsOf64(EveryMember):
    """A sample of more than 64 examples is evaluated in parts of 64, without the last, smaller one."""

    def _shifted(self, batch):
        if batch is not None and len(batch) > 64:
            batch = batch.take(slice(0, len(batch) // 64 * 64))
        return super()._shifted(batch)


class PreparedOnce(EveryMember):
    """Keeps batches by their examples, and forgets the weights."""

    def __init__(self):
        super().__init__()
        self.prepared = {}

    def batch(self, index, weight=None):
        return self.prepared.setdefault(index.tobytes(), super().batch(index, weight))


class Centred(Batch):
    """A batch whose inputs are centred already."""


class CentredInBatch(EveryMember):
    """``batch`` subtracts the mean, which is then that of the state in which the batch was made."""

    def batch(self, index, weight=None):
        return Centred(X[index] - self.mean, Y[index], weight)

    def _shifted(self, batch):
        return (batch,) if isinstance(batch, Centred) else super()._shifted(batch)


# --- variants --------------------------------------------------------------------------------------------


class SelectionLosesState(EveryMember):
    """``differentiating`` makes a new objective, in the state of now."""

    def differentiating(self, names):
        return type(self)()._but(differentiated=frozenset(names), label=self.label)


class StateLosesSelection(EveryMember):
    def at_state(self, state):
        return type(self)()._but(mean=state["mean"], label=self.label)


class SelectionsIntersect(EveryMember):
    def differentiating(self, names):
        return self._but(differentiated=self.differentiated & frozenset(names))


class StateLosesClass(EveryMember):
    def at_state(self, state):
        return super().at_state(state)._but(label=None)


class SelectionLosesClass(EveryMember):
    def differentiating(self, names):
        return super().differentiating(names)._but(label=None)


class _Live(EveryMember):
    """Knows the state of the model beside its own."""

    def __init__(self):
        super().__init__()
        self.live = self.mean


class ClassesOfTheLiveState(_Live):
    def by_class(self):
        return EveryMember.by_class(self._but(mean=self.live))


class SlopesOfTheLiveState(_Live):
    def by_example(self, theta, movement, groups, index, *, chunk=8):
        live = self._but(mean=self.live)
        return EveryMember.by_example(live, theta, movement, groups, index, chunk=chunk)


class StateInFloat32(EveryMember):
    def at_state(self, state):
        return self._but(mean=state["mean"].astype(np.float32))


class OneEntryOfTwo(EveryMember):
    """``at_state`` forgets the second entry of the state."""

    def __init__(self):
        super().__init__()
        self.scale = np.full(3, 0.75)

    def state(self):
        return super().state() | {"scale": self.scale.copy()}

    def _inside(self):
        x = (X - self.mean) * self.scale
        return DatasetLoss(NETWORK, x, Y, weight=WEIGHT, batch_size=5, only_label=self.label)

    def _shifted(self, batch):
        return () if batch is None else (replace(batch, x=(batch.x - self.mean) * self.scale),)


# --- what is left behind ---------------------------------------------------------------------------------


class _WithModel(EveryMember):
    """Has a model, whose flag training and list of trained tensors no call changes."""

    def __init__(self, model):
        super().__init__()
        self.model = model


class SelectionLeavesFlags(_WithModel):
    def loss_and_grad(self, theta, batch=None):
        self.model["requires_grad"] = np.array([name in self.differentiated for name in self.layout.names])
        return super().loss_and_grad(theta, batch)


class StateLeavesBuffers(_WithModel):
    """``loss`` puts the buffers back, and ``loss_and_grad`` leaves them."""

    def loss_and_grad(self, theta, batch=None):
        self.model["mean"] = self.mean.copy()
        return super().loss_and_grad(theta, batch)


class ClassesLeaveMode(_WithModel):
    def by_class(self):
        self.model["training"] = np.zeros(1)
        return super().by_class()


class ScoresOfBatchesLeaveMode(_WithModel):
    def scores(self, theta, batch=None):
        if batch is not None:
            self.model["training"] = np.zeros(1)
        return super().scores(theta, batch)


class SamplesLeaveMode(_WithModel):
    def loss_and_grad(self, theta, batch=None):
        if batch is not None and batch.weight is None:
            self.model["training"] = np.zeros(1)
        return super().loss_and_grad(theta, batch)


class CheckRefreshes(EveryMember):
    """``check`` takes the statistics from the data."""

    def check(self):
        self.mean = X.mean(axis=0)


class CheckRefuses(EveryMember):
    """``check`` takes the copy of a state for another state."""

    def check(self):
        if self.state()["mean"] is not self.mean:
            raise LCAError("the state was replaced; make the objective anew.")


class CheckDraws(EveryMember):
    def check(self):
        np.random.normal()  # noqa: NPY002 - the bug


class Checked(EveryMember):
    """Right: ``check`` finds nothing."""

    def check(self):
        assert len(X) == self.n_examples


# --- jumps, NaN and dtypes --------------------------------------------------------------------------------


class RobustWithAJump:
    """Beyond 2, the loss of an example is ``2 + 2 log ℓ`` instead of ``2 + 2 log(ℓ / 2)``."""

    layout = Layout(("slope", "intercept"), ((3,), ()))

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        x, y = (X, Y) if batch is None else (batch.x, batch.y)
        wide = theta.astype(np.float64)
        gap = x @ wide[:3] + wide[3] - y
        each, far = gap**2, gap**2 > 2
        losses = np.where(far, 2 + 2 * np.log(np.where(far, each, 1)), each)
        slopes = np.where(far, 2 / np.where(far, each, 1), 1) * 2 * gap / len(y)
        return float(losses.mean()), np.append(x.T @ slopes, slopes.sum()).astype(theta.dtype)


class CleansUpAtTheEnd(EveryMember):
    """Adds the gradient of NaN to a buffer that is set to 0 after a gradient is returned."""

    def __init__(self):
        super().__init__()
        self.buffer = np.zeros(self.layout.size)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        self.buffer += grad
        if not np.isfinite(loss):
            raise ValueError("the loss is not finite")
        total = self.buffer.astype(theta.dtype)
        self.buffer[:] = 0
        return loss, total


class RemembersWithoutDtype(EveryMember):
    """Keeps the last gradient by the numbers of θ, which a float32 θ may share with a float64 one."""

    last = None

    def loss_and_grad(self, theta, batch=None):
        self.layout.check(theta, "theta")
        if batch is not None or self.mean[0] != 0.25 or self.label is not None:
            return super().loss_and_grad(theta, batch)
        if self.last is None or not np.array_equal(self.last[0], theta):
            self.last = theta.copy(), super().loss_and_grad(theta)
        loss, grad = self.last[1]
        return loss, grad.astype(theta.dtype)


class SingleLosses(EveryMember):
    """Right for float32 alone: losses in the precision of the parameters."""

    def loss(self, theta, batch=None):
        return float(np.float32(super().loss(theta, batch)))

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return float(np.float32(loss)), grad


def of_chance(seed):
    """Right: a classifier of 20 examples by chance, whose scores are unlike the norms of their gradients."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 3)), rng.integers(3, size=20)
    return ObjectiveSubject(lambda: Sampling(DatasetLoss(NETWORK, x, y)))


def _with_model(kind):
    def make():
        model = {"requires_grad": np.ones(4, bool), "mean": np.full(3, 0.25), "training": np.ones(1)}
        return ObjectiveSubject(lambda: kind(model), batches=weighted_batches(), state=lambda: dict(model))

    return make


def weighted_batches():
    return [(float(WEIGHT[cut].sum()), Batch(X[cut], Y[cut], WEIGHT[cut])) for cut in CUTS]


def _subject(kind):
    return ObjectiveSubject(kind, batches=weighted_batches())


def _of(kind):
    return lambda: _subject(kind)


RIGHT_VARIANTS = {
    "every member": _subject(EveryMember),
    "trains its head": _subject(TrainsItsHead),
    "slopes of all that moves": _subject(SlopesOfAll),
    "checked": _subject(Checked),
    "losses in float32": ObjectiveSubject(SingleLosses, batches=weighted_batches(), dtypes=("float32",)),
    "few examples of chance": of_chance(5),
}
WHAT, CLASSES, STATE, NOTHING = (
    "variants_keep_what_they_are",
    "classes_add_up_to_the_loss",
    "state_is_copied_and_used",
    "members_change_nothing",
)
WRONG_VARIANTS: dict[str, Wrong] = {
    "selection loses state": Wrong(
        "differentiating() takes the state of now, not that of at_state()", WHAT, _of(SelectionLosesState)
    ),
    "state loses selection": Wrong(
        "at_state() forgets which tensors were asked for", WHAT, _of(StateLosesSelection)
    ),
    "selections intersect": Wrong(
        "differentiating() twice gives what is in both", WHAT, _of(SelectionsIntersect)
    ),
    "state loses class": Wrong("at_state() of a class is the whole loss", CLASSES, _of(StateLosesClass)),
    "selection loses class": Wrong(
        "differentiating() of a class is the whole loss", CLASSES, _of(SelectionLosesClass)
    ),
    "classes of the live state": Wrong(
        "by_class() of another state is that of the model", CLASSES, _of(ClassesOfTheLiveState)
    ),
    "slopes of the live state": Wrong(
        "by_example() of another state is that of the model",
        "examples_have_their_own_slopes",
        _of(SlopesOfTheLiveState),
    ),
    "state in float32": Wrong("at_state() rounds the state to float32", STATE, _of(StateInFloat32)),
    "one entry of two": Wrong("at_state() forgets an entry of the state", STATE, _of(OneEntryOfTwo)),
    "selection leaves flags": Wrong(
        "requires_grad of the model is left as the last selection needed it",
        NOTHING,
        _with_model(SelectionLeavesFlags),
    ),
    "state leaves buffers": Wrong(
        "the buffers of another state are left in the model", NOTHING, _with_model(StateLeavesBuffers)
    ),
    "classes leave mode": Wrong(
        "by_class() leaves the model in evaluation mode", NOTHING, _with_model(ClassesLeaveMode)
    ),
    "scores of batches leave mode": Wrong(
        "scores() of a batch leaves the model in evaluation mode",
        NOTHING,
        _with_model(ScoresOfBatchesLeaveMode),
    ),
    "samples leave mode": Wrong(
        "a sample leaves the model in evaluation mode", NOTHING, _with_model(SamplesLeaveMode)
    ),
    "jump": Wrong(
        "a robust loss jumps where its two forms meet",
        "losses_do_not_jump",
        _of(RobustWithAJump),
    ),
    "cleans up at the end": Wrong(
        "the next gradient contains that of a call that raised",
        "non_finite_numbers_are_not_hidden",
        _of(CleansUpAtTheEnd),
    ),
    "remembers without dtype": Wrong(
        "the float64 gradient is that of the same numbers in float32",
        "float32_agrees_with_float64",
        _of(RemembersWithoutDtype),
    ),
    "check refreshes": Wrong("check() refreshes the state", NOTHING, _of(CheckRefreshes)),
    "check refuses": Wrong("check() takes a copy for another state", NOTHING, _of(CheckRefuses)),
    "check draws": Wrong("check() draws random numbers", NOTHING, _of(CheckDraws)),
    "slopes of the head": Wrong(
        "slopes of frozen tensors are 0, although they are asked for",
        "examples_have_their_own_slopes",
        _of(SlopesOfTheHead),
    ),
    "loss without weights": Wrong(
        "loss ignores the weights of a sample, loss_and_grad does not",
        "weighted_samples_are_weighted_means",
        _of(LossWithoutWeights),
    ),
    "one gradient of samples": Wrong(
        "the gradients of samples lie in one buffer", "samples_are_like_theta", _of(OneGradientOfSamples)
    ),
    "parts of 64": Wrong(
        "a long sample is evaluated in parts of 64 without the rest",
        "samples_are_means_of_their_examples",
        _of(InPartsOf64),
    ),
    "prepared once": Wrong(
        "batches are kept by their examples without their weights",
        "batches_belong_to_their_examples",
        _of(PreparedOnce),
    ),
    "centred in batch": Wrong(
        "batch() computes with the state of the moment", "batches_are_in_the_state", _of(CentredInBatch)
    ),
}
