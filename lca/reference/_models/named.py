"""`make_model`: networks from short specifications such as ``mlp:64,32``, ``logistic`` and ``cnn:8,16``."""

import math
from collections.abc import Callable, Sequence

from lca.errors import LCAError, UnknownNameError
from lca.reference._models.network import Network, logistic_regression, mlp, small_cnn

Shape = tuple[int, ...]


def make_model(spec: str, example_shape: Shape, n_classes: int) -> Network:
    """Create a network from a short specification.

    Parameters
    ----------
    spec
        A name, optionally followed by a colon and widths: ``logistic`` (no hidden layer), ``mlp:64,32`` and
        ``mlp-tanh:64,32`` (widths of the hidden layers), ``cnn:8,16`` (channels of the 3x3 convolutions, each
        followed by 2x2 pooling). ``mlp`` means ``mlp:64,32``, and ``cnn`` means ``cnn:8,16``.
    example_shape
        Shape of one example of the data. The network may need it reshaped, as a vector or with a channel
        axis; reshape the data to its ``input_shape``.
    n_classes
        Number of outputs.

    Raises
    ------
    UnknownNameError
        If there is no network of this name; the message lists the names.
    LCAError
        If the widths are not positive integers, or the network needs images and the examples are not images.

    Examples
    --------
    >>> make_model("mlp:32", (8, 8), 10).layout.shapes
    ((32, 64), (32,), (10, 32), (10,))
    >>> make_model("cnn", (8, 8), 10).input_shape
    (1, 8, 8)
    """
    name, _, text = spec.partition(":")
    if name not in _MAKERS:
        raise UnknownNameError("model", name, _MAKERS)
    return _MAKERS[name](spec, _widths(spec, text), example_shape, n_classes)


def _logistic(spec: str, widths: Sequence[int], shape: Shape, n_classes: int) -> Network:
    if widths:
        raise LCAError(
            f"model {spec!r}: logistic regression has no hidden layers; use 'logistic' or 'mlp:...'."
        )
    return logistic_regression(math.prod(shape), n_classes)


def _mlp(spec: str, widths: Sequence[int], shape: Shape, n_classes: int) -> Network:
    return mlp((math.prod(shape), *(widths or (64, 32)), n_classes))


def _mlp_tanh(spec: str, widths: Sequence[int], shape: Shape, n_classes: int) -> Network:
    return mlp((math.prod(shape), *(widths or (64, 32)), n_classes), activation="tanh")


def _cnn(spec: str, widths: Sequence[int], shape: Shape, n_classes: int) -> Network:
    if len(shape) not in (2, 3):
        raise LCAError(
            f"model {spec!r} takes images of shape (height, width) or (channels, height, width), got "
            f"examples of shape {shape}; use an mlp, or reshape the data."
        )
    image = (1, *shape) if len(shape) == 2 else shape
    return small_cnn(image, n_classes, channels=widths or (8, 16))


_MAKERS: dict[str, Callable[[str, Sequence[int], Shape, int], Network]] = {
    "logistic": _logistic,
    "mlp": _mlp,
    "mlp-tanh": _mlp_tanh,
    "cnn": _cnn,
}
MODELS = tuple(_MAKERS)
"""The names that `make_model` accepts."""


def _widths(spec: str, text: str) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if any(not part.strip().isdecimal() or int(part) < 1 for part in parts):
        raise LCAError(
            f"model {spec!r}: the colon must be followed by positive integers separated by commas, e.g. "
            "mlp:64,32."
        )
    return tuple(int(part) for part in parts)
