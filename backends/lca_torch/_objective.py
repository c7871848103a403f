"""`Objective`: the mean loss of a torch model over a data set, at any θ, with the model left as it is."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca.frameworks import BatchNorm, Frozen, ModelObjective, PyTree, check_order
from lca.frameworks._arguments import refuse_more
from lca_torch._data import measured, refuse_arrays
from lca_torch._distribution import reshard, sharded_modules
from lca_torch._examples import BatchLoss, require_one_loss
from lca_torch._form import Precision, VectorForm, Vectors
from lca_torch._kinds import is_sharded
from lca_torch._model_loss import TorchLoss
from lca_torch._policies import random_state_kept
from lca_torch._process_group import TIMEOUT, measuring_ranks
from lca_torch._sharded_loss import ShardedLoss
from lca_torch._shared_loss import SharedLoss


class Objective(ModelObjective):
    """``L(θ) = Σ_b w_b ℓ_b(θ) / Σ_b w_b`` over the measuring batches b of a data set; an `lca.Objective`.

    ``ℓ_b`` is the mean loss of a batch and ``w_b`` its number of examples, so a ragged last batch counts by
    its size. What is evaluated is a private copy of the model and of the loss, made with the objective; it
    shares the memory of the parameters until θ takes their place. The model itself is neither called nor
    written, and all random generators are the same after a call as before, also after an error.

    Everything else that the loss reads is followed and is part of the state: buffers of any dtype,
    parameters left out, modules and tensors that the loss captures, and numbers and flags in Python (entry
    ``"configuration"``). What these did in a step is reported as ``state_change``.

    Parameters
    ----------
    model
        Any `torch.nn.Module` on one device, with float32 or float64 parameters; in half precision, see
        ``precision``.
    loss_fn
        ``loss_fn(model(inputs), target)`` for batches that are pairs; the *mean* over the batch. ``None``:
        the model's own loss, ``model(**batch).loss``, as the models of Hugging Face return it.
    data
        The measured data: a tuple or mapping of tensors, a data set, a ``DataLoader``, or batches.
    batch_loss
        Instead of ``loss_fn``: any function ``(model, batch) -> mean loss``.
    batch_weight
        How much a batch counts, a function of it; default: its number of examples. For a loss that is a mean
        over tokens, the number of tokens.
    batch_size
        Examples in a measuring batch, independent of training. ``None``: the batch size of the loader that
        the data come in, else ``min(N, 1000)``. Required with batch statistics, unless there is a loader.
    batch_norm
        ``"batch"`` (statistics of the measuring batch, gradient through them: the paper's choice) or
        ``"frozen"`` (running statistics; where they move during a run, the tracker reports what that did as
        ``state_change``); or a mapping from module names to these. A layer that is in evaluation mode while
        the model trains is frozen, unless the mapping names it.
    frozen
        What happens to parameters with ``requires_grad=False``: ``"zero"`` keeps them in θ with gradient 0,
        ``"omit"`` leaves them out (adapters on a large frozen model).
    keep
        Keep the batches of a loader or iterable in memory, on the model's device. ``False`` reads it again at
        every pass; it must then give the same batches every time.
    autocast
        Only in torch: run the forward pass under `torch.autocast` in this dtype, e.g. ``torch.bfloat16``.
    precision
        Only in torch: ``"float32"`` measures a model in float16 or bfloat16, or with some parameters in
        these, on float32 copies of its parameters, buffers and data; `precision_difference` says what that
        changes.
    vectors
        Only in torch: where the vectors (K,) are, the copies of θ and the gradients. ``"host"`` keeps them in
        the memory of the host. Each gradient is moved there tensor by tensor in the backward pass. At θ as it
        is in the model, the device then holds one gradient tensor beyond the activations; at any other θ, a
        copy of the parameters as well.
    compile
        Only in torch: compile the loss of a batch with `torch.compile`; worthwhile on a GPU and for many
        steps.
    process_group
        Only in torch: the ranks that share the evaluations; each must make the same objective from the same
        data, and make the same calls. ``"auto"``: all ranks, if `torch.distributed` is initialised;
        ``None``: only this process; or a process group.
    rank_timeout
        Only in torch: seconds to wait for another rank before measuring ends with an error that names it.

    Attributes
    ----------
    model
        The model that is measured.
    layout
        Names and shapes of the parameters; tied ones once.
    batch_size
        Examples in a measuring batch; ``None`` where batches are measured as they come.

    Notes
    -----
    θ is a (K,) tensor on the model's device (``vectors``), float32 or float64: inputs and buffers follow θ.
    The loss is summed in float64, gradients of all batches in one vector of θ's dtype.
    Dropout and everything else that depends on ``training`` is off. Memory of a gradient beyond the
    activations of one measuring batch: one vector for the result.

    There is no ``class_weight``: in torch the weights of classes belong to the loss
    (``torch.nn.CrossEntropyLoss(weight=...)``), which divides by their sum; pass ``batch_weight``, the sum of
    the weights in a batch, with it. A torch model has no penalties of its own: `by_term` says how to make
    them a term (`lca_torch.Penalty`).

    If the parameters of the model are sharded over the ranks (FSDP2, tensor parallelism), so are θ and
    gradients: vectors of K numbers of which each rank holds its shards, and `lca.arrays.array_ops` sums over
    all. Their form and precision are those of the shards.

    With several ranks, each evaluates every W-th measuring batch, and sums of losses (float64) and gradients
    are added: all ranks have the result of one process up to rounding. An error on one rank is raised on all.

    Raises
    ------
    LCAError
        If the loss is not a differentiable scalar or is a sum over the batch instead of a mean, if batches do
        not fit the model or hold NaN that reaches the loss, or if parameters differ in dtype or device. At a
        later call: if the model was converted or moved in between.

    Examples
    --------
    >>> model = nn.Linear(2, 3)
    >>> x, y = torch.eye(2), torch.tensor([0, 2])
    >>> objective = Objective(model, nn.functional.cross_entropy, (x, y))
    >>> loss, grad = objective.loss_and_grad(objective.theta())
    >>> grad.shape, model.weight.grad, objective.batch_size
    (torch.Size([9]), None, 2)
    """

    model: nn.Module
    _loss: TorchLoss

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor] | None,
        data: object,
        *more: Any,
        batch_loss: BatchLoss | None = None,
        batch_weight: Callable[[PyTree], float] | None = None,
        batch_size: int | None = None,
        batch_norm: BatchNorm = "batch",
        frozen: Frozen = "zero",
        keep: bool = True,
        autocast: torch.dtype | None = None,
        precision: Precision | None = None,
        vectors: Vectors = "device",
        compile: bool = False,
        process_group: Any = "auto",
        rank_timeout: float = TIMEOUT,
    ) -> None:
        ranks = measuring_ranks(process_group, rank_timeout)
        with nullcontext() if ranks is None else ranks.exchange.telling():
            refuse_more(more)
            refuse_arrays(data)
            check_order(model, loss_fn, data, nn.Module, "a torch.nn.Module")
            reshard(sharded_modules(model))
            require_one_loss(loss_fn, batch_loss)
            make: Any = TorchLoss if ranks is None else partial(_kind_of(model), ranks=ranks)
            loss: TorchLoss = make(
                model,
                batch_loss,
                loss_fn,
                batch_weight=batch_weight,
                batch_norm=batch_norm,
                frozen=frozen,
                autocast=autocast,
                compile=compile,
                precision=precision,
                vectors=vectors,
            )
            if ranks is not None and loss.form.device != loss.device:
                raise LCAError(
                    "several ranks add their gradients on the device, and vectors='host' keeps them on the "
                    "host; pass process_group=None to measure on each rank alone, or omit vectors."
                )
            with torch.inference_mode(False), random_state_kept(loss.device):
                rows = measured(data, loss.device, keep=keep)
                super().__init__(model, loss, rows, batch_size=batch_size)
                loss.watch(rows)
                if isinstance(loss, SharedLoss):
                    loss.share(rows, self.batch_size)

    @property
    def _form(self) -> VectorForm:
        """The dtype and device of θ and of gradients."""
        return self._loss.form

    @property
    def model_dtype(self) -> str | None:
        """The dtype of the model, such as ``"bfloat16"``, if it is measured in another; else ``None``."""
        dtype = self._loss.model_dtype
        return None if dtype is None else str(dtype).removeprefix("torch.")

    def precision_difference(self, theta: Tensor) -> float:
        """The loss of the model in its own dtypes minus L(θ), the one that is measured; in its units.

        The first is evaluated at θ rounded to the dtypes of the model: at parameters of the model itself that
        is no change. 0 if the model is measured in its own precision. Costs two forward passes.

        Raises
        ------
        LCAError
            If the model cannot be evaluated in its own dtypes on this device.

        Examples
        --------
        >>> model = nn.Linear(2, 3).bfloat16()
        >>> x, y = torch.eye(2), torch.tensor([0, 2])
        >>> objective = Objective(model, nn.functional.cross_entropy, (x, y), precision="float32")
        >>> objective.theta().dtype, abs(objective.precision_difference(objective.theta())) < 0.02
        (torch.float32, True)
        """
        if self._loss.model_dtype is None:
            return 0.0
        measured = self.loss(theta)
        with self._loss.as_model():
            return self.loss(theta) - measured


def _kind_of(model: nn.Module) -> type[SharedLoss]:
    """How ranks share the loss of a model."""
    return ShardedLoss if any(map(is_sharded, model.parameters())) else SharedLoss
