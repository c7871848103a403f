"""Correct and incorrect objectives; each incorrect one has one defect that a backend might have."""

import random

import numpy as np

from lca import Layout, Scaled, Sum
from lca.reference import Batch
from lca.reference._models import (
    Bilinear,
    DatasetLoss,
    L2Penalty,
    Quartic,
    ReluKink,
    bowl,
    logistic_regression,
    mlp,
    saddle,
    small_cnn,
)
from lca.testing._objective_subject import ObjectiveSubject
from tests.meta.animals import Passing, Wrong

_rng = np.random.default_rng(7)
X, Y = _rng.normal(size=(17, 3)), _rng.integers(3, size=17)
IMAGES = _rng.normal(size=(6, 1, 6, 6))
CUTS = [slice(0, 5), slice(5, 10), slice(10, 15), slice(15, 17)]  # the last one is ragged
BATCHES = [(float(len(X[cut])), Batch(X[cut], Y[cut])) for cut in CUTS]


def dataset_loss(activation="tanh"):
    return DatasetLoss(mlp((3, 4, 3), activation=activation), X, Y, batch_size=5)


def _penalised():
    data = dataset_loss()
    return Sum({"data": data, "penalty": Scaled(L2Penalty(data.layout, 0.1, ("fc1.weight",)), 0.5)})


class Together(Passing):
    """Evaluates several batches in one call."""

    def loss_and_grad(self, theta, batch=None):
        return self.objective.loss_and_grad(theta, batch)

    def evaluate_together(self, parts, theta, *, gradient):
        found = [own.loss_and_grad(theta, batch) for own, batch in parts]
        return found if gradient else [(loss, None) for loss, _ in found]


class TogetherInOneBuffer(Together):
    def evaluate_together(self, parts, theta, *, gradient):
        buffer = np.zeros_like(theta)
        for own, batch in parts:
            buffer += own.loss_and_grad(theta, batch)[1] / len(parts)
        return [(own.loss(theta, batch), buffer) for own, batch in parts]


class TogetherSorted(Together):
    """Groups batches by their length and returns them in that order."""

    def evaluate_together(self, parts, theta, *, gradient):
        ordered = sorted(parts, key=lambda part: len(X) if part[1] is None else len(part[1].x))
        return super().evaluate_together(ordered, theta, gradient=gradient)


class TogetherWithoutGradient(Together):
    """Losses without gradients are those of sums."""

    def evaluate_together(self, parts, theta, *, gradient):
        found = super().evaluate_together(parts, theta, gradient=gradient)
        return found if gradient else [(loss * len(parts), None) for loss, _ in found]


RIGHT_OBJECTIVES: dict[str, ObjectiveSubject] = {
    "tanh MLP": ObjectiveSubject(dataset_loss, batches=BATCHES),
    "ReLU MLP": ObjectiveSubject(lambda: dataset_loss("relu"), batches=BATCHES),
    "logistic": ObjectiveSubject(lambda: DatasetLoss(logistic_regression(3, 3), X, Y), batches=BATCHES),
    "together": ObjectiveSubject(lambda: Together(dataset_loss()), batches=BATCHES),
    "CNN": ObjectiveSubject(lambda: DatasetLoss(small_cnn((1, 6, 6), 3, channels=(2, 2)), IMAGES, Y[:6])),
    "weighted": ObjectiveSubject(lambda: DatasetLoss(mlp((3, 2, 3)), X, Y, weight=np.arange(17.0))),
    "by class": ObjectiveSubject(lambda: dataset_loss().by_class()),
    "L2 penalty": ObjectiveSubject(lambda: L2Penalty(dataset_loss().layout, 0.3)),
    "data and penalty": ObjectiveSubject(_penalised),
    "scaled": ObjectiveSubject(lambda: Scaled(dataset_loss(), -2.5), batches=BATCHES),
    "bowl": ObjectiveSubject(lambda: bowl(5)),
    "saddle": ObjectiveSubject(lambda: saddle(4)),
    "bilinear": ObjectiveSubject(lambda: Bilinear(3)),
    "quartic": ObjectiveSubject(lambda: Quartic([1.0, 2.0, 0.5])),
    "ReLU kink": ObjectiveSubject(lambda: ReluKink([1.0, -2.0, 0.5], 0.1)),
}


def _wrapped(kind):
    return lambda: ObjectiveSubject(lambda: kind(dataset_loss()), batches=BATCHES)


