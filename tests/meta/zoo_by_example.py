"""Incorrect objectives whose defect shows in the losses and slopes of their examples."""

import numpy as np

from lca.by_example import ExampleSlopes
from lca.testing import ObjectiveSubject
from tests.meta.animals import Wrong
from tests.meta.zoo_calls import Sampling


class Separating(Sampling):
    """The right one that is spoilt below, with weights of the examples."""

    def by_example(self, theta, movement, groups, index, *, chunk=8):
        return self.objective.by_example(theta, movement, groups, index, chunk=chunk)


def altered(change):
    """A `Separating` objective whose ``losses, slopes`` are changed by ``change(losses, slopes, call)``."""

    class Altered(Separating):
        def by_example(self, theta, movement, groups, index, *, chunk=8):
            losses, slopes = super().by_example(theta, movement, groups, index, chunk=chunk)
            call = {"theta": theta, "movement": movement, "groups": groups, "index": index, "chunk": chunk}
            return ExampleSlopes(*change(losses, slopes, {**call, "self": self}))

    return lambda: ObjectiveSubject(Altered)


class InTheOrderOfTheData(Separating):
    def by_example(self, theta, movement, groups, index, *, chunk=8):
        return super().by_example(theta, movement, groups, np.sort(index), chunk=chunk)


class OfTheLastPoint(Separating):
    last = None

    def by_example(self, theta, movement, groups, index, *, chunk=8):
        used, self.last = theta if self.last is None else self.last, theta.copy()
        return super().by_example(used, movement, groups, index, chunk=chunk)


class WritesItsMovement(Separating):
    def by_example(self, theta, movement, groups, index, *, chunk=8):
        found = super().by_example(theta, movement, groups, index, chunk=chunk)
        movement *= 1.0001
        return found


def _last_chunk_only(losses, slopes, call):
    kept = slopes.copy()
    kept[: (len(slopes) - 1) // call["chunk"] * call["chunk"]] = 0
    return losses, kept


def _weighted(losses, slopes, call):
    weight = call["self"].weight
    own = (weight / weight.sum())[call["index"]]
    return own * losses, own * slopes


OWN, SUM, GROUPS, NOTHING = (
    "examples_have_their_own_slopes",
    "examples_add_up_to_the_loss",
    "groups_do_not_depend_on_each_other",
    "by_example_changes_nothing",
)
RIGHT_BY_EXAMPLE = {"separating": ObjectiveSubject(Separating)}
WRONG_BY_EXAMPLE: dict[str, Wrong] = {
    "slopes times weights": Wrong("losses and slopes already times ω_n", OWN, altered(_weighted)),
    "slopes in order of the data": Wrong(
        "examples in the order of the data, not of the index",
        OWN,
        lambda: ObjectiveSubject(InTheOrderOfTheData),
    ),
    "slopes of the last point": Wrong(
        "slopes at the θ of the call before", NOTHING, lambda: ObjectiveSubject(OfTheLastPoint)
    ),
    "slopes of the mean": Wrong(
        "every example has the mean slope",
        OWN,
        altered(lambda losses, s, call: (losses, np.tile(s.mean(1)[:, None], s.shape[1]))),
    ),
    "slopes along a unit": Wrong(
        "the movement is normalised",
        SUM,
        altered(
            lambda losses, s, call: (
                losses,
                s / np.linalg.norm(call["movement"]) if call["movement"].any() else s,
            )
        ),
    ),
    "slopes of the last group twice": Wrong(
        "the last group has the sum over all",
        SUM,
        altered(lambda losses, s, call: (losses, np.vstack([s[:-1], s.sum(0)]))),
    ),
    "slopes of some chunks": Wrong(
        "only the last chunk of groups is kept", GROUPS, altered(_last_chunk_only)
    ),
    "slopes at rest": Wrong(
        "1e-30 instead of 0 where nothing moves",
        GROUPS,
        altered(lambda losses, s, call: (losses, np.where(s == 0, 1e-30, s))),
    ),
    "writes the movement": Wrong(
        "the movement is written to", NOTHING, lambda: ObjectiveSubject(WritesItsMovement)
    ),
}
