"""Names in the code of functions."""

from types import CodeType


def names_in(code: CodeType) -> set[str]:
    """The global names and attributes that code refers to, in inner functions too.

    Examples
    --------
    >>> sorted(names_in((lambda x: [abs(x.real) for _ in range(2)]).__code__))
    ['abs', 'range', 'real']
    """
    inner = (names_in(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
