"""The names and modules that the code of a function refers to."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dis import get_instructions, opmap
from functools import lru_cache
from importlib.util import resolve_name
from itertools import takewhile
from types import CodeType, FunctionType, ModuleType

_BY_NAME = frozenset(
    {"__dict__", "attrgetter", "eval", "exec", "getattr", "globals", "hasattr", "methodcaller", "vars"}
)
"""Names of functions that look a name up that is in a string."""
_OF_GLOBALS = ("LOAD_NAME", "IMPORT_NAME", "_GLOBAL", "_GLOBALS")
"""The ends of the names of instructions that read, write or import a global name, not an attribute."""
KEPT = 4096
"""Functions whose names are remembered: reading their code takes as long as a small forward pass."""
_SETTING = frozenset({"setattr", "__setattr__"})
_OF_ATTRIBUTES = ("_ATTR", "LOAD_METHOD")
_ON_STACK = frozenset({"COPY", "SWAP", "PUSH_NULL"})
"""Instructions between a module and the attribute that is changed in place (``module.count += 1``)."""


@lru_cache(KEPT)
def names_in(code: CodeType) -> frozenset[str]:
    """The global names and attributes that code refers to, in inner functions too.

    Words in strings are among them where the code looks up by name.

    Examples
    --------
    >>> sorted(names_in((lambda x: [abs(x.real) for _ in range(2)]).__code__))
    ['abs', 'range', 'real']
    >>> sorted(names_in((lambda: globals()["BETA"]).__code__))
    ['BETA', 'globals']
    """
    return frozenset(name for part in _parts(code) for name in (*part.co_names, *_words_in(part)))


def globals_in(function: FunctionType) -> frozenset[str]:
    """The names in the module of a function that it refers to, in inner functions too.

    Attributes do not count. Words in strings do, if the code looks names up by strings (``getattr``).

    Examples
    --------
    >>> sorted(globals_in(stores_attributes))
    ['_SETTING', '_parts', 'opmap']
    >>> sorted(globals_in(lambda x: x.names_in))
    []
    """
    known, code = function.__globals__.keys(), function.__code__
    if known.isdisjoint(names_in(code)):  # reading the instructions takes longer
        return frozenset()
    return _globals_of(code) & known


@lru_cache(KEPT)
def _globals_of(code: CodeType) -> frozenset[str]:
    """The names that code reads, writes or imports as global ones, and the words by which it looks up."""
    instructions = (own for part in _parts(code) for own in get_instructions(part))
    read = {own.argval for own in instructions if own.opname.endswith(_OF_GLOBALS)}
    return frozenset(read.union(*map(_words_in, _parts(code))))


def stores_attributes(function: FunctionType) -> bool:
    """Whether code may set attributes.

    Examples
    --------
    >>> stores_attributes(stores_attributes)
    False
    """
    return any(
        opmap["STORE_ATTR"] in part.co_code[::2] or not _SETTING.isdisjoint(part.co_names)
        for part in _parts(function.__code__)
    )


def imports_in(function: FunctionType) -> list[ModuleType]:
    """The modules that a function imports when it is called, as far as they are loaded.

    Examples
    --------
    >>> def imports():
    ...     import json
    ...     return json
    >>> [module.__name__ for module in imports_in(imports)]
    ['json']
    """
    names: list[str] = []
    for part in _parts(function.__code__):
        if opmap["IMPORT_NAME"] not in part.co_code[::2]:  # reading the instructions takes longer
            continue
        found = list(get_instructions(part))
        for level, entries, own in zip(found, found[1:], found[2:], strict=False):
            if own.opname == "IMPORT_NAME":
                name = "." * level.argval + own.argval
                with suppress(ImportError):  # which the import itself raises, too
                    name = resolve_name(name, function.__globals__.get("__package__"))
                names += [name, *(f"{name}.{entry}" for entry in entries.argval or ())]
    return [sys.modules[name] for name in dict.fromkeys(names) if name in sys.modules]


def module_attributes(function: FunctionType) -> Iterator[tuple[ModuleType, str, bool]]:
    """The attributes of modules that the code of a function refers to, and whether it writes them.

    Examples
    --------
    >>> def reads():
    ...     return sys.path, re.sub
    >>> [(module.__name__, name, written) for module, name, written in module_attributes(reads)]
    [('sys', 'path', False), ('re', 'sub', False)]
    """
    for name, attributes in _chains(function.__code__):
        module = function.__globals__.get(name)
        for attribute, written in attributes:
            if not isinstance(module, ModuleType):
                break
            yield module, attribute, written
            module = vars(module).get(attribute)


@lru_cache(KEPT)
def _chains(code: CodeType) -> Sequence[tuple[str, Sequence[tuple[str, bool]]]]:
    """The global names in code, each with the chain of attributes behind it, and whether it writes these.

    Examples
    --------
    >>> _chains((lambda: sys.path.copy(re)).__code__)
    [('sys', [('path', False), ('copy', False)]), ('re', [])]
    """
    chains = []
    for part in _parts(code):
        found = [own for own in get_instructions(part) if own.opname not in _ON_STACK]
        written = {own.argval for own in found if own.opname in ("STORE_ATTR", "DELETE_ATTR")}
        for place, own in enumerate(found, 1):
            if own.opname.endswith(_OF_GLOBALS):
                following = takewhile(lambda one: one.opname.endswith(_OF_ATTRIBUTES), found[place:])
                chains.append((own.argval, [(one.argval, one.argval in written) for one in following]))
    return chains


def _parts(code: CodeType) -> Iterator[CodeType]:
    """The code, and that of its inner functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)


def _words_in(code: CodeType) -> list[str]:
    """The words in its strings, if it looks up by name."""
    if _BY_NAME.isdisjoint(code.co_names):
        return []
    texts = (text for text in code.co_consts if isinstance(text, str))
    return [word for text in texts for word in re.findall(r"[^\W\d]\w*", text)]
