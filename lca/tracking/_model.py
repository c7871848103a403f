"""`ModelTracker`: the tracker of a framework whose optimizer updates the parameters of a model in place."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, ClassVar, Generic, TypeVar, Unpack

from lca.allocation import Estimator
from lca.divisions import PARAM_GROUPS, Selectors
from lca.errors import LayoutError, LCAError
from lca.frameworks import ModelObjective
from lca.layout import check_same_layout
from lca.objective import Batch, Objective, Sum, evaluate, leaves
from lca.tracking._context import GRADIENT_FIELDS, LoopContext
from lca.tracking._follower import LiveTheta
from lca.tracking._loop_check import LoopCheck
from lca.tracking._options import Options, names_options
from lca.tracking._tracker import TrackerBase, check_arguments
from lca.tracking._trained_model import TrainedModel

Context = TypeVar("Context", bound=LoopContext)


class ModelTracker(TrackerBase, ABC, Generic[Context]):
    """A tracker of ``(model, optimizer, objective)``; a framework supplies the abstract methods.

    Parameters
    ----------
    model, optimizer
        The model that is trained, and the optimizer that updates it; a list of those that take turns. Every
        update of either is a step of one path.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    objective, estimator, every, views, on_error, record, progress, log_to
        As in `TrackerBase`.

    Raises
    ------
    LCAError
        If an argument has the wrong type or an invalid value, or the three do not belong together.
    """

    _types: ClassVar[tuple[type, type]]
    """The types of models and optimizers."""
    _type_names: ClassVar[tuple[str, str]]
    """Their names, for messages."""

    @names_options
    def __init__(
        self,
        model: Any,
        optimizer: Any,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None = None,
        **options: Unpack[Options],
    ) -> None:
        (model_type, optimizer_type), names = self._types, self._type_names
        optimizers = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
        wrong = [one for one in optimizers if not isinstance(one, optimizer_type)]
        check_arguments(
            f"Tracker(model, optimizer, objective), with a {names[0]}, one {names[1]} or a list of those "
            "that take turns",
            {
                "model": (model, isinstance(model, model_type)),
                "optimizer": (wrong[0] if wrong else optimizer, bool(optimizers) and not wrong),
            },
            objective,
        )
        groups = options.get("groups")
        if groups is not None:
            options["groups"] = self._with_names(groups, model, optimizers, _names_of(objective))
        super().__init__(objective, estimator, **options)
        self._model, self._optimizers = model, tuple(optimizers)
        with self._session.begins():
            self._set_up()

    def _set_up(self) -> None:
        """Match model, optimizers and objective, and prepare to follow the run."""
        parameters = self._matching_parameters()
        self._context = self._make_context(parameters)
        live = self._live_theta(parameters)
        measured = self._weigh_as_measured(live)
        self._loop_check = LoopCheck(
            self._session, self._context, self._trained_model(), measured, live.borrow
        )
        if len(self._optimizers) > 1:  # which take turns, so that an epoch of updates is not one of batches
            self._session.epoch.compared = False
        self._follow(live, self._supply)
        if self._session.records:
            self._session.learning_rates = self._learning_rates

    def batches(
        self, loader: Iterable[Batch], weight: Callable[[Batch], float] | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of ``loader``, so that the tracker knows the batch of each step.

        Several batches to one update (gradient accumulation) are its micro-batches. A batch from which no
        gradient is taken is ignored. A gradient is taken for that of the batch that was yielded last, so do
        not read ahead of training: to prefetch, wrap the loader, and not this iterator. A loop that makes
        several updates from one batch calls `begin_batch` before each but the first of them; estimators that
        judge a step by the batch of the next one are biased there, and a warning says so.

        Parameters
        ----------
        loader
            The batches; each is kept by reference until its update, and must not be written to before that.
        weight
            From a batch to its weight in the loss of the update, up to a common factor: the number of its
            examples or tokens if the loop accumulates the *sum* over them, a constant if it accumulates the
            mean of each batch. Batches of one size have equal weights unless it says otherwise; for those
            that differ in size, an estimator that requires micro-batches requires it.

        Examples
        --------
        >>> # for x, y in tracker.batches(loader): ...
        """
        self._loop_check.look_at_loader(loader)
        if isinstance(loader, Sized):  # no stream, nor a part of one
            self._session.epoch.begin(self.steps)
        yield from self._context.batches(loader, weight)
        self._session.epoch.end(self.steps)

    def begin_batch(self, *batch: Batch, weight: float | None = None) -> None:
        """Tell the tracker that the loop begins with this batch; without argument, with an unknown one.

        ``begin_batch(x, y)`` and ``begin_batch((x, y))`` are the same. For loops that do not iterate over
        `batches`, where ``weight`` is explained.
        """
        self._context.begin_batch(*batch, weight=weight)

    def clips_norm(self, max_norm: float) -> None:
        """Tell the tracker that the loop clips the norm of the gradient to ``max_norm`` before each update.

        The gradients of training that an estimator uses are those before clipping. A maximum with one to
        three significant digits is recognised from the first gradient that is clipped, so it need not be
        passed on; a norm that also covers parameters outside the layout has to be.
        """
        self._context.clips_norm(max_norm)

    def micro_batches(
        self, batch: Batch, n: int, weight: Callable[[Batch], float] | None = None
    ) -> Iterator[tuple[Batch, float]]:
        """Split ``batch`` into ``n`` micro-batches; yield each with its weight in the loss.

        The weight is its fraction of the examples, or of their weights or tokens where the measured loss is a
        mean over those (``batch_weight=``), so that the weighted losses add up to the mean loss of the batch,
        and the gradients to its gradient, up to rounding. Batches of fewer than n examples are split into
        single examples. A micro-batch of weight 0, such as one without a token that counts, is left out; if
        none counts, the weights are the fractions of the examples.

        Parameters
        ----------
        batch
            The examples.
        n
            The number of micro-batches.
        weight
            From a micro-batch to its weight, up to a common factor, in place of that in the measured loss.

        Examples
        --------
        >>> # for (x, y), weight in tracker.micro_batches(batch, 2):
        >>> #     loss = weight * loss_fn(model(x), y)
        """
        return self._context.micro_batches(batch, n, weight)

    def scores(self, index: Any, outputs: Any, labels: Any = None) -> None:
        """Tell the tracker how wrong the forward pass of training was on single examples.

        `lca.estimators.SampledPathIntegral` samples by these scores.

        Parameters
        ----------
        index
            Which examples of the measured data they are, integers (n,).
        outputs
            Logits (n, C), from which the score is ``1 - softmax(outputs)[label]``; or, without labels, the
            scores themselves (n,), numbers ≥ 0 that grow with the gradient of an example.
        labels
            Classes, integers (n,); -100 for examples that the loss leaves out, which get the score 0.
        """
        with self._session.guarded(self.steps):
            self._context.add_scores(index, outputs, labels)

    def _weigh_as_measured(self, live: LiveTheta) -> Objective:
        """Let the context measure parts of a batch by the first loss, at the parameters as they are.

        Returns that loss.
        """
        first = next(iter(self._session.objectives.values()))
        whole = first.whole or first if isinstance(first, Sum) else first
        self._context.gradient_on = lambda batch: evaluate(whole, live.borrow(), batch).grad
        found = [own for own in leaves(whole) if isinstance(own, ModelObjective)]
        self._context.measured_eps = lambda: max([0.0, *(own._loss.precision_eps or 0.0 for own in found)])
        if found:
            self._context.of_all = found[0].of_all
            if not _counts_rows(found[0]):
                self._context.weight_of = found[0].weight_of
        return whole

    def _supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        """The step fields of the coming update."""
        self._loop_check.begin_update(fields)
        found = self._context.supply(fields)
        self._loop_check.end_update(self.steps, found)
        return found

    def _takes_gradients(self) -> bool:
        """Whether the estimator requires gradients of training, of the step or of the next one."""
        required = {field.removeprefix("next_") for field in self._session.required_fields}
        return not GRADIENT_FIELDS.isdisjoint(required)

    def _requested(self) -> Collection[str]:
        """The fields of `lca.Step` to supply for the coming update."""
        return self._follower.requested

    def _detach(self) -> None:
        self._context.clear()

    def _matching_parameters(self) -> list[Any]:
        """The model's parameters in the order of the layout that all objectives share."""
        named = self._named_parameters(self._model)
        objectives = self._session.objectives
        for name, objective in objectives.items():
            _check_known(name, objective, named, part=any(map(self._is_part, leaves(objective))))
        layout = check_same_layout((o.layout for o in objectives.values()), "the measured losses")
        for name, objective in objectives.items():
            for own in leaves(objective):
                _check_same_model(name, own, self._parameters_of(own), named)
        self._session.state_moves.left_out = named.keys() - set(layout.names)
        parameters = [named[name] for name in layout.names]
        owned = {id(parameter) for parameter in self._owned()}
        if owned and not any(id(parameter) in owned for parameter in parameters):
            owns = "the optimizer owns" if len(self._optimizers) == 1 else "the optimizers own"
            raise LCAError(
                f"{owns} none of the parameters of this {type(self._model).__name__}; it was "
                "made for another model, or before the model was replaced or wrapped; make it anew."
            )
        return parameters

    def _description(self) -> tuple[dict[str, Any], dict[str, Any]]:
        texts = list(dict.fromkeys(text for one in self._optimizers for text in self._optimizer_texts(one)))
        model = {"model": type(self._model).__name__, "modules": dict(self._module_types())}
        return {"optimizer": texts[0] if len(texts) == 1 else texts}, model

    def _with_names(
        self, groups: Selectors, model: Any, optimizers: Sequence[Any], names: Collection[str]
    ) -> Selectors:
        """``groups`` with the names of tensors in place of module types and ``"param_groups"``."""
        if not isinstance(groups, Mapping):
            return groups  # `lca.divisions.divisions` refuses it
        found: dict[str, Any] = {}
        for name, chosen in groups.items():
            if isinstance(chosen, Mapping):
                found[name] = self._with_names(chosen, model, optimizers, names)
            elif isinstance(chosen, type):
                found[name] = [own for own in self._names_of_type(model, chosen) if own in names]
                if not found[name]:
                    raise LCAError(
                        f"the group {name!r} selects no tensor: no {chosen.__name__} of the model holds one "
                        "that is measured."
                    )
            elif isinstance(chosen, str) and chosen == PARAM_GROUPS:
                parts = self._param_groups(model, optimizers)
                kept = {group: [own for own in held if own in names] for group, held in parts.items()}
                found[name] = {group: held for group, held in kept.items() if held}
            else:
                found[name] = chosen
        return found

    # --- what a framework supplies -----------------------------------------------------------------------

    @property
    def _optimizer(self) -> Any:
        """The optimizer, where there is only one."""
        return self._optimizers[0]

    @abstractmethod
    def _named_parameters(self, model: Any) -> Mapping[str, Any]:
        """The parameters of a model, by their names in a layout."""

    @abstractmethod
    def _names_of_type(self, model: Any, kind: type) -> list[str]:
        """The names of the parameters inside the modules of this type."""

    def _param_groups(self, model: Any, optimizers: Sequence[Any]) -> Mapping[str, list[str]]:
        """The names of the parameters of each group of the optimizer."""
        raise LCAError(
            f"{self._type_names[1]} has no groups of parameters; use regular expressions, names or types."
        )

    def _learning_rates(self) -> Mapping[str, float]:
        """The learning rates of the update that was just made, by the group of the optimizer."""
        return {}

    def _is_part(self, objective: Objective) -> bool:
        """Whether an objective was made from a part of the tracked model."""
        own = {id(parameter) for parameter in self._named_parameters(self._model).values()}
        its = {id(parameter) for parameter in self._parameters_of(objective).values()}
        return bool(its) and its <= own

    @abstractmethod
    def _parameters_of(self, objective: Objective) -> Mapping[str, Any]:
        """The parameters from which the framework's own objective was made; empty for other objectives."""

    @abstractmethod
    def _optimizer_texts(self, optimizer: Any) -> Iterable[str]:
        """Class and settings of an optimizer as it is written in Python, for each parameter group."""

    @abstractmethod
    def _module_types(self) -> Mapping[str, str]:
        """The class of each module of the model that has parameters of its own, by name."""

    @abstractmethod
    def _owned(self) -> Iterable[Any]:
        """The parameters that the optimizers update; empty if it does not know yet."""

    @abstractmethod
    def _trained_model(self) -> TrainedModel:
        """Tells of the model how it is trained."""

    @abstractmethod
    def _make_context(self, parameters: Sequence[Any]) -> Context:
        """Supplies step fields; raises `LCAError` if the estimator requires some that cannot be supplied."""

    @abstractmethod
    def _live_theta(self, parameters: Sequence[Any]) -> LiveTheta:
        """Reads θ from these parameters."""


