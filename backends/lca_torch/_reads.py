"""`Reads`: the tensors from outside that a loss reads, found while it runs; `InPlaceOf`: replaces them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from weakref import ReferenceType, WeakValueDictionary, ref

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

STANDS_FOR = "_lca_stands_for"
"""The attribute with the name of the parameter that a tensor stands for, made from the shard of this rank."""


class Reads(TorchFunctionMode):
    """Records which tensors the operations inside take, apart from those that were made inside.

    Sees everything that is called from Python; only `torch.Tensor` attributes that are not tensors (shapes)
    do not count. Tensors that are garbage afterwards were made inside, out of sight.

    Parameters
    ----------
    given
        Tensors that are known, by name: θ, state, the batch.
    """

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in given.items()}
        self._given = given
        self._made: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        self._foreign: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        self._private: dict[int, tuple[ReferenceType[Tensor], Tensor, int]] = {}
        self.names: set[str] = set()
        """The known tensors that were read."""
        self.of_training: dict[str, str] = {}
        """The known tensors of which something was read that only the user's own has, and what."""
        self.eps = 0.0
        """Machine epsilon of the coarsest precision in which something was computed that has a gradient."""

    def foreign(self) -> list[Tensor]:
        """The tensors from outside that were read."""
        return list(self._foreign.values())

    def written(self) -> list[Tensor]:
        """Those of `foreign` that the operations write into; they wrote into copies."""
        copies = [self._private[key] for key in self._foreign if key in self._private]
        found = (reference() for reference, copy, version in copies if copy._version != version)
        return [tensor for tensor in found if tensor is not None]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if (func is Tensor.data_ptr or getattr(func, "__self__", None) is Tensor.grad) and args:
            name = self._names.get(id(args[0]))
            if name is not None:
                self.of_training[name] = ".data_ptr()" if func is Tensor.data_ptr else ".grad"
        out = func(
            *tree_map_only(Tensor, self._copy, args), **tree_map_only(Tensor, self._copy, kwargs or {})
        )
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if made or getattr(func, "__name__", "") != "__get__":
            for tensor in _tensors((args, kwargs or {})):
                self._look(tensor)
        for tensor in made:
            if tensor.requires_grad:
                self.eps = max(self.eps, torch.finfo(tensor.dtype).eps)
            if id(tensor) not in self._names and id(tensor) not in self._foreign:
                self._made[id(tensor)] = tensor
        return out

    def _name(self, tensor: Tensor) -> str | None:
        """The name of a known tensor, or of the parameter that it stands for."""
        return self._names.get(id(tensor)) or tensor.__dict__.get(STANDS_FOR)

    def _is_known(self, tensor: Tensor) -> bool:
        return self._name(tensor) is not None or self._made.get(id(tensor)) is tensor

    def _look(self, tensor: Tensor) -> None:
        name = self._name(tensor)
        if name is not None:
            self.names.add(name)
        elif not self._is_known(tensor):
            self._foreign[id(tensor)] = tensor

    def _copy(self, tensor: Tensor) -> Tensor:
        """A private copy of a tensor from outside, so that nothing is written into the user's own."""
        if self._is_known(tensor) or tensor.grad_fn is not None or is_functorch_wrapped_tensor(tensor):
            return tensor
        reference, copy, _ = self._private.get(id(tensor), (None, tensor, 0))
        if reference is None or reference() is not tensor:
            copy = tensor.detach().clone()
            self._private[id(tensor)] = ref(tensor), copy, copy._version
        return copy


class InPlaceOf(TorchFunctionMode):
    """Operations inside take other tensors in place of given ones, wherever they come from."""

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._pairs = {id(tensor): (tensor, other) for tensor, other in pairs}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(
            *tree_map_only(Tensor, self._other, args), **tree_map_only(Tensor, self._other, kwargs or {})
        )

    def _other(self, tensor: Tensor) -> Tensor:
        return self._pairs.get(id(tensor), (tensor, tensor))[1]


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
