"""`FitFields`: what the training step of ``fit`` passes to its optimizer, compiled or not."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from lca.errors import LCAError
from lca_tensorflow._loop import Loop
from lca_tensorflow._optimizers import update_slope
from lca_tensorflow._vectors import gradient_of

Pairs = Sequence[tuple[Any, keras.Variable]]
"""Gradients and their variables."""


class FitFields(Loop):
    """The gradient of each update of ``fit``, which the training step itself assigns to a variable.

    The assignments are compiled with the training step, and stay in it as long as Keras keeps the step, so
    that later calls of ``fit`` train as without them: Keras would not compile it again either. What training
    computes is the same, bit for bit (tested with XLA and without). Costs one vector (K,) for each field, and
    one copy of it at each update.
    """

    def open(self, model: keras.Model, *, slopes: bool) -> None:
        """The run begins; ``slopes``: keep `lca.Step.update_slope`, too.

        Raises
        ------
        LCAError
            If each replica of a distributed run has a gradient of its own, or an earlier ``fit`` has compiled
            the training step without the fields, or for other trainable variables.
        """
        if model.distribute_strategy.num_replicas_in_sync > 1:
            raise LCAError(
                "each replica applies a gradient of its own, and fit shows only one of them; train on one "
                "device, or use an estimator that requires no gradient of training "
                "(lca.estimators.SampledPathIntegral)."
            )
        names = ("gradient", "update_slope") if slopes else ("gradient",)
        self._kept = _kept_by(model, self._variables, names)
        self._model = model

    def close(self) -> None:
        """The run is over."""
        self.clear()

    def supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        if all(keeper.kept is not self._kept for keeper in _keepers.get(self._model.train_function, ())):
            raise LCAError(
                "the training step of the model was made anew in the middle of fit (make_train_function, "
                "compile), without the gradient that the estimator requires. Change the model between two "
                "calls of fit, or use an estimator that requires no gradient of training "
                "(lca.estimators.SampledPathIntegral)."
            )
        return {name: tf.identity(kept) for name, kept in self._kept.items() if name in fields}


class _Keeper(NamedTuple):
    """Keeps fields of each update."""

    theta: Sequence[keras.Variable]
    kept: Mapping[str, tf.Variable]
    """A vector (K,) by the name of its field."""
    trained: frozenset[str]
    """The paths of the variables that trained when the training step was compiled."""

    def keeps(self, theta: Sequence[keras.Variable], names: Collection[str]) -> bool:
        """Whether these fields are among them."""
        return [*map(id, self.theta)] == [*map(id, theta)] and self.kept.keys() >= set(names)

    def slope(self, optimizer: Any, pairs: Pairs) -> tf.Tensor | None:
        """How the coming update depends on its gradient, if that is kept."""
        if "update_slope" not in self.kept:
            return None
        if not optimizer.built:
            optimizer.build([variable for _, variable in pairs])  # XLA cannot create variables that wait
        with _apart(optimizer, pairs) as (gradients, trained):
            return update_slope(optimizer, trained, self.theta, gradients)

    def keep(self, optimizer: Any, pairs: Pairs, slope: tf.Tensor | None) -> None:
        """Assign the fields of an update that was just made."""
        with _apart(optimizer, pairs) as (gradients, trained):
            gradient = gradient_of(self.theta, gradients, trained)
        self.kept["gradient"].assign(gradient)
        if slope is not None:
            self.kept["update_slope"].assign(slope)


_keepers: WeakKeyDictionary[Any, list[_Keeper]] = WeakKeyDictionary()
"""The keepers, by the compiled training step that they are part of."""


def _kept_by(
    model: keras.Model, theta: Sequence[keras.Variable], names: Collection[str]
) -> Mapping[str, tf.Variable]:
    """The fields that the training step of the model keeps, from now on if it is not compiled yet."""
    known = _keepers.get(model.train_function, [])
    for keeper in known:
        if keeper.keeps(theta, names):
            _check_trained(model, keeper.trained)
            return keeper.kept
    if _is_compiled(model):
        raise LCAError(
            "the training step of the model was compiled by an earlier fit, without the gradient that the "
            "estimator requires. To have it compiled anew, with all that has changed in the model since, "
            "call model.make_train_function(force=True) before fit; or use an estimator that requires no "
            "gradient of training (lca.estimators.SampledPathIntegral)."
        )
    size = sum(int(v.value.shape.num_elements()) for v in theta)
    kept = {name: tf.Variable(tf.zeros(size, theta[0].dtype), trainable=False) for name in names}
    keepers = [*known, _Keeper(theta, kept, _trained(model))]
    with _attribute(model, "train_step", _keeping(model, keepers)):
        model.make_train_function(force=True)
    _keepers[model.train_function] = keepers
    return kept


def _trained(model: keras.Model) -> frozenset[str]:
    return frozenset(variable.path for variable in model.trainable_variables)


def _check_trained(model: keras.Model, compiled: Collection[str]) -> None:
    """Raise `LCAError` if a layer was frozen or unfrozen after its training step was compiled."""
    changed = [] if model.run_eagerly else sorted(_trained(model) ^ frozenset(compiled))
    if changed:
        raise LCAError(
            f"trainable was set on a layer ({', '.join(changed)}) after Keras compiled the training step, "
            "which trains the same variables as before; call model.compile(...) before fit."
        )


def _keeping(model: keras.Model, keepers: Sequence[_Keeper]) -> Callable[[Any], Any]:
    """The training step of the model, which passes what it gives to its optimizer on to the keepers."""
    own = keras.Model.train_step

    def train_step(data: Any) -> Any:
        optimizer = model.optimizer
        update = optimizer.apply_gradients

        def apply_gradients(pairs: Any) -> Any:
            pairs = list(pairs)
            slopes = [keeper.slope(optimizer, pairs) for keeper in keepers]
            made = update(pairs)  # TensorFlow numbers operations, and seeds the random ones by their number
            for keeper, slope in zip(keepers, slopes, strict=True):
                keeper.keep(optimizer, pairs, slope)
            return made

        with _attribute(optimizer, "apply_gradients", apply_gradients):
            return own(model, data)

    return train_step


@contextmanager
def _apart(optimizer: Any, pairs: Pairs) -> Iterator[tuple[Sequence[Any], Sequence[keras.Variable]]]:
    """Gradients and variables of an update, to compute from them what training does not.

    TensorFlow computes factors in another order where a product is read by one other product alone, as a
    gradient is by the one with the learning rate. So that it still does, nothing that is computed here reads
    what the update reads, nor is merged with what it computes: it waits for a number, which that does not.
    """
    with tf.control_dependencies([tf.convert_to_tensor(optimizer.iterations)]):
        gradients, trained = zip(*pairs, strict=True)
        yield [*map(_computed_again, gradients)], trained


def _computed_again(tensor: Any) -> Any:
    """The same value, by products of its own if it is one that is being compiled."""
    if isinstance(tensor, tf.IndexedSlices):
        return tf.IndexedSlices(_computed_again(tensor.values), tensor.indices, tensor.dense_shape)
    if not tf.is_symbolic_tensor(tensor) or tensor.op.type not in _REORDERED:
        return tensor
    names = [argument.name for argument in tensor.op.op_def.input_arg]
    values = map(_computed_again, tensor.op.inputs)
    return getattr(tf.raw_ops, tensor.op.type)(**dict(zip(names, values, strict=True)))


_REORDERED = frozenset({"Mul", "Reshape", "Identity"})
"""Products, and what TensorFlow removes if it changes nothing."""


def _is_compiled(model: keras.Model) -> bool:
    """Whether nothing can be added to the training step of the model any more."""
    function = model.train_function
    if model.run_eagerly or function is None:
        return False
    inside = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    parts = [getattr(part, "__wrapped__", part) for part in (function, *inside)]
    compiled = [part for part in parts if isinstance(part, tf.types.experimental.GenericFunction)]
    return not compiled or any(part.experimental_get_tracing_count() for part in compiled)


@contextmanager
def _attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object an attribute of its own for a while."""
    before = {name: vars(owner)[name]} if name in vars(owner) else {}
    setattr(owner, name, value)
    try:
        yield
    finally:
        delattr(owner, name)
        for own in before.values():
            setattr(owner, name, own)
