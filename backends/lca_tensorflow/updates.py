"""`Updates`: the updates of one Keras optimizer, seen from outside, whether or not they are compiled."""

from typing import Any

import keras
import tensorflow as tf

from lca.errors import LayoutError, LCAError
from lca.layout import check_same_layout
from lca.objective import leaves
from lca.tracking import Session
from lca.tracking.follower import RunFollower
from lca_tensorflow.loop import Loop
from lca_tensorflow.objective import Objective
from lca_tensorflow.parameters import flat, parameters_of


class Updates:
    """Told when an update may be made and when it may have been, it measures those that were made.

    The optimizer's own count says which: gradients that are only accumulated, and a step that a
    `LossScaleOptimizer` skips, are none. It is not read where Keras' own training step makes one update a
    batch for certain, as reading it takes longer than all else when nothing is measured.
    """

    def __init__(
        self, model: keras.Model, optimizer: Any, measurement: Session, *, in_loop: bool = False
    ) -> None:
        if measurement.required_fields and not in_loop:
            raise LCAError(
                f"the estimator needs {', '.join(sorted(measurement.required_fields))} of every training step, which "
                "fit does not hand over; use a Tracker around a loop of your own, or an estimator that "
                "measures data of its own: lca.Adaptive, lca.PathIntegral, or lca.estimators.SampledPathIntegral, for "
                "other samplings than 'uniform' with refresh=."
            )
        variables = _variables(model, optimizer, measurement)
        self._optimizer = optimizer
        self._one_each = not in_loop and _one_update_a_batch(model, optimizer)
        self.loop = Loop(variables, optimizer, lambda: self.watch.asked)
        self.watch = RunFollower(measurement, _Live(variables), self.loop.hand_over)
        self._before = self.made = 0

    def count(self) -> int:
        """How many updates the optimizer has made so far."""
        return int(self._optimizer.iterations)

    def begin(self) -> None:
        """The run begins, or goes on."""
        self._before = self.count()
        self.watch.begin()

    def before(self, *, others: bool = False) -> None:
        """An update may be made now; ``others`` that were not told of may have been made before."""
        if others:
            self._before = self.count()
        self.watch.before()

    def after(self) -> None:
        """An update, or several as one segment, may have been made; none is no step."""
        count = self._before + 1 if self._one_each else self.count()
        made, self._before = count - self._before, count
        self.made += made
        if made:
            self.watch.after()
        self.loop.forget()


def _one_update_a_batch(model: keras.Model, optimizer: Any) -> bool:
    """Whether every batch of `fit` is one update of this optimizer."""
    own = type(model).train_step is keras.Model.train_step and bool(model.trainable_weights)
    skips = hasattr(optimizer, "inner_optimizer") or getattr(optimizer, "gradient_accumulation_steps", None)
    return own and not skips


class _Live:
    """`lca.tracking.LiveTheta` of these variables; eager tensors never change, so reading is keeping."""

    def __init__(self, variables: list[keras.Variable]) -> None:
        self._variables = variables

    def read(self) -> tf.Tensor:
        return flat(self._variables)

    def now(self) -> tf.Tensor:
        return flat(self._variables)

    def kept(self, now: tf.Tensor, memory: tf.Tensor) -> tf.Tensor:
        return now

    def is_at(self, theta: tf.Tensor) -> bool:
        return self.equal(flat(self._variables), theta)

    def equal(self, a: tf.Tensor, b: tf.Tensor) -> bool:
        return bool(tf.reduce_all(a == b))


def _variables(model: keras.Model, optimizer: Any, measurement: Session) -> list[keras.Variable]:
    """The model's parameters in the order of the layout that all objectives share."""
    if model._distribute_strategy is not None or tf.distribute.has_strategy():
        raise LCAError(
            "models of a tf.distribute strategy are not measured; build and compile the model outside "
            "strategy.scope()."
        )
    named = parameters_of(model)
    for what, objective in measurement.objectives.items():
        unknown = [name for name in objective.layout.names if name not in named]
        if unknown:
            raise LayoutError(
                f"the objective {what!r} is about {', '.join(map(repr, unknown))}, which the model has not; "
                "make it from the same model."
            )
    layout = check_same_layout((o.layout for o in measurement.objectives.values()), "the measured losses")
    _refuse_another_model(measurement, named)
    variables = [named[name] for name in layout.names]
    owned = {id(v) for v in getattr(optimizer, "inner_optimizer", optimizer)._trainable_variables or ()}
    if owned and not any(id(variable) in owned for variable in variables):
        raise LCAError(
            f"the optimizer owns none of the weights of {model.name!r}; was it built for another model?"
        )
    return variables


def _refuse_another_model(measurement: Session, named: dict[str, keras.Variable]) -> None:
    """θ would be this model's, but moving statistics and everything else that model's: wrong in silence."""
    for what, objective in measurement.objectives.items():
        for own in (o for o in leaves(objective) if isinstance(o, Objective)):
            pairs = zip(own.layout.names, own.variables, strict=True)
            other = [name for name, variable in pairs if variable is not named[name]]
            if other:
                raise LayoutError(
                    f"the objective {what!r} was made from another model of the same form: its {other[0]!r} "
                    "is not this model's; make it from the model that is trained, whose state it has to read."
                )
