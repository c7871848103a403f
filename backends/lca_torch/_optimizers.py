"""`updates_without`: the updates that a `torch.optim` optimizer would make without each micro-batch.

`update_slope`: how the update depends on its gradient. Both are computed from the optimizer's state
and parameter groups before its step, which are only read. The formulas are those of `lca.reference`; what
does not depend on the gradient is computed once for all micro-batches.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import unwrap
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lca._micro_batches import mean_without
from lca.errors import LCAError
from lca_torch._arrays import runs_of
from lca_torch._kinds import local_parts
from lca_torch._live import detached, flat

Group: TypeAlias = Mapping[str, Any]
Update: TypeAlias = Callable[[Tensor, bool], Tensor]
"""From a gradient to the movement that it would cause, a new vector. The second argument tells whether no
other gradient follows, so that the copies of the optimizer's state may be overwritten."""
ELSE = (
    "or use an estimator that requires neither micro-batches nor update_slope (lca.estimators.NextBatch, for "
    "one)."
)


def updates_without(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    weights: Sequence[float],
) -> list[Tensor]:
    """Δ^{(−m)} (K,) for each micro-batch m, as `lca.reference.leave_one_out`.

    A parameter that the optimizer does not own, or that has no gradient, does not move. Learning rates and
    other options are the current ones of the parameter's group. If parameters are sharded, the vectors hold
    the shards of this rank.

    Parameters
    ----------
    optimizer
        SGD, Adam, AdamW or RMSprop, or of a class that inherits from one, in the state before its step.
    gradients
        g_m (K,), one a micro-batch, as the optimizer sees them (clipped, say).
    weights
        The fraction of the batch that each micro-batch is.

    Raises
    ------
    LCAError
        If it is another optimizer or has an unsupported option.

    Examples
    --------
    >>> weight = nn.Parameter(torch.zeros(1))
    >>> weight.grad = torch.tensor([4.0])
    >>> gradients = torch.tensor([2.0]), torch.tensor([6.0])
    >>> updates_without(torch.optim.SGD([weight], lr=0.5), [weight], gradients, (0.5, 0.5))
    [tensor([-3.]), tensor([-1.])]
    """
    check_known(optimizer)
    with detached():
        means = [mean_without(m, gradients, weights) for m in range(len(gradients))]
        lasts = [*[False] * (len(means) - 1), True]
        make, groups = _known_of(optimizer).update, list(_alike(optimizer, parameters))
        if len(groups) == 1 and len(groups[0][0]) == len(parameters):
            return list(map(make(groups[0][1]), means, lasts))
        held = local_parts(parameters)
        sizes = [own.numel() for own in held]
        found: list[list[Tensor | None]] = [[None] * len(parameters) for _ in gradients]
        for members, alike in groups:
            update = make(alike)
            for into, mean, last in zip(found, means, lasts, strict=True):
                moved = update(torch.cat([mean.split(sizes)[i] for i in members]), last)
                for i, piece in zip(members, moved.split([sizes[i] for i in members]), strict=True):  # type: ignore[no-untyped-call]
                    into[i] = piece
        return [_joined(row, held) for row in found]


