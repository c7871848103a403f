"""Networks by name, for command lines and configuration files: ``mlp:64,32``, ``logistic``, ``cnn:8,16``."""

import math
from collections.abc import Callable, Sequence

from lca.errors import LCAError, UnknownNameError
from lca.reference.models.network import Network, logistic_regression, mlp, small_cnn

Shape = tuple[int, ...]


def make_model(spec: str, example_shape: Shape, n_classes: int) -> Network:
    """The network that ``spec`` describes, for examples of a given shape.

    Parameters
    ----------
    spec
        A name and, after a colon, widths: ``logistic`` (no hidden layer), ``mlp:64,32`` and
        ``mlp-tanh:64,32`` (hidden widths), ``cnn:8,16`` (channels of the convolutions, 3x3, each followed
        by 2x2 pooling). Without a colon ``mlp`` is ``mlp:64,32`` and ``cnn`` is ``cnn:8,16``.
    example_shape
        Shape of one example as it comes from the file. The network may see it reshaped, flat or with a
        channel axis: its ``input_shape`` says how.
    n_classes
        Number of outputs.

    Raises
    ------
    UnknownNameError
        If there is no network of this name; the message lists those there are.
    LCAError
        If the widths are not positive integers, or the examples are no images and the network needs some.

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
        raise LCAError(f"model {spec!r}: logistic regression has no hidden widths; use mlp:... for those.")
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
"""Every name that `make_model` knows."""


def _widths(spec: str, text: str) -> tuple[int, ...]:
    parts = text.split(",") if text else []
    if any(not part.strip().isdecimal() or int(part) < 1 for part in parts):
        raise LCAError(
            f"model {spec!r}: what follows the colon must be positive widths separated by commas, e.g. "
            "mlp:64,32."
        )
    return tuple(int(part) for part in parts)
