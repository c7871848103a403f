"""State outside of the user's modules that code may change: environment variables, objects of libraries."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from io import IOBase
from logging import Logger
from types import ModuleType
from typing import Any


@contextmanager
def environment_kept() -> Iterator[None]:
    """Inside, environment variables may be changed (`os.environ`); what was changed is put back."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if os.environ != before:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            changed = {name: text for name, text in before.items() if os.environ.get(name) != text}
            os.environ.update(changed)


def may_change(value: Any) -> bool:
    """Whether an attribute of a module is an object that code may change: no function, class or stream.

    >>> may_change([1]), may_change(1), may_change(len), may_change(os)
    (True, False, False, False)
    """
    if isinstance(value, dict | list | set | deque):
        return True
    fixed = isinstance(value, ModuleType | type | IOBase | Logger | Enum) or callable(value)
    return not fixed and hasattr(value, "__dict__")
