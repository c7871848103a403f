"""`TrainedKerasModel`: why the gradients of training may differ from those of the measured loss."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import keras
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from lca.errors import LCAError
from lca.frameworks import ModelObjective
from lca.objective import Objective
from lca.tracking._trained_model import TrainedModel
from lca_keras._policies import Norm, layers_with_modes
from lca_keras._shared_loss import SharedLoss

_RANDOM: Mapping[type[Any], tuple[str, ...]] = {
    keras.layers.Dropout: ("rate",),
    keras.layers.AlphaDropout: ("rate",),
    keras.layers.GaussianDropout: ("rate",),
    keras.layers.GaussianNoise: ("stddev",),
    DropoutRNNCell: ("dropout", "recurrent_dropout"),
}
"""Layers that are random in training, with their attributes that are 0 if they are not."""
_KNOWN = *_RANDOM, keras.layers.SpectralNormalization
"""Layers whose modes are reported by their class, or for which measuring has rules of its own."""


class TrainedKerasModel(TrainedModel):
    """As `lca.tracking._trained_model.TrainedModel`, on every engine."""

    def dropout(self) -> list[str]:
        layers = self._model._flatten_layers(include_self=False)
        return [
            layer.name
            for layer in layers
            for kind, rates in _RANDOM.items()
            if isinstance(layer, kind) and any(getattr(layer, rate) for rate in rates)
        ]

    def frozen_statistics(self) -> list[str]:
        measured = [loss for own in self._losses if isinstance(loss := own._loss, SharedLoss)]
        norms = [layer for layer in self._model._flatten_layers() if isinstance(layer, Norm)]
        return [
            norm.name
            for norm in norms
            if norm.trainable and not all(any(norm is own for own in loss._norms) for loss in measured)
        ]

    def in_training(self) -> dict[str, type]:
        layers = layers_with_modes(self._model).items()
        return {name: type(layer) for name, layer in layers if not isinstance(layer, (Norm, *_KNOWN))}

    def terms(self, objective: Objective) -> Mapping[str, Objective]:
        found = dict(super().terms(objective))
        if isinstance(objective, ModelObjective) and self._model.losses:
            with suppress(LCAError):  # of a loss of the user's own, whose penalties are not known
                found["model.losses (regularizers, add_loss)"] = objective.by_term().terms["penalty"]
        return found
