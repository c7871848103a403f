"""Optimizers in words, the optimizers inside wrappers, and a warning of an optimizer that is not known."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from lca.errors import LCAWarning

Optimizer = TypeVar("Optimizer")


def call_text(name: str, settings: Mapping[str, Any]) -> str:
    """A call with the settings that are numbers, text or tuples of these, and neither 0 nor off.

    >>> call_text("SGD", {"lr": 0.1, "momentum": 0, "foreach": None, "betas": (0.9, 0.99), "params": [1]})
    'SGD(lr=0.1, betas=(0.9, 0.99))'
    """
    shown = {key: value for key, value in settings.items() if value and _is_plain(value)}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in shown.items())})"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str)


def within(
    optimizers: Iterable[Optimizer], held: Callable[[Optimizer], Iterable[Optimizer]]
) -> Iterator[Optimizer]:
    """Optimizers and those that they hold, as wrappers do, at any depth; each once.

    >>> list(within(["ab"], lambda word: word if len(word) > 1 else ""))
    ['ab', 'a', 'b']
    """
    waiting, seen = list(optimizers), set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += held(one)


def warn_of_other_optimizer(step: int, optimizer: object) -> None:
    """Warn that an optimizer which the tracker was not given has made a step."""
    warnings.warn(
        f"step {step} is made by an optimizer that the tracker was not given, {type(optimizer).__name__}; "
        "its updates are measured like the others. Pass all optimizers of the run, "
        "Tracker(model, [first, second], objective), or make a tracker for each phase of it.",
        LCAWarning,
        stacklevel=2,
    )
