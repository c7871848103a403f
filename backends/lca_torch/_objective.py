"""`Objective`: the mean loss of a torch model over a data set, at any θ, with the model left as it is."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lca.frameworks import BatchNorm, Frozen, ModelObjective, PyTree, check_order
from lca_torch._data import measured, refuse_arrays
from lca_torch._examples import BatchLoss, require_one_loss
from lca_torch._model_loss import TorchLoss
from lca_torch._policies import random_state_kept
from lca_torch._process_group import TIMEOUT, measuring_ranks
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
        Any `torch.nn.Module` with float32 or float64 parameters on one device.
    loss_fn
        ``loss_fn(model(inputs), target)`` for batches that are pairs; the *mean* over the batch. ``None``:
        the model's own loss, ``model(**batch).loss``, as the models of Hugging Face return it.
    data
        The measured data: a tuple or mapping of tensors, a data set, a `DataLoader`, an iterable of batches.
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
    θ is a (K,) tensor on the model's device, float32 or float64 whatever the model's own dtype: inputs and
    buffers follow θ. The loss is summed in float64, gradients of all batches in one vector of θ's dtype.
    Dropout and everything else that depends on ``training`` is off. Memory of a gradient beyond the
    activations of one measuring batch: one vector for the result.

    There is no ``class_weight``: in torch the weights of classes belong to the loss
    (``torch.nn.CrossEntropyLoss(weight=...)``), which divides by their sum; pass ``batch_weight``, the sum of
    the weights in a batch, with it. A torch model has no penalties of its own: `by_term` says how to make
    them a term (`lca_torch.Penalty`).

    Of several ranks, each evaluates every W-th measuring batch, and sums of losses (float64) and gradients
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
        *,
        batch_loss: BatchLoss | None = None,
        batch_weight: Callable[[PyTree], float] | None = None,
        batch_size: int | None = None,
        batch_norm: BatchNorm = "batch",
        frozen: Frozen = "zero",
        keep: bool = True,
        autocast: torch.dtype | None = None,
        compile: bool = False,
        process_group: Any = "auto",
        rank_timeout: float = TIMEOUT,
    ) -> None:
        ranks = measuring_ranks(process_group, rank_timeout)
        with nullcontext() if ranks is None else ranks.exchange.telling():
            refuse_arrays(data)
            check_order(model, loss_fn, data, nn.Module, "a torch.nn.Module")
            require_one_loss(loss_fn, batch_loss)
            make = TorchLoss if ranks is None else partial(SharedLoss, ranks=ranks)
            loss = make(
                model,
                batch_loss,
                loss_fn,
                batch_weight=batch_weight,
                batch_norm=batch_norm,
                frozen=frozen,
                autocast=autocast,
                compile=compile,
            )
            with torch.inference_mode(False), random_state_kept(loss.device):
                rows = measured(data, loss.device, keep=keep)
                super().__init__(model, loss, rows, batch_size=batch_size)
                loss.watch(rows)
                if isinstance(loss, SharedLoss):
                    loss.share(rows, self.batch_size)