def _with_model(kind):
    """A subject whose ``state`` is the model that the objective evaluates."""

    def subject():
        model = {}

        def make():
            model.update(parameters=np.ones(1), running_mean=np.zeros(2))
            objective = kind(dataset_loss())
            objective.model = model
            return objective

        return ObjectiveSubject(make, batches=BATCHES, state=lambda: model)

    return subject


# --- which loss ------------------------------------------------------------------------------------------


class LastBatchDropped(Passing):
    def loss_and_grad(self, theta, batch=None):
        return self.objective.loss_and_grad(theta, Batch(X[:15], Y[:15]) if batch is None else batch)

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]


class MeanOfBatchMeans(Passing):
    def loss_and_grad(self, theta, batch=None):
        if batch is not None:
            return self.objective.loss_and_grad(theta, batch)
        losses, grads = zip(*(self.objective.loss_and_grad(theta, b) for _, b in BATCHES), strict=True)
        return float(np.mean(losses)), np.mean(grads, axis=0, dtype=theta.dtype)

    def loss(self, theta, batch=None):
        return self.loss_and_grad(theta, batch)[0]


class BatchIgnored(Passing):
    def loss_and_grad(self, theta, batch=None):
        return self.objective.loss_and_grad(theta)


class SumAgainstMean(Passing):
    def loss(self, theta, batch=None):
        return len(X) * super().loss(theta, batch)


class TrainingModeGradient(Passing):
    """``loss`` in evaluation mode, ``loss_and_grad`` with the dropout of training (a fixed mask)."""

    def loss_and_grad(self, theta, batch=None):
        mask = (np.arange(theta.size) % 4 > 0).astype(theta.dtype)
        loss, grad = super().loss_and_grad(theta * mask, batch)
        return loss, grad * mask


# --- which gradient --------------------------------------------------------------------------------------


