"""Divisions: named groups of whole tensors, such as attention, MLP and norms."""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

from lca.errors import LCAError

__all__ = [
    "GROUP",
    "HEAD",
    "OTHER",
    "PARAM_GROUPS",
    "Selectors",
    "divisions",
    "labels_by_pattern",
]

Selectors: TypeAlias = Mapping[str, Any]
"""Groups by name, as `divisions` reads them; a tracker of a framework takes more (``groups=``)."""
GROUP = "group"
"""The division of the groups that are not inside a named division."""
HEAD = "head"
"""The division of attention heads (``heads=``)."""
OTHER = "other"
"""The group of the tensors that no group of a division selects."""
PARAM_GROUPS = "param_groups"
"""Selects the groups of the optimizer, which are a division of their own."""
_EXAMPLE = r"r'blocks\.(?P<block>\d+)\.'"
_RESERVED = frozenset(
    ("tensor", "layer", "neuron", HEAD, "step", "measured", "bin", "parameter", "traced", "division")
    + ("param_group", "run", "condition")
)


def divisions(groups: Selectors, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """The group of every tensor, by division: ``{"group": {"fc1.weight": "mlp", ...}}``.

    Each division is a partition of the tensors: the sums over its groups add up to the total. Tensors that no
    group selects are in the group ``"other"``. `lca.Layout.groups` takes the selectors of one division.

    Parameters
    ----------
    groups
        Selectors by the name of the group: a regular expression that is searched in the names of the tensors,
        a list of names, or a function from a name to whether the tensor is in the group. A mapping is a
        division of its own under its name, and so is an expression with a named group, which makes a group of
        each text that it matches (`labels_by_pattern`); all others form the division ``"group"``.
    names
        The names of all tensors, as in `lca.Layout.names`.

    Raises
    ------
    LCAError
        If a group selects no tensor, a tensor is in two groups of one division, a selector has another type,
        or a name is taken.

    Examples
    --------
    >>> names = ("fc1.weight", "fc1.bias", "norm.weight")
    >>> divisions({"norm": "norm", "kind": {"weights": r"weight$"}}, names)["group"]
    {'fc1.weight': 'other', 'fc1.bias': 'other', 'norm.weight': 'norm'}
    """
    if not isinstance(groups, Mapping) or not groups:
        raise LCAError(f'groups must be a mapping such as {{"mlp": r"\\.mlp\\."}}, got {groups!r:.80}.')
    parts = {name: chosen for name, chosen in groups.items() if _divides(chosen)}
    flat = {name: chosen for name, chosen in groups.items() if name not in parts}
    if taken := [name for name in parts if name in (*_RESERVED, GROUP) or not name]:
        raise LCAError(f"a division cannot be called {taken[0]!r}; choose another name.")
    found = {GROUP: _division(flat, names)} if flat else {}
    for name, part in parts.items():
        found[name] = _division(part, names) if isinstance(part, Mapping) else labels_by_pattern(part, names)
    return found


def labels_by_pattern(pattern: str | re.Pattern[str], names: Sequence[str]) -> dict[str, str]:
    r"""Group tensors by the text that a regular expression matches in their names, such as a block number.

    A tensor in whose name ``(?P<block>...)`` matches ``3`` is in the group ``"block 3"``; tensors whose names
    do not match are in ``"other"``.

    Parameters
    ----------
    pattern
        A regular expression with one named group, which is searched for in each name.
    names
        The names of the tensors.

    Raises
    ------
    LCAError
        If the expression does not have exactly one named group, or matches no name.

    Examples
    --------
    >>> labels_by_pattern(r"h\.(?P<block>\d+)\.", ("wte.weight", "h.0.attn.weight", "h.1.attn.weight"))
    {'wte.weight': 'other', 'h.0.attn.weight': 'block 0', 'h.1.attn.weight': 'block 1'}
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise LCAError(f"{pattern!r} is not a regular expression ({error}).") from error
    if len(compiled.groupindex) != 1:
        raise LCAError(
            f"{compiled.pattern!r} has {len(compiled.groupindex)} named groups and must have one, by whose "
            f"text the tensors are grouped; write it as {_EXAMPLE}."
        )
    [kind] = compiled.groupindex
    matches = {name: compiled.search(name) for name in names}
    if not any(matches.values()):
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")  # noqa: PLR2004
        raise LCAError(f"{compiled.pattern!r} matches no tensor; the tensors are {listed}.")
    return {name: f"{kind} {match[kind]}" if match else OTHER for name, match in matches.items()}


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """The groups with these labels: in the order of their first labels, and ``"other"`` as the last one.

    Parameters
    ----------
    labels
        The groups of the tensors, or of parts of them.

    Examples
    --------
    >>> _in_order(["other", "mlp", "attention", "mlp"])
    ('mlp', 'attention', 'other')
    """
    found = dict.fromkeys(labels)
    return (*(name for name in found if name != OTHER), *((OTHER,) if OTHER in found else ()))


def _noun(by: str) -> str:
    """What a group of this division is called in a sentence: a head is not the output layer of a model.

    >>> _noun("head"), _noun("layer")
    ('attention head', 'layer')
    """
    return "attention head" if by == HEAD else by


def _divides(selector: Any) -> bool:
    """Whether a selector defines a division of its own."""
    return isinstance(selector, Mapping) or _names_a_group(selector)


def _names_a_group(selector: Any) -> TypeGuard[str | re.Pattern[str]]:
    """Whether this is a regular expression with a named group, for `labels_by_pattern`."""
    text = selector.pattern if isinstance(selector, re.Pattern) else selector
    return isinstance(text, str) and "(?P<" in text


def _division_of(groups: Selectors, names: Sequence[str]) -> dict[str, str]:
    """The group of every tensor, for selectors that make up one division."""
    if own := [name for name, chosen in groups.items() if _divides(chosen)]:
        raise LCAError(
            f"the group {own[0]!r} ({groups[own[0]]!r:.60}) is itself a whole division, and cannot be one "
            "group of another; pass it alone, or pass several divisions to groups= of a tracker."
        )
    return _division(groups, names)


def _division(groups: Selectors, names: Sequence[str]) -> dict[str, str]:
    owners: dict[str, list[str]] = defaultdict(list)
    for group, selector in groups.items():
        if group == OTHER:
            raise LCAError(f"{OTHER!r} holds the tensors of no group; choose another name for the group.")
        for name in _selected(group, selector, names):
            owners[name].append(group)
    for name, own in owners.items():
        if len(own) > 1:
            raise LCAError(
                f"the tensor {name!r} is in the groups {own[0]!r} and {own[1]!r}; let one of them leave it "
                'out, or put them into two divisions: groups={"first": {...}, "second": {...}}.'
            )
    return {name: owners[name][0] if name in owners else OTHER for name in names}


def _selected(group: str, selector: Any, names: Sequence[str]) -> Collection[str]:
    found = [name for name in names if _test(group, selector, names)(name)]
    if not found:
        listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")  # noqa: PLR2004
        raise LCAError(
            f"the group {group!r} ({selector!r:.80}) selects no tensor; the tensors are {listed}. "
            "Tied tensors stand under the first of their names."
        )
    return found


def _test(group: str, selector: Any, names: Sequence[str]) -> Callable[[str], bool]:
    """Whether a tensor of this name is in the group."""
    if selector == PARAM_GROUPS or isinstance(selector, type):
        raise LCAError(
            f"the group {group!r} is selected by {selector!r}, which only a tracker of the framework knows; "
            "use a regular expression, names, or a function of the name."
        )
    if isinstance(selector, str | re.Pattern):
        try:
            pattern = re.compile(selector)
        except re.error as error:
            raise LCAError(
                f"the group {group!r}: {selector!r} is not a regular expression ({error})."
            ) from error
        return lambda name: pattern.search(name) is not None
    if isinstance(selector, Sequence | set | frozenset):
        if unknown := [name for name in selector if name not in names]:
            listed = ", ".join(names[:6])
            raise LCAError(
                f"the group {group!r} lists {unknown[0]!r}, which is not a tensor; the tensors are {listed}."
            )
        return set(selector).__contains__
    if callable(selector):
        return lambda name: bool(selector(name))
    raise LCAError(
        f"the group {group!r} is selected by a {type(selector).__name__}; use a regular expression, a list "
        "of names, a function of the name, or a module type."
    )
