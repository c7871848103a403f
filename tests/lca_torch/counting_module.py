"""Counters of every kind that a module of the user's may hold, which its functions count up."""

import builtins
import contextvars
import enum
import functools
import io
import itertools
import os
import sys
import threading
import weakref
from collections import deque

import numpy as np

from lca import estimators


class Counter:
    """Counts in itself."""

    def __init__(self):
        self.count = 0

    def next(self):
        self.count += 1
        return self.count

    @property
    def after(self):
        return self.next()


class Kept:
    """Counts in its class."""

    first = 0


class Inherits(Kept):
    """Has no count of its own before it is counted."""


class OfClasses(type):
    """Counts in itself, and in the classes made of it."""

    count = 0

    def next(cls):
        OfClasses.count += 1
        return OfClasses.count

    def next_of_its_own(cls):
        cls.own = getattr(cls, "own", 0) + 1
        return cls.own


class Made(metaclass=OfClasses):
    """Of a class that counts."""


class Member(enum.Enum):
    """Of which one counts."""

    ONE = "one"


class Context:
    """Counts when it is entered."""

    def __enter__(self):
        COUNTER.next()

    def __exit__(self, *error):
        pass


def reset():
    global COUNTER, LOCAL, WEAK, GENERATOR, ITERATOR, FILE, NORMAL, POP, LOCK  # noqa: PLW0603
    COUNTER, LOCAL, LOCK = Counter(), threading.local(), threading.Lock()
    LOCAL.count = 0
    WEAK = weakref.ref(COUNTER)
    GENERATOR, ITERATOR = (number for number in range(10**6)), itertools.count()
    FILE = io.TextIOWrapper(io.BytesIO(b"\n".join(b"%d" % number for number in range(1000))))
    NORMAL, POP = np.random.default_rng(3).normal, deque(range(10**4)).popleft
    NUMBER.set(0)
    HOLDER.set({"count": 0})
    kept_counter.cache_clear()
    os.environ["LCA_COUNT"] = "0"
    Kept.first, OfClasses.count, Member.ONE.count = 0, 0, 0
    for owner, name in (
        *((Inherits, "first"), (Made, "own"), (by_new_attribute, "count")),
        *((estimators, "count"), (builtins, "lca_count"), (sys.modules[__name__], "NEW")),
    ):
        if name in vars(owner):
            delattr(owner, name)
    builtins.lca_count = 0


NUMBER, HOLDER = contextvars.ContextVar("number"), contextvars.ContextVar("holder")


@functools.lru_cache
def kept_counter():
    return Counter()


def by_kept_results():
    return kept_counter().next()


def by_local():
    LOCAL.count += 1
    return LOCAL.count


def by_context():
    NUMBER.set(NUMBER.get() + 1)
    return NUMBER.get()


def by_what_a_context_holds():
    HOLDER.get()["count"] += 1
    return HOLDER.get()["count"]


def by_environment():
    os.environ["LCA_COUNT"] = str(int(os.environ["LCA_COUNT"]) + 1)
    return int(os.environ["LCA_COUNT"])


def by_class_of_classes():
    return Made.next()


def by_new_attribute_of_a_class_by_its_class():
    return Made.next_of_its_own()


def by_subclass():
    Inherits.first += 1
    return Inherits.first


def by_new_global():
    global NEW  # noqa: PLW0603
    NEW = globals().get("NEW", 0) + 1
    return NEW


def by_new_attribute():
    by_new_attribute.count = getattr(by_new_attribute, "count", 0) + 1
    return by_new_attribute.count


def by_weak_reference():
    return WEAK().next()


def by_generator():
    return next(GENERATOR)


def by_iterator():
    return next(ITERATOR)


def by_file():
    return int(FILE.readline())


def by_bound_method():
    return NORMAL()


def by_bound_method_of_a_container():
    return POP()


def by_member():
    Member.ONE.count += 1
    return Member.ONE.count


def by_modules():
    own = sys.modules[__name__].COUNTER
    return own.next()


def by_attribute_of_another_module():
    estimators.count = getattr(estimators, "count", 0) + 1
    return estimators.count


def by_builtin():
    builtins.lca_count += 1
    return builtins.lca_count


def by_import():
    from tests.lca_torch import counting_module  # noqa: PLC0415, PLW0406

    return counting_module.COUNTER.next()


def by_relative_import():
    from .counting_module import COUNTER as counter  # noqa: PLC0415, PLW0406

    return counter.next()


def by_property():
    return COUNTER.after


def by_context_manager():
    with LOCK, Context():
        return COUNTER.count


WAYS = [value for name, value in list(globals().items()) if name.startswith("by_")]
