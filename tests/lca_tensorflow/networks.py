"""Small Keras networks of every kind, and data for them, which the tests of `lca_tensorflow` share."""

from contextlib import contextmanager

import keras
import numpy as np
from keras import layers

RNG = np.random.default_rng(1)
X, Y = RNG.normal(size=(17, 6)).astype("float32"), RNG.integers(3, size=17)
IMAGES, LABELS = RNG.normal(size=(9, 8, 8, 2)).astype("float32"), RNG.integers(3, size=9)
TOKENS, WORDS = RNG.integers(7, size=(9, 4)).astype("int32"), RNG.integers(3, size=9)


@contextmanager
def floats(dtype):
    """Models and losses made inside have this dtype, or policy, and weights drawn from one seed."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64" if dtype == "float64" else "float32")
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(0)
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def stack(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def mlp():
    return stack((6,), layers.Dense(5, activation="tanh"), layers.Dropout(0.5), layers.Dense(3))


def cnn():
    pool = layers.AveragePooling2D(2)
    head = (layers.Flatten(), layers.Dense(3, kernel_regularizer="l2"))
    return stack((8, 8, 2), layers.Conv2D(4, 3, activation="tanh"), pool, *head)


def normalised():
    norm = layers.BatchNormalization(epsilon=0.125)  # as large as the kit's networks have it
    return stack((6,), layers.Dense(4), norm, layers.Activation("tanh"), layers.Dropout(0.2), layers.Dense(3))


def functional():
    """Two branches, one of them normalised, that are added: a graph and no stack."""
    inputs = keras.Input((6,))
    left = layers.Dense(4, activation="tanh")(inputs)
    right = layers.LayerNormalization()(layers.Dense(4)(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Add()([left, right])))


class Subclassed(keras.Model):
    """A model with a penalty on what it computes, and layers in an order of its own."""

    def __init__(self):
        super().__init__()
        self.out = layers.Dense(3)
        self.hidden = layers.Dense(4, activation="tanh")

    def call(self, inputs):
        hidden = self.hidden(inputs)
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(hidden)))
        return self.out(hidden)


def subclassed():
    model = Subclassed()
    model(X[:2])
    return model


def embedding():
    """Its gradient comes as `tf.IndexedSlices`."""
    return stack((4,), layers.Embedding(7, 3), layers.Flatten(), layers.Dense(3))


def shared():
    """One layer that is used three times, one of them inside another model."""
    inputs, layer = keras.Input((6,)), layers.Dense(6, activation="tanh", name="shared")
    inner = keras.Sequential([keras.Input((6,)), layer], name="inner")
    return keras.Model(inputs, layers.Dense(3)(inner(layer(layer(inputs)))))


class Averages(keras.Model):
    """Adds an average over the outputs of training, and multiplies by a variable that the loop sets."""

    def __init__(self):
        super().__init__()
        self.outputs_of = keras.layers.Dense(3)
        self.average = self.add_weight(name="average", shape=(3,), initializer="zeros", trainable=False)
        self.factor = self.add_weight(name="factor", shape=(), initializer="ones", trainable=False)

    def call(self, inputs, training=False):
        outputs = self.outputs_of(inputs)
        if training:
            self.average.assign(0.9 * self.average + 0.1 * keras.ops.mean(outputs, axis=0))
        return self.factor * outputs + self.average


MODELS = {
    "mlp": (mlp, (X, Y)),
    "cnn": (cnn, (IMAGES, LABELS)),
    "normalised": (normalised, (X, Y)),
    "functional": (functional, (X, Y)),
    "subclassed": (subclassed, (X, Y)),
    "embedding": (embedding, (TOKENS, WORDS)),
    "shared": (shared, (X, Y)),
}


class Regularized(keras.Model):
    """An autoencoder whose codes have a penalty, of each example or of the batch as a whole."""

    def __init__(self, penalty):
        super().__init__()
        self.code, self.out = keras.layers.Dense(3), keras.layers.Dense(4)
        self.beta, self.plain = keras.Variable(0.0, trainable=False, name="beta"), 0.0
        self.penalty = penalty

    def call(self, x):
        code = self.code(x)
        self.add_loss((self.beta + self.plain) * self.penalty(code))
        return self.out(code)


def of_examples(code):
    return keras.ops.mean(keras.ops.square(code))


def of_batch(code):
    return keras.ops.sum(keras.ops.square(keras.ops.mean(code, 0)))
