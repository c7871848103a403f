"""The precision that a loss is computed in."""

from collections.abc import Iterator
from contextlib import contextmanager

from keras.src.backend.common import dtypes

EPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}
"""Machine epsilon by dtype."""


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
