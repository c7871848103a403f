"""`Reading`: what a loss reads and writes, found by running it once on a private replica."""

import gc
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from lca.errors import LCAError
from lca.frameworks import PyTree, tensors_in
from lca.objective import State
from lca_torch._checks import graph_nodes
from lca_torch._kinds import local_part
from lca_torch._reads import InPlaceOf, Reads
from lca_torch._replica import Held
from lca_torch._state import UNCOPIED, Followed


@dataclass
class Reading:
    """What a loss reads besides θ and the batch, and what it writes into.

    Attributes
    ----------
    followed
        The tensors that it reads, under the names that they have in the state.
    captured
        Those of them that no slot of the replica holds: constants of a class, tensors inside other objects.
    writes_batch
        Whether the batch has to be copied, because the loss writes into it.
    written_parameters
        Parameters that a forward pass writes into, such as an embedding with ``max_norm``.
    moved
        Those of `names` that a forward pass writes into, or puts others in place of.
    names
        Names of the slots of the replica that it reads.
    eps
        Machine epsilon of the coarsest precision in which it computes what depends on θ.
    """

    followed: Followed = field(default_factory=Followed)
    captured: dict[str, "Captured"] = field(default_factory=dict)
    writes_captured: bool = False
    writes_batch: bool = False
    written_parameters: frozenset[str] = frozenset()
    moved: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    eps: float = 0.0

    def captured_at(self, state: State) -> AbstractContextManager[object]:
        """Inside, operations take captured tensors as they are in ``state``."""
        if not self.captured:
            return _NOTHING
        now = {name: found.now() for name, found in self.captured.items()}
        pairs = [(tensor, state[name]) for name, tensor in now.items() if name in state]
        if self.writes_captured:
            pairs = [(tensor, other.clone()) for tensor, other in pairs]
        return InPlaceOf(pairs) if pairs else _NOTHING


_NOTHING = nullcontext()


