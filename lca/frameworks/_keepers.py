"""Functions that keep their results (`functools.lru_cache`, `functools.cache`), which a loss may call."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

KEEPER = type(lru_cache(lambda: None))


def keeper_in(value: Any) -> Any:
    """The function that keeps results, if a variable or a member of a class is or wraps one, else ``None``.

    >>> class Model:
    ...     @property
    ...     @lru_cache
    ...     def scale(self):
    ...         return 2.0
    >>> keeper_in(Model.scale) is Model.scale.fget, keeper_in(len)
    (True, None)
    """
    inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return inner if type(inner) is KEEPER else None


def emptied_again(keeper: Any) -> Callable[[], None]:
    """Return a function that empties ``keeper`` if it is empty now; otherwise it keeps new results, too."""
    empty = keeper.cache_info().currsize == 0

    def put_back() -> None:
        if empty and keeper.cache_info().currsize:
            keeper.cache_clear()

    return put_back