def _names_of(objective: Objective | Mapping[str, Objective]) -> Collection[str]:
    """The names of the measured tensors."""
    objectives = objective.values() if isinstance(objective, Mapping) else [objective]
    return {name for measured in objectives for name in measured.layout.names}


def _counts_rows(objective: ModelObjective) -> bool:
    """Whether a batch counts in the measured loss by its number of examples."""
    try:
        return objective.weight is None
    except LCAError:  # it is no mean over examples
        return objective._loss.counts_examples


def _check_known(name: str, objective: Objective, named: Mapping[str, Any], *, part: bool) -> None:
    unknown = [tensor for tensor in objective.layout.names if tensor not in named]
    if unknown and part:
        raise LayoutError(
            f"the objective {name!r} was made from a part of the model that is trained, in which its "
            "parameters have other names. Make it from the whole model, with the loss of the part: "
            "Objective(model, None, data, batch_loss=lambda model, batch: ...)."
        )
    if unknown:
        tensors = ", ".join(map(repr, unknown))
        noun = "a parameter" if len(unknown) == 1 else "parameters"
        verb = "is not" if len(unknown) == 1 else "are not"
        raise LayoutError(
            f"the objective {name!r} refers to {tensors}, which {verb} {noun} of the model; make it from the "
            "model that is trained."
        )


def _check_same_model(name: str, own: Objective, its: Mapping[str, Any], named: Mapping[str, Any]) -> None:
    """An equal copy of the model would measure with moving statistics that training does not update."""
    other = [tensor for tensor in own.layout.names if its and its.get(tensor) is not named[tensor]]
    if other:
        raise LayoutError(
            f"the objective {name!r} was made from another model of the same form: its {other[0]!r} is not "
            "this model's; make it from the model that is trained."
        )
