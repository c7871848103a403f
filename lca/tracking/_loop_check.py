"""`LoopCheck`: looks at how a loop trains, and tells why an estimator on its gradients may be wrong there."""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import compress
from typing import Any

from lca._listing import listed
from lca._schedules import doubles
from lca.arrays import Vector
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit
from lca.frameworks import ModelObjective
from lca.frameworks._data import Rows
from lca.objective import Objective, evaluate, leaves
from lca.tracking._causes import (
    IN_ORDER,
    ONE_BATCH,
    OTHER_GRADIENTS,
    OTHER_OPTIMIZERS,
    OTHER_PIECES,
    other_size,
)
from lca.tracking._context import GRADIENT_FIELDS, LoopContext
from lca.tracking._session import Session
from lca.tracking._trained_model import TrainedModel


@dataclass(frozen=True)
class Finding:
    """A reason why the allocations of a loop may be wrong, in words.

    Attributes
    ----------
    warning
        With ``{names}`` for what was found, and ``{estimator}``.
    cause
        The same in short, for the warning of the self-check; empty if the estimator need not be wrong.
    """

    warning: str
    cause: str = ""


DROPOUT = Finding(
    "the model trains with dropout or noise ({names}), which is off in the measured loss. {estimator} "
    "allocates by the gradients of training, which are those of the loss with dropout or noise. Layers can "
    "differ by tens of per cent.",
)
STATISTICS = Finding(
    "the model trains with batch statistics ({names}), but the measured loss has batch_norm='frozen'. "
    "{estimator} allocates by the gradients of training, which are those of the loss with batch "
    "statistics. The sum can differ by tens of per cent. Use batch_norm='batch' to allocate the loss with "
    "batch statistics. If training calls these layers in evaluation mode, ignore this.",
)
TRAINING = Finding(
    "in training mode the model computes another loss than the measured one, or outputs that the measured "
    "loss cannot take ({names}), and {estimator} allocates by the gradients of training: those of the "
    "other loss. Layers can differ by tens of per cent. If the loop trains the model in evaluation mode, "
    "ignore this.",
)
UNTOLD = Finding(
    "it was not tried whether the model computes another loss in training mode than the measured one, "
    "because the trial would change objects that training uses ({names}). {estimator} allocates by the "
    "gradients of training: if they are those of another loss, layers can differ by tens of per cent. Keep "
    "such an object in an attribute of the model, of which measuring makes a copy, or, if the loss is the "
    "same in both modes, ignore this.",
)
HOOKS = Finding(
    "hooks see the gradients of training ({names}) and may alter them, and {estimator} allocates by these "
    "gradients: if they are altered, they are not those of the measured loss, and even the signs of layers "
    "may be wrong. If the hooks only read them, ignore this.",
)
SAME_BATCH = Finding(
    "{names} were made from the batch of the update before. {estimator} judges a step by the batch of the "
    "next update, which is then the batch that caused the step: sums are tens of per cent too large, or "
    "more. Make one update from each batch.",
    cause=ONE_BATCH,
)
PIECES = Finding(
    "{estimator} takes the micro-batches of an update for independent samples of the data; otherwise its "
    "values are wrong, even in sign. Here {names}.",
    cause="{names}",
)
BALANCED = Finding(
    "{names} of a batch are nearly the same in all batches, as where each is balanced over classes. Then "
    "one micro-batch has more of a class when the others have less, and the sums of {estimator} are too "
    "small, with SGD by tens of per cent. Use lca.estimators.NextBatch, which does not split batches, or "
    "draw examples whatever their class.",
    cause="batches are balanced over classes, so that their micro-batches are not independent: use "
    "NextBatch, or draw examples whatever their class",
)
WITHOUT_REPLACEMENT = Finding(
    "the micro-batches of an update share no example, so batches are drawn without replacement, and the "
    "micro-batches are not independent. {estimator} with independent=True and no epoch= takes them for "
    "draws with replacement: sums are too small, by tens of per cent where the noise of a batch is large. "
    "If every batch is drawn afresh from all data, pass epoch={names} as well, the number of examples "
    "divided by that of an update. If batches come from shuffled epochs, pass epoch= without "
    "independent=True.",
    cause="batches are drawn without replacement: pass epoch={names} with independent=True, or, if they come "
    "from shuffled epochs, epoch= without it",
)
FULL_BATCH = Finding(
    "each update is made from all {names} examples, so its micro-batches are not independent, and the "
    "sums of {estimator} are too small. Pass independent=True and epoch=1: the values are then those of the "
    "rule on all data.",
    cause="each update is made from all examples: pass independent=True and epoch=1",
)
DOMAINS = Finding(
    "{names} of an update have gradients for different parameters, which repeat from update to update, as "
    "where each is of a domain or task of its own. {estimator} judges what one does in the update by the "
    "gradients of the others, which must sample the same loss: if they do not, layers and sums are tens of "
    "per cent off. Let every micro-batch be a random sample of all data, with the whole loss (all domains in "
    "each), or use lca.estimators.LaggedCrossFit. If a router leaves out experts by chance, ignore this.",
    cause=OTHER_PIECES,
)
IN_TURN = Finding(
    "{names} have gradients for different parameters in turn, as where domains or tasks take turns. "
    "{estimator} judges each update by the batch of the next one, which must be a random sample of all data: "
    "if it is not, even signs may be wrong. Put all domains into every batch, or draw the domain of each at "
    "random.",
    cause=IN_ORDER,
)
ALTERED = Finding(
    "{names} changes gradients between their backward passes and the update, and not by one factor. "
    "{estimator} allocates by the gradients of the passes, so clipping, noise and centralisation do not "
    "matter. But where the loop also divides or multiplies gradients (a loss scale of its own, a number of "
    "batches, tokens or ranks), allocations are that many times too large or small, and where it adds the "
    "gradient of a loss or sets one to 0, they do not follow: do that with the loss. If it does neither, "
    "ignore this.",
    cause=OTHER_GRADIENTS,
)
OPTIMIZERS = Finding(
    "{names} take turns, and one takes no gradient of what another moves, so they may lower losses of their "
    "own. {estimator} takes the gradient of each for that of the measured loss: if it is not, even the signs "
    "of layers may be wrong. Make a tracker for each model with its optimizer (GAN, actor and critic); if "
    "each optimizer lowers the measured loss, ignore this.",
    cause=OTHER_OPTIMIZERS,
)
TERMS = Finding(
    "the gradient of training is that of the measured loss without {names}: the loop does not add that to "
    "the loss that it trains, and {estimator} allocates by the gradients of training. Layers can differ by "
    "tens of per cent. Add it to the loss of training, or measure the loss without it.",
    cause="the loss that is trained lacks {names}, which is measured: add it, or measure the loss without it",
)
MIXTURE = Finding(
    "the gradient of training is not that of the measured loss on its batch: it differs {names}. So "
    "another loss is trained (label smoothing, mixup, augmentation, penalties, weights, a sum instead of a "
    "mean), or the loop reads the next batch before it updates from this one. {estimator} takes one end "
    "of each step from the one loss and the other end from the other, and sums are right for neither. "
    "NextBatch(lca.RIGHT) allocates the loss of training.",
    cause="the trained loss is not the measured loss, and a step has one end of each: measure the loss that "
    "is trained, or use SampledPathIntegral",
)
_OF_ANOTHER_LOSS = DROPOUT, STATISTICS, TRAINING, TERMS, MIXTURE
"""Findings that say already that another loss is trained."""
FAR = 0.05
"""How far the gradients of two losses are apart, as a part of their length, that are told apart."""
_INSTEAD = (
    " To allocate the measured loss use lca.estimators.SampledPathIntegral, or lca.Adaptive with span= or "
    "every=."
)


