"""Losses of classes: finds them by their names, and says whether they are shares of another loss."""

from collections.abc import Sequence

from lca.analysis._reading import is_class
from lca.runs._run import Run

WHOLE = "train"
"""The loss whose classes are meant by losses of their own, named ``class 0``."""


def class_losses(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The losses of classes that all runs have, by the loss that they are parts of."""
    found: dict[str, list[str]] = {}
    for name in runs[0].measured:
        if is_class(name) and all(name in run.measured for run in runs):
            found.setdefault(name.rpartition("/")[0] or WHOLE, []).append(name)
    return found


def class_text(measured: str, names: Sequence[str]) -> str:
    """What the losses of classes are: shares of another loss, or means of their own."""
    if all("/" in name for name in names):
        return (
            f"The loss of a class is its share of the {measured} loss: the sum over its examples, divided by "
            f"the weight of all. A layer's classes add up to its LCA for the {measured} loss."
        )
    return (
        "Each class is a measured loss of its own, such as the mean over its examples, in its own units; the "
        "columns do not add up."
    )
