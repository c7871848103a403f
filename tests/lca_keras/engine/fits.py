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


class Penalised(keras.Sequential):
    """Its compiled loss reads attributes; the floor of the mean square counts once the mean is below it."""

    def __init__(self, layers):
        super().__init__(layers)
        self.beta, self.floor, self.seen = 0.0, 0.0, 0

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        square = ops.mean(ops.square(y_pred))
        return super().compute_loss(x, y, y_pred, sample_weight) + (
            self.beta * square + ops.maximum(square, self.floor)
        )


def penalised(**options):
    keras.utils.set_random_seed(3)
    model = Penalised([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(0.1), cross_entropy(), **options)
    return model


class Changes(keras.callbacks.Callback):
    """Sets an attribute of the model when an epoch begins, and may have its training step made anew."""

    def __init__(self, name, values, *, anew=False):
        super().__init__()
        self.name, self.values, self.anew = name, values, anew

    def on_epoch_begin(self, epoch, logs=None):
        setattr(self.model, self.name, self.values[epoch])
        if self.anew and epoch:
            self.model.make_train_function(force=True)


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