class GradientOfTheSum(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, len(X) * grad


class PenaltyWithoutGradient(Passing):
    def loss(self, theta, batch=None):
        return super().loss(theta, batch) + 0.1 * float(np.square(theta, dtype=np.float64).sum())

    def loss_and_grad(self, theta, batch=None):
        return self.loss(theta, batch), super().loss_and_grad(theta, batch)[1]


class StatisticsDetached(Passing):
    """A loss divided by a statistic of θ that is treated as a constant in the gradient."""

    def loss(self, theta, batch=None):
        return super().loss(theta, batch) / (1.0 + float(np.square(theta, dtype=np.float64).mean()))

    def loss_and_grad(self, theta, batch=None):
        scale = theta.dtype.type(1 + np.square(theta).mean())
        return self.loss(theta, batch), super().loss_and_grad(theta, batch)[1] / scale


class OneTensorFrozen(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        self.layout.unflatten(grad)["fc2.weight"][...] = 0
        return loss, grad


class Transposed(Passing):
    """One gradient has the shape (in, out) although the parameter has (out, in)."""

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        weight = self.layout.unflatten(grad)["fc1.weight"]
        weight[...] = weight.T.reshape(weight.shape)
        return loss, grad


class ClippedGradient(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad / max(1.0, 4 * float(np.linalg.norm(grad)))


# --- which numbers ---------------------------------------------------------------------------------------


class InFloat32(Passing):
    def loss(self, theta, batch=None):
        return super().loss(theta.astype(np.float32), batch)

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta.astype(np.float32), batch)
        return loss, grad.astype(theta.dtype)


class OnlyGradientInFloat32(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad.astype(np.float32).astype(theta.dtype)


class HalfPrecision(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad.astype(np.float16).astype(theta.dtype) if theta.dtype == np.float32 else grad


class ArrayLoss(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return np.array(loss), grad


class WideGradient(Passing):
    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        return loss, grad.astype(np.float64)


class NanToZero(Passing):
    def loss_and_grad(self, theta, batch=None):
        return super().loss_and_grad(np.nan_to_num(theta), batch)


class ExtraEntriesIgnored(Passing):
    def loss(self, theta, batch=None):
        return super().loss(theta[: self.layout.size], batch)

    def loss_and_grad(self, theta, batch=None):
        return super().loss_and_grad(theta[: self.layout.size], batch)


class ColumnOrder(Layout):
    """Unflattens θ in column-major order and flattens it in row-major order."""

    def unflatten(self, theta):
        tensors = super().unflatten(theta)
        return {name: tensor.ravel().reshape(tensor.shape, order="F") for name, tensor in tensors.items()}


class OtherOrder(Passing):
    @property
    def layout(self):
        return ColumnOrder(self.objective.layout.names, self.objective.layout.shapes)


# --- which state -----------------------------------------------------------------------------------------


class Dropout(Passing):
    """Dropout left on, with a generator of its own."""

    def __init__(self, objective):
        super().__init__(objective)
        self._rng = np.random.default_rng(0)

    def loss_and_grad(self, theta, batch=None):
        keep = (self._rng.random(theta.size) > 0.25).astype(theta.dtype)
        loss, grad = super().loss_and_grad(theta * keep, batch)
        return loss, grad * keep


class GlobalShuffle(Passing):
    """Does not change the loss, but the random numbers of the subsequent training."""

    def loss_and_grad(self, theta, batch=None):
        np.random.permutation(17)  # noqa: NPY002 - the bug
        return super().loss_and_grad(theta, batch)


class PythonRandom(Passing):
    def loss(self, theta, batch=None):
        random.random()
        return super().loss(theta, batch)


class BuffersMove(Passing):
    """BatchNorm left in training mode: its running statistics drift while measuring."""

    def loss_and_grad(self, theta, batch=None):
        self.model["running_mean"] += 1e-6
        return super().loss_and_grad(theta, batch)


class NotRestored(Passing):
    """Parameters are loaded into the model, measured and left there."""

    def loss_and_grad(self, theta, batch=None):
        self.model["parameters"][...] = theta[0]
        return super().loss_and_grad(theta, batch)


class NotRestoredAfterAnError(Passing):
    """The same, with the parameters restored unless the measurement raises."""

    def loss_and_grad(self, theta, batch=None):
        before = self.model["parameters"].copy()
        self.model["parameters"][...] = theta[0]
        answer = super().loss_and_grad(theta, batch)
        self.model["parameters"][...] = before
        return answer


class GradientNotZeroed(Passing):
    """``zero_grad`` forgotten: gradients add up from call to call."""

    held = 0.0

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        self.held = self.held + grad
        return loss, self.held.astype(theta.dtype)


class OneGradientBuffer(Passing):
    """Every gradient is a view of the same buffer (``param.grad``), which the next call overwrites."""

    def __init__(self, objective):
        super().__init__(objective)
        self._buffer = {d: np.empty(objective.layout.size, d) for d in (np.float32, np.float64)}

    def loss_and_grad(self, theta, batch=None):
        loss, grad = super().loss_and_grad(theta, batch)
        buffer = self._buffer[theta.dtype.type]
        buffer[...] = grad
        return loss, buffer


class RemembersGradients(Passing):
    """Results cached by θ and returned again without a copy, although the caller may have modified them."""

    def __init__(self, objective):
        super().__init__(objective)
        self._known = {}

    def loss_and_grad(self, theta, batch=None):
        if batch is not None:
            return super().loss_and_grad(theta, batch)
        key = theta.tobytes()
        if key not in self._known:
            self._known[key] = super().loss_and_grad(theta)
        return self._known[key]


class WritesIntoTheta(Passing):
    """Weights normalised in place before the forward pass."""

    def loss(self, theta, batch=None):
        theta /= max(1.0, float(np.linalg.norm(theta)))
        return super().loss(theta, batch)


WRONG_OBJECTIVES: dict[str, Wrong] = {
    "last batch dropped": Wrong(
        "the original LCA code: a partial last batch is dropped",
        "whole_is_the_mean_of_its_batches",
        _wrapped(LastBatchDropped),
    ),
    "mean of batch means": Wrong(
        "batch means averaged without their sizes",
        "whole_is_the_mean_of_its_batches",
        _wrapped(MeanOfBatchMeans),
    ),
    "batch ignored": Wrong(
        "the batch argument accepted and never used",
        "whole_is_the_mean_of_its_batches",
        _wrapped(BatchIgnored),
    ),
    "batches evaluated together share a gradient": Wrong(
        "one buffer for the gradients of several batches",
        "batches_together_are_as_one_by_one",
        _wrapped(TogetherInOneBuffer),
    ),
    "batches evaluated together come back in another order": Wrong(
        "batches sorted by their length",
        "batches_together_are_as_one_by_one",
        _wrapped(TogetherSorted),
    ),
    "losses evaluated together are not those of single batches": Wrong(
        "a loss without gradient that is not divided by the number of batches",
        "batches_together_are_as_one_by_one",
        _wrapped(TogetherWithoutGradient),
    ),
    "sum against mean": Wrong(
        "loss with reduction='sum', gradient with 'mean'",
        "loss_agrees_with_loss_and_grad",
        _wrapped(SumAgainstMean),
    ),
    "training-mode gradient": Wrong(
        "eval() for the loss, train() for the gradient",
        "loss_agrees_with_loss_and_grad",
        _wrapped(TrainingModeGradient),
    ),
    "gradient of the sum": Wrong(
        "chunk gradients added up and never divided by N",
        "gradient_matches_finite_differences",
        _wrapped(GradientOfTheSum),
    ),
    "penalty without gradient": Wrong(
        "a penalty included in the loss but not in the gradient",
        "gradient_matches_finite_differences",
        _wrapped(PenaltyWithoutGradient),
    ),
    "statistics detached": Wrong(
        "BatchNorm without the gradient through its statistics",
        "gradient_matches_finite_differences",
        _wrapped(StatisticsDetached),
    ),
    "one tensor frozen": Wrong(
        "requires_grad=False left on one tensor", "allocation_adds_up", _wrapped(OneTensorFrozen)
    ),
    "gradient transposed": Wrong(
        "(in, out) of one framework, (out, in) of another",
        "gradient_matches_finite_differences",
        _wrapped(Transposed),
    ),
    "clipped gradient": Wrong(
        "the gradient of the training loop, after clipping",
        "gradient_matches_finite_differences",
        _wrapped(ClippedGradient),
    ),
    "float64 in float32": Wrong(
        "JAX without x64: float64 parameters computed in float32",
        "gradient_matches_finite_differences",
        _wrapped(InFloat32),
    ),
    "gradient in float32": Wrong(
        "a mixed-precision gradient beside a float64 loss",
        "works_in_the_precision_of_theta",
        _wrapped(OnlyGradientInFloat32),
    ),
    "half precision": Wrong("autocast left on", "float32_agrees_with_float64", _wrapped(HalfPrecision)),
    "loss as an array": Wrong(
        "a 0-d tensor that keeps its graph alive", "gradient_is_like_theta", _wrapped(ArrayLoss)
    ),
    "float64 gradient of float32": Wrong(
        "the float64 accumulator returned without conversion to θ's dtype",
        "gradient_is_like_theta",
        _wrapped(WideGradient),
    ),
    "NaN to zero": Wrong(
        "dattri tracin.py, trak.py: NaN turned into 0",
        "non_finite_numbers_are_not_hidden",
        _wrapped(NanToZero),
    ),
    "extra entries ignored": Wrong(
        "θ of another model is accepted and truncated",
        "wrong_vectors_are_refused",
        _wrapped(ExtraEntriesIgnored),
    ),
    "column order": Wrong(
        "tensors unflattened in column-major and flattened in row-major order",
        "layout_round_trip",
        _wrapped(OtherOrder),
    ),
    "dropout left on": Wrong("train() while measuring", "deterministic", _wrapped(Dropout)),
    "gradient not zeroed": Wrong("zero_grad forgotten", "deterministic", _wrapped(GradientNotZeroed)),
    "NumPy generator consumed": Wrong(
        "a shuffling data loader while measuring", "calls_change_nothing", _wrapped(GlobalShuffle)
    ),
    "Python generator consumed": Wrong(
        "augmentation drawn from random while measuring", "calls_change_nothing", _wrapped(PythonRandom)
    ),
    "BatchNorm statistics move": Wrong(
        "running statistics updated while measuring", "calls_change_nothing", _with_model(BuffersMove)
    ),
    "model left at the end-point": Wrong(
        "parameters loaded for measuring and not restored", "calls_change_nothing", _with_model(NotRestored)
    ),
    "model left after an error": Wrong(
        "parameters restored without try/finally",
        "calls_change_nothing",
        _with_model(NotRestoredAfterAnError),
    ),
    "one gradient buffer": Wrong(
        "param.grad returned instead of a copy",
        "gradients_are_not_overwritten",
        _wrapped(OneGradientBuffer),
    ),
    "remembers gradients": Wrong(
        "a cache of results that returns its own array",
        "gradients_may_be_overwritten",
        _wrapped(RemembersGradients),
    ),
    "writes into θ": Wrong(
        "weight normalisation in place", "calls_change_nothing", _wrapped(WritesIntoTheta)
    ),
}
