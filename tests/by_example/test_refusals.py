"""What is refused, what is said then, and what is slower instead."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import lca
from lca import tolerances
from lca.by_example import ByExample, ExampleSlopes, allocate_by_example
from lca.errors import LCAError, LCAWarning, NonFiniteError, TrajectoryError, UnknownNameError
from lca.estimators import SampledPathIntegral
from lca.reference import (
    BatchNorm,
    CrossEntropy,
    DatasetLoss,
    Dense,
    L2Penalty,
    Network,
    Quadratic,
    Tanh,
    mlp,
)
from lca.reference._models.by_example import example_slopes, one_by_one
from lca_torch import Objective
from tests.by_example.cases import EPS

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(8, 4)), RNG.integers(3, size=8)
LOSS = DatasetLoss(mlp((4, 3)), X, Y)
STEP = lca.Step(np.zeros(15), np.arange(15.0) / 20)


def allocated(objective, how=None, step=STEP):
    [found] = allocate_by_example(objective, [step], how)
    return found


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Quadratic(np.eye(2)), "Quadratic does not know the losses of single examples; use an objective"),
        (
            LOSS.by_class(),
            r"a Sum \('class 0', 'class 1', 'class 2'\) has no losses of single examples.*over",
        ),
        (lca.Scaled(L2Penalty(LOSS.layout, 1.0), 2.0), "L2Penalty does not know the losses of single"),
    ],
)
def test_an_objective_without_examples(objective, message):
    with pytest.raises(LCAError, match=message):
        allocate_by_example(objective, [STEP])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": SampledPathIntegral(size=4)}, "SampledPathIntegral allocates the loss of a probe"),
        ({"estimator": lca.Adaptive}, "expected an Estimator, got"),
        ({"chunk": 0}, "chunk must be at least 1 group, got 0"),
    ],
)
def test_options(options, message):
    with pytest.raises(LCAError, match=message):
        ByExample(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"examples": [8]}, "there is no example 8; the data have 8, numbered from 0"),
        ({"examples": [-1]}, "there is no example -1"),
        ({"examples": [2, 1, 2]}, "example 2 is chosen twice"),
        ({"examples": []}, "examples are chosen by their numbers"),
        ({"examples": Y == 1}, r"a sequence of integers, got .*numpy.flatnonzero\(mask\)"),
        (
            {"labels": {"domain": [1, 2]}},
            r"the labels 'domain' have shape \(2,\); give one label for each of",
        ),
    ],
)
def test_examples_and_labels(options, message):
    with pytest.raises(LCAError, match=message):
        allocate_by_example(LOSS, [STEP], ByExample(**options))


def test_batch_statistics():
    network = Network((Dense(4, 3), BatchNorm(3), Tanh(), Dense(3, 3)), CrossEntropy(), (4,))
    loss, theta = DatasetLoss(network, X, Y), network.init(0)
    with pytest.raises(LCAError, match="depends on the others of its batch .*use BatchNorm"):
        allocated(loss, step=lca.Step(theta, theta + 0.1))
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    objective = Objective(
        model, nn.functional.cross_entropy, (torch.tensor(X), torch.tensor(Y)), batch_size=4
    )
    with pytest.raises(LCAError, match=r"batch statistics\); use batch_norm='frozen'"):
        allocate_by_example(objective, [])


def test_no_step_and_names_that_are_unknown():
    with pytest.raises(TrajectoryError, match="there was no step to allocate"):
        list(allocate_by_example(LOSS, []))
    found = allocated(LOSS)
    with pytest.raises(UnknownNameError, match="unknown labelling 'domain'; known: class"):
        found.over("domain")
    with pytest.raises(UnknownNameError, match="unknown group 'fc2'; known: fc1"):
        found.of("fc2")


class Spoilt(DatasetLoss):
    """An objective whose `by_example` is changed."""

    def __init__(self, change):
        super().__init__(LOSS.network, X, Y)
        object.__setattr__(self, "change", change)

    def by_example(self, theta, movement, groups, index, *, chunk=8):
        return self.change(super().by_example(theta, movement, groups, index, chunk=chunk))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: found._replace(slopes=found.slopes[:, :2]),
            r"slopes of shape \(1, 2\); they must have",
        ),
        (lambda found: found._replace(losses=found.losses[:2]), r"losses of shape \(2,\) for 8 examples"),
        (lambda found: found._replace(losses=2 * found.losses), "add up to .*must give the losses whose"),
    ],
)
def test_slopes_that_do_not_fit(change, message):
    with pytest.raises(LCAError, match=message):
        allocated(Spoilt(change))


def test_wrong_slopes_are_seen_from_the_gradient():
    found = allocated(
        Spoilt(lambda found: ExampleSlopes(found.losses, 1.01 * found.slopes)),
        ByExample(estimator=lca.PathIntegral(lca.gauss_legendre(5))),
    )
    assert not found.converged
    assert "the sums over examples and the gradient differ by" in found.reason


def test_a_loss_that_is_not_finite_names_the_example():
    step = lca.Step(np.zeros(15), np.full(15, np.inf))
    with pytest.raises(NonFiniteError), np.errstate(all="ignore"):
        allocated(LOSS, step=step)

    def third(found):
        losses = found.losses.copy()
        losses[2] = np.nan
        return found._replace(losses=losses)

    with pytest.raises(NonFiniteError, match="step 0: the loss of example 2 at s = 0 is nan"):
        allocated(Spoilt(third), ByExample(estimator=lca.PathIntegral()))


def test_an_estimator_may_leave_no_point_outside_of_the_step():
    class Elsewhere(lca.PathIntegral):
        along = None

        def start(self, objective):
            return lambda step: objective.loss(step.start + np.arange(len(step.start)))

    with pytest.raises(LCAError, match="must evaluate points of the step only"):
        allocated(LOSS, ByExample(estimator=Elsewhere()))


# --- slower, and the same ---------------------------------------------------------------------------------


class Cubed(Tanh):
    """A layer of a class of its own that is not linear in its parameter: ``out = w³ x``."""

    prefix, shapes = "cube", {"weight": (1,)}

    def init(self, rng):
        return (np.array([1.5]),)

    def forward(self, params, x):
        return params[0] ** 3 * x, (params[0], x)

    def write_gradient(self, cache, grad, into):
        weight, x = cache
        into[0][...] = 3 * weight**2 * (grad * x).sum()

    def input_gradient(self, params, cache, grad):
        return params[0] ** 3 * grad


class Squared(torch.autograd.Function):
    """An operation without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def compared(loss_fn, by="tensor"):
    """The allocation by a loss, and by the same loss in the usual form."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = torch.tensor(X), torch.tensor(Y)
    squared = lambda out, y, reduction="mean": nn.functional.cross_entropy(out * out, y, reduction=reduction)  # noqa: E731
    plain, other = Objective(model, squared, data), Objective(model, loss_fn, data)
    theta = plain.theta()
    step = lca.Step(theta, theta + 0.1 * torch.randn_like(theta))
    how = ByExample(by, estimator=lca.PathIntegral(lca.SIMPSON))
    expected, found = allocated(plain, how, step), allocated(other, how, step)
    gap = np.abs(found.values - expected.values).max()
    assert gap <= tolerances.allocation(expected.mass + 1, EPS, expected.nodes)


def test_an_operation_without_forward_mode_is_named_and_measured_by_gradients():
    with pytest.warns(LCAWarning, match="no forward-mode derivative, so .* one gradient each"):
        compared(lambda out, y: nn.functional.cross_entropy(Squared.apply(out), y), by="neuron")


def test_a_loss_without_reduction_is_measured_example_by_example():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for by in ("tensor", "neuron"):
            compared(lambda out, y: nn.functional.cross_entropy(out * out, y), by)


def test_a_loss_that_pretends_to_give_single_losses_does_not_pass():
    def pretends(out, y, reduction="mean"):
        mean = nn.functional.cross_entropy(out * out, y)
        return mean if reduction == "mean" else mean * torch.ones(len(y), dtype=out.dtype)

    for by in ("tensor", "neuron"):
        compared(pretends, by)


def test_a_layer_of_another_class_takes_one_gradient_each():
    network = Network((Dense(4, 3), Cubed(), Dense(3, 3)), CrossEntropy(), (4,))
    loss, start = DatasetLoss(network, X, Y), network.init(0)
    step = lca.Step(start, start + 0.1 * RNG.normal(size=start.shape))
    found = allocated(loss, ByExample("tensor", estimator=lca.PathIntegral(lca.gauss_legendre(8))), step)
    assert found.converged, found.reason
    assert np.abs(found.residual).max() <= tolerances.conservation(found.mass, loss.loss(start), EPS)


def test_both_ways_of_the_reference_agree():
    network = mlp((4, 5, 3), activation="tanh")
    theta, batch = network.init(0), LOSS.batch(np.arange(8))
    groups, movement = network.layout.groups("neuron"), RNG.normal(size=theta.shape)
    for found, expected in zip(
        example_slopes(network, theta, batch, movement, groups),
        one_by_one(network, theta, batch, movement, groups),
        strict=True,
    ):
        assert np.abs(found - expected).max() <= tolerances.gradient(1 + float(np.abs(expected).max()), EPS)
