"""`KerasTracker`: what the trackers of Keras models have in common, on every engine, in loops and ``fit``."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import keras

from lca.arrays import Vector, array_ops
from lca.errors import LCAError
from lca.frameworks import ModelObjective
from lca.objective import Objective, leaves
from lca.tracking import LoopContext, ModelTracker
from lca.tracking._optimizers import call_text
from lca_keras._counts import Counts, trained_by
from lca_keras._parameters import parameters_of
from lca_keras._shared_loss import SharedLoss
from lca_keras._traced_step import TracedStep
from lca_keras._trained_model import TrainedKerasModel

Context = TypeVar("Context", bound=LoopContext)


class KerasTracker(ModelTracker[Context]):
    """A tracker of ``(model, optimizer, objective)``, whose optimizers count their updates."""

    _types = keras.Model, keras.optimizers.Optimizer
    _type_names = "keras.Model", "keras.optimizers.Optimizer"
    _by_hand = ", or put what the loop assigns itself inside `with tracker.step():`"
    _live: "LiveVariables"
    _in_step = False
    _function: Any = None  # the compiled training step of the last batch,
    _traced: TracedStep | None = None  # the losses when it was traced,
    _told = False  # and whether the warning that they changed was given, or is not needed
    _made = 0  # updates that were seen, of the known optimizers
    _made_before = 0  # and updates that they made before the run

    @contextmanager
    def step(self) -> Iterator[None]:
        """Everything inside that updates parameters is one step: a compiled function, ``train_on_batch``, ...

        Several updates inside are allocated as one segment, straight from θ before to θ after.
        """
        if not self._active:
            raise LCAError("tracker.step() was called outside `with tracker:`; put the loop inside it.")
        with self._session.guarded(self.steps):
            self._warn_of_traced()
        self._in_step = True
        before = self._unseen()
        try:
            with self._step():
                yield
                made = self._unseen() - before
            self._after(made)
        finally:
            self._in_step, self._function = False, self._model.train_function

    @contextmanager
    def _step(self) -> Iterator[None]:
        """An update may be made inside."""
        self._follower.before()
        try:
            yield
        except BaseException:
            self._context.clear()
            raise

    def _after(self, made: int) -> None:
        """``made`` updates were counted since `RunFollower.before`; without one, θ tells."""
        self._made += made
        if made or self._moved():
            self._follower.after()
        self._context.clear()

    def _moved(self) -> bool:
        """Whether θ moved since `RunFollower.before`; false at steps that are not measured."""
        return self._follower.reads_theta and self._live.has_moved()

    def _begin_counting(self) -> None:
        self._known, self._counts = list(self._optimizers), Counts()
        self._made_before = self._counts.made_by(self._known) - self._made

    def _unseen(self) -> int:
        """How many updates of the run, by the known optimizers, were not seen yet."""
        return self._counts.made_by(self._known) - self._made - self._made_before

    @abstractmethod
    def _compiles(self) -> bool:
        """Whether the training step may keep the Python values with which it was compiled."""

    def _warn_of_traced(self) -> None:
        """Warn, once, if the measured losses are no longer as they were before the first step."""
        if self._session.error or self._told or not self._compiles():
            self._told = True
        elif self._traced is None or self._model.train_function is not self._function:
            self._traced = TracedStep(self._trained_losses())
        elif self._follower.reads_theta:
            self._told = self._traced.warn()

    def _trained_losses(self) -> list[SharedLoss]:
        """The measured losses whose Python values are followed."""
        own = [leaf for leaf in leaves(self._session.objectives) if isinstance(leaf, ModelObjective)]
        return [loss for leaf in own if isinstance(loss := leaf._loss, SharedLoss)]

    def _theta_now(self) -> Vector:
        return self._live.now()

    def _named_parameters(self, model: keras.Model) -> dict[str, keras.Variable]:
        return parameters_of(model)

    def _names_of_type(self, model: keras.Model, kind: type[Any]) -> list[str]:
        layers: list[Any] = list(model._flatten_layers())
        owned = {id(variable) for layer in layers if isinstance(layer, kind) for variable in layer.weights}
        return [name for name, variable in parameters_of(model).items() if id(variable) in owned]

    def _parameters_of(self, objective: Objective) -> dict[str, keras.Variable]:
        if not isinstance(objective, ModelObjective) or not hasattr(objective, "variables"):
            return {}
        return dict(zip(objective.layout.names, objective.variables, strict=True))

    def _optimizer_texts(self, optimizer: Any) -> Iterator[str]:
        config = {key: value for key, value in optimizer.get_config().items() if key != "name"}
        if not config.get("use_ema"):
            config.pop("ema_momentum", None)
        rate = config.get("learning_rate")
        if isinstance(rate, Mapping):  # a schedule
            config["learning_rate"] = str(rate.get("class_name"))
        elif rate is not None:
            config["learning_rate"] = float(f"{float(rate):.7g}")  # Keras holds it in float32
        yield call_text(type(optimizer).__name__, config)

    def _module_types(self) -> dict[str, str]:
        return {layer.name: type(layer).__name__ for layer in self._model.layers if layer.weights}

    def _trained_model(self) -> TrainedKerasModel:
        losses = [own for own in leaves(self._session.objectives) if isinstance(own, ModelObjective)]
        return TrainedKerasModel(self._model, losses)

    def _owned(self) -> Iterable[keras.Variable]:
        return [variable for optimizer in self._optimizers for variable in trained_by(optimizer)]


class FitTracker(KerasTracker[Context]):
    """A tracker that is called before and after each batch of ``fit``, compiled or not."""

    _supplied: ClassVar[Collection[str]] = frozenset()
    _by_hand = ""
    _also: ClassVar[str] = ""
    """Which other estimators need no more than these, for messages."""
    _batches = 0
    _stepped = False
    _counted = True  # whether the optimizer of the model counts the updates

    def before_batch(self) -> None:
        """An update may follow."""
        self._check_traced()
        self._follower.before(after_forward=False)
        if not self._counted and not self._follower.reads_theta:
            self._live.copy()

    def after_batch(self) -> None:
        """An update may have been made."""
        self._batches += 1
        # Reading the count takes longer than all else on a step that is not measured.
        made = 1 if self._one_update_a_batch else self._unseen()
        if not made and self._moved():
            self._counted = False
        steps = self.steps
        if made:
            self._follower.collect_fields()
        self._after(made)
        self._stepped |= self.steps > steps

    def _check_traced(self) -> None:
        """Raise `LCAError` if the measured losses are no longer those that the compiled step trains.

        A step that Keras has made anew is compiled at its first batch, which comes next.
        """
        function, new = self._model.train_function, self._model.train_function is not self._function
        if not (new or self._follower.reads_theta) or self._session.error or not self._compiles():
            return
        with self._session.guarded(self.steps):
            if known := TracedStep.kept_by(function) if new else self._traced:
                known.check()
            if new:
                self._traced, self._function = TracedStep(self._trained_losses(), self._model), function
                self._traced.keep(function)

    def _moved(self) -> bool:
        return (not self._counted or self._follower.reads_theta) and self._live.has_moved()

    def _attach(self) -> None:
        self._begin_counting()
        # Keras' own training step; others may update several times or not at all.
        step = getattr(self._model.train_step, "__func__", None)
        own = step is keras.Model.train_step and bool(self._model.trainable_weights)
        skips = hasattr(self._optimizer, "inner_optimizer") or getattr(
            self._optimizer, "gradient_accumulation_steps", None
        )
        self._one_update_a_batch = own and not skips

    def _detach(self) -> None:
        self._context.clear()

    def _check_run(self) -> None:
        if self._batches and not self._stepped:
            raise LCAError(
                f"no update of the model was made in {self._batches} batches; does train_step call an "
                "optimizer, with the weights of this model?"
            )

    def _make_context(self, parameters: Sequence[keras.Variable]) -> Context:
        required = self._session.required_fields
        if missing := [name for name in required if name.removeprefix("next_") not in self._supplied]:
            raise LCAError(
                f"the estimator requires {', '.join(f'Step.{field}' for field in missing)}, which fit does "
                "not supply; use a Tracker around a training loop of your own, or an estimator that requires "
                "no step fields: lca.Adaptive, lca.PathIntegral, or lca.estimators.SampledPathIntegral, with "
                f"refresh=n, a number of steps, for samplings other than 'uniform'{self._also}."
            )
        return super()._make_context(parameters)  # type: ignore[safe-super]


class LiveVariables:
    """`lca.tracking.LiveTheta` of variables; every read is a new vector (K,).

    Parameters
    ----------
    now
        Makes a vector of the variables as they are.
    """

    def __init__(self, now: Callable[[], Vector]) -> None:
        self.now = now
        self._read: Vector | None = None

    def has_moved(self) -> bool:
        """Whether θ differs from what was read last."""
        return self._read is not None and not _same(self.now(), self._read)

    def copy(self) -> Vector:
        self._read = self.now()
        return self._read

    borrow = copy

    def persist(self, borrowed: Vector, memory: Vector) -> Vector:
        return borrowed

    def is_at(self, theta: Vector) -> bool:
        now = self.now()
        same = _same(now, theta)
        self._read = theta if same else now
        return same


def _same(a: Vector, b: Vector) -> bool:
    return array_ops(a).equal(a, b)
