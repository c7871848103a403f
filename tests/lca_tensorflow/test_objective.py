"""The Keras objective on what only Keras has: compiled losses, shared layers, data sets, statistics."""

import keras
import numpy as np
import tensorflow as tf

from lca import tolerances
from lca_tensorflow import Objective

CROSS_ENTROPY = {"from_logits": True, "dtype": "float64"}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(17, 5)), RNG.integers(3, size=17)


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(**CROSS_ENTROPY, **options)


def model_of(*layers, **options):
    return keras.Sequential([keras.Input((5,), dtype="float64"), *layers], **options)


def dense(n, **options):
    return keras.layers.Dense(n, dtype="float64", **options)


def norm(**options):
    return keras.layers.BatchNormalization(epsilon=0.125, dtype="float64", **options)


def test_frozen_statistics_can_be_given():
    moving = norm()
    objective = Objective(model_of(dense(4), moving, dense(3)), cross_entropy(), (X, Y), batch_norm="frozen")
    theta, before = objective.theta(), objective.state()
    loss = objective.loss(theta)
    moving.moving_mean.assign(np.ones(4))
    assert objective.loss(theta) != loss
    assert objective.at_state(before).loss(theta) == loss
    assert "call" not in vars(moving)


def test_the_compiled_loss_with_weights_and_penalties_is_that_of_evaluate():
    last = keras.layers.Dense(3, kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), last])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    weight = RNG.uniform(0.5, 2, size=17)
    objective = Objective(model, None, (X, Y, weight))
    loss = objective.loss(objective.theta())
    expected = model.evaluate(X, Y, sample_weight=weight, batch_size=17, verbose=0)
    assert abs(loss - expected) <= tolerances.summed(1 + abs(loss), float(np.finfo(np.float32).eps))


def test_embeddings_shared_layers_and_frozen_ones():
    tokens = keras.Input((2,), dtype="int32")
    shared = dense(4, name="shared")
    hidden = shared(shared(keras.layers.Embedding(7, 4, dtype="float64", name="words")(tokens)))
    fixed = dense(3, name="fixed")
    model = keras.Model(tokens, fixed(keras.layers.Flatten(dtype="float64")(hidden)))
    fixed.trainable = False
    x = RNG.integers(7, size=(17, 2)).astype("int32")
    objective = Objective(model, cross_entropy(), (x, Y))
    assert objective.layout.names[:3] == ("words.embeddings", "shared.kernel", "shared.bias")
    grads = objective.layout.unflatten(objective.loss_and_grad(objective.theta())[1].numpy())
    assert grads["words.embeddings"].any()
    assert not grads["fixed.kernel"].any()
    omitted = Objective(model, cross_entropy(), (x, Y), frozen="omit")
    assert omitted.layout.names == objective.layout.names[:3]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[6 * i : 6 * i + 6], Y[6 * i : 6 * i + 6]


def test_every_form_of_data_is_the_same_loss():
    model = model_of(dense(3))
    forms = [
        Batches(),
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(6),
        [(X[:6], Y[:6]), (X[6:12], Y[6:12]), (X[12:], Y[12:])],
    ]
    objectives = [Objective(model, cross_entropy(), data) for data in forms]
    losses = [objective.loss(objective.theta()) for objective in objectives]
    assert [objective.batch_size for objective in objectives] == [6, 6, 6]
    whole = Objective(model, cross_entropy(), (X, Y), batch_size=6)
    assert losses == [whole.loss(whole.theta())] * 3
