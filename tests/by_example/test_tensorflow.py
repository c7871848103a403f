"""`lca_tensorflow` by example: weights, penalties, moving statistics, and losses without single ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import lca
from lca import tolerances
from lca.by_example import ByExample, allocate_by_example
from lca.errors import LCAError
from lca_tensorflow import Objective
from tests.by_example.cases import EPS
from tests.lca_tensorflow.networks import cross_entropy, floats, stack, subclassed

RNG = np.random.default_rng(0)
N = 7
X, Y, WEIGHT = RNG.normal(size=(N, 6)), RNG.integers(3, size=N), RNG.uniform(0.5, 2, size=N)
GAUSS = lca.PathIntegral(lca.gauss_legendre(8))


def penalised():
    norm = layers.BatchNormalization(epsilon=0.125)
    return stack(
        (6,), layers.Dense(4, kernel_regularizer="l2"), norm, layers.Activation("tanh"), layers.Dense(3)
    )


def allocated(model, loss_fn, data, **options):
    objective = Objective(model, loss_fn, data, batch_norm="frozen", batch_size=3, **options)
    theta = objective.theta()
    step = lca.Step(theta, theta + 0.05 * tf.constant(RNG.normal(size=theta.shape)))
    [found] = allocate_by_example(objective, [step], ByExample("tensor", estimator=GAUSS))
    [whole] = lca.allocate(objective, [step], GAUSS, check=False)
    sums = objective.layout.groups("tensor").total(whole.values)
    rounding = tolerances.allocation(whole.mass + 1, EPS, found.nodes)
    assert np.abs(found.values.sum(axis=1) - sums).max() <= rounding
    assert abs(found.loss_change.sum() - whole.loss_change) <= rounding
    assert np.abs(found.residual).max() <= tolerances.conservation(whole.mass + 1, whole.loss_start, EPS)
    assert found.converged, found.reason
    return found, objective._loss


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_weights_of_examples(reduction):
    with floats("float64"):
        found, loss = allocated(penalised(), cross_entropy(reduction=reduction), (X, Y, WEIGHT))
    averages = reduction == "mean_with_sample_weight"
    expected = WEIGHT / WEIGHT.sum() if averages else np.full(N, 1 / N)
    assert np.abs(found.weight - expected).max() <= tolerances.summed(1.0, EPS)
    assert loss._forward is not None


def test_a_compiled_loss():
    with floats("float64"):
        model = penalised()
        model.compile("sgd", cross_entropy())
        _, loss = allocated(model, None, (X, Y))
    assert loss._forward is not None


def test_a_function_and_a_penalty_on_what_is_computed_take_a_gradient_each():
    mean = lambda y, out: tf.reduce_mean(  # noqa: E731
        keras.losses.sparse_categorical_crossentropy(y, out, from_logits=True)
    )
    with floats("float64"):
        _, of_function = allocated(penalised(), mean, (X, Y))
        _, of_penalty = allocated(subclassed(), cross_entropy(), (X, Y))
    assert of_function._forward is None
    assert of_penalty._forward is None


def test_batch_statistics_are_refused():
    with floats("float64"):
        objective = Objective(penalised(), cross_entropy(), (X, Y), batch_size=4)
        with pytest.raises(LCAError, match="batch_norm='frozen'"):
            allocate_by_example(objective, [])
