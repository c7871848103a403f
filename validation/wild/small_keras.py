"""Small data, and the plain fit and the plain eager loop that most cases in Keras share."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from lca_tensorflow import Objective
from validation.wild.case import case
from validation.wild.keras_run import KerasRun

keras_case = partial(case, framework="keras")
CROSS_ENTROPY = {"from_logits": True}


def vectors(n: int = 24, features: int = 6, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian rows (n, features) and labels."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, features)).astype(np.float32), rng.integers(classes, size=n)


def images(n: int = 16, size: int = 8, channels: int = 3, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, size, size, channels) and labels."""
    rng = np.random.default_rng(2)
    return rng.normal(size=(n, size, size, channels)).astype(np.float32), rng.integers(classes, size=n)


def tokens(
    n: int = 24, length: int = 7, vocabulary: int = 11, classes: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers (n, length), none of them 0, and labels."""
    rng = np.random.default_rng(3)
    return rng.integers(1, vocabulary, size=(n, length)), rng.integers(classes, size=n)


def cross_entropy() -> keras.losses.Loss:
    """From logits and labels."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp(features: int = 6, hidden: int = 8, out: int = 3) -> keras.Model:
    """One hidden layer."""
    return keras.Sequential(
        [keras.Input((features,)), layers.Dense(hidden, "tanh", name="body"), layers.Dense(out, name="head")]
    )


def built(model: keras.Model, shape: tuple[int, ...] = (1, 6)) -> keras.Model:
    """The model after one call."""
    model(np.zeros(shape, np.float32))
    return model


def fitted(
    run: KerasRun,
    model: keras.Model,
    data: tuple[Any, Any] | None = None,
    loss: Any = None,
    *,
    optimizer: Any = None,
    truth: Callable[[], tf.Tensor] | None = None,
    measured: Callable[[], Any] | None = None,
    compiled: dict[str, Any] | None = None,
    callbacks: Sequence[Any] = (),
    options: dict[str, Any] | None = None,
    world: Sequence[Any] = (),
    fit: dict[str, Any] | None = None,
    source: Any = None,
    also: Sequence[Any] = (),
) -> Sequence[Any]:
    """``model.fit`` for two epochs of batches of 8; what has been trained.

    Parameters
    ----------
    truth
        The measured loss; default: the compiled one on all data at once, with the model's own penalties.
    measured
        Makes what the callback gets; default: the data.
    compiled, fit, options
        Of `compile`, `fit` and `LCACallback`.
    source
        What `fit` reads instead of the data.
    """
    x, y = vectors() if data is None else data
    loss = loss or cross_entropy()
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, **(compiled or {}))
    truth = truth or (lambda: loss(y, model(x, training=False)) + sum(model.losses))
    given = measured() if measured and run.measures else (x, y)
    given = given if isinstance(given, tuple) else (given,)
    own = run.callbacks(*given, loss=truth, world=world, **(options or {}))
    arguments = {"epochs": 2, "verbose": 0} | (fit or {})
    arguments |= {"x": source} if source is not None else {"x": x, "y": y}
    if source is None:
        arguments.setdefault("batch_size", 8)
    history = model.fit(**arguments, callbacks=[*callbacks, *own])
    return model, model.optimizer, history.history, *also


def looped(
    run: KerasRun,
    model: keras.Model,
    loss: Callable[[Any, Any], tf.Tensor] | None = None,
    data: tuple[Any, ...] | None = None,
    *,
    optimizer: Any = None,
    after: Callable[[int], None] = lambda step: None,
    training: Callable[[Any, Any], tf.Tensor] | None = None,
    steps: int = 4,
    world: Sequence[Any] = (),
    also: Sequence[Any] = (),
    tracker: dict[str, Any] | None = None,
    measured: Callable[[], Any] | None = None,
    **options: Any,
) -> Sequence[Any]:
    """An eager loop in which training and measuring use the same ``loss(model, batch)``.

    Parameters
    ----------
    training
        The loss of training, if it is another.
    after
        Called after every step with its index.
    options
        Of `Objective`.
    """
    data = vectors() if data is None else data
    optimizer = optimizer or keras.optimizers.Adam(0.02)
    entropy = cross_entropy()
    loss = loss or (lambda model, batch: entropy(batch[1], model(batch[0], training=False)))
    measured = measured or (lambda: Objective(model, None, data, batch_loss=loss, **options))
    with run.measuring(model, optimizer, measured, lambda: loss(model, data), world, **(tracker or {})):
        for step in range(steps):
            batch = tuple(part[step::3] for part in data)
            variables = model.trainable_variables
            with tf.GradientTape() as tape:
                value = (training or loss)(model, batch)
            optimizer.apply(tape.gradient(value, variables), variables)
            after(step)
    return model, optimizer, *also
