"""`ModelTracker`: the tracker of a framework whose optimizer updates the parameters of a model in place."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from itertools import compress
from typing import Any, ClassVar, Generic, TypeVar, Unpack

from lca._listing import listed
from lca.allocation import Estimator
from lca.arrays import Vector
from lca.divisions import PARAM_GROUPS, Selectors
from lca.errors import LayoutError, LCAError, LCAWarning
from lca.frameworks import ModelObjective
from lca.layout import check_same_layout
from lca.objective import Batch, Objective, Sum, evaluate, leaves
from lca.tracking._causes import (
    IN_ORDER,
    OTHER_GRADIENTS,
    OTHER_OPTIMIZERS,
    OTHER_PIECES,
    SAME_BATCH,
    other_size,
)
from lca.tracking._context import GRADIENT_FIELDS, LoopContext
from lca.tracking._follower import LiveTheta
from lca.tracking._options import Options, names_options
from lca.tracking._tracker import TrackerBase, check_arguments

Context = TypeVar("Context", bound=LoopContext)
Optimizer = TypeVar("Optimizer")


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
        self._weigh_as_measured(live)
        self._updates_seen = 0
        self._told: set[str] = set()
        self._examples = self._largest = 0  # in an update, and in one of its micro-batches, as far as known
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
        self._look_at_loader(loader)
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
        single examples. A micro-batch of weight 0, as one without a token that counts, is left out; if none
        counts, the weights are the fractions of the examples.

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

    def _weigh_as_measured(self, live: LiveTheta) -> None:
        """Let the context measure parts of a batch by the first loss, at the parameters as they are."""
        first = next(iter(self._session.objectives.values()))
        whole = first.whole or first if isinstance(first, Sum) else first
        self._first, self._borrow = whole, live.borrow
        self._context.gradient_on = lambda batch: evaluate(whole, live.borrow(), batch).grad
        found = [own for own in leaves(whole) if isinstance(own, ModelObjective)]
        self._context.measured_eps = lambda: max([0.0, *(own._loss.precision_eps or 0.0 for own in found)])
        if found:
            self._context.of_all = found[0].of_all
            if not _counts_rows(found[0]):
                self._context.weight_of = found[0].weight_of

    def _supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        """The step fields of the coming update; the 1st, 2nd, 4th, ... time, warn of how it is trained."""
        self._updates_seen += 1
        looks = self._is_looked_at(self._updates_seen)
        if looks:
            if not GRADIENT_FIELDS.isdisjoint(fields):
                self._warn_of_training()
            self._look_at_batches()
        found = self._context.supply(fields)
        own = self._context
        if looks and "gradient" in found and (left_out := self._left_out(found["gradient"])):
            self._session.note_cause(_WITHOUT.format(name=left_out))
            self._warn_once(_TERMS, [left_out])
        self._session.skips.note(self.steps, own.irregular, first=own.accumulation.first, apart=own.apart)
        if own.spread.found:
            self._session.note_cause(own.spread.found)
            self._warn_once(_PIECES, [own.spread.found])
        if own.take_turns and not self._judges_by_next:  # what judges by the next update skips such steps
            self._session.note_cause(OTHER_OPTIMIZERS)
            self._warn_once(_OTHER_OPTIMIZERS, ["the optimizers"])
        if own.reached.differ_in_update and "micro_batches" in self._session.required_fields:
            # No refusal: a router may leave out an expert by chance, which nothing but repetition excludes.
            self._session.note_cause(OTHER_PIECES)
            self._warn_once(_DOMAINS, ["the micro-batches"])
        if own.reached.take_turns and self._judges_by_next:
            self._session.note_cause(IN_ORDER)
            self._warn_once(_IN_TURN, ["updates"])
        if own.altered:
            self._session.note_cause(OTHER_GRADIENTS)
            self._warn_once(_ALTERED, ["the loop"])
        return found

    def _left_out(self, gradient: Vector) -> str:
        """The term of the measured loss that the loss of training lacks; empty if none, or not known."""
        terms = self._terms(self._first)
        if not terms or _TERMS in self._told:
            return ""
        theta = self._borrow()
        gradients = {
            name: lambda batch, own=own: evaluate(own, theta, batch).grad for name, own in terms.items()
        }
        with suppress(LCAError):  # of a batch that cannot be measured
            return self._context.left_out(gradient, gradients)
        return ""

    def _terms(self, objective: Objective) -> Mapping[str, Objective]:
        """The terms of a measured loss that a loop has to add to the others, by what they are called."""
        if not isinstance(objective, Sum) or len(objective.terms) == 1:
            return {}
        return {f"the term {name!r}": own for name, own in objective.terms.items()}

    @staticmethod
    def _is_looked_at(update: int) -> bool:
        """Whether it is the 1st, 2nd, 4th, ... update."""
        return update & (update - 1) == 0

    def _warn_of_training(self) -> None:
        """Warn, once of each, of what makes the gradients of training others than the measured ones."""
        for find, text in (
            (self._dropout, _DROPOUT),
            (self._frozen_statistics, _STATISTICS),
            (self._other_in_training, _TRAINING),
            (self._untold_in_training, _UNTOLD),
            (self._gradient_hooks, _HOOKS),
        ):
            if text not in self._told:
                self._warn_once(text, list(find()))

    def _warn_once(self, text: str, found: Sequence[str]) -> None:
        """Warn of what was found, if anything was, and if there was no such warning before."""
        if found and text not in self._told:
            self._told.add(text)
            name = type(self._session.estimator).__name__
            warnings.warn(
                text.format(names=listed(found), estimator=name) + _INSTEAD, LCAWarning, stacklevel=2
            )

    def _look_at_batches(self) -> None:
        """Note, for the self-check, batches of which several updates are made, or of another size."""
        examples, largest = self._context.examples()
        self._examples, self._largest = max(self._examples, examples), max(self._largest, largest)
        own = next((own for own in leaves(self._session.objectives) if isinstance(own, ModelObjective)), None)
        repeated, size = self._context.seen.repeated, None if own is None else own.batch_size
        if repeated and self._judges_by_next and not self._trains_on_all(own):
            self._session.note_cause(SAME_BATCH)
            self._warn_once(_SAME_BATCH, [repeated])
        if own is not None and size and self._largest not in (0, size) and not own.is_mean:
            self._session.note_cause(other_size(size, self._largest))

    def _look_at_loader(self, loader: object) -> None:
        """Note, for the self-check, a loader of training that yields its batches in a fixed order."""
        if self._judges_by_next and self._keeps_order(loader):
            self._session.note_cause(IN_ORDER)

    def _keeps_order(self, loader: object) -> bool:
        """Whether a loader of the framework is known to yield examples in the order of its data."""
        return False

    @property
    def _judges_by_next(self) -> bool:
        """Whether the estimator judges a step by the batch of the next one."""
        return any(field.startswith("next_") for field in self._session.required_fields)

    def _trains_on_all(self, own: ModelObjective | None) -> bool:
        """Whether each update is made from all examples that are measured, so that no batch is a sample."""
        try:
            return own is not None and 0 < own.n_examples <= self._examples
        except LCAError:  # their number is not known
            return False

    def _dropout(self) -> Iterable[str]:
        """The names of the layers of the model that drop units or add noise at random in training."""
        return ()

    def _frozen_statistics(self) -> Iterable[str]:
        """The names of the layers that train with the statistics of a batch and are measured without."""
        return ()

    def _other_in_training(self) -> list[str]:
        """The names of the modules by which the loss of training is another than the measured one.

        Named are the modules of each class that changes the loss alone; if none does, the first module in
        training mode. A loss that cannot be computed with a module in training mode counts as another.
        """
        modules = self._in_training()
        losses = [own._loss for own in leaves(self._session.objectives) if isinstance(own, ModelObjective)]
        for loss in losses if modules else ():
            if any(loss.differ_in_training([list(modules)])):
                kinds = {kind: [n for n, own in modules.items() if own is kind] for kind in modules.values()}
                differ = loss.differ_in_training(list(kinds.values()))
                found = [n for names in compress(kinds.values(), differ) for n in names] or [*modules][:1]
                return [f"{n} ({modules[n].__name__})" if n else modules[n].__name__ for n in found]
        return []

    def _untold_in_training(self) -> list[str]:
        """What kept each loss from telling whether it is another one in training mode."""
        losses = [own._loss for own in leaves(self._session.objectives) if isinstance(own, ModelObjective)]
        return list(dict.fromkeys(loss.untold_in_training for loss in losses if loss.untold_in_training))

    def _in_training(self) -> Mapping[str, type]:
        """The modules in training mode, by name, but for dropout and statistics that are reported anyway."""
        return {}

    def _gradient_hooks(self) -> Iterable[str]:
        """The names of the parameters and layers with hooks that may alter the gradients of training."""
        return ()

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
    def _make_context(self, parameters: Sequence[Any]) -> Context:
        """Supplies step fields; raises `LCAError` if the estimator requires some that cannot be supplied."""

    @abstractmethod
    def _live_theta(self, parameters: Sequence[Any]) -> LiveTheta:
        """Reads θ from these parameters."""


_DROPOUT = (
    "the model trains with dropout or noise ({names}), and {estimator} allocates by the gradients of "
    "training: those of the loss with it, not of the measured loss, in which it is off. Layers can differ by "
    "tens of per cent."
)
_STATISTICS = (
    "the model trains with batch statistics ({names}), and {estimator} allocates by the gradients of "
    "training: those of the loss with these, not of the measured loss with batch_norm='frozen'. The sum can "
    "differ by tens of per cent. Use batch_norm='batch' to allocate the loss with batch statistics. If "
    "training calls these layers in evaluation mode, ignore this."
)
_TRAINING = (
    "in training mode the model computes another loss than the measured one, or outputs that this cannot "
    "take ({names}), and {estimator} allocates by the gradients of training: those of the other loss. Layers "
    "can differ by tens of per cent. If the loop trains the model in evaluation mode, ignore this."
)
_UNTOLD = (
    "whether the model computes another loss in training mode than the measured one was not tried, because "
    "that would change what training goes on with ({names}). {estimator} allocates by the gradients of "
    "training: if they are those of another loss, layers can differ by tens of per cent. Keep that in an "
    "attribute of the model, of which measuring makes a copy, or, if the loss is the same in both modes, "
    "ignore this."
)
_HOOKS = (
    "hooks see the gradients of training ({names}) and may alter them, and {estimator} allocates by these "
    "gradients: if they are altered, they are not those of the measured loss, and even the signs of layers "
    "may be wrong. If the hooks only read them, ignore this."
)
_SAME_BATCH = (
    "{names} were made from the batch of the update before. {estimator} judges a step by the batch of the "
    "next one, which has caused the step there: sums are tens of per cent too large, or more. Make one "
    "update from each batch."
)
_PIECES = (
    "{estimator} takes the micro-batches of an update for independent samples of the data; otherwise its "
    "values are wrong, even in sign. Here {names}."
)
_DOMAINS = (
    "{names} of an update have gradients for different parameters, which repeat from update to update, as "
    "where each is of a domain or task of its own. {estimator} judges what one does in the update by the "
    "gradients of the others, which must sample the same loss: if they do not, layers and sums are tens of "
    "per cent off. Let every micro-batch be a random sample of all data, with the whole loss (all domains in "
    "each), or use lca.estimators.LaggedCrossFit. If a router leaves out experts by chance, ignore this."
)
_IN_TURN = (
    "{names} have gradients for different parameters in turn, as where domains or tasks take turns. "
    "{estimator} judges each update by the batch of the next one, which must be a random sample of all data: "
    "if it is not, even signs may be wrong. Put all domains into every batch, or draw the domain of each at "
    "random."
)
_ALTERED = (
    "{names} changes gradients between their backward passes and the update, and not by one factor. "
    "{estimator} allocates by the gradients of the passes, so clipping, noise and centralisation do not "
    "matter. But where the loop also divides or multiplies gradients (a loss scale of its own, a number of "
    "batches, tokens or ranks), allocations are that many times too large or small, and where it adds the "
    "gradient of a loss or sets one to 0, they do not follow: do that with the loss. If it does none of it, "
    "ignore this."
)
_OTHER_OPTIMIZERS = (
    "{names} take turns, and one takes no gradient of what another moves, so they may lower losses of their "
    "own. {estimator} takes the gradient of each for that of the measured loss: if it is not, even the signs "
    "of layers may be wrong. Make a tracker for each model with its optimizer (GAN, actor and critic); if "
    "each optimizer lowers the measured loss, ignore this."
)
_TERMS = (
    "the gradient of training is that of the measured loss without {names}: the loop does not add that to "
    "the loss that it trains, and {estimator} allocates by the gradients of training. Layers can differ by "
    "tens of per cent. Add it to the loss of training, or measure the loss without it."
)
_WITHOUT = "the loss that is trained lacks {name}, which is measured: add it, or measure the loss without it"
_INSTEAD = (
    " To allocate the measured loss use lca.estimators.SampledPathIntegral, or lca.Adaptive with span= or "
    "every=."
)


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


def call_text(name: str, settings: Mapping[str, Any]) -> str:
    """A call with the settings that are numbers, text or tuples of these, and neither 0 nor off.

    >>> call_text("SGD", {"lr": 0.1, "momentum": 0, "foreach": None, "betas": (0.9, 0.99), "params": [1]})
    'SGD(lr=0.1, betas=(0.9, 0.99))'
    """
    shown = {key: value for key, value in settings.items() if value and _is_plain(value)}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str)


def within(
    optimizers: Iterable[Optimizer], held: Callable[[Optimizer], Iterable[Optimizer]]
) -> Iterator[Optimizer]:
    """Optimizers and those that they hold, as wrappers do, at any depth; each once.

    >>> list(within(["ab"], lambda word: word if len(word) > 1 else ""))
    ['ab', 'a', 'b']
    """
    waiting, seen = list(optimizers), set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += held(one)


def warn_of_other_optimizer(step: int, optimizer: object) -> None:
    """Warn that an optimizer which the tracker was not given has made a step."""
    warnings.warn(
        f"step {step} is made by an optimizer that the tracker was not given, {type(optimizer).__name__}; "
        "its updates are measured like the others. Pass all optimizers of the run, "
        "Tracker(model, [first, second], objective), or make a tracker for each phase of it.",
        LCAWarning,
        stacklevel=2,
    )
