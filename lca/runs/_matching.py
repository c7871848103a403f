"""Which runs can be put side by side: layers by name, or by position where Keras numbered them."""

from lca.errors import LCAError
from lca.layout import Layout
from lca.runs._members import Condition, Member, without_numbers
from lca.runs._settings import listed


def with_common_names(conditions: list[Condition]) -> tuple[list[Condition], list[str]]:
    """The conditions with the names of layers that all runs share, and notes on what was matched.

    Keras numbers the layers of every further model in a process (dense_2, dense_3). Where only such numbers
    differ and all shapes agree, groups are matched by position.

    Raises
    ------
    LCAError
        If two runs of a condition have different tensors, or two runs no layer in common.
    """
    first, found = conditions[0].members[0], []
    for condition in conditions:
        members = [_with_names(member, first) for member in condition.members]
        for member in members[1:]:
            _check_same(condition.name, members[0], member)
        found.append(Condition(condition.name, tuple(members), condition.values))
    shared = set(first.layers)
    for condition in found:
        other = condition.members[0]
        if not shared & set(other.layers):
            raise LCAError(
                f"{other.label} and {first.label} have no layer in common, and their layers are not matched "
                f"by position because {_why_not(other, first)}: {listed(other.layers)}; "
                f"{listed(first.layers)}. Open runs of the same architecture."
            )
    matched = [member.label for condition in found for member in condition.members if member.first]
    note = (
        f"The layers of {listed(matched)} are matched by position with those of {first.label}, as their "
        "names differ only in numbers."
    )
    return found, [note] if matched else []


def form_of(layout: Layout) -> tuple[object, ...]:
    """Names without the numbers that Keras appends, and shapes: equal if only those numbers differ."""
    return without_numbers(layout.names), layout.shapes


def _with_names(member: Member, first: Member) -> Member:
    own, others = member.run.layout, first.run.layout
    if own.names == others.names or _why_not(member, first):
        return member
    return Member(member.label, member.run, first)


def _why_not(member: Member, first: Member) -> str:
    """Why the groups of two runs are not matched by position; empty if they are."""
    own, others = member.run.layout, first.run.layout
    if form_of(own)[0] != form_of(others)[0]:
        return "their names differ in more than a number"
    return "" if own.shapes == others.shapes else "their tensors have different shapes"


def _check_same(name: str, first: Member, other: Member) -> None:
    tensors = [dict(zip(m.names("tensor"), m.run.layout.shapes, strict=True)) for m in (first, other)]
    if tensors[0] == tensors[1]:
        return
    for a, b, which in ((0, 1, first), (1, 0, other)):
        more = [tensor for tensor in tensors[a] if tensor not in tensors[b]]
        if more:
            found = f"only {which.label} has {listed(more)}"
            break
    else:
        tensor = next(t for t in tensors[0] if tensors[0][t] != tensors[1][t])
        found = f"{tensor} has the shape {tensors[0][tensor]} in one and {tensors[1][tensor]} in the other"
    raise LCAError(
        f"{first.label} and {other.label} are runs of the condition {name!r}, but {found}; name the setting "
        "that tells them apart in by=."
    )
