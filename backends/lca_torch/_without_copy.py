"""State that cannot be copied: environment variables, attributes of objects that are never copied."""

from contextlib import AbstractContextManager
from enum import Enum
from typing import Any

from lca.frameworks._environment import environment_kept
from lca_torch._shared_state import is_users


class Environment:
    """The environment variables, which code may change: see `environment_kept`."""

    def install(self) -> None:
        """Do nothing: these are not copied."""

    def installed(self) -> AbstractContextManager[None]:
        """A context in which they may be changed."""
        return environment_kept()


def is_its_own_copy(value: Any) -> bool:
    """Whether a value is an object with attributes, of a class of the user's, that is never copied.

    >>> is_its_own_copy(_Enumeration.ONE)  # of a class of this library
    False
    """
    return is_users(type(value)) and hasattr(value, "__dict__")


class _Enumeration(Enum):
    ONE = 1


OF_MEMBERS = vars(_Enumeration.ONE).keys()
"""The attributes that a member of any enumeration has."""