def updates_by_blocks(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], most: int
) -> Iterator[tuple[slice, Update | None]]:
    """The update of some entries of θ after others, of at most ``most`` at a time.

    ``None`` for entries that do not move; see `updates_without`. To be used in a context of `detached`.

    >>> weight = nn.Parameter(torch.zeros(3))
    >>> weight.grad = torch.zeros(3)
    >>> [(first, update), (last, _)] = updates_by_blocks(torch.optim.SGD([weight], lr=0.5), [weight], 2)
    >>> first, update(torch.ones(2), True), last
    (slice(0, 2, None), tensor([-0.5000, -0.5000]), slice(2, 3, None))
    """
    check_known(optimizer)
    make = _known_of(optimizer).update
    known: dict[int, tuple[_Alike, int]] = {}
    for members, alike in _alike(optimizer, parameters):
        known |= {position: (alike, which) for which, position in enumerate(members)}
    start = 0
    for group, positions in groupby(range(len(parameters)), lambda i: known[i][0] if i in known else None):
        run = list(positions)
        for sizes in runs_of([parameters[i].numel() for i in run], most):
            own, run = run[: len(sizes)], run[len(sizes) :]
            some = group and group.flattened([known[i][1] for i in own])
            stop = start + sum(sizes)
            for first in range(start, stop, most):
                block = slice(first, min(first + most, stop))
                if some is None:
                    yield block, None
                else:
                    cut = stop - start > most  # of a single parameter
                    yield block, make(some.part(first - start, block.stop - start) if cut else some)
            start = stop


def leading_updates(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradient: Tensor, most: int
) -> list[Tensor]:
    """The coming update of the first entries of each parameter, at most ``most`` of each; see `update_slope`.

    >>> weight = nn.Parameter(torch.zeros(3))
    >>> weight.grad = torch.ones(3)
    >>> leading_updates(torch.optim.SGD([weight], lr=0.5), [weight], weight.grad, 2)
    [tensor([-0.5000, -0.5000])]
    """
    check_known(optimizer)
    make = _known_of(optimizer).update
    with detached():
        pieces = gradient.split([own.numel() for own in parameters])  # type: ignore[no-untyped-call]
        found = [piece.new_zeros(len(piece[:most])) for piece in pieces]
        for members, alike in _alike(optimizer, parameters):
            for which, position in enumerate(members):
                leading = alike.flattened([which]).part(0, most)
                found[position] = make(leading)(pieces[position][:most], True)
        return found


def update_slope(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], gradient: Tensor
) -> Tensor | float:
    """How the coming update depends on its gradient: a new vector (K,), or one number for all.

    As `lca.reference.update_slope`.

    Parameters
    ----------
    optimizer
        As in `updates_without`.
    gradient
        g (K,), as the optimizer sees it.

    Raises
    ------
    LCAError
        If it is another optimizer or has an unsupported option.

    Examples
    --------
    >>> weight = nn.Parameter(torch.zeros(1))
    >>> weight.grad = torch.tensor([4.0])
    >>> update_slope(torch.optim.SGD([weight], lr=0.5, momentum=0.9), [weight], weight.grad)
    -0.5
    """
    check_known(optimizer)
    known = _known_of(optimizer)
    found: list[Tensor | float] = [0.0] * len(parameters)
    with detached():
        held = local_parts(parameters)
        sizes = [own.numel() for own in held]
        for members, alike in _alike(optimizer, parameters):
            whole = len(members) == len(sizes)
            mine = gradient if whole else torch.cat([gradient.split(sizes)[i] for i in members])  # type: ignore[no-untyped-call]
            slope = known.slope(alike, mine)
            slope *= alike.sign
            if whole:
                return slope
            parts = [sizes[i] for i in members]
            pieces = slope.split(parts) if isinstance(slope, Tensor) else [slope] * len(parts)  # type: ignore[no-untyped-call]
            for i, piece in zip(members, pieces, strict=True):
                found[i] = piece
        if all(not isinstance(piece, Tensor) and piece == found[0] for piece in found):
            return found[0]
        return torch.cat(
            [
                piece if isinstance(piece, Tensor) else own.new_full((own.numel(),), piece)
                for piece, own in zip(found, held, strict=True)
            ]
        )


