"""`TorchLoss`: the loss and gradient of batches of a torch model at any θ.

The model's own parameters and buffers are never written, and the model is never called: a `Replica` is.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain, count, islice
from operator import attrgetter, is_
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lca._listing import listed
from lca.by_example import ExampleSlopes, GroupMovement
from lca.errors import DataError, LCAError
from lca.frameworks import (
    BatchNorm,
    Frozen,
    Measured,
    ModelLoss,
    PyTree,
    examples_in,
    loss_errors,
    require_weight,
    tree_map,
    weight_of,
)
from lca.frameworks._data import Cuts
from lca.frameworks._loss_checks import unweighted
from lca.layout import Layout
from lca.objective import State
from lca_torch._by_example import losses_of_examples
from lca_torch._by_example_choice import ExampleDerivatives
from lca_torch._checks import (
    GRADIENT_HINT,
    MEAN_HINT,
    backward_errors,
    check_differentiable,
    interpreted,
    refuse_reentrant,
    require_theta_alone,
)
from lca_torch._copies import NotCopiedError, Trial
from lca_torch._data import Unchanged, refuse_arrays
from lca_torch._examples import BatchLoss, LossFn, Weighted, error_scores, reader_of_example_losses
from lca_torch._form import HALF, Cast, Precision, VectorForm, Vectors
from lca_torch._hints import OWN_LOSS_HINT, loss_advice, moving_hint, sample_hint, weight_hint
from lca_torch._identity import Identity
from lca_torch._parameters import Leaves, check_theta, layout_of, normal, parameters_of
from lca_torch._policies import (
    RandomStates,
    forward_mode,
    kept_in_evaluation,
    mixes_examples,
    normalisation_policies,
)
from lca_torch._reading import Reading, read
from lca_torch._replica import Held, Replica, switches_by_itself
from lca_torch._trial_passes import TrialPasses, has_ranks
from lca_torch._versions import Versions

_serial = count(1)
_AHEAD = 64
"""Batches of rows in memory, which are views of them, that are cut at a time."""
_FLAGS = "requires_grad"
"""The name of the flags of the parameters in a state: a loss that looks at gradients may look at these."""


class Run(Protocol):
    """Computes the loss of a batch at θ, or with other tensors of the layout ``instead`` of some."""

    def __call__(self, batch: PyTree, instead: Mapping[str, Tensor] | None = None) -> Tensor: ...


_errors = partial(loss_errors, passed_on=(torch.OutOfMemoryError,), advice=loss_advice)


class GroupSum(NamedTuple):
    """Over a group of batches: ``Σ w_b ℓ_b`` and ``Σ w_b`` in float64, a multiple of ``Σ w_b ∂ℓ_b/∂θ``."""

    loss: float
    weight: float
    gradient: Tensor | None


class TorchLoss(ModelLoss):
    """`lca.frameworks.ModelLoss` of a torch model; the options are those of `lca_torch.Objective`."""

    takes_shards: ClassVar[bool] = False
    mean_hint, gradient_hint = MEAN_HINT, GRADIENT_HINT
    sample_hint = (
        "pass a loss_fn that takes reduction='none', as those of torch.nn and torch.nn.functional do"
    )

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss | None,
        loss_fn: LossFn | None,
        *,
        batch_weight: Callable[[PyTree], float] | None,
        batch_norm: BatchNorm,
        frozen: Frozen,
        autocast: torch.dtype | None,
        compile: bool,
        precision: Precision | None = None,
        vectors: Vectors = "device",
    ) -> None:
        _require_one_precision(autocast, precision)
        self.layout: Layout = layout_of(model, frozen, precision, sharded=self.takes_shards)
        self._own = parameters_of(model, frozen, precision, sharded=self.takes_shards)
        self.form = VectorForm.of(self._own, precision, vectors)
        self.dtype, self.device = self.form.dtype, next(iter(self._own.values())).device
        self._converts, self._streams, self._as_model = precision is not None, vectors == "host", False
        self._identity, self._data = Identity(model, self._own), list[Unchanged]()
        self._kept = frozenset[str]()
        self.precision_eps = None if autocast is None else _eps(autocast)
        self.counts_examples = batch_weight is None
        self.is_of_model = batch_loss is None and loss_fn is None
        """Whether the measured loss is the one that the model itself returns."""
        if self.is_of_model:
            self.sample_hint = OWN_LOSS_HINT
        self._batch_weight = batch_weight or examples_in
        self._loss_fn, self._example_losses = loss_fn, reader_of_example_losses(loss_fn)
        self._seeds, self._autocast = count(1), autocast
        self._random = RandomStates(self.device)
        self._prefix = f"loss[{next(_serial)}]"

        def replicate(trial: Trial | None = None) -> Replica:
            kept = kept_in_evaluation(model)
            self._kept = self._kept if kept is None else kept
            policies = normalisation_policies(model, batch_norm, self._kept)
            self.mixes_examples = mixes_examples(model, policies)
            made = Replica(model, batch_loss, loss_fn, self._own, policies, self._prefix, trial)
            self._adapt(made)
            made.function = torch.compile(made.batch_loss) if compile else made.batch_loss
            return made

        self._versions = Versions(replicate)
        self._tries = TrialPasses(
            model, replicate, self._apart, ended=self._tried, random=self._random, device=self.device
        )
        self._moved: frozenset[str] | None = None
        self._unused = set[str]()
        """Trained parameters that the loss does not depend on, of which a warning has told."""
        self._reading, self._state = Reading(), dict[str, Any]()
        tensors = (*model.parameters(), *model.buffers())
        halves = [tensor.dtype for tensor in tensors if tensor.dtype in HALF]
        self.model_dtype = max(set(halves), key=halves.count) if halves and self._converts else None
        """The half precision of the model, if the loss is measured on float32 copies."""
        # Half precision rounds single rows otherwise than whole batches.
        half = autocast is not None or (halves and not self._converts)
        self._derivatives = ExampleDerivatives(self.layout, local=not half)

    def parameters(self) -> list[nn.Parameter]:
        """The model's own parameters, in the order of the layout."""
        return list(self._own.values())

    def trainable(self) -> list[str]:
        """The names of the parameters that require a gradient now."""
        return [name for name, parameter in self._own.items() if parameter.requires_grad]

    def own_flags(self) -> np.ndarray:
        """Which parameters require a gradient now, in the order of the layout."""
        return np.array([parameter.requires_grad for parameter in self._own.values()])

    def theta(self) -> Tensor:
        self.check()
        return self._theta()

    def _theta(self) -> Tensor:
        return self.form.copy(self.parameters())

    @contextmanager
    def as_model(self) -> Iterator[None]:
        """Inside, losses are those of the model in its own dtypes, at θ rounded to these."""
        self._as_model = True
        try:
            yield
        finally:
            self._as_model = False

    def check(self) -> None:
        """Raise `LCAError` unless the model has the parameters that it had, and the data are the same."""
        self._identity.check()
        for data in self._data:
            data.check()

    def watch(self, data: Measured) -> None:
        """Check from now on that these data stay as they are."""
        self._data.append(Unchanged(data))

    def state(self) -> State:
        """A copy of all that the loss reads besides θ and the batch, and a number for its Python side."""
        self._versions.follow(self._same)
        now: dict[str, Any] = {**self._reading.followed.read(), **self._versions.state()}
        if self.differentiates_inside:
            flags = self.own_flags()
            known = self._state.get(_FLAGS)
            now[_FLAGS] = known if known is not None and np.array_equal(flags, known) else flags
        if now.keys() != self._state.keys() or not all(map(is_, now.values(), self._state.values())):
            self._state = now
        return self._state

    def moved_by_forward(self) -> Collection[str]:
        """The model's own buffers that a forward pass of training writes after it has used them."""
        if self._moved is None:
            self._moved = self._tries.writes_in_training()
        return self._moved

    def differ_in_training(self, choices: Sequence[Collection[str]]) -> Sequence[bool]:
        """As `ModelLoss.differ_in_training`, without dropout, on a private copy."""
        if self._tries.batch is None or has_ranks():
            return super().differ_in_training(choices)
        try:
            return self._tries.differ_in_training(choices, eps=self._measured_eps, seed=next(self._seeds))
        except NotCopiedError as error:
            self.untold_in_training = error.what
            return super().differ_in_training(choices)

    @property
    def _measured_eps(self) -> float:
        """Machine epsilon of the precision in which the loss is computed."""
        return max(_eps(self.dtype), self.precision_eps or 0.0)

    @contextmanager
    def _apart(
        self,
        replica: Replica,
        batch: PyTree,
        *,
        factor: float = 1.0,
        state: State | None = None,
        gradients: bool = True,
    ) -> Iterator[tuple[Held, PyTree]]:
        """A replica at a multiple of θ, and a copy of a batch, both in memory that a loss may write into."""
        theta, cast = self._theta().mul_(factor), self._cast(self.dtype)
        taken = tree_map(self._ready(cast, copy=True), batch)
        with self._modes(gradients=gradients), interpreted():
            leaves = self._leaves(theta, self.trainable() if gradients else ())
            with replica.holding(leaves.tensors, state or {}, cast) as held:
                yield held, taken

    def what_changed(self) -> str:
        """The last change of the Python side of the model or the loss, in words."""
        return self._versions.last_change

    def refresh(self) -> str:
        """Compare the replica with one made now, on the batch tried out: a few of its forward passes."""
        return self._versions.refresh(self._same)

    def evaluate(
        self,
        theta: Tensor,
        batches: Iterable[PyTree],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> tuple[float, Tensor | None]:
        [found] = self.evaluate_each(theta, [batches], state, gradient=gradient, names=names)
        return found

    def evaluate_each(
        self,
        theta: Tensor,
        groups: Sequence[Iterable[PyTree]],
        state: State | None = None,
        *,
        gradient: bool,
        names: Collection[str] | None = None,
    ) -> list[tuple[float, Tensor | None]]:
        sums = self._sums(theta, groups, state, require_weight, gradient=gradient, names=names)
        return [(one.loss / one.weight, one.gradient) for one in sums]

    def _sums(
        self,
        theta: Tensor,
        groups: Sequence[Iterable[PyTree]],
        state: State | None,
        divisor: Callable[[float], float],
        *,
        gradient: bool,
        names: Collection[str] | None,
    ) -> list["GroupSum"]:
        """For each group of batches the sums over them; the gradient divided by ``divisor`` of the weight."""
        wanted = (self.trainable() if names is None else names) if gradient else ()
        losses: list[Tensor] = []
        found: list[tuple[list[float], Tensor | None]] = []
        with self._measuring(theta, state, wanted, gradient=gradient) as (run, leaves):
            for batches in groups:
                weights: list[float] = []
                for batch, weight in _weighed(self, batches):
                    if not self._counts(batch, weight):
                        continue  # its loss may be NaN: a mean over no tokens
                    loss = self._evaluated(run, batch)
                    if gradient:
                        self._require_gradient(loss, wanted)
                        leaves.add_gradient(loss, weight)
                    losses.append(loss.detach())
                    weights.append(weight)
                total = divisor(math.fsum(weights))
                grad = leaves.take_mean(total) if gradient else None
                found.append((weights, grad))
        numbers = iter(_numbers(losses))
        return [
            GroupSum(math.fsum([weight * next(numbers) for weight in weights]), math.fsum(weights), grad)
            for weights, grad in found
        ]

    def _require_gradient(self, loss: Tensor, wanted: Collection[str]) -> None:
        """Raise `LCAError` if a loss is constant in all of these, unless that is known since `try_out`."""
        if not loss.requires_grad and (names := sorted(set(wanted) - self._unused)):
            raise LCAError(
                "no gradient of the measured loss reaches the parameters that are trained now "
                f"({listed(names)}): the loss does not depend on it, or detaches it. If it is trained with a "
                "loss of its own while the rest is frozen (GAN), make a tracker for each model with its "
                "optimizer and its loss."
            )

    def try_out(self, theta: Tensor, batch: PyTree) -> list[str]:
        if self._tries.batch is None:
            self._tries.batch = batch
        self.weight_hint = weight_hint(self._loss_fn, batch)
        if self._example_losses() is not None:
            self.sample_hint = sample_hint(self._loss_fn, batch) or self.sample_hint
        self._try_reading(batch)
        self.batch_hint = moving_hint(self._reading.moved)
        if switches_by_itself(self._versions.current.model):
            self._tries.refuse_cached(self._versions.current, _eps(self.dtype))
        unused: list[str] = []
        trainable = self.trainable()
        own = {name: self._own[name] for name in trainable}
        with self._measuring(theta, None, trainable, gradient=True) as (run, leaves):
            loss = run(batch)
            check_differentiable(loss)
            refuse_reentrant(loss)
            wanted = [leaves.tensors[name] for name in trainable]
            with backward_errors():
                require_theta_alone(loss, own)
                grads = torch.autograd.grad(loss, wanted, allow_unused=True)
            unused.extend(name for name, grad in zip(trainable, grads, strict=True) if grad is None)
        self._unused |= set(unused)
        return unused

    def prepare(self, batch: PyTree) -> PyTree:
        return refuse_arrays(batch)

    def batch_weight(self, batch: PyTree) -> float:
        return float(batch.weight.sum() if isinstance(batch, Weighted) else self._batch_weight(batch))

    def sample(self, rows: PyTree, weight: np.ndarray | None) -> PyTree:
        if weight is None:
            return rows
        if self._example_losses() is None:
            raise unweighted(self.sample_hint)
        return Weighted(rows, torch.as_tensor(weight, dtype=self.dtype, device=self.device))

    def scores(self, theta: Tensor, batches: Iterable[PyTree]) -> np.ndarray:
        if self._loss_fn is None:
            return super().scores(theta, batches)
        with self._measuring(theta, None, (), gradient=False, function_of=_scores_of) as (run, _):
            found = [run(batch).detach() for batch in batches]
        scores: np.ndarray = torch.cat(found).double().cpu().numpy() if found else np.zeros(0)
        return scores

    def by_example(
        self,
        theta: Tensor,
        batches: Iterable[PyTree],
        movement: GroupMovement,
        state: State | None = None,
        *,
        names: Collection[str] | None = None,
        at_once: bool = False,
    ) -> ExampleSlopes:
        """By one backward pass, forward mode, or a gradient for each example: see `ExampleDerivatives`."""
        kept, singly = list(batches), super().by_example
        along = movement
        if self._streams:
            along = GroupMovement(movement.vector.to(self.device), movement.groups, movement.chunk)

        def measuring(*, gradient: bool) -> AbstractContextManager[tuple[Run, Leaves]]:
            function_of = losses_of_examples if at_once else attrgetter("function")
            return self._measuring(theta, state, (), gradient=gradient, function_of=function_of)

        found = self._derivatives.slopes(measuring, kept, along, at_once=at_once)
        return singly(theta, kept, movement, state, names=names) if found is None else found

    @contextmanager
    def _measuring(
        self,
        theta: Tensor,
        state: State | None,
        wanted: Collection[str],
        *,
        gradient: bool,
        function_of: Callable[[Replica], BatchLoss] = attrgetter("function"),
    ) -> Iterator[tuple[Run, Leaves]]:
        """How to compute the loss of a batch at θ in ``state``, and the leaves of its graph."""
        self.check()
        check_theta(self.layout, theta, self.form.device)
        state = self.state() if state is None else state
        replica = self._versions.of(state)
        function = function_of(replica)
        reading = self._reading
        with (
            self._random.kept(next(self._seeds)),
            self._modes(gradients=gradient or self.differentiates_inside),
        ):
            leaves = self._leaves(theta, wanted, reading.written_parameters)
            if self.differentiates_inside:
                flags = state.get(_FLAGS, self.own_flags())
                leaves.require_grad(name for name, flag in zip(self._own, flags, strict=True) if flag)
            cast = self._cast(theta.dtype)
            others = None if self._as_model else cast
            ready = self._ready(cast, copy=reading.writes_batch)
            with replica.holding(leaves.tensors, state, others) as held, reading.captured_at(state):

                def run(batch: PyTree, instead: Mapping[str, Tensor] | None = None) -> Tensor:
                    taken = tree_map(ready, batch)
                    held.begin(instead)
                    with _errors(batch):
                        loss = function(replica.model, taken)
                    leaves.require_unwritten()
                    return loss

                yield run, leaves

    def _tried(self, error: Exception | None) -> None:
        """A pass that may raise was tried out, and has raised this or nothing."""

    def _modes(self, *, gradients: bool) -> AbstractContextManager[None]:
        """The modes of torch in which the loss is evaluated."""
        return forward_mode(self.device, self._autocast, gradients=gradients)

    def _counts(self, batch: PyTree, weight: float) -> bool:
        """Whether a batch of this weight is evaluated."""
        return weight != 0

    def _evaluated(self, run: Run, batch: PyTree) -> Tensor:
        """The loss of a batch."""
        return run(batch)

    def _adapt(self, replica: Replica) -> None:
        """What a new replica needs before it is evaluated."""

    def _leaves(self, theta: Tensor, wanted: Collection[str], copied: Collection[str] = ()) -> Leaves:
        """θ as tensors on the device of the model; in its own dtypes inside `as_model`."""
        leaves = Leaves(theta, self.layout, wanted, copied, self.device, streamed=self._streams)
        if self._as_model:
            leaves.round_to({name: own.dtype for name, own in self._own.items()})
        return leaves

    def _cast(self, dtype: torch.dtype) -> Cast:
        """What becomes of the tensors of a batch for a θ of this dtype."""
        if not self._as_model:
            return Cast(dtype, half=self._converts)
        dtypes = {own.dtype for own in self.parameters()}
        return Cast(dtypes.pop() if len(dtypes) == 1 else dtype)

    def _ready(self, cast: Cast, *, copy: bool) -> Callable[[Tensor], Tensor]:
        """Makes of a tensor of a batch one of its own, in the precision in which the loss is evaluated."""
        device = self.device

        def ready(tensor: Tensor) -> Tensor:
            found = cast(normal(tensor), device).detach()
            return found.clone() if copy else found

        return ready

    def _learn(self, replica: Replica, batch: PyTree) -> None:
        """Find out what the loss of a batch reads, and which of the user's hooks it needs."""
        with self._random.kept(0), _errors(batch), self._apart(replica, batch) as (held, taken):
            self._reading = read(held, taken, self._own, self._prefix, self._reading)
        if self._reading.eps > self._measured_eps:
            self.precision_eps = self._reading.eps  # a part of the model runs under autocast of its own
        if replica.hooks:
            expected = self._tries.losses(replica)
            replica.hooks.drop_unless(lambda: self._tries.losses(replica) != expected)

    def _try_reading(self, batch: PyTree) -> None:
        """`_learn` for the first time, which says so if the loss raises in evaluation mode only."""
        try:
            self._learn(self._versions.current, batch)
        except DataError as error:
            if self._tries.raises_in_training():
                raise
            raise DataError(
                f"{str(error).rstrip('.')}. In training mode it raises nothing, but it is measured in "
                "evaluation mode, as after model.eval(). If the model returns losses in training mode only, "
                "pass batch_loss=, a function of model and batch that calls model.train() first."
            ) from error

    def _same(self, old: Replica, new: Replica) -> bool:
        """Whether two replicas have the same loss on the batch that was tried out."""
        if self._tries.batch is None:
            return True
        self._learn(new, self._tries.batch)
        return self._tries.losses(old) == self._tries.losses(new)


def _weighed(loss: ModelLoss, batches: Iterable[PyTree]) -> Iterator[tuple[PyTree, float]]:
    """Every batch with its weight; rows in memory are cut and weighed many batches at a time.

    What runs once between two passes finds its code and objects out of the cache of the processor, and takes
    several times as long: 1 % of the gradient of a small model.
    """
    cuts = batches if isinstance(batches, Cuts) else None
    if cuts and loss.counts_examples and not isinstance(cuts.rows.tree, Weighted):
        return zip(cuts, map(float, cuts.lengths), strict=True)
    ahead, rest = _AHEAD if cuts else 1, iter(batches)
    pieces = iter(lambda: [(batch, weight_of(loss, batch)) for batch in islice(rest, ahead)], [])
    return chain.from_iterable(pieces)


def _numbers(losses: list[Tensor]) -> list[float]:
    """The values of losses, in one transfer from a device."""
    if len(losses) == 1:
        return [losses[0].item()]  # in a third of the time that a vector takes
    numbers: list[float] = torch.stack(losses).tolist() if losses else []
    return numbers


def _scores_of(replica: Replica) -> BatchLoss:
    assert replica.loss_fn is not None
    return error_scores(replica.loss_fn)


def _require_one_precision(autocast: torch.dtype | None, precision: Precision | None) -> None:
    if autocast is not None and precision is not None:
        raise LCAError(
            f"autocast={autocast} evaluates the loss in that dtype, and precision={precision!r} in another; "
            "pass one of the two."
        )


def _eps(dtype: torch.dtype) -> float:
    return float(torch.finfo(dtype).eps)
