"""`Identity`: whether a model still has the parameter objects that are measured."""

from collections.abc import Mapping
from operator import attrgetter, is_
from typing import Any

from torch import nn

from lca.errors import LayoutError

AGAIN = "make the optimizer, the objective and the tracker again"


class Identity:
    """The parameters of a model, in their modules, as they were when the objective was made.

    Parameters
    ----------
    model
        The user's model.
    measured
        The parameters in θ, by name.
    """

    def __init__(self, model: nn.Module, measured: Mapping[str, nn.Parameter]) -> None:
        self._model, self._measured = model, dict(measured)
        self._parameters = list(measured.values())
        self._forms = list(map(_form, self._parameters))
        self._others = dict(model.named_parameters()).keys() - measured.keys()
        self._remember()

    def _remember(self) -> None:
        """Where each module and parameter is; thousands of look-ups take a millisecond."""
        places = [
            (holder, key, held)
            for module in self._model.modules()
            for holder in (module._modules, module._parameters)
            for key, held in holder.items()
        ]
        self._holders: list[Mapping[str, Any]] = [holder for holder, _, _ in places]
        self._keys = [key for _, key, _ in places]
        self._held = [held for _, _, held in places]
        self._containers = list({id(holder): holder for holder in self._holders}.values())

    def check(self) -> None:
        """Raise `LayoutError` unless the model has the same parameters, of one shape, dtype and device."""
        found = map(dict.get, self._holders, self._keys)  # type: ignore[arg-type]
        if not all(map(is_, found, self._held)) or sum(map(len, self._containers)) != len(self._held):
            self._check_names()
            self._remember()
        if list(map(_form, self._parameters)) != self._forms:
            self._check_forms(self._measured)

    def _check_names(self) -> None:
        named = dict(self._model.named_parameters())
        for name in self._measured:
            if name not in named:
                raise LayoutError(
                    f"the model has no parameter {name!r} any more, but had one when the objective was made; "
                    "change the model first, then make the objective."
                )
        self._check_forms(named)
        for name, parameter in self._measured.items():
            if named[name] is not parameter:
                raise LayoutError(
                    f"parameter {name!r} is no longer the object from which the objective was made (a module "
                    f"was replaced, or load_state_dict(assign=True) was called); {AGAIN}."
                )
        added = named.keys() - self._measured.keys() - self._others
        if added:
            raise LayoutError(
                f"the model has a parameter {min(added)!r} now that it did not have when the objective was "
                f"made; {AGAIN}."
            )

    def _check_forms(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, (shape, dtype, device) in zip(self._measured, self._forms, strict=True):
            now = parameters[name]
            if (now.dtype, now.device) != (dtype, device):
                raise LayoutError(
                    f"parameter {name!r} is {now.dtype} on {now.device} now, but was {dtype} on {device} "
                    "when the objective was made; convert and move the model first, then make the "
                    "optimizer, the objective and the tracker."
                )
            if now.shape != shape:
                raise LayoutError(
                    f"parameter {name!r} has shape {tuple(now.shape)} now, but had {tuple(shape)} when the "
                    f"objective was made; {AGAIN}."
                )


_form = attrgetter("shape", "dtype", "device")
