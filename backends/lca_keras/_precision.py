"""The precision that a loss is computed in."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras.src.backend.common import dtypes

EPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
"""Machine epsilon by dtype."""

_SCALE = 2.0**14


def scale_of(model: keras.Model) -> float:
    """The loss scale: the loss of a model is multiplied by it, and its gradient divided by it afterwards.

    float16 holds no number below 6e-8, and few digits below 6e-5, as gradients of small losses are; so
    `keras.optimizers.LossScaleOptimizer` does it in training. A power of two changes no digit.
    """
    layers = model._flatten_layers()
    return _SCALE if any(layer.compute_dtype == "float16" for layer in layers) else 1.0


@contextmanager
def results_in(dtype: str) -> Iterator[None]:
    """Let operations of `keras.ops` on float64 return float64, for a ``dtype`` of float64.

    On PyTorch and JAX, Keras casts the results of many operations to float32 (divisions, on JAX also tanh),
    whatever their operands. A loss of float64 parameters would be one of float32 rounding.
    """
    table = getattr(dtypes, "BIT64_TO_BIT32_DTYPE", {})
    before = table.get(dtype)
    if before is not None:
        table[dtype] = dtype
    try:
        yield
    finally:
        if before is not None:
            table[dtype] = before
