"""What code may change outside of the user's modules: environment variables, objects of libraries."""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from io import IOBase
from logging import Logger
from types import ModuleType
from typing import Any

from lca_torch._shared_state import is_users


class Environment:
    """The variables of the process (`os.environ`), which code may change; what was changed is put back."""

    def install(self) -> None:
        """Nothing is copied."""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, variables may be changed."""
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
    """Whether an attribute of a module is an object that code may change: no function, class or stream."""
    if isinstance(value, dict | list | set | deque):
        return True
    fixed = isinstance(value, ModuleType | type | IOBase | Logger | Enum) or callable(value)
    return not fixed and hasattr(value, "__dict__")


def is_its_own_copy(value: Any) -> bool:
    """Whether it is an object with attributes, of a class of the user's, that is never copied.

    >>> is_its_own_copy(_Enumeration.ONE)  # of a class of this library
    False
    """
    return is_users(type(value)) and hasattr(value, "__dict__")


class _Enumeration(Enum):
    ONE = 1


OF_MEMBERS = vars(_Enumeration.ONE).keys()
"""The attributes that a member of any enumeration has."""
