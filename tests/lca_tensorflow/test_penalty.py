"""`Penalty`: variables and Python values that its function reads besides the parameters are state."""

import types

import numpy as np
import pytest
import tensorflow as tf

import lca
from lca.errors import LCAError, NonDeterministicError
from lca.objective import at_state
from lca_tensorflow import Penalty, layout_of
from tests.lca_tensorflow.networks import floats, stack
from tests.lca_tensorflow.test_configuration import DENSE


@pytest.fixture(autouse=True)
def float64():
    with floats("float64"):
        yield


def squares(tensors):
    return 0.5 * sum(tf.reduce_sum(t**2) for t in tensors.values())


THETA = tf.constant([1.0, 2.0, -2.0], tf.float64)  # ½ |θ|² = 4.5


def model_of():
    return stack((3,), DENSE(1, use_bias=False, name="fc"))


@pytest.mark.parametrize("by_layout", [False, True])
def test_a_variable_is_state_before_and_after_a_step(by_layout):
    beta = tf.Variable(1.0, dtype=tf.float64)
    model = model_of()
    penalty = Penalty(layout_of(model) if by_layout else model, lambda tensors: beta * squares(tensors))
    assert penalty.loss(THETA) == 4.5
    before = penalty.state()
    beta.assign(3.0)
    after = penalty.state()
    step = lca.Step(THETA, THETA / 2, state=(before, after))
    [a] = lca.allocate(penalty, [step], lca.PathIntegral(lca.SIMPSON))
    assert np.allclose(a.values, [-0.375, -1.5, -1.5], rtol=1e-12)  # with the β before
    assert a.state_change == pytest.approx(2 * 4.5 / 4, rel=1e-12)
    assert beta.numpy() == 3.0


def test_a_python_value_is_followed_and_the_one_before_kept():
    options = types.SimpleNamespace(beta=1.0)
    penalty = Penalty(model_of(), lambda tensors: options.beta * squares(tensors))
    states, losses = [penalty.state()], [penalty.loss(THETA)]
    for options.beta in (2.0, 3.0):
        losses.append(penalty.loss(THETA))
        states.append(penalty.state())
    assert losses == [4.5, 9.0, 13.5]
    assert [at_state(penalty, state).loss(THETA) for state in states[1:]] == losses[1:]
    with pytest.raises(
        NonDeterministicError, match="a Python value that the penalty uses changed during the step"
    ):
        at_state(penalty, states[0]).loss(THETA)


def test_another_variable_in_its_place_is_followed():
    options = types.SimpleNamespace(beta=tf.Variable(1.0, dtype=tf.float64))
    penalty = Penalty(model_of(), lambda tensors: options.beta * squares(tensors))
    before = penalty.state()
    assert penalty.loss(THETA) == 4.5
    options.beta = tf.Variable(2.0, dtype=tf.float64)
    assert penalty.loss(THETA) == 9.0
    assert at_state(penalty, before).loss(THETA) == 4.5


def test_a_parameter_that_is_read_past_its_tensor_is_named():
    model = model_of()
    penalty = Penalty(model, lambda tensors: tf.reduce_sum(model.layers[0].kernel ** 2) + squares(tensors))
    with pytest.raises(LCAError, match=r"reads the parameter 'fc\.kernel' .*use tensors\['fc\.kernel'\]"):
        penalty.loss(THETA)
