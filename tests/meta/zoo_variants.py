"""An objective with every optional member, and incorrect ones whose defect shows in its variants.

A variant is what `at_state`, `differentiating` and `by_class` return, and what these return again.
"""

import copy
from dataclasses import replace
from typing import ClassVar

import numpy as np

from lca.objective import Sum
from lca.reference import Batch, DatasetLoss, mlp
from lca.testing import ObjectiveSubject
from tests.meta.animals import Wrong
from tests.meta.zoo_calls import CUTS, X, Y

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
}
WRONG_VARIANTS: dict[str, Wrong] = {
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
