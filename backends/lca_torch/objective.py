"""`Objective`: the mean loss of a torch model over a data set, at any θ, with the model left as it is."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lca import tolerances
from lca.errors import DataError, LayoutError, LCAError, LCAWarning
from lca.layout import Layout
from lca.objective import Scaled, State, Sum
from lca_torch.data import Batches, PyTree, Rows, examples_in, measured, tree_map
from lca_torch.examples import ExampleLoss, Scored, Weighted
from lca_torch.live import flat
from lca_torch.model_loss import BatchLoss, ModelLoss, default_loss
from lca_torch.parameters import Frozen
from lca_torch.policies import BatchNormPolicy, random_state_kept
from lca_torch.tryout import choose_batch_size, try_out


class Objective:
    """``L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over the measuring batches b of a data set; an `lca.Objective`.

    ``ℓ_b`` is the mean loss of a batch and ``w_b`` its number of examples, so a ragged last batch counts as
    what it is. The model is evaluated through `torch.func.functional_call`: its parameters, buffers, training
    flags and ``.grad``, and all random generators, are the same after a call as before, also after an error.

    Parameters
    ----------
    model
        Any `torch.nn.Module` with float32 or float64 parameters on one device.
    loss_fn
        ``loss_fn(model(inputs), target)`` for batches that are pairs; the *mean* over the batch. ``None`` for
        models that compute their own loss, as those of Hugging Face: ``model(**batch).loss``.
    data
        The measured data: a tuple or mapping of tensors, a data set, a `DataLoader`, an iterable of batches.
    batch_loss
        Instead of ``loss_fn``: any function ``(model, batch) -> mean loss``.
    batch_weight
        How much a batch counts; default: its number of examples. For a loss that is a mean over tokens, the
        number of tokens.
    batch_size
        Examples a measuring batch, independent of training. ``None``: that of the loader if the model has
        batch statistics, else the fastest one, found by trying (`batch_size` then says which).
    batch_norm
        ``"batch"`` (statistics of the measuring batch, gradient through them: the paper's choice) or
        ``"frozen"`` (running statistics; where they move during a run, `Tracker` reports what that did as
        ``state_change``); or a mapping from module names to these.
    frozen
        What happens to parameters with ``requires_grad=False``: ``"zero"`` keeps them in θ with gradient 0,
        ``"omit"`` leaves them out (adapters on a large frozen model).
    autocast
        Run the forward pass under `torch.autocast` in this dtype, e.g. ``torch.bfloat16``.
    compile
        Compile the loss of a batch with `torch.compile`. Worth it on a GPU and for many steps.
    keep
        Keep the batches of a loader or iterable in memory, on the model's device. ``False`` reads it again at
        every pass; it must then give the same batches every time.

    Attributes
    ----------
    model
        The model that is measured.
    layout
        Names and shapes of the parameters; tied ones once.
    batch_size
        Examples a measuring batch; ``None`` where batches are measured as they come.

    Notes
    -----
    θ is a (K,) tensor on the model's device, float32 or float64 whatever the model's own dtype: inputs and
    buffers follow θ. The loss is summed in float64, gradients of all batches in one vector of θ's dtype.
    Dropout and everything else that depends on ``training`` is off. Memory of a gradient beyond the
    activations of one measuring batch: one vector for the result.

    Raises
    ------
    LCAError
        If the loss is no scalar, not differentiable or a sum over the batch instead of a mean, if batches do
        not fit the model or hold NaN that reaches the loss, or if parameters differ in dtype or device. At a
        later call: if the model was converted or moved in between.

    Examples
    --------
    >>> model = nn.Linear(2, 3)
    >>> x, y = torch.eye(2), torch.tensor([0, 2])
    >>> objective = Objective(model, nn.functional.cross_entropy, (x, y), batch_size=2)
    >>> loss, grad = objective.loss_and_grad(objective.theta())
    >>> grad.shape, model.weight.grad
    (torch.Size([9]), None)
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None,
        data: object,
        *,
        batch_loss: BatchLoss | None = None,
        batch_weight: Callable[[PyTree], float] = examples_in,
        batch_size: int | None = None,
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy] = "batch",
        frozen: Frozen = "zero",
        autocast: torch.dtype | None = None,
        compile: bool = False,
        keep: bool = True,
    ) -> None:
        if loss_fn is not None and not callable(loss_fn):
            raise LCAError(
                f"loss_fn must be a function of output and target, got a {type(loss_fn).__name__}; the order "
                "is Objective(model, loss_fn, data)."
            )
        if loss_fn is not None and batch_loss is not None:
            raise LCAError(
                "pass loss_fn (of output and target) or batch_loss (of model and batch), not both."
            )
        self.model = model
        self._examples = ExampleLoss(batch_loss or default_loss(loss_fn), loss_fn)
        self._counts, self._supports_weights = batch_weight is examples_in, False
        self._loss = ModelLoss(
            model,
            self._examples,
            batch_weight=lambda b: float(b.weight.sum()) if isinstance(b, Weighted) else batch_weight(b),
            batch_norm=batch_norm,
            frozen=frozen,
            autocast=autocast,
            compile=compile,
        )
        self.layout: Layout = self._loss.layout
        theta = flat(self._loss.parameters())
        self._made = theta.dtype, theta.device
        with torch.inference_mode(False), random_state_kept(theta.device):
            self._data = _on_device(measured(data, keep=keep), theta.device)
            with _explained(loss_fn is None and batch_loss is None, model):
                self.batch_size = choose_batch_size(self._loss, theta, self._data, batch_size)
                unused = try_out(self._loss, theta, self._data, self.batch_size)
        if unused:
            warnings.warn(
                f"no gradient reaches {', '.join(unused)}: the loss does not depend on it, so its allocation "
                "will be 0. Is a part of the model detached, or unused on the first batch?",
                LCAWarning,
                stacklevel=2,
            )

    def theta(self) -> Tensor:
        """The model's parameters as they are now: a new vector (K,)."""
        self.check_unconverted()
        return flat(self._loss.parameters())

    def loss(self, theta: Tensor, batch: PyTree | None = None) -> float:
        """L(θ), in the units of the loss; one forward pass over the data, or over ``batch``."""
        return self._evaluate(theta, batch, None, gradient=False)[0]

    def loss_and_grad(self, theta: Tensor, batch: PyTree | None = None) -> tuple[float, Tensor]:
        """L(θ) and ∂L/∂θ (K,); one forward and one backward pass over the data, or over ``batch``."""
        loss, grad = self._evaluate(theta, batch, None, gradient=True)
        assert grad is not None
        return loss, grad

    def state(self) -> State | None:
        """A copy of the buffers the measured loss depends on; ``None`` if it depends on none."""
        return self._loss.state()

    def at_state(self, state: State) -> "AtState":
        """The same loss with these buffers instead of the model's own."""
        return AtState(self, state)

    @property
    def n_examples(self) -> int:
        """N; with `batch`, `labels` and `scores` what makes this an `lca.objective.Scored`.

        Raises
        ------
        LCAError
            If the data are no tensors with one row an example, or ``batch_weight`` is a function.
        """
        return len(self._rows())

    @property
    def weight(self) -> None:
        """``None``: all examples weigh alike."""
        return None

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each example, integers (N,); ``None`` if there are no classes."""
        labels = self._labels()
        return None if labels is None else labels.cpu().numpy()

    def batch(self, index: np.ndarray, weight: np.ndarray | None = None) -> PyTree:
        """These examples (n,) as a batch, its loss their mean, weighted if a ``weight`` (n,) is given.

        Raises
        ------
        LCAError
            As `n_examples`; and, for a ``weight``, if ``loss_fn`` cannot tell the loss of each example.
        """
        device = self._made[1]
        rows = self._rows().take(torch.as_tensor(index, device=device))
        if weight is None:
            return rows
        self._check_supports_weights(rows)
        return Weighted(rows, torch.as_tensor(weight, dtype=self._made[0], device=device))

    def scores(self, theta: Tensor, batch: PyTree | None = None) -> np.ndarray:
        """``½ Σ_j |∂ℓ_n/∂f_j|`` over the outputs f of each example: ``1 - p_model(label)`` of a classifier.

        Float64 (n,), for the examples of ``batch``, by default for all; costs one forward pass.
        """
        self._examples.check_scores()
        self.check_unconverted()
        rows = self._rows() if batch is None else Rows(batch)
        found: list[Tensor] = []
        batches = (Scored(part) for part in rows.batches(self.batch_size))
        self._loss.each(theta, batches, lambda scores, _: found.append(scores.detach().double()))
        return torch.cat(found).cpu().numpy()

    def _check_supports_weights(self, rows: PyTree) -> None:
        """The loss is the mean of the losses of examples; tried once."""
        if not self._supports_weights and self._examples.supports_weights:
            alike = Weighted(rows, torch.ones(examples_in(rows), dtype=self._made[0], device=self._made[1]))
            theta = self.theta()
            mean, loss = self.loss(theta, alike), self.loss(theta, rows)
            self._supports_weights = abs(mean - loss) <= tolerances.summed(
                abs(loss), torch.finfo(theta.dtype).eps
            )
        if not self._supports_weights:
            raise LCAError(
                "examples drawn by their error are weighted, for which the loss of each is needed, and the "
                "loss of a batch to be their mean: pass a loss_fn that takes reduction='none' (those of "
                "torch.nn and torch.nn.functional do) and has no class weights, or use sampling='uniform'."
            )

    def _rows(self) -> Rows:
        if not isinstance(self._data, Rows) or not self._counts:
            raise LCAError(
                "single examples can be drawn from data that are tensors with one row an example, each "
                "counting alike (no batch_weight); use an estimator on training batches "
                "(lca.estimators.CrossFit)."
            )
        return self._data

    def _labels(self) -> Tensor | None:
        pair = self._data.tree if isinstance(self._data, Rows) else None
        labels = pair[1] if isinstance(pair, tuple | list) and len(pair) == 2 else None
        whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.ndim == 1
        return labels if whole else None

    def by_class(self) -> Sum:
        """L(θ) as a `lca.Sum` of one term a label, ``class 0``, ``class 1``, ..., that add up to L(θ).

        A term is the mean loss of the class times its share of the weight; all together cost one pass.

        Raises
        ------
        LCAError
            If the data are no pairs with integer labels, or the model has batch statistics.
        """
        if self._loss.mixes_examples:
            raise LCAError("with batch statistics a class cannot be measured alone; use batch_norm='frozen'.")
        labels = self._labels()
        if labels is None:
            raise LCAError("only data of the form (inputs, integer labels) have classes.")
        return Sum({f"class {label}": self._share(labels == label) for label in sorted(set(labels.tolist()))})

    def _share(self, mine: Tensor) -> Scaled:
        """What the examples in ``mine`` contribute to the mean over all."""
        own = copy.copy(self)
        assert isinstance(self._data, Rows)
        own._data = Rows(self._data.take(mine))
        weight = self._loss.batch_weight
        return Scaled(own, float(weight(own._data.tree)) / float(weight(self._data.tree)))

    def _evaluate(
        self, theta: Tensor, batch: PyTree | None, state: State | None, *, gradient: bool
    ) -> tuple[float, Tensor | None]:
        self.check_unconverted()
        given = Rows(batch) if self.batch_size else Batches([batch])
        data = self._data if batch is None else given
        return self._loss.evaluate(theta, data.batches(self.batch_size), state, gradient=gradient)

    def check_unconverted(self) -> None:
        """The model is still what it was when the data and θ were put beside it."""
        named = dict(self.model.named_parameters())
        for name in self.layout.names:
            if name not in named:
                raise LayoutError(
                    f"the model has no parameter {name!r} any more, but had one when the objective was made; "
                    "change the model first, then make the objective."
                )
            is_, was = (named[name].dtype, named[name].device), self._made
            if is_ != was:
                raise LayoutError(
                    f"parameter {name!r} is {is_[0]} on {is_[1]} now, but was {was[0]} on {was[1]} when the "
                    "objective was made; convert and move the model first, then make the optimizer, the "
                    "objective and the tracker."
                )


@dataclass(frozen=True, eq=False)
class AtState:
    """An `Objective` with buffers that are given, not those the model has at the moment."""

    objective: Objective
    given: State

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Tensor, batch: PyTree | None = None) -> float:
        return self.objective._evaluate(theta, batch, self.given, gradient=False)[0]

    def loss_and_grad(self, theta: Tensor, batch: PyTree | None = None) -> tuple[float, Tensor]:
        loss, grad = self.objective._evaluate(theta, batch, self.given, gradient=True)
        assert grad is not None
        return loss, grad


def _on_device(data: Rows | Batches, device: torch.device) -> Rows | Batches:
    """Rows moved to the device once; batches follow one by one, each time they are measured."""
    if isinstance(data, Rows):
        return Rows(tree_map(lambda t: t.to(device), data.tree), data.suggested)
    return data


@contextmanager
def _explained(own_loss: bool, model: nn.Module) -> Iterator[None]:
    """A model that cannot be called with a whole batch probably needs a ``loss_fn``, which was ``None``."""
    try:
        yield
    except DataError as error:
        if not own_loss or not isinstance(error.__cause__, TypeError):
            raise
        raise DataError(
            f"{error} With loss_fn=None a {type(model).__name__} is called with the whole batch and must "
            "return its loss as output.loss, as the models of Hugging Face do; for any other model pass "
            "loss_fn, e.g. torch.nn.functional.cross_entropy, or batch_loss."
        ) from error