class Captured:
    """A tensor that a loss reads from outside, and the variables that hold it, which may be assigned to."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._places = [
            (holder, key)
            for holder in gc.get_referrers(tensor)
            if isinstance(holder, dict) and id(tensor) in map(id, holder.values())
            for key, value in holder.items()
            if value is tensor and isinstance(key, str)
        ]

    def now(self) -> Tensor:
        """The tensor that is there now."""
        if not any(holder.get(key) is self._tensor for holder, key in self._places):
            held = (holder.get(key) for holder, key in self._places)
            self._tensor = next((value for value in held if isinstance(value, Tensor)), self._tensor)
        return self._tensor

    def value(self) -> Tensor:
        """The value of `now`, detached."""
        return self.now().detach()

    def name(self) -> str:
        """The name of the variable that holds it, if it is known."""
        return self._places[0][1] if self._places else "captured"


def read(held: Held, batch: PyTree, own: Mapping[str, Tensor], prefix: str, known: Reading) -> Reading:
    """Run the loss of a replica that holds private copies of θ, and tell what it reads and writes.

    ``known`` is what other batches were found to read; it is part of the result.

    Raises
    ------
    LCAError
        If the loss reads memory of a parameter otherwise than through the model, or what an earlier forward
        pass has computed from one, or its ``.grad`` or address.
    """
    replica = held.replica
    data = {f"batch[{i}]": tensor for i, tensor in enumerate(tensors_in(batch))}
    before = {name: tensor._version for name, tensor in (held.tensors | data).items()}
    reads = _observed(held, batch, held.tensors | data)
    written = {name for name, tensor in (held.tensors | data).items() if tensor._version != before[name]}
    _refuse_own({name: what for name, what in reads.of_training.items() if name in own})
    foreign = reads.foreign()
    captured = dict(known.captured)
    for tensor in foreign:
        if all(tensor is not other.now() for other in captured.values()):
            found = Captured(tensor)
            captured[f"{prefix}.{found.name()}[{len(captured)}]"] = found
    slots, names = replica.slots, reads.names | known.names
    moved = (written | slots.replaced(held.tensors)) & slots.others.keys() & reads.names
    replica.written |= written & slots.others.keys()
    sources: dict[str, Callable[[], Tensor]] = {
        name: partial(slots.now, name) for name in slots.others if name in names
    }
    sources |= {name: partial(Captured.value, found) for name, found in captured.items()}
    _refuse_aliases({name: get() for name, get in sources.items()}, own)
    _refuse_computed({name: slots.attached(name) for name in slots.others if name in names}, own)
    followed = Followed()
    size = sum(tensor.numel() * tensor.element_size() for tensor in own.values())
    followed.follow(sources, max(UNCOPIED, 4 * size))
    return Reading(
        followed,
        captured,
        writes_captured=bool(reads.written()) or known.writes_captured,
        writes_batch=bool(written & data.keys()) or known.writes_batch,
        written_parameters=frozenset(written & own.keys()) | known.written_parameters,
        moved=frozenset(moved) | known.moved,
        names=frozenset(names),
        eps=max(reads.eps, known.eps),
    )


def in_training(held: Held, batch: PyTree, names: Collection[str]) -> tuple[float, set[str]]:
    """The loss of a batch with these modules in training mode (`Replica.train`), and what the pass writes.

    That are the names of the tensors that it writes into, or puts others in place of.
    """
    data = {f"batch[{i}]": tensor for i, tensor in enumerate(tensors_in(batch))}
    before = {name: tensor._version for name, tensor in held.tensors.items()}
    held.begin()
    held.replica.train(names)
    with Reads(held.tensors | data):  # so that nothing outside is written into
        loss = held.replica.losses(batch)
    written = {name for name, tensor in held.tensors.items() if tensor._version != before[name]}
    return float(loss.detach()), written | held.replica.slots.replaced(held.tensors)


def _observed(held: Held, batch: PyTree, given: Mapping[str, Tensor]) -> Reads:
    """What the loss reads of these tensors and of others; all of these, if that cannot be observed."""
    reads = Reads(given)
    held.begin()
    try:
        with reads:
            held.replica.losses(batch)
    except Exception as error:  # of the user's code, or because a compiled part cannot run like this
        held.replica.tried(error)
        held.begin()
        held.replica.losses(batch)
        reads.names.update(given)
    else:
        held.replica.tried(None)
    return reads


def _refuse_own(found: Mapping[str, str]) -> None:
    """Refuse a loss that reads what θ at another point does not have: ``.grad`` of training, the address."""
    for name, what in sorted(found.items()):
        advice = "let the loss find parameters by name (model.named_parameters())"
        if what == ".grad":
            advice = (
                "compute the gradient inside the loss (torch.autograd.grad), or, if the gradient left by "
                "the last backward pass of training is meant as a constant, keep a copy of it in a buffer"
            )
        raise LCAError(f"the loss reads the {what} of {name}, so it is not a function of theta; {advice}.")


def _refuse_aliases(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse tensors in the memory of a parameter: they move with θ, but not when θ is replaced."""
    for name, tensor in tensors.items():
        shared = [p for p, owner in own.items() if _overlap(local_part(tensor), local_part(owner))]
        if shared:
            raise LCAError(
                f"the loss uses the model's own {', '.join(shared)} through {name}, which shares its "
                "memory, so it is not a function of theta; inside the loss, take parameters from the model "
                "(model.named_parameters()), not from a list or a view made before."
            )


def _refuse_computed(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse tensors that were computed from a parameter: they do not follow θ."""
    names = {id(parameter): name for name, parameter in own.items()}
    for name, tensor in tensors.items():
        source = next((names[id(leaf)] for leaf in graph_leaves(tensor) if id(leaf) in names), None)
        if source is not None:
            raise LCAError(
                f"the loss reads {name}, which an earlier forward pass has computed from the parameter "
                f"{source}, so it is not a function of theta; compute it anew in every forward pass, delete "
                "it before each update, or detach it if it is meant to be constant."
            )


def graph_leaves(tensor: Tensor) -> Iterator[Tensor]:
    """The tensors that require a gradient and from which a tensor was computed."""
    leaves = (getattr(node, "variable", None) for node in graph_nodes(tensor))
    return (leaf for leaf in leaves if isinstance(leaf, Tensor))


def _overlap(a: Tensor, b: Tensor) -> bool:
    if a.device != b.device or a.is_meta or a.layout is not torch.strided or b.layout is not torch.strided:
        return False
    return _begin(a) < _end(b) and _begin(b) < _end(a)


def _begin(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _end(tensor: Tensor) -> int:
    """One past the last byte; negative strides do not exist in torch."""
    if not tensor.numel():
        return tensor.data_ptr()
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()
