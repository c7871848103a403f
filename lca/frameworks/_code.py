"""Names in the code of functions."""

import re
from types import CodeType

_BY_NAME = frozenset(
    {"__dict__", "attrgetter", "eval", "exec", "getattr", "globals", "hasattr", "methodcaller", "vars"}
)
"""What looks a name up that is in a string."""


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
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    names = set(code.co_names).union(*inner)
    if _BY_NAME.isdisjoint(code.co_names):
        return names
    return names.union(*(re.findall(r"[^\W\d]\w*", text) for text in code.co_consts if isinstance(text, str)))