class LoopCheck:
    """Looks at each update of a loop, and at the 1st, 2nd, 4th, ... more closely; warns once of each finding.

    Parameters
    ----------
    session
        Has the measured losses and the estimator, and gets the causes.
    context
        What the loop supplies.
    model
        The model that is trained.
    objective
        The measured loss, of which a forgotten term is sought.
    theta
        Reads the parameters as they are.
    """

    def __init__(
        self,
        session: Session,
        context: LoopContext,
        model: TrainedModel,
        objective: Objective,
        theta: Callable[[], Vector],
    ) -> None:
        self._session, self._context, self._model = session, context, model
        self._objective, self._theta = objective, theta
        self._measured = [own for own in leaves(session.objectives) if isinstance(own, ModelObjective)]
        shared = any(own._loss.shares > 1 for own in self._measured)  # by processes, which would wait
        self._judges_by_next = any(field.startswith("next_") for field in session.required_fields)
        self._needs_pieces = "micro_batches" in session.required_fields
        # It takes one end of a step from the loss of training, and the other from the measured one.
        self._mixes = {"next_batch", "next_gradient"} <= {*session.required_fields} and not shared
        self._updates = 0
        self._told: set[Finding] = set()
        self._begin_with_examples(shared=shared)
        self._examples = self._largest = 0  # in an update, and in one of its micro-batches, as far as known

    @property
    def looks_at_next(self) -> bool:
        """Whether the update after this one is looked at closely."""
        return doubles(self._updates + 1)

    def _begin_with_examples(self, *, shared: bool) -> None:
        """Let the context compare the examples of batches with the measured ones, if these are known."""
        estimator, own = self._session.estimator, self._measured[0] if self._measured else None
        data = None if own is None else own._data
        if isinstance(estimator, CrossFit) and isinstance(data, Rows):
            context, (independent, epoch) = self._context, (estimator.independent, estimator.epoch)
            context.spread.examples = len(data)
            context.drawn.measured = None if shared or (independent and epoch == 1) else data
            context.drawn.seeks_repeats = independent and epoch is None

    def look_at_loader(self, loader: object) -> None:
        """Note, for the self-check, a loader of training that yields its batches in a fixed order."""
        if self._judges_by_next and self._model.keeps_order(loader):
            self._session.note_cause(IN_ORDER)

    def begin_update(self, fields: Collection[str]) -> None:
        """Prepare for an update of which these step fields are supplied next."""
        self._updates += 1
        if doubles(self._updates):
            if not GRADIENT_FIELDS.isdisjoint(fields):
                self._look_at_model()
            self._look_at_batches()

    def end_update(self, step: int, supplied: Mapping[str, Any]) -> None:
        """The step fields of the coming update, which becomes this step, were supplied."""
        own = self._context
        if doubles(self._updates) and "gradient" in supplied:
            self._look_at_gradient(supplied["gradient"])
        self._session.skips.note(step, own.irregular, first=own.accumulation.first, apart=own.apart)
        for finding, name in self._of_updates():
            self._tell(finding, [name])

    def _of_updates(self) -> Iterator[tuple[Finding, str]]:
        """What the context has found in the updates so far, each with what shows it."""
        own, by_next = self._context, self._judges_by_next
        if own.spread.found:
            yield PIECES, own.spread.found
        if own.spread.balanced:
            yield BALANCED, "the numbers of examples of each class"
        if own.drawn.full:
            yield FULL_BATCH, f"{own.drawn.drawn:,}"
        if own.drawn.distinct:
            yield WITHOUT_REPLACEMENT, f"{own.spread.examples}/{own.drawn.drawn}"
        if own.take_turns and not by_next:  # what judges by the next update skips such steps
            yield OPTIMIZERS, "the optimizers"
        if own.reached.differ_in_update and self._needs_pieces:
            # No refusal: a router may leave out an expert by chance, which nothing but repetition excludes.
            yield DOMAINS, "the micro-batches"
        if own.reached.take_turns and by_next:
            yield IN_TURN, "updates"
        if own.altered:
            yield ALTERED, "the loop"

    def _look_at_model(self) -> None:
        """Tell what in the model makes the gradients of training others than the measured ones."""
        for finding, names in (
            (DROPOUT, self._model.dropout),
            (STATISTICS, self._model.frozen_statistics),
            (TRAINING, self._other_in_training),
            (UNTOLD, self._untold_in_training),
            (HOOKS, self._model.gradient_hooks),
        ):
            if finding not in self._told:
                self._tell(finding, list(names()))

    def _look_at_batches(self) -> None:
        """Tell of batches of which several updates are made, or of another size than the measured ones."""
        examples, largest = self._context.examples()
        self._examples, self._largest = max(self._examples, examples), max(self._largest, largest)
        own = self._measured[0] if self._measured else None
        repeated, size = self._context.seen.repeated, None if own is None else own.batch_size
        if repeated and self._judges_by_next and not self._trains_on_all(own):
            self._tell(SAME_BATCH, [repeated])
        if own is not None and size and self._largest not in (0, size) and not own.is_mean:
            self._session.note_cause(other_size(size, self._largest))

    def _look_at_gradient(self, gradient: Vector) -> None:
        """Tell of a loss of training that is not the measured one, by their gradients on one batch."""
        terms = {} if TERMS in self._told else self._model.terms(self._objective)
        mixes = self._mixes and not self._context.altered and self._told.isdisjoint(_OF_ANOTHER_LOSS)
        if not terms and not mixes:
            return
        theta, part, left_out = self._theta(), 0.0, ""
        gradients = {
            name: lambda batch, own=own: evaluate(own, theta, batch).grad for name, own in terms.items()
        }
        with suppress(LCAError):  # of a batch that cannot be measured
            part, left_out = self._context.compare_losses(gradient, gradients)
        if left_out:
            self._tell(TERMS, [left_out])
        elif mixes and part > FAR:
            self._tell(MIXTURE, [f"by {part:.0%} of its length"])

    def _trains_on_all(self, own: ModelObjective | None) -> bool:
        """Whether each update is made from all examples that are measured, so that no batch is a sample."""
        try:
            return own is not None and 0 < own.n_examples <= self._examples
        except LCAError:  # their number is not known
            return False

    def _other_in_training(self) -> list[str]:
        """The names of the modules by which the loss of training is another than the measured one.

        Named are the modules of each class that changes the loss alone; if none does, the first module in
        training mode. A loss that cannot be computed with a module in training mode counts as another.
        """
        modules = self._model.in_training()
        for loss in (own._loss for own in self._measured if modules):
            if any(loss.differ_in_training([list(modules)])):
                kinds = {kind: [n for n, own in modules.items() if own is kind] for kind in modules.values()}
                differ = loss.differ_in_training(list(kinds.values()))
                found = [n for names in compress(kinds.values(), differ) for n in names] or [*modules][:1]
                return [f"{n} ({modules[n].__name__})" if n else modules[n].__name__ for n in found]
        return []

    def _untold_in_training(self) -> Iterable[str]:
        """What kept each loss from telling whether it is another one in training mode."""
        return dict.fromkeys(text for own in self._measured if (text := own._loss.untold_in_training))

    def _tell(self, finding: Finding, names: Sequence[str]) -> None:
        """Note the cause of what was found, if anything was, and warn if there was no such warning before."""
        if not names:
            return
        if finding.cause:
            self._session.note_cause(finding.cause.format(names=listed(names)))
        if finding not in self._told:
            self._told.add(finding)
            estimator = type(self._session.estimator).__name__
            text = finding.warning.format(names=listed(names), estimator=estimator) + _INSTEAD
            warnings.warn(text, LCAWarning, stacklevel=2)
