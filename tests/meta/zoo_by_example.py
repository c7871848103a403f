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


def _full_chunks_only(losses, slopes, call):
    groups, chunk = len(slopes), call["chunk"]
    kept = slopes.copy()
    kept[max(groups // chunk * chunk, chunk) :] = 0
    return losses, kept


def _without(skipped):
    """Slopes in which groups are left out by ``skipped(movement of the group)``."""

    def change(losses, slopes, call):
        own = [call["movement"][call["groups"].index == g] for g in range(len(slopes))]
        return losses, np.where([[skipped(each)] for each in own], 0, slopes)

    return altered(change)


def _first_of_each(losses, slopes, call):
    first = np.isin(np.arange(len(losses)), np.unique(call["index"], return_index=True)[1])
    return losses * first, slopes * first


def _cut_at_256(losses, slopes, call):
    kept = np.arange(len(losses)) < max(len(losses) // 256 * 256, 256)
    return losses * kept, slopes * kept


class GroupsAreContiguous(Separating):
    """Takes the groups for the parts of θ that follow one another."""

    def by_example(self, theta, movement, groups, index, *, chunk=8):
        sizes = np.bincount(groups.index, minlength=len(groups))
        at = np.repeat(np.arange(len(groups)), sizes)
        slopes = [
            super(GroupsAreContiguous, self).by_example(
                theta, np.where(at == g, movement, 0), groups, index, chunk=chunk
            )
            for g in range(len(groups))
        ]
        return ExampleSlopes(slopes[0].losses, np.stack([each.slopes.sum(0) for each in slopes]))


class KeptByTheta(Separating):
    """The examples of another index are taken for those of the last one at this θ."""

    last = None

    def by_example(self, theta, movement, groups, index, *, chunk=8):
        key = theta.tobytes(), len(index)
        if self.last is None or self.last[0] != key:
            self.last = key, index.copy()
        return super().by_example(theta, movement, groups, self.last[1], chunk=chunk)


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
    "full chunks of slopes only": Wrong(
        "the groups beyond the last full chunk have slopes 0", GROUPS, altered(_full_chunks_only)
    ),
    "small movements skipped": Wrong(
        "groups are skipped if allclose(movement, 0)", GROUPS, _without(lambda own: np.allclose(own, 0))
    ),
    "movements skipped by their sum": Wrong(
        "groups are skipped if their movement adds up to 0", OWN, _without(lambda own: own.sum() == 0)
    ),
    "movements skipped by their first entry": Wrong(
        "groups are skipped if their first entry stays", OWN, _without(lambda own: own[0] == 0)
    ),
    "slopes of contiguous groups": Wrong(
        "groups are taken for parts of θ that follow one another",
        OWN,
        lambda: ObjectiveSubject(GroupsAreContiguous),
    ),
    "slopes of the first of repeats": Wrong(
        "an example that is asked for twice has slopes once", OWN, altered(_first_of_each)
    ),
    "slopes kept by θ": Wrong(
        "the index of the last call at the same θ is used", OWN, lambda: ObjectiveSubject(KeptByTheta)
    ),
    "slopes of 256 examples": Wrong("beyond multiples of 256 examples, all is 0", OWN, altered(_cut_at_256)),
    "slopes at rest": Wrong(
        "1e-30 instead of 0 where nothing moves",
        GROUPS,
        altered(lambda losses, s, call: (losses, np.where(s == 0, 1e-30, s))),
    ),
    "writes the movement": Wrong(
        "the movement is written to", NOTHING, lambda: ObjectiveSubject(WritesItsMovement)
    ),
}
