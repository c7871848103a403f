"""Checks that Keras runs on TensorFlow, the only engine of Keras that this package supports."""

import keras

from lca.errors import LCAError


def check_engine(engine: str) -> None:
    """Raise `LCAError` unless Keras runs on TensorFlow.

    >>> check_engine("tensorflow")
    """
    if engine != "tensorflow":
        raise LCAError(
            f"Keras runs on {engine!r} here (KERAS_BACKEND, or keras.json), and lca_tensorflow measures "
            "Keras on TensorFlow only; import lca_keras for PyTorch and JAX, or set KERAS_BACKEND=tensorflow "
            "before Keras is imported."
        )


check_engine(keras.backend.backend())
