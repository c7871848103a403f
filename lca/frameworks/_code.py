"""Names in the code of functions."""

import re
from collections.abc import Iterator
from dis import get_instructions
from types import CodeType, FunctionType

_BY_NAME = frozenset(
    {"__dict__", "attrgetter", "eval", "exec", "getattr", "globals", "hasattr", "methodcaller", "vars"}
)
"""What looks a name up that is in a string."""
_OF_GLOBALS = ("LOAD_NAME", "IMPORT_NAME", "_GLOBAL", "_GLOBALS")
"""How the instructions end that read, write or import a global name, and no attribute."""


def names_in(code: CodeType) -> set[str]:
    """The global names and attributes that code refers to, in inner functions too.

    Words in strings are among them where the code looks up by name.

    Examples
    --------
    >>> sorted(names_in((lambda x: [abs(x.real) for _ in range(2)]).__code__))
    ['abs', 'range', 'real']
    >>> sorted(names_in((lambda: globals()["BETA"]).__code__))
    ['BETA', 'globals']
    """
    return {name for part in _parts(code) for name in (*part.co_names, *_words_in(part))}


def globals_in(function: FunctionType) -> frozenset[str]:
    """The names in the module of a function that it refers to, in inner functions too.

    Attributes do not count. Words in strings do, if the code looks names up by strings (``getattr``).

    Examples
    --------
    >>> sorted(globals_in(names_in))
    ['_parts', '_words_in']
    >>> sorted(globals_in(lambda x: x.names_in))
    []
    """
    known = function.__globals__.keys()
    found = {word for part in _parts(function.__code__) for word in _words_in(part)} & known
    for part in _parts(function.__code__):
        if not known.isdisjoint(part.co_names):  # reading the instructions takes longer
            read = (own.argval for own in get_instructions(part) if own.opname.endswith(_OF_GLOBALS))
            found |= known & set(read)
    return frozenset(found)


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
