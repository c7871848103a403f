"""A Keras model whose loss reads Python values, which a compiled training step keeps when they change."""

import keras
from keras import ops

STALE = r"{name} changed after Keras had compiled .*keeps the old value.*keras\.Variable.*make_train_function"
"""The error of a value that has changed."""


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
    model.compile(
        keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options
    )
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
