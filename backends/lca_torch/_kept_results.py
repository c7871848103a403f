"""Functions of the user's that keep their results (`functools.lru_cache`), called from private copies."""

import pickle
import random
from collections.abc import Callable
from copy import deepcopy
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lca.errors import LCAError
from lca.frameworks._keepers import KEEPER, emptied_again, keeper_in
from lca_torch._copies import CONSTANTS, Trial, not_copied
from lca_torch._libraries import in_library


class KeptResults:
    """Stands for such a function in private copies: gives them what the user's model gets from it.

    A result that is kept was computed from the user's modules and parameters as they were then, and training
    goes on using it. The function itself is therefore called, with the originals of what the copies pass.

    Parameters
    ----------
    function
        The user's function, with what it keeps.
    original
        Gives the original of a copy, and everything else as it is.
    copy
        Gives the copy of an original, and everything else as it is.
    trial
        The state of a copy that is run in training mode: it gets what was computed in evaluation mode, and a
        copy of any object that a call may change.

    Raises
    ------
    LCAError
        In a call, if an argument has no original, if the result leads to what is measured or was drawn at
        random, or if results are forgotten; `NotCopiedError` in a trial, where training would compute one.
    """

    def __init__(
        self,
        function: Any,
        original: Callable[[Any], Any],
        copy: Callable[[Any], Any],
        trial: Trial | None = None,
    ) -> None:
        self._function, self._original, self._copy, self._trial = function, original, copy, trial
        self._known: dict[Any, Any] = {}

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = [self._original(value) for value in (*args, *kwargs.values())]
        if any(map(_is_made, tree_leaves(given))):
            raise self._error(_GIVEN)
        call = tuple(given), len(args), tuple(kwargs)
        if self._trial is not None and self._trial.training:
            if call not in self._known:
                raise not_copied(self._name, _COMPUTES)
            return tree_map(lambda leaf: leaf, self._known[call])  # in containers of its own
        before, drawn, put_back = self._function.cache_info(), _random_states(), emptied_again(self._function)
        with torch._C.DisableTorchFunction(), torch.enable_grad():
            result = self._function(*given[: len(args)], **dict(zip(kwargs, given[len(args) :], strict=True)))
        computed = self._function.cache_info().misses > before.misses
        reason = ""
        if any(map(_is_measured, tree_leaves(result))):
            reason = _MEASURED
        elif any(map(_is_training, tree_leaves(result))):
            reason = _TRAINING
        elif computed and before.currsize == before.maxsize:
            reason = _FULL
        elif computed and drawn != _random_states():
            reason = _RANDOM
        if not reason:
            if self._trial is not None:
                self._known[call] = result = tree_map(self._private, result)
            return tree_map(self._copy, result)  # in containers of its own, as the loss may write into them
        put_back()
        raise self._error(reason)

    def cache_info(self) -> Any:
        """The cache information of the user's function."""
        return self._function.cache_info()

    def _private(self, leaf: Any) -> Any:
        """The copy of a leaf of a result; one made now of what has none and may be changed."""
        found = self._copy(leaf)
        if found is not leaf or isinstance(leaf, (*CONSTANTS, Tensor, nn.Module)):
            return found
        try:
            return deepcopy(leaf)
        except Exception as error:  # whatever its own __deepcopy__ raises
            kind = type(leaf).__name__
            raise not_copied(f"a {kind} kept by {self._name}", "which cannot be copied") from error

    @property
    def _name(self) -> str:
        return getattr(self._function, "__qualname__", "a function")

    def _error(self, reason: str) -> LCAError:
        return LCAError(
            f"the loss calls {self._name}, which keeps its results (functools.lru_cache), and {reason}."
        )


_COMPUTES = "which keeps its results (functools.lru_cache), and has none for this call in evaluation mode"
_GIVEN = (
    "passes it a tensor that is neither a parameter nor a buffer of the model. A result kept for this "
    "tensor is not found for its copy; compute it anew each time"
)
_MEASURED = (
    "gets from it parameters of the model, or what was computed from them with its gradient, which would not "
    "move with theta; compute it anew each time, or under torch.no_grad() if it is a constant in training"
)
_TRAINING = (
    "gets from it a module in training mode, whose buffers a call may change; call eval() of this module "
    "first"
)
_FULL = (
    "it has no room for one more result (maxsize), so some results are computed again and again as "
    "parameters move; use lru_cache(maxsize=None)"
)
_RANDOM = (
    "its first call draws random numbers, which training would not draw any more; call it once before the "
    "objective is made"
)


def _random_states() -> tuple[bytes, bytes, object]:
    """The states of the global generators."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is what counts
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(numpy), random.getstate()


def _is_made(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter)


def _is_measured(leaf: Any) -> bool:
    if isinstance(leaf, nn.Module):
        return any(map(_is_measured, leaf.parameters()))
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _is_training(leaf: Any) -> bool:
    modules = leaf.modules() if isinstance(leaf, nn.Module) else ()
    return any(module.training and module._buffers for module in modules)


def users_keeper_in(value: Any) -> Any:
    """`keeper_in`, but ``None`` for a function of a library."""
    keeper = keeper_in(value)
    return None if keeper is None or in_library(keeper.__module__ or "") else keeper


def standing_in(
    value: Any, original: Callable[[Any], Any], copy: Callable[[Any], Any], trial: Trial | None
) -> Any:
    """`KeptResults` for a function, or a property, static or class method made of it."""
    stand_in = KeptResults(keeper_in(value), original, copy, trial)
    return stand_in if type(value) is KEEPER else type(value)(stand_in)
