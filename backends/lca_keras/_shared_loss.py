"""`SharedLoss`: what the losses of Keras models have in common on every engine."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np

from lca.frameworks import BatchNorm, Frozen, ModelLoss, PyTree
from lca.frameworks._loss_checks import unweighted
from lca.layout import Layout
from lca_keras._examples import weights_of, with_weights
from lca_keras._losses import (
    GRADIENT_HINT,
    MEAN_HINT,
    SAMPLE_HINT,
    BatchLoss,
    averages_by_weight,
    batch_hint,
    data_loss,
    default_loss,
    number_of_examples,
    penalty_loss,
    sum_of_weights,
    weight_hint,
)
from lca_keras._parameters import all_parameters, layout_of, parameters_of
from lca_keras._policies import layers_with_batch_statistics
from lca_keras._precision import scale_of


class SharedLoss(ModelLoss):
    """`lca.frameworks.ModelLoss` of a Keras model, without the evaluation, which is the engine's own.

    The options are those of `lca_keras.Objective`.
    """

    mean_hint, gradient_hint, sample_hint = MEAN_HINT, GRADIENT_HINT, SAMPLE_HINT

    def __init__(
        self,
        model: keras.Model,
        loss_fn: Any,
        *,
        batch_loss: BatchLoss | None,
        batch_weight: Callable[[PyTree], Any] | None,
        class_weight: Mapping[int, float] | None,
        batch_norm: BatchNorm,
        frozen: Frozen,
    ) -> None:
        self.layout: Layout = layout_of(model, frozen)
        self._measured, self._known = parameters_of(model, frozen), all_parameters(model)
        self.variables = list(self._measured.values())
        self.dtype: str = self.variables[0].dtype
        self._model, self._loss_fn, self._class_weight = model, loss_fn, class_weight
        self._own_loss = batch_loss is not None
        self._batch_loss = batch_loss or default_loss(loss_fn)
        self.counts_examples = batch_weight is None
        self._averages = averages_by_weight(model, loss_fn)
        self._weight = batch_weight or (sum_of_weights if self._averages else number_of_examples)
        self.weight_hint = weight_hint(model, loss_fn)
        self.batch_hint = "" if loss_fn or self._own_loss or self._averages else batch_hint(model)
        self._scale = scale_of(model)
        self._norms = layers_with_batch_statistics(model, batch_norm)
        self._roots: list[tuple[str, Any]] = [
            (model.name, model),
            ("loss_fn", loss_fn),
            ("batch_loss", batch_loss),
            ("batch_weight", batch_weight),
        ]
        self._changed = ""
        self._updates: frozenset[int] | None = None

    def moved_by_forward(self) -> Collection[str]:
        """The variables of the model that never train and that a forward pass of training updates."""
        own = {id(v) for layer in self._model._flatten_layers() for v in layer._non_trainable_variables}
        moved = {name: id(v) for name, v in self._read_besides_theta().items() if id(v) in own}
        if self._updates is None and moved:
            self._updates = self._updated_in_training()
        return [
            name for name, variable in moved.items() if self._updates is None or variable in self._updates
        ]

    @abstractmethod
    def _updated_in_training(self) -> frozenset[int] | None:
        """The ids of the variables that a forward pass of training updates; ``None`` if it cannot be run."""

    @property
    def roots(self) -> Sequence[tuple[str, Any]]:
        """The model, the loss function and others, by name, whose Python values the loss may read."""
        return self._roots

    def what_changed(self) -> str:
        """The settings that changed the loss when it last changed, for messages."""
        return self._changed

    def terms(self) -> Mapping[str, ModelLoss]:
        """``add_loss`` and regularizers are the penalty."""
        overridden = type(self._model).compute_loss is not keras.Model.compute_loss
        if self._own_loss or (self._loss_fn is None and overridden):
            return super().terms()
        return {"data": self._of(data_loss(self._loss_fn)), "penalty": self._of(penalty_loss)}

    def example_weights(self, rows: PyTree) -> np.ndarray | None:
        return weights_of(rows) if self._averages else None

    def sample(self, rows: PyTree, weight: np.ndarray | None) -> PyTree:
        if weight is not None and self._own_loss:
            raise unweighted(self.sample_hint)
        return with_weights(rows, weight, self.dtype, averages_by_weight=self._averages)

    @abstractmethod
    def version(self) -> object:
        """The loss as the Python values that it reads are now; another object if one that matters changed."""

    @abstractmethod
    def same_as(self, version: object) -> bool:
        """Whether a batch has the same loss at the present weights as in an earlier version."""

    @abstractmethod
    def _of(self, batch_loss: BatchLoss) -> Self:
        """Another loss of a batch, all else the same."""

    @abstractmethod
    def _read_besides_theta(self) -> Mapping[str, keras.Variable]:
        """The Keras variables that the loss reads besides θ, by name."""
