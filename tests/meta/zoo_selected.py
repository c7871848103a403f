"""Objectives that are wrong for long or unevenly weighted samples, selected gradients, or the process."""

import gc
import logging
import sys

import numpy as np

from lca import Layout
from lca.testing import ObjectiveSubject
from tests.meta.animals import Passing, Wrong
from tests.meta.zoo_calls import Cached, Sampling, batches, dataset_loss


class WeightsClipped(Sampling):
    def batch(self, index, weight=None):
        return super().batch(index, None if weight is None else np.minimum(weight, 10))


class WeightsInFloat16(Sampling):
    def batch(self, index, weight=None):
        return super().batch(index, None if weight is None else weight.astype(np.float16).astype(float))


class WeightsWhole(Sampling):
    def batch(self, index, weight=None):
        return super().batch(index, None if weight is None else np.ceil(weight))


class AtMostTheData(Sampling):
    """A sample that is longer than the data is cut off."""

    def batch(self, index, weight=None):
        n = self.n_examples
        return super().batch(index[:n], None if weight is None else weight[:n])


class AtMostEight(Sampling):
    """A fixed memory for the examples of a sample."""

    def batch(self, index, weight=None):
        return super().batch(index[:8], None if weight is None else weight[:8])


class TenDigits(Cached):
    def key(self, theta, batch):
        return theta.dtype, np.round(theta, 10).tobytes(), id(batch)


class Quartics:
    """Right: ``Σ θ⁴ + θ_0 θ_3`` in three tensors, of which the first two train."""

    layout = Layout(("a", "b", "c"), ((2,), (1,), (2,)))

    def __init__(self, names=("a", "b")):
        self.differentiated = frozenset(names)

    def differentiating(self, names):
        return type(self)(names)

    def loss(self, theta, batch=None):
        self.layout.check(theta, "theta")
        wide = theta.astype(np.float64)
        return float((wide**4).sum() + wide[0] * wide[3])

    def loss_and_grad(self, theta, batch=None):
        loss, wide = self.loss(theta), theta.astype(np.float64)
        grad = 4 * wide**3
        grad[[0, 3]] += wide[[3, 0]]
        return loss, (grad * np.repeat([self.computes(name) for name in "abc"], [2, 1, 2])).astype(
            theta.dtype
        )

    def computes(self, name):
        return name in self.differentiated


class NamesNotTold(Quartics):
    """Computes what is asked for, and tells of the tensors that train."""

    asked = frozenset("ab")

    def differentiating(self, names):
        other = NamesNotTold()
        other.asked = frozenset(names)
        return other

    def computes(self, name):
        return name in self.asked


class AddsNames(Quartics):
    """Adds names and removes none."""

    def differentiating(self, names):
        return AddsNames(self.differentiated | set(names))


class AllIfOneIsFrozen(Quartics):
    """Computes all gradients as soon as a frozen tensor is asked for."""

    def computes(self, name):
        return "c" in self.differentiated or super().computes(name)


def leaves_behind(act):
    """An objective that calls ``act()`` in each evaluation."""

    class Acting(Passing):
        def loss(self, theta, batch=None):
            act()
            return super().loss(theta, batch)

    return lambda: ObjectiveSubject(lambda: Acting(dataset_loss()), batches=batches())


WEIGHED, MEANS, SELECTED, NOTHING = (
    "weighted_samples_are_weighted_means",
    "samples_are_means_of_their_examples",
    "asked_tensors_are_differentiated",
    "calls_change_nothing",
)


def _of(kind):
    return lambda: ObjectiveSubject(kind)


WRONG_SELECTED: dict[str, Wrong] = {
    "weights clipped": Wrong("importance weights clipped at 10", WEIGHED, _of(WeightsClipped)),
    "weights in float16": Wrong("importance weights in half precision", WEIGHED, _of(WeightsInFloat16)),
    "whole weights": Wrong("importance weights rounded up to whole numbers", WEIGHED, _of(WeightsWhole)),
    "at most the data": Wrong("a sample cut off at the number of examples", MEANS, _of(AtMostTheData)),
    "at most eight": Wrong("a sample cut off at eight examples", MEANS, _of(AtMostEight)),
    "names not told": Wrong("`differentiated` is not what was asked for", SELECTED, _of(NamesNotTold)),
    "adds names": Wrong("differentiating() adds names and removes none", SELECTED, _of(AddsNames)),
    "all if one is frozen": Wrong(
        "all gradients as soon as a frozen tensor is asked for", SELECTED, _of(AllIfOneIsFrozen)
    ),
    "ten digits": Wrong(
        "results cached by θ to ten digits",
        "earlier_calls_change_no_result",
        lambda: ObjectiveSubject(lambda: TenDigits(dataset_loss()), batches=batches()),
    ),
    "collector off": Wrong("gc.disable() while measuring", NOTHING, leaves_behind(gc.disable)),
    "logs nothing": Wrong(
        "logging.disable() while measuring", NOTHING, leaves_behind(lambda: logging.disable(logging.CRITICAL))
    ),
    "prints four digits": Wrong(
        "numpy.set_printoptions() while measuring",
        NOTHING,
        leaves_behind(lambda: np.set_printoptions(precision=4)),
    ),
    "path grows": Wrong(
        "sys.path extended while measuring", NOTHING, leaves_behind(lambda: sys.path.append("data"))
    ),
}
RIGHT_SELECTED = {"selecting quartics": ObjectiveSubject(Quartics)}
