"""`Reading`: what a loss reads and writes, found by running it once on a private replica."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from lca.errors import LCAError
from lca.frameworks import PyTree, tensors_in
from lca.objective import State
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
    needs_graph
        Whether the loss differentiates inside, so that it needs gradients to be evaluated at all.
    """

    followed: Followed = field(default_factory=Followed)
    captured: dict[str, Tensor] = field(default_factory=dict)
    writes_captured: bool = False
    writes_batch: bool = False
    written_parameters: frozenset[str] = frozenset()
    needs_graph: bool = False
    names: frozenset[str] = frozenset()

    def captured_at(self, state: State) -> AbstractContextManager[object]:
        """Inside, operations take captured tensors as they are in ``state``."""
        pairs = [(t, state[name]) for name, t in self.captured.items() if state.get(name, t) is not t]
        if self.writes_captured:
            pairs = [(tensor, other.clone()) for tensor, other in pairs]
        return InPlaceOf(pairs) if pairs else nullcontext()


def read(held: Held, batch: PyTree, own: Mapping[str, Tensor], prefix: str, known: Reading) -> Reading:
    """Run the loss of a replica that holds private copies of θ, and tell what it reads and writes.

    ``known`` is what other batches were found to read; it is part of the result.

    Raises
    ------
    LCAError
        If the loss reads memory of a parameter otherwise than through the model.
    """
    replica = held.replica
    data = {f"batch[{i}]": tensor for i, tensor in enumerate(tensors_in(batch))}
    before = {name: tensor._version for name, tensor in (held.tensors | data).items()}
    held.begin()
    with Reads(held.tensors | data) as reads:
        replica.losses(batch)
    written = {name for name, tensor in (held.tensors | data).items() if tensor._version != before[name]}
    foreign = reads.foreign()
    foreign = [
        *known.captured.values(),
        *(t for t in foreign if all(t is not k for k in known.captured.values())),
    ]
    captured = {f"{prefix}.captured[{i}]": tensor for i, tensor in enumerate(foreign)}
    slots, names = replica.slots, reads.names | known.names
    replica.written |= written & slots.others.keys()
    sources = {name: (lambda name=name: slots.now(name)) for name in slots.others if name in names}
    _refuse_aliases({name: get() for name, get in sources.items()} | captured, own)
    followed = Followed()
    size = sum(tensor.numel() * tensor.element_size() for tensor in own.values())
    inside = {name: (lambda tensor=tensor: tensor.detach()) for name, tensor in captured.items()}
    followed.follow(sources | inside, max(UNCOPIED, 4 * size))
    return Reading(
        followed,
        captured,
        writes_captured=bool(reads.written()) or known.writes_captured,
        writes_batch=bool(written & data.keys()) or known.writes_batch,
        written_parameters=frozenset(written & own.keys()) | known.written_parameters,
        needs_graph=known.needs_graph,
        names=frozenset(names),
    )


def _refuse_aliases(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse tensors in the memory of a parameter: they move with θ, but not when θ is replaced."""
    for name, tensor in tensors.items():
        shared = [parameter for parameter, owner in own.items() if _overlap(tensor, owner)]
        if shared:
            raise LCAError(
                f"the loss uses the model's own {', '.join(shared)} through {name}, which shares its memory, so it "
                "is not a function of theta; inside the loss, take parameters from the model "
                "(model.named_parameters()), not from a list or a view made before."
            )


def _overlap(a: Tensor, b: Tensor) -> bool:
    return a.device == b.device and _begin(a) < _end(b) and _begin(b) < _end(a) and a.device.type != "meta"


def _begin(tensor: Tensor) -> int:
    return tensor.data_ptr()


def _end(tensor: Tensor) -> int:
    """One past the last byte; negative strides do not exist in torch."""
    if not tensor.numel():
        return tensor.data_ptr()
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()
