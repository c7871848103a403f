"""The update that a `torch.optim` optimizer is about to make, had it another gradient: `updates_without`.

Read from the optimizer's own state and parameter groups, before the step; nothing of it is changed. The
formulas are those of `lca.optimizers`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lca.errors import LCAError
from lca.optimizers import SGD, Adam, AdamState, AdamW, Optimizer, RMSProp, leave_one_out
from lca_torch.live import flat

Group = Mapping[str, Any]


def updates_without(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    gradients: Sequence[Tensor],
    shares: Sequence[float],
) -> list[Tensor]:
    """Δ^{(−m)} (K,) for each micro-batch m (`lca.optimizers.leave_one_out`), in the parameters' order.

    A parameter that the optimizer does not own, or that has no gradient, does not move. Learning rates and
    all else are those of the parameter's group at this moment.

    Parameters
    ----------
    optimizer
        SGD (momentum, Nesterov, weight decay), Adam, AdamW or RMSprop, in the state before its step.
    gradients
        g_m (K,), one a micro-batch, as the optimizer sees them (clipped, say).
    shares
        What part of the batch each micro-batch is.

    Raises
    ------
    LCAError
        If it is another optimizer or has an option that is not handled; see `check_known`.
    """
    check_known(optimizer)
    sizes = [parameter.numel() for parameter in parameters]
    pieces = [gradient.split(sizes) for gradient in gradients]  # type: ignore[no-untyped-call]
    found: list[list[Tensor | None]] = [[None] * len(sizes) for _ in gradients]
    for group, members in _alike(optimizer, parameters):
        mine = [parameters[i] for i in members]
        parts = [torch.cat([piece[i] for i in members]) for piece in pieces]
        rule = _RULES[type(optimizer)]
        state = rule.state(group, [optimizer.state[p] for p in mine], mine)
        decays = bool(group["weight_decay"])
        theta = flat(mine) if decays else parts[0]  # without decay no form looks at θ
        with torch.no_grad():
            updates = leave_one_out(_Signed.of(group, rule), state, parts, theta, sizes=shares)
        for into, update in zip(found, updates, strict=True):
            for i, piece in zip(members, update.split([sizes[i] for i in members]), strict=True):
                into[i] = piece
    return [_joined(row, parameters) for row in found]


def check_known(optimizer: torch.optim.Optimizer) -> None:
    """Raise `LCAError`, with the reason, if updates of this optimizer cannot be made again."""
    kind = type(optimizer)
    if kind not in _RULES:
        raise LCAError(
            f"the update that a {kind.__name__} would have made without a part of the batch is not "
            f"known, but that of {', '.join(known.__name__ for known in _RULES)} is; use one of these, or an estimator "
            "that needs no parts (lca.estimators.NextBatch, Probe)."
        )
    for number, group in enumerate(optimizer.param_groups):
        for option, why in _RULES[kind].refused.items():
            if group.get(option):
                raise LCAError(
                    f"parameter group {number} of this {kind.__name__} has {option}={group[option]!r}: "
                    f"{why}. Leave it out, or use an estimator that needs no parts (lca.estimators.NextBatch, Probe)."
                )


@dataclass(frozen=True)
class _Rule:
    """How one kind of optimizer is read."""

    form: Callable[[Group], Optimizer]
    state: Callable[[Group, Sequence[Mapping[str, Any]], Sequence[Tensor]], Any]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class _Signed:
    """An optimizer that climbs if asked to, and has the gradient of ``decay/2 |θ|²`` in its own."""

    form: Optimizer
    sign: float
    decay: float

    @classmethod
    def of(cls, group: Group, rule: _Rule) -> "_Signed":
        decoupled = group.get("decoupled_weight_decay", False)
        decay = 0.0 if decoupled else float(group["weight_decay"])
        return cls(rule.form(group), -1.0 if group["maximize"] else 1.0, decay)

    def init(self, theta: Tensor) -> Any:
        return self.form.init(theta)

    def update(self, state: Any, grad: Tensor, theta: Tensor) -> tuple[Any, Tensor]:
        grad = grad if self.sign == 1 else self.sign * grad
        if self.decay:
            grad = grad.add(theta, alpha=self.decay)
        after: tuple[Any, Tensor] = self.form.update(state, grad, theta)
        return after


def _alike(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> Iterator[tuple[Group, list[int]]]:
    """The parameters (by position) that move, by group and by the number of updates they have had."""
    position = {id(parameter): i for i, parameter in enumerate(parameters)}
    for group in optimizer.param_groups:
        by_count: dict[float, list[int]] = {}
        for parameter in group["params"]:
            if id(parameter) in position and parameter.grad is not None:
                count = float(optimizer.state[parameter].get("step", 0)) if optimizer.state else 0.0
                by_count.setdefault(count, []).append(position[id(parameter)])
        for members in by_count.values():
            yield group, sorted(members)


def _joined(pieces: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.cat(
        [
            parameter.new_zeros(parameter.numel()) if piece is None else piece
            for piece, parameter in zip(pieces, parameters, strict=True)
        ]
    ).detach()


def _buffers(name: str, states: Sequence[Mapping[str, Any]], parameters: Sequence[Tensor]) -> Tensor:
    """A state that begins at zero, for all of the parameters."""
    found = [state.get(name) for state in states]
    return flat(p.new_zeros(p.shape) if b is None else b for b, p in zip(found, parameters, strict=True))


def _sgd(group: Group) -> Optimizer:
    return SGD(float(group["lr"]), float(group["momentum"]), bool(group["nesterov"]))


def _velocity(group: Group, states: Sequence[Mapping[str, Any]], parameters: Sequence[Tensor]) -> Any:
    return _buffers("momentum_buffer", states, parameters) if group["momentum"] else 0.0


def _rmsprop(group: Group) -> Optimizer:
    return RMSProp(float(group["lr"]), float(group["alpha"]), float(group["eps"]))


def _square(group: Group, states: Sequence[Mapping[str, Any]], parameters: Sequence[Tensor]) -> Any:
    return _buffers("square_avg", states, parameters)


def _adam(group: Group) -> Optimizer:
    beta1, beta2 = map(float, group["betas"])
    usual = float(group["lr"]), beta1, beta2, float(group["eps"])
    if group.get("decoupled_weight_decay", False):
        return AdamW(*usual, float(group["weight_decay"]))
    return Adam(*usual)


def _moments(group: Group, states: Sequence[Mapping[str, Any]], parameters: Sequence[Tensor]) -> Any:
    count = int(states[0].get("step", 0))
    return AdamState(
        count, _buffers("exp_avg", states, parameters), _buffers("exp_avg_sq", states, parameters)
    )


_AMSGRAD = {"amsgrad": "the largest running square is not followed"}
_RULES: dict[type, _Rule] = {
    torch.optim.SGD: _Rule(_sgd, _velocity, {"dampening": "momentum is read in its undamped form"}),
    torch.optim.Adam: _Rule(_adam, _moments, _AMSGRAD),
    torch.optim.AdamW: _Rule(_adam, _moments, _AMSGRAD),
    torch.optim.RMSprop: _Rule(
        _rmsprop,
        _square,
        {"momentum": "only the form without momentum is known", "centered": "the mean is not followed"},
    ),
}
