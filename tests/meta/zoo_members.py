"""Incorrect objectives whose defect shows in their optional members: samples, scores, state, classes."""

from dataclasses import replace

import numpy as np

from lca import Scaled, Sum
from lca.testing import ObjectiveSubject
from tests.meta.animals import Passing, Wrong
from tests.meta.zoo_calls import Sampling, Scheduled, Selecting, batches, dataset_loss


class SortsItsIndex(Sampling):
    def batch(self, index, weight=None):
        index.sort()
        return super().batch(index, weight)


class OneBuffer(Sampling):
    """Every batch of the same size lies in one buffer."""

    def batch(self, index, weight=None):
        made = super().batch(index, weight)
        self.buffers = getattr(self, "buffers", {})
        buffer = self.buffers.setdefault(made.x.shape, made.x.copy())
        buffer[...] = made.x
        return replace(made, x=buffer)


class WideSample(Sampling):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad if batch is None else grad.astype(np.float64)


class ScoresDraw(Sampling):
    def scores(self, theta, batch=None):
        np.random.permutation(3)  # noqa: NPY002 - the bug
        return super().scores(theta, batch)


class BatchDraws(Sampling):
    def batch(self, index, weight=None):
        np.random.permutation(3)  # noqa: NPY002 - the bug
        return super().batch(index, weight)


class ScoresWrite(Sampling):
    def scores(self, theta, batch=None):
        found = super().scores(theta, batch)
        theta *= 1.0001
        return found


class ScoresOfTheFirstCall(Sampling):
    def scores(self, theta, batch=None):
        if batch is not None:
            return super().scores(theta, batch)
        self.first = getattr(self, "first", None)
        self.first = super().scores(theta) if self.first is None else self.first
        return self.first.copy()


class ScoresOfTheLastPass(Sampling):
    """The scores are those of the last forward pass, whichever θ is passed."""

    last = None

    def loss_and_grad(self, theta, batch=None):
        self.last = theta.copy()
        return super().loss_and_grad(theta, batch)

    def scores(self, theta, batch=None):
        return super().scores(theta if self.last is None else self.last, batch)


class _OldOnBatches(Passing):
    def __init__(self, objective, old):
        super().__init__(objective)
        self.old = old

    def loss(self, theta, batch=None):
        return self.objective.loss(theta) if batch is None else self.old.loss(theta, batch)

    def loss_and_grad(self, theta, batch=None):
        return (self.objective if batch is None else self.old).loss_and_grad(theta, batch)


class BatchesInTheOldState(Scheduled):
    def at_state(self, state):
        return _OldOnBatches(super().at_state(state), self)


class _WholeOnly(Passing):
    def loss(self, theta, batch=None):
        return self.objective.loss(theta)

    def loss_and_grad(self, theta, batch=None):
        return self.objective.loss_and_grad(theta)


class BatchesForgotten(Scheduled):
    def at_state(self, state):
        return _WholeOnly(super().at_state(state))


class SelectsInPlace(Selecting):
    def differentiating(self, names):
        object.__setattr__(self, "differentiated", frozenset(names))
        return self


class WithoutTheFirstClass(Passing):
    def by_class(self):
        names = self.objective.by_class().terms
        return Sum({name: term for name, term in names.items() if name != "class 0"})


class MeansOfClasses(Passing):
    def by_class(self):
        terms = self.objective.by_class().terms
        return Sum({name: Scaled(term, 1 / len(terms)) for name, term in terms.items()})


class _OneIfAbsent(Passing):
    def loss(self, theta, batch=None):
        loss = super().loss(theta, batch)
        return loss if batch is None or loss else 1.0

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta, batch), super().loss_and_grad(theta, batch)[1]


class AbsentClassIsOne(Passing):
    """A class that a batch has not has the loss 1 there."""

    def by_class(self):
        return Sum({name: _OneIfAbsent(term) for name, term in self.objective.by_class().terms.items()})


BELONG, ALONE, SCORES, STATE, CLASSES = (
    "batches_belong_to_their_examples",
    "members_change_nothing",
    "scores_depend_on_theta_alone",
    "batches_are_in_the_state",
    "classes_add_up_to_the_loss",
)


def _classes(kind):
    return lambda: ObjectiveSubject(lambda: kind(dataset_loss()), batches=batches())


WRONG_MEMBERS: dict[str, Wrong] = {
    "index sorted": Wrong(
        "batch() sorts its index in place", BELONG, lambda: ObjectiveSubject(SortsItsIndex)
    ),
    "one buffer for batches": Wrong(
        "all batches in one buffer, which the next one overwrites",
        BELONG,
        lambda: ObjectiveSubject(OneBuffer),
    ),
    "wide sample": Wrong(
        "float64 gradients of samples of float32 parameters",
        "samples_are_like_theta",
        lambda: ObjectiveSubject(WideSample),
    ),
    "scores draw": Wrong("random numbers drawn for scores", ALONE, lambda: ObjectiveSubject(ScoresDraw)),
    "batch draws": Wrong("random numbers drawn by batch()", ALONE, lambda: ObjectiveSubject(BatchDraws)),
    "scores write": Wrong("scores written through θ", ALONE, lambda: ObjectiveSubject(ScoresWrite)),
    "scores of the first call": Wrong(
        "scores kept from the first call", SCORES, lambda: ObjectiveSubject(ScoresOfTheFirstCall)
    ),
    "scores of the last pass": Wrong(
        "scores of the last forward pass", SCORES, lambda: ObjectiveSubject(ScoresOfTheLastPass)
    ),
    "batches in the old state": Wrong(
        "at_state() moves the whole data, and batches stay in the old state",
        STATE,
        lambda: ObjectiveSubject(BatchesInTheOldState, batches=batches()),
    ),
    "batches forgotten": Wrong(
        "the objective of at_state() ignores its batch",
        STATE,
        lambda: ObjectiveSubject(BatchesForgotten, batches=batches()),
    ),
    "selects in place": Wrong(
        "differentiating() changes the objective itself",
        "asked_tensors_are_differentiated",
        lambda: ObjectiveSubject(lambda: SelectsInPlace(dataset_loss().layout, 0.3)),
    ),
    "without the first class": Wrong(
        "by_class() leaves out class 0", CLASSES, _classes(WithoutTheFirstClass)
    ),
    "means of classes": Wrong(
        "by_class() divides by the number of classes", CLASSES, _classes(MeansOfClasses)
    ),
    "absent class": Wrong("a class that a batch has not has loss 1", CLASSES, _classes(AbsentClassIsOne)),
}
