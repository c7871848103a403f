"""`Fit`: the call of `keras.Model.fit` in which callbacks run, and its weights that no measured loss has."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from lca.errors import LCAWarning
from lca.frameworks import ModelObjective, Rows
from lca.objective import Objective as AnyObjective
from lca.objective import leaves
from lca.tracking._call import Call


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
        self._batches: Any = arguments.get("epoch_iterator")
        given = [name for name in ("class_weight", "sample_weight") if arguments.get(name) is not None]
        self._weights = " and ".join(given)
        self.whole_epochs = bool(arguments) and arguments.get("steps_per_epoch") is None
        """Whether an epoch is a pass over the data."""

    @property
    def callbacks(self) -> list[keras.callbacks.Callback]:
        """All callbacks; empty if there is no list of them."""
        found: list[keras.callbacks.Callback] = getattr(self._list, "callbacks", [])
        return found

    @property
    def batch_spec(self) -> Any:
        """The specification of its batches on TensorFlow; ``None`` elsewhere."""
        return getattr(self._batches and self._batches._get_iterator(), "element_spec", None)

    @classmethod
    def of(cls, model: keras.Model) -> "Fit":
        """The call of ``model.fit`` on the call stack."""
        call = call_of_fit(model)
        return cls({} if call is None else call.arguments)

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

    def restores(self) -> bool:
        """Whether it continues from the checkpoint of a `BackupAndRestore`, of whatever epoch."""
        backups = [one for one in self.callbacks if isinstance(one, keras.callbacks.BackupAndRestore)]
        return any(Path(backup._weights_path).exists() for backup in backups)

    def check_weights(self, measured: AnyObjective | Mapping[str, AnyObjective]) -> None:
        """Warn if fit weighs the examples and no measured loss does, at the latest with its first batch."""
        own = [leaf for leaf in leaves(measured) if isinstance(leaf, ModelObjective)]
        if not own or any(map(_is_weighted, own)):
            return
        if self._weights:
            _warn_of_weights(self._weights)
        elif self._batches is not None:
            _look_at_first(self._batches, _warn_if_weighted)


def call_of_fit(model: keras.Model) -> Call | None:
    """The call of ``model.fit`` that is under way; ``None`` in a loop that calls the callbacks itself."""
    return Call.of("fit", lambda owner: owner is model)


def _look_at_first(batches: Any, look: Callable[[Any], None]) -> None:
    """Call ``look`` with the first batch that an iterator of Keras will pass on, or its specification."""
    own, looks = batches._get_iterator, [look]

    def get_iterator() -> Any:
        found = own()
        if not looks:
            return found
        if not hasattr(found, "element_spec"):
            return _looked_at(found, looks.pop())
        looks.pop()(found.element_spec)  # of TensorFlow
        return found

    batches._get_iterator = get_iterator


def _looked_at(batches: Iterable[Any], look: Callable[[Any], None]) -> Iterator[Any]:
    for n, batch in enumerate(batches):
        if not n:
            look(batch)
        yield batch


def _warn_if_weighted(batch: Any) -> None:
    *_, weight = keras.utils.unpack_x_y_sample_weight(batch)
    if weight is not None:
        _warn_of_weights("the sample_weight of its data")


def _warn_of_weights(where: str) -> None:
    warnings.warn(
        f"fit weighs the examples ({where}), and the measured loss does not, so it is not the loss of "
        "training. Measure with weights, as data (x, y, sample_weight) or as Objective(model, None, data, "
        "class_weight=...).",
        LCAWarning,
        stacklevel=2,
    )


def _is_weighted(objective: ModelObjective) -> bool:
    """Whether the data of an objective hold weights, or its loss is its own business."""
    loss: Any = objective._loss
    data = objective._data
    if loss._own_loss or loss._class_weight is not None or not isinstance(data, Rows):
        return True
    return isinstance(data.tree, tuple) and len(data.tree) > 2
