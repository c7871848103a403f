"""`expert_groups`: group the parameters of a mixture of experts by expert."""

import math
import re

from lca._heads import Tensors
from lca.arrays import Slices
from lca.divisions import OTHER, _in_order
from lca.errors import LCAError
from lca.groups import Groups

_NUMBERED = re.compile(r"^(?P<module>.*?experts)\.(?P<number>\d+)\.")
_TOGETHER = re.compile(r"^(?P<module>.*?experts)\.[^.]+(\.[^.]+)?$")


def expert_groups(layout: Tensors, experts: int) -> Groups:
    """One group per expert of every mixture of experts; all other entries are in ``"other"``.

    Tensors are recognised by name: those of numbered modules (experts.3.up_proj.weight), and those that
    contain all experts along their first axis (experts.up_proj of shape (experts, ...)).

    Raises
    ------
    LCAError
        If there is no such tensor, or there are more experts than ``experts``.

    Examples
    --------
    >>> from lca import Layout
    >>> expert_groups(Layout(("mlp.experts.up", "mlp.router.weight"), ((2, 3, 4), (2, 3))), 2).names
    ('mlp.experts[0]', 'mlp.experts[1]', 'other')
    """
    if not isinstance(experts, int) or experts < 1:
        raise LCAError(f"experts must be a positive integer, got {experts!r}.")
    slices, labels = [], []
    for name, shape, start in zip(layout.names, layout.shapes, layout.offsets, strict=True):
        own = _labels(name, shape, experts)
        slices.append(Slices(start, 1, len(own), math.prod(shape) // len(own)))
        labels += own
    if set(labels) == {OTHER}:
        raise LCAError(
            f"experts={experts} needs tensors such as experts.0.up_proj.weight, or experts.up_proj with "
            f"{experts} experts along its first axis; the tensors are {', '.join(layout.names[:6])}."
        )
    return Groups.of_parts(_in_order(labels), slices, labels)


def _labels(name: str, shape: tuple[int, ...], experts: int) -> list[str]:
    """The groups of the equal parts of a tensor along its first axis."""
    if match := _NUMBERED.match(name):
        if int(match["number"]) >= experts:
            raise LCAError(
                f"{name!r} belongs to expert {match['number']}, counted from 0, so there are more than "
                f"experts={experts}."
            )
        return [f"{match['module']}[{int(match['number'])}]"]
    match = _TOGETHER.match(name)
    if match and len(shape) > 1 and shape[0] == experts:
        return [f"{match['module']}[{expert}]" for expert in range(experts)]
    return [OTHER]
