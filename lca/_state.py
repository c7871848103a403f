"""States of objectives: whether two are the same, and the states of several objectives in one."""

from collections.abc import Mapping, Sequence

from lca.arrays import Vector, array_ops


class JointState(dict[str, Vector]):
    """The states of several objectives, where one name may stand for different things.

    As a mapping it holds the entries of all objectives; of several with one name, that of the last.

    >>> a, b = object(), object()
    >>> JointState([(a, {"n": 1.0}), (b, {"n": 2.0})]).of(a)
    {'n': 1.0}
    """

    def __init__(self, states: Sequence[tuple[object, Mapping[str, Vector]]]) -> None:
        super().__init__(entry for _, state in states for entry in state.items())
        self.parts = states

    def of(self, objective: object) -> Mapping[str, Vector]:
        """The state of one of the objectives; all entries for any other."""
        return next((state for own, state in self.parts if own is objective), self)


def same_state(a: Mapping[str, Vector] | None, b: Mapping[str, Vector] | None) -> bool:
    """Whether two states hold the same entries: names, types, shapes, dtypes and numbers.

    >>> import numpy as np
    >>> same_state({"n": np.array(1)}, {"n": np.array(1)}), same_state({"n": np.array(1)}, {})
    (True, False)
    """
    if a is b or a is None or b is None:
        return a is b
    first, second = (state.parts if isinstance(state, JointState) else [(None, state)] for state in (a, b))
    return len(first) == len(second) and all(
        own is other and one.keys() == two.keys() and all(same(one[name], two[name]) for name in one)
        for (own, one), (other, two) in zip(first, second, strict=True)
    )


def same(a: Vector, b: Vector) -> bool:
    """Whether two entries are the same."""
    return a is b or array_ops(a).equal(a, b)