def check_known(optimizer: torch.optim.Optimizer) -> None:
    """Raise `LCAError`, with the reason, if the updates of this optimizer cannot be computed.

    Those of a class that inherits from a known one are taken for those of this; `UpdateCheck` finds if a step
    of its own makes others.
    """
    name, kind = type(optimizer).__name__, _known_kind(optimizer)
    if kind is None:
        raise LCAError(
            f"the update that {name} would make with another gradient, such as one without a "
            "micro-batch, cannot be computed; train with "
            f"{' or '.join(known.__name__ for known in _KNOWN)}, {ELSE}"
        )
    for number, group in enumerate(optimizer.param_groups):
        for option, why in _KNOWN[kind].refused.items():
            if group.get(option):
                raise LCAError(
                    f"parameter group {number} of this {name} has {option}={group[option]!r}: "
                    f"{why}. Omit the option, {ELSE}"
                )


def require_inherited_step(optimizer: torch.optim.Optimizer) -> None:
    """Raise `LCAError` if the class of the optimizer has a step of its own, where no update is compared."""
    kind = type(optimizer)
    known = _known_kind(optimizer)
    if known is not None and unwrap(kind.step) is not unwrap(known.step):
        raise LCAError(
            f"{kind.__name__} has a step of its own, and of sharded models no update is compared with that "
            f"of {known.__name__}; train with {known.__name__}, {ELSE}"
        )


