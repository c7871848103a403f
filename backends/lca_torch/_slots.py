"""`Slots`: every place where a private copy holds a tensor, so that other tensors can be put there."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lca_torch._copies import Namespace, Pair, Uncopied
from lca_torch._originals import finds_tensors

INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
"""Attributes of every module, which its own code does not read as such."""
SMALL = 1 << 20
"""Bytes; copies up to this size are made without thought."""


@dataclass(eq=False)
class Slot:
    """One variable that holds a tensor, or a list, tuple, deque or dictionary of tensors."""

    name: str
    original: Namespace
    copy: Namespace
    key: str

    def __post_init__(self) -> None:
        self._form = self.copy[self.key]
        self.single = isinstance(self._form, Tensor)
        self.names = [self.name]
        if not self.single:
            self.names = [f"{self.name}[{i}]" for i, _ in enumerate(_tensors(self._form))]

    def read(self) -> list[Tensor]:
        """The tensors that the user's object holds now; fewer or more if it holds another structure now."""
        return _tensors(self.original.get(self.key))

    def held_as(self, names: Sequence[str]) -> Iterator[tuple[str, Tensor | None]]:
        """The tensors that the copy holds now, by name; ``None`` if it has another structure now."""
        held = _tensors(self.copy.get(self.key))
        return zip(names, held if len(held) == len(names) else [None] * len(names), strict=True)

    def write(self, tensors: Iterable[Tensor]) -> None:
        """Put the tensors of a container into the copy."""
        held = _filled(self._form, iter(tensors))
        if self.copy.get(self.key) is not held:
            self.copy[self.key] = held


class Slots:
    """All slots of the private copies; each tensor is θ, under a name of the layout, or may be state.

    Parameters
    ----------
    pairs
        What was copied.
    parameters
        The tensors in θ by name.
    """

    def __init__(self, pairs: Iterable[Pair], parameters: Mapping[str, Tensor]) -> None:
        known = {id(tensor): name for name, tensor in parameters.items()}
        self._slots: list[tuple[Slot, list[str]]] = []
        self.others: dict[str, tuple[Slot, int]] = {}
        """The places of the tensors that are not in θ, by name."""
        self._initial: dict[str, Tensor] = {}
        for slot in _all_slots(pairs):
            held = []
            for index, (name, tensor) in enumerate(zip(slot.names, slot.read(), strict=True)):
                held.append(known.setdefault(id(tensor), name))
                if held[-1] == name and name not in parameters:
                    self.others.setdefault(name, (slot, index))
                    self._initial[name] = tensor.detach()
            self._slots.append((slot, held))
        single = [(slot, held[0]) for slot, held in self._slots if slot.single]
        self._single = [(slot.original, slot.copy, slot.key, name) for slot, name in single]
        self._several = [(slot, held) for slot, held in self._slots if not slot.single]
        self.places = {(id(slot.copy), slot.key) for slot, _ in self._slots}

    def now(self, name: str) -> Tensor:
        """The user's tensor of this name as it is now, or as it was when it was copied if it is gone."""
        return self.attached(name).detach()

    def attached(self, name: str) -> Tensor:
        """The same, with the graph that it was computed in."""
        slot, index = self.others[name]
        held = slot.read()
        return held[index] if len(held) == len(slot.names) else self._initial[name]

    def of_theta(self) -> Iterator[tuple[Namespace, str, str]]:
        """Where the tensors in θ are: the variables of a copy, the key there, and the name in θ."""
        for slot, held in self._slots:
            yield from ((slot.copy, slot.key, name) for name in held if name not in self.others)

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Assign each tensor to all places that hold the user's tensor of the same name."""
        for _, copy, key, name in self._single:  # nearly all
            copy[key] = tensors[name]
        for slot, held in self._several:
            slot.write([tensors[name] for name in held])

    def replaced(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """The names of those that were written to slots that hold others now."""
        single = {name for _, copy, key, name in self._single if copy.get(key) is not tensors[name]}
        several = ((name, tensor) for slot, names in self._several for name, tensor in slot.held_as(names))
        return single | {name for name, tensor in several if tensor is not tensors[name]}

    def release(self) -> None:
        """Hold the user's tensors again instead of those of the last evaluation."""
        for original, copy, key, _ in self._single:
            own = original.get(key)
            if isinstance(own, Tensor):
                copy[key] = own
        for slot, names in self._several:
            held = slot.read()
            if len(held) == len(names):
                slot.write(held)


def _all_slots(pairs: Iterable[Pair]) -> Iterator[Slot]:
    seen = set[tuple[int, str]]()
    for pair in pairs:
        inner = [pair]
        for kind in ("_parameters", "_buffers"):
            if isinstance(pair.original.get(kind), dict) and isinstance(pair.copy.get(kind), dict):
                inner.append(Pair(pair.name, pair.original[kind], pair.copy[kind]))
        for each in inner:
            for key in each:
                if (key in INTERNAL and each is pair) or (id(each.copy), key) in seen:
                    continue
                if len(_tensors(each.original[key])) == len(_tensors(each.copy.get(key))) > 0:
                    seen.add((id(each.copy), key))
                    yield Slot(each.path(key), each.original, each.copy, key)


def _tensors(value: object) -> list[Tensor]:
    """The tensors that a copy holds as well: none in a container that a stand-in replaces."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Uncopied) or not isinstance(value, dict | list | tuple | deque):
        return []
    if finds_tensors(value):
        return []
    inside = list(value.values() if isinstance(value, dict) else value)
    return [tensor for item in inside for tensor in _tensors(item)]


def _filled(form: Any, given: Iterator[Tensor]) -> Any:
    """A container with other tensors: itself, as others may hold it too; a tuple cannot be changed."""
    if isinstance(form, Tensor):
        return next(given)
    if isinstance(form, Uncopied):
        return form
    if isinstance(form, dict | list | deque):
        for key, value in list(form.items() if isinstance(form, dict) else enumerate(form)):
            form[key] = _filled(value, given)
    elif isinstance(form, tuple):
        values = [_filled(value, given) for value in form]
        return type(form)(*values) if hasattr(form, "_fields") else type(form)(values)
    return form


def private(tensor: Tensor) -> Tensor:
    """A copy that a forward pass may write into."""
    return tensor.detach().clone()


def is_small(tensor: Tensor) -> bool:
    """Whether copying a tensor at every evaluation costs next to nothing."""
    return tensor.numel() * tensor.element_size() <= SMALL
