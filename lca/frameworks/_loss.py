"""`ModelLoss`: what a framework supplies so that the loss of its models can be measured."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from lca.arrays import Vector, array_ops
from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import LCAError
from lca.frameworks._by_example import one_by_one
from lca.frameworks._loss_checks import loss_errors, require_weight, unweighted, weight_of
from lca.frameworks._tensors import tensor_ops
from lca.frameworks._trees import PyTree, examples_in
from lca.layout import Layout
from lca.objective import State


class ModelLoss(ABC):
    """``Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over any batches b at any θ, for the models of one framework.

    `ModelObjective` measures data sets with it. A framework implements `theta` and either `evaluate` or, in
    a subclass of `BatchwiseLoss`, `evaluate_batch`; every other method has a default, named below. A call
    must leave the model, its buffers, flags, gradients and all random generators as they were, also when it
    raises.

    Attributes
    ----------
    layout
        Names and shapes of the parameters in θ; tied parameters appear once. Required.
    mixes_examples
        Whether the model is known to use batch statistics (BatchNorm). Whether the loss is a mean over
        examples is found by a test; this only lets messages name the reason. Default: False.
    differentiates_inside
        Whether gradients must be enabled in `evaluate` also where none is asked for, because the loss takes
        derivatives itself. Set by the try-out where both calls would differ. Default: False.
    precision_eps
        Machine epsilon of the precision that computes, if it is coarser than that of θ (autocast, TF32).
    counts_examples
        Whether a batch counts by its number of examples or by their weights, so that single examples can be
        drawn; False if the user supplied another weight. Default: True.
    shares
        The number of processes among which the batches of an evaluation are divided. Default: 1.
    mean_hint
        How to get a mean, in the words of the framework; part of error messages, as the next five.
    weight_hint
        What the loss divides by instead of the number of examples, if that can be seen, and the
        ``batch_weight`` to pass: class weights, ignored labels, masks. Default: "".
    batch_hint
        What makes the loss of a batch depend on the batch, whatever its weight, and what to do: state that a
        forward pass moves and reads itself, or several means that are divided by weights of their own.
        Default: "".
    gradient_hint
        What may have cut the gradient.
    sample_hint
        Which losses can be weighted.
    untold_in_training
        What kept `differ_in_training` from telling, as training would find it changed. Default: "".
    terms_hint
        A `lca.Sum` of the data term and the penalty, as a user writes it.
    """

    layout: Layout
    mixes_examples: bool = False
    differentiates_inside: bool = False
    precision_eps: float | None = None
    counts_examples: bool = True
    shares: int = 1
    mean_hint: str = "return the mean over the examples"
    weight_hint: str = ""
    batch_hint: str = ""
    gradient_hint: str = "is it detached from them, or converted to a number on the way?"
    sample_hint: str = "pass a loss that can be weighted"
    untold_in_training: str = ""
    terms_hint: str = 'lca.Sum({"data": objective, "penalty": Penalty(model, function)})'

    @abstractmethod
    def theta(self) -> Vector:
        """The model's parameters as they are now: a new vector (K,) on their device."""

    @abstractmethod
    def evaluate(
        self,
        theta: Vector,
        batches: Iterable[PyTree],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> tuple[float, Vector | None]:
        """Mean loss over the batches, summed in float64, and its gradient (K,), a new vector, if requested.

        ``state`` replaces the model's own; ``None``: as it is now. ``names`` are the tensors whose gradient
        is needed, whether they train or not; ``None``: those of `trainable`. The gradient of the others may
        be left 0. A batch of weight 0 is left out, also if its loss is NaN. Costs one forward pass over the
        batches, and one backward pass with ``gradient``.

        Raises
        ------
        LayoutError
            If θ does not fit the layout.
        DataError
            If the model cannot take a batch, or the batches weigh 0 together.
        """

    def try_out(self, theta: Vector, batch: PyTree) -> Sequence[str]:
        """Evaluate one batch and check all that can be: see `check_loss`.

        Returns the names of trainable parameters that get no gradient. Default: one gradient, no names.
        """
        self.evaluate(theta, [batch], gradient=True)
        return ()

    def trainable(self) -> Collection[str]:
        """Names of the tensors that train now; those of `evaluate` without ``names``. Default: all."""
        return self.layout.names

    def check(self) -> None:  # noqa: B027 - a default, not a stub
        """Raise if the model has changed so that it is no longer what is measured. Default: never.

        Called at every step, so it must cost next to nothing.

        Raises
        ------
        LayoutError
            If a parameter has been replaced, converted or moved to another device.
        """

    def own(self, batches: Iterable[PyTree]) -> Iterable[PyTree]:
        """Mark batches that only this process has; it evaluates all of them, and results are then combined.

        Default: return them unchanged.
        """
        return batches

    def agreed(self, value: float) -> float:
        """The ``value`` of the first process, if several share the evaluations (`of_all`)."""
        return float(self.of_all([value])[0][0])

    def of_all(self, values: Sequence[float]) -> list[Sequence[float]]:
        """The ``values`` of every process, if several share the evaluations. Default: of this one."""
        return [values]

    def moved_by_forward(self) -> Collection[str]:
        """Names of the entries of `state` that belong to the model itself, whose forward pass moves them.

        See `lca.objective.state_at_update`. Default: none.
        """
        return ()

    def differ_in_training(self, choices: Sequence[Collection[str]]) -> Sequence[bool]:
        """Whether the loss of a few rows is another one, or fails, with these modules in training mode.

        For each choice of modules, by name; dropout that the tracker of the framework knows is left out. Like
        every other method, it leaves all as it was. Default: False, also where it cannot be told.
        """
        return [False] * len(choices)

    def evaluate_each(
        self,
        theta: Vector,
        groups: Sequence[Iterable[PyTree]],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> list[tuple[float, Vector | None]]:
        """As `evaluate`, of several groups of batches. Default: one after another."""
        return [self.evaluate(theta, batches, state, gradient=gradient, names=names) for batches in groups]

    def what_changed(self) -> str:
        """What the loss reads that has moved since the last evaluation and is neither θ nor in `state`.

        Part of the error where the same point gives another loss. Default: "", not known.
        """
        return ""

    def refresh(self) -> str:
        """Copy again what is measured, and say in words what had changed in it unseen; "" if nothing had.

        Called at audited steps (the 2nd, 4th, 8th, ..., every 64th) and at the end of a run. Default:
        nothing is copied.
        """
        return ""

    def prepare(self, batch: PyTree) -> PyTree:
        """A batch as the user has it, converted to the tensors that `evaluate` takes. Default: as it is.

        Raises
        ------
        DataError
            If it cannot be converted.
        """
        return batch

    def rearranged(self, theta: Vector) -> Vector:
        """A new vector in which the entries of each tensor have taken each other's places."""
        tensor, pieces = tensor_ops(theta), list[slice]()
        assert tensor is not None
        for start, size in zip(self.layout.offsets, self.layout.sizes, strict=True):
            cut = start + size // 3
            pieces += [slice(cut, start + size), slice(start, cut)]
        return tensor.concatenate([tensor.rows(theta, piece) for piece in pieces])

    def batch_weight(self, batch: PyTree) -> float:
        """``w_b`` ≥ 0: how much a batch counts. Default: its number of examples."""
        return float(examples_in(batch))

    def state(self) -> State | None:
        """A copy of what the loss depends on besides θ (running statistics), by name. Default: nothing."""
        return None

    def terms(self) -> Mapping[str, "ModelLoss"]:
        """The loss as ``data`` and ``penalty``, which add up to it. Default: refused.

        Raises
        ------
        LCAError
            If the penalties are not known.
        """
        raise LCAError(
            "the penalties are not known apart from the loss; make each term an objective of its own: "
            f"{self.terms_hint}."
        )

    def example_weights(self, rows: PyTree) -> np.ndarray | None:
        """Weights (N,) of the examples where a loss is divided by their sum. Default: ``None``, all are 1."""
        return None

    def sample(self, rows: PyTree, weight: np.ndarray | None) -> PyTree:
        """Rows (n, ...) as a batch whose loss is ``Σ_j v_j ℓ_j / Σ_j v_j``; ``None``: v_j = 1.

        The batch may be cut along axis 0; each piece must then count by the sum of its v_j in
        `batch_weight`, or by its length if v adds up to n. Default: weights are refused.

        Raises
        ------
        LCAError
            If weights are given and the loss cannot weigh examples.
        """
        if weight is None:
            return rows
        raise unweighted(self.sample_hint)

    def scores(self, theta: Vector, batches: Iterable[PyTree]) -> np.ndarray:
        """``½ Σ_j |∂ℓ_n/∂f_j|`` over the outputs f of each example; float64 (n,). Default: refused.

        Raises
        ------
        LCAError
            If the framework computes no scores.
        """
        raise LCAError(
            "the errors of single examples need a loss_fn of outputs and targets; pass one instead of "
            "batch_loss, let training supply them (tracker.scores(index, errors)), or use sampling='uniform'."
        )

    def by_example(
        self,
        theta: Vector,
        batches: Iterable[PyTree],
        movement: GroupMovement,
        state: State | None = None,
        *,
        names: Collection[str] | None = None,
        at_once: bool = False,
    ) -> ExampleSlopes:
        """The losses of all examples of these batches, and their slopes (`lca.by_example.Separable`).

        The loss of an example is that of a batch of one example; this is called only if the loss of a batch
        is the mean of these. If ``at_once``, the weighted form of the loss was tested (`sample`), so the
        losses of all examples of a batch can be computed together. Default: one gradient per example.
        """
        return one_by_one(self, theta, batches, movement, state=state, names=names)


class BatchwiseLoss(ModelLoss):
    """A `ModelLoss` that evaluates one batch at a time; the simplest way to support a framework.

    The losses are summed in float64, the gradients in the dtype of θ. A batch of weight 0 is not evaluated.

    Examples
    --------
    >>> class Mean(BatchwiseLoss):
    ...     layout = Layout(("center",), ((1,),))
    ...     def theta(self):
    ...         return np.zeros(1)
    ...     def evaluate_batch(self, theta, batch, state, *, gradient):
    ...         return ((batch - theta) ** 2).mean() / 2, theta - batch.mean() if gradient else None
    >>> loss = Mean()
    >>> loss.evaluate(loss.theta(), [np.array([1.0, 3.0]), np.array([2.0])], gradient=True)
    (2.3333333333333335, array([-2.]))
    """

    @abstractmethod
    def evaluate_batch(
        self, theta: Vector, batch: PyTree, state: State | None, *, gradient: bool
    ) -> tuple[float, Vector | None]:
        """``ℓ_b(θ)``, the mean loss of one batch, and its gradient (K,), a new vector, if requested."""

    def evaluate(
        self,
        theta: Vector,
        batches: Iterable[PyTree],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> tuple[float, Vector | None]:
        ops, total = array_ops(theta), None
        losses, weights = [], []
        for batch in batches:
            weight = weight_of(self, batch)
            if not weight:
                continue
            with loss_errors(batch):
                loss, grad = self.evaluate_batch(theta, batch, state, gradient=gradient)
            weights.append(weight)
            losses.append(float(loss) * weights[-1])
            if gradient:
                total = (
                    ops.scaled(grad, weights[-1])
                    if total is None
                    else ops.add_scaled(total, weights[-1], grad)
                )
        weight = require_weight(math.fsum(weights))
        mean = math.fsum(losses) / weight
        return mean, None if total is None else self._asked(ops.scaled(total, 1 / weight), names)

    def _asked(self, gradient: Vector, names: Collection[str] | None) -> Vector:
        """The gradient with 0 for tensors that were not asked for (`lca.objective.Selective`)."""
        if names is None or set(names) >= set(self.layout.names):
            return gradient
        asked = [np.full(n, k in names) for k, n in zip(self.layout.names, self.layout.sizes, strict=True)]
        return gradient * array_ops(gradient).vector(np.concatenate(asked), gradient)
