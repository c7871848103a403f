"""`Objective`: the mean loss of a torch model over a data set, at any θ, with the model left as it is."""

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lca.errors import DataError, LCAError, LCAWarning
from lca.layout import Layout
from lca.objective import Scaled, State, Sum
from lca_torch.data import Batches, Rows, Tree, examples_in, measured, tree_map
from lca_torch.live import flat
from lca_torch.model_loss import BatchLoss, ModelLoss, usual_loss
from lca_torch.parameters import Frozen
from lca_torch.policies import BatchNormPolicy, random_state_kept

SMALLEST_BATCH = 64
"""Where the search for a measuring batch size begins."""


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
        not fit the model, or if parameters differ in dtype or device.

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
        batch_weight: Callable[[Tree], float] = examples_in,
        batch_size: int | None = None,
        batch_norm: BatchNormPolicy | Mapping[str, BatchNormPolicy] = "batch",
        frozen: Frozen = "zero",
        autocast: torch.dtype | None = None,
        compile: bool = False,
        keep: bool = True,
    ) -> None:
        if loss_fn is not None and batch_loss is not None:
            raise LCAError(
                "pass loss_fn (of output and target) or batch_loss (of model and batch), not both."
            )
        self.model = model
        self._loss = ModelLoss(
            model,
            batch_loss or usual_loss(loss_fn),
            batch_weight=batch_weight,
            batch_norm=batch_norm,
            frozen=frozen,
            autocast=autocast,
            compile=compile,
        )
        self.layout: Layout = self._loss.layout
        with torch.inference_mode(False), random_state_kept(self._loss.device):
            self._data = _on_device(measured(data, keep=keep), self._loss.device)
            self.batch_size = self._choose_batch_size(batch_size)
            self._try_out(next(self._data.batches(self.batch_size)))
            if self._loss.mixes_examples and isinstance(self._data, Rows):
                # For statistics, the one example that may be left over is too few.
                self._loss.try_out(self.theta(), self._data.last(self.batch_size))

    def theta(self) -> Tensor:
        """The model's parameters as they are now: a new vector (K,)."""
        return flat(self._loss.parameters())

    def loss(self, theta: Tensor, batch: Tree | None = None) -> float:
        """L(θ), in the units of the loss; one forward pass over the data, or over ``batch``."""
        return self._evaluate(theta, batch, None, gradient=False)[0]

    def loss_and_grad(self, theta: Tensor, batch: Tree | None = None) -> tuple[float, Tensor]:
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
        rows = self._data
        pair = rows.tree if isinstance(rows, Rows) else None
        labels = pair[1] if isinstance(pair, tuple | list) and len(pair) == 2 else None
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.ndim != 1:
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
        self, theta: Tensor, batch: Tree | None, state: State | None, *, gradient: bool
    ) -> tuple[float, Tensor | None]:
        given = Rows(batch) if self.batch_size else Batches([batch])
        data = self._data if batch is None else given
        return self._loss.evaluate(theta, data.batches(self.batch_size), state, gradient=gradient)

    # --- at construction -----------------------------------------------------------------------------

    def _choose_batch_size(self, wanted: int | None) -> int | None:
        rows = self._data
        if not isinstance(rows, Rows):
            if wanted is not None:
                raise DataError(
                    "these batches do not fit together and cannot be cut anew; leave batch_size out, and "
                    "they are measured as they come."
                )
            return None
        if wanted is not None:
            if not isinstance(wanted, int) or wanted < 1:
                raise DataError(f"batch_size must be a positive integer, got {wanted!r}.")
            return wanted
        if self._loss.mixes_examples:
            if rows.suggested is None:
                raise DataError(
                    "the loss depends on the measuring batches (batch statistics), so their size has to be "
                    "stated: pass batch_size=..., e.g. that of training, or batch_norm='frozen'."
                )
            return rows.suggested
        return self._fastest_batch_size(rows)

    def _fastest_batch_size(self, rows: Rows) -> int:
        """Double the batch while a gradient gets faster by 5 % an example and fits into memory."""
        best, size, fastest = SMALLEST_BATCH, SMALLEST_BATCH, float("inf")
        while best < len(rows):
            try:
                seconds = self._seconds(rows.take(slice(size))) / min(size, len(rows))
            except torch.OutOfMemoryError:
                break
            if seconds > 0.95 * fastest:
                break
            best, size, fastest = size, 2 * size, seconds
        return best

    def _seconds(self, batch: Tree) -> float:
        """The best of three gradients, after one that does not count."""
        theta, seconds = self.theta(), []
        self._loss.try_out(theta, batch)
        for _ in range(3):
            began = time.perf_counter()
            self._loss.evaluate(theta, [batch], gradient=True)  # returns a float, so it waits for the device
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    def _try_out(self, batch: Tree) -> None:
        """The first measuring batch, so that what does not fit is said here and not during training."""
        unused = self._loss.try_out(self.theta(), batch)
        if unused:
            warnings.warn(
                f"no gradient reaches {', '.join(unused)}: the loss does not depend on it, so its allocation "
                "will be 0. Is a part of the model detached, or unused on the first batch?",
                LCAWarning,
                stacklevel=3,
            )
        if isinstance(self._data, Rows) and not self._loss.mixes_examples:
            self._refuse_sums(Rows(batch))

    def _refuse_sums(self, rows: Rows) -> None:
        theta, n, half = self.theta(), len(rows), len(rows) // 2
        if not half:
            return
        parts = (slice(n), slice(half), slice(half, n))
        whole, first, second = (self.loss(theta, rows.take(part)) for part in parts)
        mean = (half * first + (n - half) * second) / n
        if abs(whole - (first + second)) < 1e-3 * abs(whole) < abs(whole - mean):
            raise LCAError(
                f"the loss of {n} examples ({whole:.6g}) is the sum of those of its halves ({first:.6g} and "
                f"{second:.6g}), not their mean; use reduction='mean'."
            )


@dataclass(frozen=True, eq=False)
class AtState:
    """An `Objective` with buffers that are given, not those the model has at the moment."""

    objective: Objective
    given: State

    @property
    def layout(self) -> Layout:
        return self.objective.layout

    def loss(self, theta: Tensor, batch: Tree | None = None) -> float:
        return self.objective._evaluate(theta, batch, self.given, gradient=False)[0]

    def loss_and_grad(self, theta: Tensor, batch: Tree | None = None) -> tuple[float, Tensor]:
        loss, grad = self.objective._evaluate(theta, batch, self.given, gradient=True)
        assert grad is not None
        return loss, grad


def _on_device(data: Rows | Batches, device: torch.device) -> Rows | Batches:
    """Rows moved to the device once; batches follow one by one, each time they are measured."""
    if isinstance(data, Rows):
        return Rows(tree_map(lambda t: t.to(device), data.tree), data.suggested)
    return data
