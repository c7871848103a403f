"""`Fit`: the call of `keras.Model.fit` that callbacks run in, and what of it the measured loss lacks."""

import sys
import warnings
from collections.abc import Mapping
from types import FrameType
from typing import Any

import keras

from lca.errors import LCAWarning
from lca.frameworks import ModelObjective, Rows
from lca.objective import Objective as AnyObjective
from lca.objective import leaves


class Fit:
    """A call of fit: its arguments, which Keras does not pass to callbacks, and the list of all callbacks.

    Parameters
    ----------
    arguments
        The local variables of the call; empty if there is none.

    Attributes
    ----------
    initial_epoch
        The epoch at which it was told to begin.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.initial_epoch: int = arguments.get("initial_epoch") or 0
        self._list: Any = arguments.get("callbacks")
        self._weights = _weights_in(arguments)
        self.whole_epochs = bool(arguments) and arguments.get("steps_per_epoch") is None
        """Whether an epoch is a pass over the data."""

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """All callbacks; empty if there is no list of them."""
        found: list[keras.callbacks.Callback] = getattr(self._list, "callbacks", [])
        return found

    @classmethod
    def of(cls, model: keras.Model) -> "Fit":
        """The call of ``model.fit`` on the call stack."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_name == "fit" and frame.f_locals.get("self") is model:
                return cls(frame.f_locals)
            frame = frame.f_back
        return cls({})

    def append(self, callback: keras.callbacks.Callback) -> bool:
        """Add a callback behind all others, which are being called; false if there is no list of them."""
        if self.callbacks:
            self.callbacks.append(callback)
        return bool(self.callbacks)

    def remove(self, callback: keras.callbacks.Callback) -> None:
        """Take it away again, for the list may be used in another fit.

        Keras may be going through the list, so another takes its place.
        """
        self._list.callbacks = [other for other in self.callbacks if other is not callback]

    def check_weights(self, measured: AnyObjective | Mapping[str, AnyObjective]) -> None:
        """Warn if fit weighs the examples and no measured loss does."""
        own = [leaf for leaf in leaves(measured) if isinstance(leaf, ModelObjective)]
        if self._weights and own and not any(map(_is_weighted, own)):
            warnings.warn(
                f"fit weighs the examples ({self._weights}), and the measured loss does not, so it is not "
                "the loss of training. Measure with weights, as data (x, y, sample_weight) or as "
                "Objective(model, None, data, class_weight=...).",
                LCAWarning,
                stacklevel=2,
            )


def _weights_in(arguments: Mapping[str, Any]) -> str:
    """How fit weighs the examples; empty if it does not."""
    if arguments.get("class_weight") is not None:
        return "class_weight"
    if arguments.get("sample_weight") is not None:
        return "sample_weight"
    spec = getattr(arguments.get("x"), "element_spec", None)  # of a tf.data.Dataset
    return "the sample_weight of its Dataset" if isinstance(spec, tuple) and len(spec) == 3 else ""


def _is_weighted(objective: ModelObjective) -> bool:
    """Whether the data of an objective hold weights, or its loss is its own business."""
    loss: Any = objective._loss
    data = objective._data
    if loss._own_loss or loss._class_weight is not None or not isinstance(data, Rows):
        return True
    return isinstance(data.tree, tuple) and len(data.tree) > 2
