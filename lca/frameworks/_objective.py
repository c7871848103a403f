"""`ModelObjective`: the mean loss of a model over a data set, in any framework."""

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lca.arrays import Vector
from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import DataError, LCAError, LCAWarning
from lca.frameworks._data import Batches, Measured, Rows, labels_of
from lca.frameworks._loss import ModelLoss
from lca.frameworks._trees import PyTree, describe, examples_in, is_rows, tensors_in
from lca.frameworks._trials import Trials
from lca.frameworks._tryout import choose_batch_size, hints_of, try_out, unstated
from lca.groups import Groups
from lca.layout import Layout
from lca.objective import Scaled, State, Sum


class Sample(NamedTuple):
    """A batch that `ModelObjective.batch` made; its tensors are those that the model takes.

    Parameters
    ----------
    rows
        The tensors of the batch, as a tree.
    weighted
        Whether the examples have weights.

    Examples
    --------
    >>> Sample(np.zeros((2, 3))).rows.shape
    (2, 3)
    """

    rows: PyTree
    weighted: bool = False


class ModelObjective:
    """``L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over the measuring batches b of a data set.

    It is an `lca.objective.Objective`, and also `Stateful`, `Selective`, `Sampled` and `Scored`. The rules of
    measuring are here, once for all frameworks: which batch size, what is refused when an objective is made,
    terms by class, state, samples. What a framework supplies is three things.

    1. A `ModelLoss`. Required are the ``layout``, ``theta()`` (K,), and with `BatchwiseLoss`
       ``evaluate_batch(theta, batch, state, gradient=...)``: a scalar and a gradient (K,). More methods add:

       - ``state()``, and a ``state`` that is used when given: running statistics and ``state_change``;
       - ``sample(rows, weight)``: weighted samples of n examples, from rows (n, ...) and weights (n,);
       - ``scores(theta, batches)``: the errors (N,) by which importance sampling draws examples;
       - ``terms()``: `by_term`; ``prepare(batch)``: batches in the user's own form;
       - ``try_out(theta, batch)``: names of parameters without gradient, and `check_loss`.

    2. `lca.frameworks.TensorOps` for its tensors, registered with `tensor_ops`; the defaults do for tensors
       that index like NumPy arrays. Its vectors (K,) need `lca.arrays.ArrayOps`.
    3. A subclass of this class with the constructor that its users expect, which makes the loss and the
       data (`all_rows`, `read_batches`). The functions of `lca.frameworks` read the options of both:
       `batch_norm_policies`, `check_frozen`, `check_theta`, `require_precision`.

    Options have one name and meaning everywhere: ``loss_fn``, ``batch_loss``, ``batch_weight``,
    ``batch_size``, ``batch_norm``, ``frozen``, ``keep`` (`batch_norm_policies`,
    `check_frozen`, `read_batches`).

    Parameters
    ----------
    model
        The framework's own model object.
    loss
        Loss and gradient of its batches.
    data
        The measured data; `lca.frameworks.all_rows` and `lca.frameworks.read_batches` make them.
    batch_size
        Examples in a measuring batch, independent of training. ``None``: the size of the batches that the
        data came in, if they came in batches of one size, else ``min(N, 1000)``. Never found by timing: it
        is part of what is measured. It must be stated, here or by a loader, if the loss is not a mean over
        examples; a loss that divides by other weights (of classes, tokens) needs them as ``batch_weight``.

    Attributes
    ----------
    model
        The model that is measured.
    layout
        Names and shapes of the parameters in θ.
    batch_size
        The size in use; ``None`` where batches are measured as they come.

    Raises
    ------
    LCAError
        If the loss is not a differentiable scalar, or is a sum over the batch instead of a mean.
    DataError
        If the model cannot take a batch, NaN in the data reaches the loss, or the loss depends on the batch
        size and none is stated.

    Notes
    -----
    To make an objective takes about one forward pass over the data (none with ``keep=False``, where only the
    first batch is tried), one gradient and one forward pass of a measuring batch, and forward passes of some
    2,000 examples, a hundred of them one by one.

    Whether the loss is a mean over examples is tried again where the state that it reads has moved: at the
    first evaluation after that, and while it goes on moving at the 2nd, 4th, 8th, ..., later every 256th.
    Each trial costs some 1,000 forward passes of an example and a gradient. If it fails, evaluations raise
    `LCAError`, and name what moved, where they depend on it: on samples, of classes, or of all data if no
    ``batch_size`` is stated. As θ moves as well, it is also tried at the 2nd, 4th, 8th, ..., later every
    256th evaluation that depends on it, and by a tracker at the end of the run, each for some 600 forward
    passes of an example.

    Warns
    -----
    LCAWarning
        If no gradient reaches a trainable parameter.

    Examples
    --------
    A linear model in NumPy, as a framework of its own:

    >>> from lca.frameworks import BatchwiseLoss, all_rows
    >>> class Linear(BatchwiseLoss):
    ...     layout = Layout(("w",), ((2,),))
    ...     def theta(self):
    ...         return np.array([1.0, -1.0])
    ...     def evaluate_batch(self, theta, batch, state, *, gradient):
    ...         x, y = batch
    ...         gap = x @ theta - y
    ...         return (gap**2).mean() / 2, x.T @ gap / len(y) if gradient else None
    >>> objective = ModelObjective(None, Linear(), all_rows((np.eye(2), np.zeros(2))))
    >>> objective.loss_and_grad(objective.theta()), objective.batch_size
    ((0.5, array([ 0.5, -0.5])), 2)
    """

    def __init__(self, model: Any, loss: ModelLoss, data: Measured, *, batch_size: int | None = None) -> None:
        self.model = model
        self.layout: Layout = loss.layout
        self._loss, self._data, self._is_class = loss, data, False
        self.batch_size = choose_batch_size(data, batch_size)
        found = try_out(loss, self.theta(), data, batch_size)
        self._trials = Trials(loss, found, partial(unstated, loss, data, batch_size))
        if found.unused:
            warnings.warn(
                f"no gradient reaches {', '.join(found.unused)}: the loss does not depend on it, so its "
                "allocation will be 0. Is a part of the model detached, or unused on the first batch?",
                LCAWarning,
                stacklevel=3,
            )

    def theta(self) -> Vector:
        """The model's parameters as they are now: a new vector (K,)."""
        return self._loss.theta()

    def loss(self, theta: Vector, batch: PyTree | None = None) -> float:
        """L(θ), in the units of the loss; one forward pass over the data, or over ``batch``."""
        return self._evaluate(theta, batch, None, gradient=False)[0]

    def loss_and_grad(self, theta: Vector, batch: PyTree | None = None) -> tuple[float, Vector]:
        """L(θ) and ∂L/∂θ (K,); one forward and one backward pass over the data, or over ``batch``."""
        return self._evaluate(theta, batch, None, gradient=True)

    def state(self) -> State | None:
        """A copy of what the loss depends on besides θ (running statistics); ``None`` if that is nothing."""
        return self._trials.state()

    def at_state(self, state: State) -> "Variant":
        """The same loss with this state instead of the model's own."""
        return Variant(self, state)

    @property
    def moved_by_forward(self) -> frozenset[str]:
        """Names of the entries of `state` that the forward pass of training moves: the model's own."""
        return frozenset(self._loss.moved_by_forward())

    @property
    def differentiated(self) -> frozenset[str]:
        """Names of the tensors whose gradient is computed: those that train now."""
        return frozenset(self._loss.trainable())

    def differentiating(self, names: Collection[str]) -> "Variant":
        """The same loss with the gradient of these tensors, whether they train or not."""
        return Variant(self, names=frozenset(names))

    def check(self) -> None:
        """Raise `LCAError` if the model has changed so that it is no longer what is measured."""
        self._loss.check()

    def what_changed(self) -> str:
        """What the loss reads that has moved and is neither θ nor `state`, in words; "" if not known."""
        return self._loss.what_changed()

    def refresh(self) -> str:
        """Copy again what is measured, and say in words what had changed unseen; see `ModelLoss.refresh`."""
        return self._loss.refresh()

    def end_run(self, theta: Callable[[], Vector]) -> None:
        """A run ends at this θ: try, a last time, what its measurements depend on.

        Raises
        ------
        LCAError
            If the loss is not a mean over examples there, and samples or parts of the data were measured.
        """
        self._trials.end(theta)

    def agreed(self, value: float) -> float:
        """The ``value`` of the first process, so that processes that share evaluations decide alike."""
        return self._loss.agreed(value)

    def of_all(self, values: Sequence[float]) -> list[Sequence[float]]:
        """The ``values`` of every process that shares the evaluations."""
        return self._loss.of_all(values)

    @property
    def is_mean(self) -> bool:
        """Whether L is the weighted mean over the examples, however the data are cut into batches.

        Found by a test when the objective is made, and again where the state that the loss reads has moved.
        If not, ``batch_size`` is part of what is measured.
        """
        return not self._trials.split.reason

    @property
    def measured_on(self) -> str:
        """The size of the data in words, such as ``"1,000 examples"``; empty if it is not known."""
        return self._data.size_text

    @property
    def n_examples(self) -> int:
        """N, the number of examples.

        Raises
        ------
        LCAError
            If the data are not tensors with one row per example, ``batch_weight`` was given, or the loss is
            not a mean over examples.
        """
        return len(self._examples())

    @property
    def weight(self) -> np.ndarray | None:
        """Weights w (N,) of the examples where the loss is divided by their sum; ``None`` if all are 1."""
        return self._loss.example_weights(self._examples().tree)

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each example, integers (N,); ``None`` if there are no classes."""
        return labels_of(self._data)

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> Sample:
        """These examples (n,) as a batch; its loss is their mean, weighted by ``weight`` (n,) if given.

        Raises
        ------
        LCAError
            As `n_examples`; for a ``weight``, if the loss of each example is not known.
        """
        rows = self._examples()
        if weight is not None and not self._trials.weighs():
            raise self._trials.no_weights()
        return Sample(self._loss.sample(rows.take(np.asarray(index)), weight), weight is not None)

    def weight_of(self, batch: PyTree) -> float:
        """How much a batch counts in the mean over batches: its ``batch_weight``, or number of examples."""
        return float(self._loss.batch_weight(self._rows(batch)))

    def scores(self, theta: Vector, batch: PyTree | None = None) -> np.ndarray:
        """``½ Σ_j |∂ℓ_n/∂f_j|`` over the outputs f of each example: ``1 - p_model(label)`` of a classifier.

        Float64 (n,), for the examples of ``batch``, by default for all; costs one forward pass.

        Raises
        ------
        LCAError
            If the data are not tensors with one row per example, ``batch_weight`` was given, or the loss is
            not a function of outputs and targets.
        """
        rows = Rows(self._rows(batch)) if batch is not None else self._all_rows()
        return self._loss.scores(theta, rows.batches(self.batch_size))

    def by_example(
        self, theta: Vector, movement: Vector, groups: Groups, index: np.ndarray, *, chunk: int = 8
    ) -> ExampleSlopes:
        """The losses of examples (n,), and their derivatives along the movement of each group (groups, n).

        See `lca.by_example.Separable`, and `ModelLoss.by_example` for the cost.

        Raises
        ------
        LCAError
            As `n_examples`: if the loss is not a mean over examples, for example because of batch statistics,
            there are no losses of single examples.
        """
        return self._by_example(theta, GroupMovement(movement, groups, chunk), index, None)

    def _by_example(
        self,
        theta: Vector,
        movement: GroupMovement,
        index: np.ndarray,
        state: State | None,
        names: Collection[str] | None = None,
    ) -> ExampleSlopes:
        self._trials.follow(state)
        self._trials.rely(theta, state, mean=True)
        rows = Rows(self._loss.sample(self._examples().take(np.asarray(index)), None))
        batches = rows.batches(self.batch_size)
        at_once = self._gives_each_loss()
        return self._loss.by_example(theta, batches, movement, state, names=names, at_once=at_once)

    def _gives_each_loss(self) -> bool:
        try:
            return self._trials.weighs()
        except LCAError:  # there is no weighted form
            return False

    def by_class(self) -> Sum:
        """L(θ) as a `lca.Sum` of one term per label, ``class 0``, ``class 1``, ..., that add up to L(θ).

        A term is ``W_c/W · L_c(θ)``: the mean loss of the class times its share of the weight. All terms
        together cost one pass over the data, cut at the classes, and a vector (K,) for each class: with few
        examples in a class that is more than the pass. They hold a second copy of the data.

        Raises
        ------
        LCAError
            If the data are not ``(inputs, integer labels)``, or the loss is not a mean over examples.
        """
        if not self.is_mean:
            raise LCAError(f"a class cannot be measured alone: {self._why_no_mean()}.")
        labels = self.labels
        if labels is None:
            raise LCAError(
                "by_class() requires data of the form (inputs, integer labels), but the measured data have "
                "another form; pass such a tuple."
            )
        shares = {f"class {c}": self._share(np.flatnonzero(labels == c)) for c in np.unique(labels)}
        counted = {name: share for name, share in shares.items() if share.factor}  # not ignored labels
        return Sum(counted, whole=self)

    def by_term(self) -> Sum:
        """L(θ) as a `lca.Sum` of the terms ``data`` and ``penalty``, which add up to L(θ).

        Raises
        ------
        LCAError
            If the framework cannot tell the penalties from the loss; the message shows how to make the terms.
        """
        return Sum({name: self._with(term, self._data) for name, term in self._loss.terms().items()})

    def evaluate_together(
        self, parts: Sequence[tuple[Any, PyTree | None]], theta: Vector, *, gradient: bool
    ) -> list[tuple[float, Vector]] | None:
        """Loss and gradient of several objectives, each on a batch or all its data, with one preparation.

        ``None`` unless all are parts of one loss, as those of `by_class`, or this one on several batches.
        """
        if not all(isinstance(own, ModelObjective) and own._loss is self._loss for own, _ in parts):
            return None
        return self._evaluate_each(parts, theta, None, gradient=gradient)

    def _evaluate_each(
        self,
        parts: Sequence[tuple["ModelObjective", PyTree | None]],
        theta: Vector,
        state: State | None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> list[tuple[float, Vector]]:
        self._trials.follow(state)
        some = any(own._is_of_some(batch) for own, batch in parts)
        if some or any(batch is None and own._is_cut for own, batch in parts):
            self._trials.rely(theta, state, mean=some)
        for own, batch in parts:
            own._require_known(batch)
            if batch is None and own._is_cut:
                self._trials.require_weights(state)
        groups = [own._batches_of(batch) for own, batch in parts]
        try:
            return self._loss.evaluate_each(theta, groups, state, gradient=gradient, names=names)
        except DataError as error:
            if not any(self._is_of_other_form(batch) for _, batch in parts):
                raise
            assert isinstance(self._data, Rows)
            raise DataError(
                f"{str(error).rstrip('.')}. It is a batch of training, and the measured data have another "
                f"form ({describe(self._data.tree)}): pass batches of that form to tracker.batches or "
                "begin_batch, or use an estimator that measures none (lca.estimators.SampledPathIntegral)."
            ) from error

    def _is_of_other_form(self, batch: PyTree | None) -> bool:
        """Whether a batch of training holds more or fewer tensors than the measured data."""
        if batch is None or isinstance(batch, Sample) or not isinstance(self._data, Rows):
            return False
        return len(list(tensors_in(batch))) != len(list(tensors_in(self._data.tree)))

    def _require_known(self, batch: PyTree | None) -> None:
        """Raise if what is evaluated depends on what the loss was when the objective was made, and is not."""
        mean = self._is_of_some(batch)
        if mean or batch is None:
            self._trials.require(mean=mean, weights=isinstance(batch, Sample) and batch.weighted)

    def _is_of_some(self, batch: PyTree | None) -> bool:
        """Whether some of the examples are evaluated, which tell of the others only if the loss is a mean."""
        return self._is_class or isinstance(batch, Sample)

    @property
    def _is_cut(self) -> bool:
        """Whether all data are, or may be, more than one batch."""
        return not isinstance(self._data, Rows) or len(self._data) > (self.batch_size or 1)

    def _share(self, index: np.ndarray) -> Scaled:
        """What the examples ``index`` contribute to the mean over all."""
        assert isinstance(self._data, Rows)
        rows, weight = Rows(self._data.take(index)), self._loss.batch_weight
        of_class = self._with(self._loss, rows)
        of_class._is_class = True
        return Scaled(of_class, weight(rows.tree) / weight(self._data.tree))

    def _with(self, loss: ModelLoss, data: Measured) -> "ModelObjective":
        other = copy.copy(self)
        other._loss, other._data = loss, data
        return other

    def _evaluate(
        self,
        theta: Vector,
        batch: PyTree | None,
        state: State | None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> tuple[float, Vector]:
        [found] = self._evaluate_each([(self, batch)], theta, state, gradient=gradient, names=names)
        return found

    def _batches_of(self, batch: PyTree | None) -> Iterable[PyTree]:
        """All measuring batches, or those of one batch.

        A sample is split into one piece per process; a batch that only this process has is kept.
        """
        if batch is None:
            return self._data.batches(self.batch_size)
        if isinstance(batch, Sample) and self.batch_size:
            sample = Rows(batch.rows)
            return sample.batches(min(self.batch_size, -(-len(sample) // self._loss.shares)))
        rows = self._rows(batch)
        cut = is_rows(rows) and self.batch_size
        return self._loss.own(Rows(rows).batches(self.batch_size) if cut else [rows])

    def _rows(self, batch: PyTree) -> PyTree:
        if isinstance(batch, Sample):
            return batch.rows
        try:
            rows = self._loss.prepare(batch)
            if self._loss.counts_examples:
                examples_in(rows)
        except DataError as error:
            raise DataError(
                f"the loss of a batch of training ({describe(batch)}) is not known: {error}"
            ) from error
        return rows

    def _examples(self) -> Rows:
        """The rows of examples of which the loss is the mean."""
        rows = self._all_rows()
        if not self.is_mean:
            raise LCAError(
                f"single examples cannot be drawn from these data: {self._why_no_mean()}, or use an "
                "estimator of the full loss (lca.Adaptive) or on training batches (lca.estimators.CrossFit, "
                "or LaggedCrossFit, which requires the gradient alone)."
            )
        return rows

    def _all_rows(self) -> Rows:
        if not isinstance(self._data, Rows) or not self._loss.counts_examples:
            read = isinstance(self._data, Batches) and not self._data.kept
            remedy = "these data are read anew at every pass: omit keep=False, or use" if read else "use"
            raise LCAError(
                "single examples can only be drawn from tensors with one row per example, where a "
                f"batch counts by its examples (no batch_weight); {remedy} an estimator of the full loss "
                "(lca.Adaptive) or on training batches (lca.estimators.CrossFit, or LaggedCrossFit, which "
                "requires the gradient alone)."
            )
        return self._data

    def _why_no_mean(self) -> str:
        """Why the loss is not a mean over examples, and what to do."""
        if self._loss.mixes_examples:
            return f"{self._trials.split.reason} (batch statistics); use batch_norm='frozen'"
        hint = hints_of(self._loss) or "pass a loss that is a mean over examples"
        return f"{self._trials.split.reason}; {hint}"


@dataclass(frozen=True, eq=False)
class Variant:
    """A `ModelObjective` in a given state, with the gradients of given tensors.

    Parameters
    ----------
    objective
        The loss.
    state
        Replaces the model's own state; ``None``: the state as it is at every call.
    names
        The tensors whose gradient is computed; ``None``: those that train.

    Examples
    --------
    >>> from lca.frameworks import BatchwiseLoss, all_rows
    >>> class Shifted(BatchwiseLoss):  # the mean of x θ + shift, where the shift is state
    ...     layout = Layout(("w",), ((1,),))
    ...     def theta(self):
    ...         return np.ones(1)
    ...     def state(self):
    ...         return {"shift": np.zeros(1)}
    ...     def evaluate_batch(self, theta, batch, state, *, gradient):
    ...         shift = (state or self.state())["shift"]
    ...         return (batch * theta + shift).mean(), batch.mean(0) if gradient else None
    >>> objective = ModelObjective(None, Shifted(), all_rows(np.eye(2)[:, :1]))
    >>> objective.loss(np.ones(1)), Variant(objective, {"shift": np.ones(1)}).loss(np.ones(1))
    (0.5, 1.5)
    """

    objective: ModelObjective
    state: State | None = None
    names: frozenset[str] | None = None

    @property
    def layout(self) -> Layout:
        """The tensors that θ is made of."""
        return self.objective.layout

    @property
    def differentiated(self) -> frozenset[str]:
        """Names of the tensors whose gradient is computed."""
        return self.objective.differentiated if self.names is None else self.names

    def differentiating(self, names: Collection[str]) -> "Variant":
        """The same loss in the same state with the gradient of these tensors."""
        return replace(self, names=frozenset(names))

    def loss(self, theta: Vector, batch: PyTree | None = None) -> float:
        """As `ModelObjective.loss`."""
        return self.objective._evaluate(theta, batch, self.state, gradient=False)[0]

    def loss_and_grad(self, theta: Vector, batch: PyTree | None = None) -> tuple[float, Vector]:
        """As `ModelObjective.loss_and_grad`."""
        return self.objective._evaluate(theta, batch, self.state, gradient=True, names=self.names)

    def by_example(
        self, theta: Vector, movement: Vector, groups: Groups, index: np.ndarray, *, chunk: int = 8
    ) -> ExampleSlopes:
        """As `ModelObjective.by_example`."""
        along = GroupMovement(movement, groups, chunk)
        return self.objective._by_example(theta, along, index, self.state, self.names)

    def evaluate_together(
        self, parts: Sequence[tuple[Any, PyTree | None]], theta: Vector, *, gradient: bool
    ) -> list[tuple[float, Vector]] | None:
        """As `ModelObjective.evaluate_together`."""
        whole = self.objective
        same = all(
            isinstance(own, Variant)
            and (own.state is self.state and own.names == self.names and own.objective._loss is whole._loss)
            for own, _ in parts
        )
        if not same:
            return None
        bare = [(own.objective, batch) for own, batch in parts]
        return whole._evaluate_each(bare, theta, self.state, gradient=gradient, names=self.names)
