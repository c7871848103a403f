"""One run of several, and the conditions that runs belong to."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias, get_args

import numpy as np

from lca.analysis import group_names, group_totals
from lca.analysis._variables import By
from lca.runs._balance import Conservation, check_conservation
from lca.runs._run import Run
from lca.runs._settings import GROUPS, is_divisions, listed, setting_rows, to_text, without_seed

SEED = "seed"
Measured: TypeAlias = str | tuple[str, str]
"""The name of a measured loss; or two names, for the first loss minus the second."""
_NUMBERED = re.compile(r"_\d+(?=$|[./])")


@dataclass(frozen=True, eq=False)
class Member:
    """One run of a condition.

    Attributes
    ----------
    label
        Its name: of its folder, or ``run 1``.
    run
        Its record.
    first
        The run whose names of tensors, layers and neurons it takes, by position; ``None``: its own names.

    Examples
    --------
    >>> import tempfile
    >>> import lca
    >>> path = f"{tempfile.mkdtemp()}/first.zarr"
    >>> with lca.Record(path, lca.Layout(("fc.weight",), ((1, 2),)), settings={"seed": 0}) as record:
    ...     record.update(lca.StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    >>> [member] = lca.open_runs(path).members
    >>> member.label, member.seed, member.totals("layer", "train")
    ('first', '0', array([-0.5]))
    """

    label: str
    run: Run
    first: "Member | None" = None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings of the record; the tensors of ``groups`` have their names for all runs."""
        found = {str(key): value for key, value in self.run.attributes.get("settings", {}).items()}
        if self.first is not None and is_divisions(found.get(GROUPS)):
            names = dict(zip(self.run.layout.names, self.first.run.layout.names, strict=True))
            found[GROUPS] = {
                division: {names.get(tensor, tensor): group for tensor, group in of.items()}
                for division, of in found[GROUPS].items()
            }
        return found

    @property
    def estimator(self) -> str:
        """The estimator without its seed; empty if the record does not state it."""
        return without_seed(str(self.run.attributes.get("estimator") or ""))

    def setting_rows(self) -> list[tuple[str, str]]:
        """The settings as a person writes them, beginning with the estimator."""
        return setting_rows({**self.run.attributes, "settings": self.settings}, len(self.run.steps))

    @property
    def seed(self) -> str:
        """The setting ``seed`` as text; empty if the record does not state it."""
        return to_text(self.settings.get(SEED))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, as for all runs."""
        return self.names("layer")

    def names(self, by: str) -> tuple[str, ...]:
        """The names of the groups, as for all runs."""
        own = group_names(self.run.record, by)
        if self.first is None:
            return own
        others = group_names(self.first.run.record, by)
        numbered = set(own) != set(others) and without_numbers(own) == without_numbers(others)
        return others if by in get_args(By) or numbered else own

    def rows(self, by: str, measured: Measured) -> np.ndarray:
        """The allocation of each step to each group, (T, groups)."""
        if not isinstance(measured, str):
            first, second = measured
            return np.asarray(self.rows(by, first) - self.rows(by, second))
        if by == "layer":
            return self.run.layer_totals(measured)
        return np.asarray(group_totals(self.run.record, by, measured).values)

    def totals(self, by: str, measured: Measured) -> np.ndarray:
        """The sums over the measured steps, (groups,)."""
        return np.asarray(self.rows(by, measured).sum(axis=0))

    def per_step(self, name: str, measured: Measured) -> np.ndarray:
        """A variable with one number per step, (T,)."""
        if isinstance(measured, str):
            return self.run.per_step(name, measured)
        first, second = (self.run.per_step(name, each) for each in measured)
        return np.asarray(first - second)

    def change(self, measured: Measured) -> float:
        """The change of a loss from the start to the end of the run."""
        if not isinstance(measured, str):
            first, second = map(self.change, measured)
            return first - second
        check = self.check(measured)
        return check.end - check.start

    def check(self, loss: str) -> Conservation:
        """The conservation check of one loss."""
        return self._check(loss)

    @cached_property
    def _check(self) -> Callable[[str], Conservation]:
        return cache(lambda loss: check_conservation(self.run, loss))


@dataclass(frozen=True, eq=False)
class Condition:
    """Runs that differ only by chance, such as the seeds of one set-up.

    Attributes
    ----------
    name
        Its name.
    members
        Its runs.
    values
        The settings that define it, by name.

    Examples
    --------
    >>> import tempfile
    >>> import lca
    >>> path = f"{tempfile.mkdtemp()}/first.zarr"
    >>> with lca.Record(path, lca.Layout(("fc.weight",), ((1, 2),)), settings={"seed": 0}) as record:
    ...     record.update(lca.StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    >>> [condition] = lca.open_runs({"adam": path}).conditions
    >>> condition.name, len(condition.members), condition.has_copies
    ('adam', 1, False)
    """

    name: str
    members: tuple[Member, ...]
    values: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def has_copies(self) -> bool:
        """Whether two runs have the same numbers in every layer, so that one is no further observation."""
        totals = [
            np.concatenate([m.run.layer_totals(loss).sum(axis=0) for loss in m.run.losses])
            for m in self.members
        ]
        return any(
            len(a) == len(b) and a.any() and np.array_equal(a, b)
            for i, a in enumerate(totals)
            for b in totals[:i]
        )

    def warnings(self) -> Iterator[str]:
        """Reasons why the runs are not observations of one set-up, in sentences."""
        if self.has_copies:
            yield (
                f"{self.name}: two runs have exactly the same sums, as copies of one run would, so there is "
                "no interval."
            )
        differ = sorted(differing(self.members))
        if differ:
            yield f"{self.name}: its runs differ in {listed(differ)}, and not by chance only."


def loss_in_words(measured: Measured) -> str:
    """A loss, or the difference of two, in a sentence.

    >>> loss_in_words("train"), loss_in_words(("heldout", "train"))
    ('the train loss', 'the difference of the losses heldout − train')
    """
    if isinstance(measured, str):
        return f"the {measured} loss"
    return f"the difference of the losses {' − '.join(measured)}"


def without_numbers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names without the numbers that Keras gives to the layers of every further model.

    >>> without_numbers(("dense_2.kernel", "fc1"))
    ('dense.kernel', 'fc1')
    """
    return tuple(_NUMBERED.sub("", name) for name in names)


def differing(members: "tuple[Member, ...] | list[Member]") -> list[str]:
    """The settings in which runs differ, other than the seed and that of an estimator."""
    stated = [dict(member.setting_rows()) for member in members]
    for found in stated:
        found["estimator"] = without_seed(found["estimator"])
    keys = dict.fromkeys(key for found in stated for key in found if key != SEED)
    return [key for key in keys if len({found.get(key) for found in stated}) > 1]