def refuse_maximizing(optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Raise `LCAError` for ``maximize=True``: the gradient of training is then not that of a loss."""
    if any(group.get("maximize") for optimizer in optimizers for group in optimizer.param_groups):
        raise LCAError(
            "with maximize=True the gradients of training are those of what is maximised, so allocations "
            "made from them would have the opposite sign of those of a loss; let the loop minimise the "
            "negative, or use an estimator that takes gradients of its own (lca.Adaptive)."
        )


@dataclass(frozen=True, eq=False)
class _Alike:
    """Parameters of one group that have had equally many updates: ``count``."""

    group: Group
    parameters: Sequence[Tensor]
    states: Sequence[Mapping[str, Any]]
    count: int

    def number(self, name: str) -> float:
        """An option of the group as a number, also if it is a tensor."""
        return float(self.group[name])

    def state(self, name: str) -> Tensor | None:
        """A new vector with this state of all parameters; ``None`` before their first update."""
        found = [_dense(own[name]) for own in self.states if own.get(name) is not None]
        return flat(local_parts(found, self.parameters)) if len(found) == len(self.states) else None

    def theta(self) -> Tensor:
        """A new vector with the numbers of all parameters."""
        return flat(local_parts(self.parameters))

    def flattened(self, which: Sequence[int]) -> "_Alike":
        """Some of these parameters as vectors, with their states."""
        parameters = [self.parameters[i].detach().reshape(-1) for i in which]
        states = [
            {
                name: _dense(value).reshape(-1) if _is_like(value, self.parameters[i]) else value
                for name, value in self.states[i].items()
            }
            for i in which
        ]
        return replace(self, parameters=parameters, states=states)

    def part(self, first: int, stop: int) -> "_Alike":
        """Some entries of a single vector, with their state."""
        [own], [state] = self.parameters, self.states
        part = {name: value[first:stop] if _is_like(value, own) else value for name, value in state.items()}
        return replace(self, parameters=[own[first:stop]], states=[part])

    def scaled_state(self, name: str, factor: float) -> Tensor | float:
        state = self.state(name)
        return 0.0 if state is None else state.mul_(factor)

    def loss_gradient(self) -> Callable[[Tensor], Tensor]:
        """From a gradient to ``±g + decay · θ``, which the optimizer uses in its place."""
        decay = 0.0 if self.decoupled else self.number("weight_decay")
        if not decay and not self.group["maximize"]:
            return lambda gradient: gradient
        sign = self.sign
        pull = self.theta().mul_(decay) if decay else 0.0
        return lambda gradient: pull + sign * gradient

    def has_state(self, name: str) -> bool:
        """Whether the parameters have this state, as they do after their first update."""
        return self.states[0].get(name) is not None

    @property
    def sign(self) -> float:
        """1, or -1 if the optimizer maximises."""
        return -1.0 if self.group["maximize"] else 1.0

    @property
    def decoupled(self) -> bool:
        """Whether weight decay moves the parameters directly (AdamW)."""
        return bool(self.group.get("decoupled_weight_decay", False))


def _sgd(alike: _Alike) -> Update:
    """``v ← μ v + (1 - dampening) g``, the first v being g; ``Δ = -lr v``, Nesterov ``-lr (g + μ v)``."""
    lr, momentum = alike.number("lr"), alike.number("momentum")
    velocity = alike.state("momentum_buffer") if momentum else None
    ahead = momentum if alike.group["nesterov"] else 1.0
    base = 0.0 if velocity is None else velocity.mul_(-lr * ahead * momentum)
    slope, gradient_of = _sgd_slope(alike), alike.loss_gradient()
    return lambda gradient, last: _plus(base, gradient_of(gradient), slope, last)


def _sgd_slope(alike: _Alike) -> float:
    lr, momentum = alike.number("lr"), alike.number("momentum")
    fresh = 1 - alike.number("dampening") if momentum and alike.has_state("momentum_buffer") else 1.0
    return -lr * (1 + momentum * fresh if alike.group["nesterov"] else fresh)


def _rmsprop(alike: _Alike) -> Update:
    """``v ← α v + (1 - α) g²``; ``Δ = -lr g / (√v + ε)``."""
    lr, root, gradient_of = alike.number("lr"), _rmsprop_root(alike), alike.loss_gradient()

    def update(gradient: Tensor, last: bool) -> Tensor:
        gradient = gradient_of(gradient)
        return (-lr * gradient).div_(root(gradient, last))

    return update


def _rmsprop_root(alike: _Alike) -> Update:
    """``√v + ε``, from ``±g + decay · θ``."""
    alpha, eps = map(alike.number, ("alpha", "eps"))
    square = alike.scaled_state("square_avg", alpha)
    return lambda gradient, last: _plus_square(square, gradient, 1 - alpha, last).sqrt_().add_(eps)


def _rmsprop_slope(alike: _Alike, gradient: Tensor) -> Tensor:
    root = _rmsprop_root(alike)(alike.loss_gradient()(gradient), True)
    return root.reciprocal_().mul_(-alike.number("lr"))


def _adam(alike: _Alike) -> Update:
    """``Δ = -lr m̂ / (√v̂ + ε)``; AdamW adds ``-lr λ θ``."""
    lr, beta1, rate = alike.number("lr"), float(alike.group["betas"][0]), _adam_rate(alike)
    mean, root, gradient_of = (
        alike.scaled_state("exp_avg", beta1 * rate),
        _adam_root(alike),
        alike.loss_gradient(),
    )
    decay = lr * alike.number("weight_decay") if alike.decoupled else 0.0
    drift = alike.theta().mul_(-decay) if decay else None

    def update(gradient: Tensor, last: bool) -> Tensor:
        gradient = gradient_of(gradient)
        moved = _plus(mean, gradient, (1 - beta1) * rate, last).div_(root(gradient, last))
        return moved if drift is None else moved.add_(drift)

    return update


def _adam_rate(alike: _Alike) -> float:
    """``-lr / (1 - β₁^t)``."""
    beta1 = float(alike.group["betas"][0])
    return -alike.number("lr") / (1 - beta1 ** (1 + alike.count))


def _adam_root(alike: _Alike) -> Update:
    """``√v̂ + ε``, from ``±g + decay · θ``; AMSGrad takes the largest v so far."""
    eps, beta2 = alike.number("eps"), float(alike.group["betas"][1])
    unbias = 1 / (1 - beta2 ** (1 + alike.count))
    square = alike.scaled_state("exp_avg_sq", beta2 * unbias)
    largest = alike.scaled_state("max_exp_avg_sq", unbias) if alike.group["amsgrad"] else 0.0

    def root(gradient: Tensor, last: bool) -> Tensor:
        below = _plus_square(square, gradient, (1 - beta2) * unbias, last)
        if isinstance(largest, Tensor):
            torch.maximum(below, largest, out=below)
        return below.sqrt_().add_(eps)

    return root


def _adam_slope(alike: _Alike, gradient: Tensor) -> Tensor:
    root = _adam_root(alike)(alike.loss_gradient()(gradient), True)
    return root.reciprocal_().mul_((1 - float(alike.group["betas"][0])) * _adam_rate(alike))


def _plus(base: Tensor | float, gradient: Tensor, weight: float, last: bool) -> Tensor:
    """``base + weight g``, in the memory of ``base`` if it is used for the ``last`` time."""
    if isinstance(base, float):
        return weight * gradient
    return torch.add(base, gradient, alpha=weight, out=base if last else None)


def _plus_square(base: Tensor | float, gradient: Tensor, weight: float, last: bool) -> Tensor:
    """``base + weight g²``, in the memory of ``base`` if it is used for the ``last`` time."""
    if isinstance(base, float):
        return gradient.square().mul_(weight)
    return torch.addcmul(base, gradient, gradient, value=weight, out=base if last else None)


@dataclass(frozen=True)
class _Known:
    """The update of one optimizer class, how it depends on the gradient, and what has another formula."""

    update: Callable[[_Alike], Update]
    slope: Callable[[_Alike, Tensor], Tensor | float]  # a new vector
    refused: Mapping[str, str]


_ADAM = _Known(_adam, _adam_slope, {})
_KNOWN: dict[type[torch.optim.Optimizer], _Known] = {
    torch.optim.SGD: _Known(_sgd, lambda alike, gradient: _sgd_slope(alike), {}),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: _Known(
        _rmsprop,
        _rmsprop_slope,
        {"momentum": "RMSprop is supported without momentum only", "centered": "centering is not supported"},
    ),
}


def _known_kind(optimizer: torch.optim.Optimizer) -> type[torch.optim.Optimizer] | None:
    return next((kind for kind in type(optimizer).__mro__ if kind in _KNOWN), None)


def _known_of(optimizer: torch.optim.Optimizer) -> _Known:
    """How the optimizer, or the one that it inherits from, makes its updates; see `check_known`."""
    return _KNOWN[_known_kind(optimizer) or type(optimizer)]


def _alike(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> Iterator[tuple[list[int], _Alike]]:
    """The parameters that will move, and their positions, by group and number of updates they have had."""
    positions = {id(parameter): i for i, parameter in enumerate(parameters) if parameter.grad is not None}
    # By the ids of the parameters, as torch computes the hash of a tensor in Python.
    states = dict(zip(map(id, optimizer.state), optimizer.state.values(), strict=True))
    for group in optimizer.param_groups:
        which = sorted([i for i in map(positions.get, map(id, group["params"])) if i is not None])
        owned = [parameters[i] for i in which]
        held = [states.get(id(own), {}) for own in owned]
        counts = list(map(_count, held))
        for count in dict.fromkeys(counts):
            alike = [k for k, other in enumerate(counts) if other == count]
            members, moved = [which[k] for k in alike], [owned[k] for k in alike]
            yield members, _Alike(group, moved, [held[k] for k in alike], count)


def _dense(state: Tensor) -> Tensor:
    """The same numbers; the velocity of sparse gradients is sparse."""
    return state.to_dense() if state.is_sparse else state


def _is_like(value: Any, parameter: Tensor) -> bool:
    """Whether a part of the state of a parameter has its shape."""
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _count(state: Mapping[str, Any]) -> int:
    """Number of updates of a parameter with this state; for SGD, which does not count them, 0 or 1."""
    return int(state["step"] if "step" in state else state.get("momentum_buffer") is not None)


def _joined(pieces: Sequence[Tensor | None], held: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [
            own.new_zeros(own.numel()) if piece is None else piece
            for piece, own in zip(pieces, held, strict=True)
        ]
    )
