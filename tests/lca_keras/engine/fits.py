"""A short fit on any engine of Keras, which the laws of callbacks and other tests share."""

import keras
import numpy as np
from keras import ops

from lca_keras import LCACallback

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 5)).astype("float32"), RNG.integers(3, size=20)


def model_of(optimizer=None, *, dropout=0.5, **options):
    """A compiled model with batch statistics and dropout."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Dense(4, name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dropout(dropout),
        keras.layers.Dense(3, name="second", kernel_regularizer="l2"),
    ]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile(optimizer or keras.optimizers.Adam(0.01), cross_entropy(), **options)
    return model


def cross_entropy(**options):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **options)


def fit(model, *callbacks, epochs=2, **options):
    """Train; return all that training leaves behind."""
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks), **options)
    return [ops.convert_to_numpy(v) for v in (*model.variables, *model.optimizer.variables)]


class Fits:
    """See `tests.laws.callbacks.CallbackFramework`."""

    updates = 6
    tells_updates = True
    epoch = 3
    lasts_as_its_call = True
    advice = dict.fromkeys(  # noqa: RUF012
        ("batch", "micro_batches", "scores"), "which fit does not supply; use a Tracker around"
    )

    def callback(self, *, impossible=False, **options):
        return LCACallback(3 if impossible else (X, Y), **({"batch_norm": "frozen"} | options))

    def fit(self, callback, *, stop_after=None):
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch + 1 == stop_after:
                    raise KeyError("enough")

        keras.backend.clear_session()  # so that the layers get the same names again
        return fit(model_of(keras.optimizers.SGD(0.1)), *filter(None, [callback]), Stop())
