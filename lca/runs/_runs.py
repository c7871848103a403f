"""`Runs`: several runs, put into conditions, with the numbers that compare them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lca.analysis import RunDifference, RunMeans, difference_over_runs, division_names, mean_over_runs
from lca.analysis._over_runs import CONFIDENCE
from lca.divisions import _in_order
from lca.errors import LCAError, UnknownNameError
from lca.runs import _labelled as labelled
from lca.runs import _runs_tables as tables
from lca.runs._members import Condition, Measured, Member
from lca.runs._settings import listed
from lca.tables import HasTable, Table

if TYPE_CHECKING:
    from xarray import Dataset


@dataclass(frozen=True, eq=False)
class Runs(HasTable):
    """Several runs in conditions: totals with intervals over the runs, differences, tables.

    Made by `open_runs`. A run is one observation. Every sum is over the measured steps of a run, in units of
    the loss; negative: helping. Intervals are t-intervals of the mean over the runs of a condition; a
    condition with one run has none, and neither has one with two runs of exactly equal sums.

    Attributes
    ----------
    conditions
        In the order of the records.
    losses
        The measured losses that all runs have. The first one is the default of ``measured``.
    notes
        What was done to make the runs comparable.

    Examples
    --------
    >>> import tempfile
    >>> from lca import Layout, Record, StepAllocation
    >>> folder, layout = tempfile.mkdtemp(), Layout(("fc.weight",), ((1, 2),))
    >>> for name, size in (("adam", -1.0), ("sgd", -0.5)):
    ...     for seed in range(3):
    ...         settings = {"optimizer": name, "seed": seed}
    ...         with Record(f"{folder}/{name}-{seed}.zarr", layout, settings=settings) as record:
    ...             values = np.array([size, size * seed / 4])
    ...             record.update(StepAllocation(values, 4.0, 4.0 + values.sum(), residual=0.0, mass=2.0))
    >>> import lca
    >>> runs = lca.open_runs(f"{folder}/*.zarr", by=["optimizer", "seed"])
    >>> found = runs.totals(by="layer", ci=0.95)
    >>> found["mean"].values.round(3), found["n"].values
    (array([[-1.25 ],
           [-0.625]]), array([[3],
           [3]]))
    >>> runs.difference("adam", "sgd")["p_adjusted"].values.round(3)
    array([0.013])
    """

    conditions: tuple[Condition, ...]
    losses: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        named = [f"{c.name} ({len(c.members)} run{'s'[: len(c.members) > 1]})" for c in self.conditions]
        return f"<lca.Runs: {listed(named)}; losses: {', '.join(self.losses)}>"

    @property
    def members(self) -> list[Member]:
        """The runs of all conditions."""
        return [member for condition in self.conditions for member in condition.members]

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of all layers, in the order in which they first appear."""
        return self.names("layer")

    @cached_property
    def divisions(self) -> tuple[str, ...]:
        """The divisions of groups (``groups=`` and ``heads=`` of a tracker) that all runs have."""
        first, *others = [division_names(member.run.record) for member in self.members]
        return tuple(name for name in first if all(name in other for other in others))

    def names(self, by: str) -> tuple[str, ...]:
        """The names of all groups of a kind, in the order in which they first appear; "other" is the last."""
        found = [name for member in self.members for name in member.names(by)]
        return tuple(dict.fromkeys(found)) if by == "layer" else _in_order(found)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader must know before believing a difference, in sentences."""
        found = [*self.failures(), *self.notes, *self._differences()]
        found += [text for condition in self.conditions for text in condition.warnings()]
        single = [condition.name for condition in self.conditions if len(condition.members) == 1]
        if single and len(self.members) > 1:
            found.append(f"One run only, so that chance cannot be told from effect: {listed(single)}.")
        missing = sorted({name for m in self.members for name in self.layers if name not in m.layers})
        if missing:
            found.append(f"Only some of the runs have the layers {listed(missing)}.")
        return (*found, *self._other_groups())

    def failures(self) -> list[str]:
        """Which runs diverged or do not add up, one sentence for each run and loss."""
        checks = [(member, member.check(name)) for name in self.losses for member in self.members]
        return [
            f"{member.label}, {check.loss}: {said}" for member, check in checks if (said := check.failure)
        ]

    def _other_groups(self) -> Iterator[str]:
        """Which groups not all runs have."""
        all_names = (name for member in self.members for name in division_names(member.run.record))
        partial = [name for name in dict.fromkeys(all_names) if name not in self.divisions]
        if partial:
            yield f"Only some of the runs have the groups {listed(partial)}, so these are not compared."
        for by in self.divisions:
            names = [name for name in self.names(by) if any(name not in m.names(by) for m in self.members)]
            if names:
                yield f"Only some of the runs have these groups ({by}): {listed(names)}."

    def _differences(self) -> Iterator[str]:
        """The differences between runs that their sums do not show, in sentences."""
        parts = [member.label for member in self.members if not member.run.is_whole]
        if parts:
            yield (
                "The sums of these runs are over their measured steps, and not over the whole run: "
                f"{listed(parts)}."
            )
        replays = [member.label for member in self.members if member.run.is_replay]
        if replays:
            yield (
                "A step of these runs is the straight line from a checkpoint to the next, and not the path "
                f"of the training: {listed(replays)}."
            )
        lines = [member.label for member in self.members if member.run.span > 1]
        if lines:
            yield (
                "A step of these runs is the straight line over several updates (span=), and not their path: "
                f"{listed(lines)}."
            )
        sampled = [m.label for m in self.members if any(m.run.is_sampled(loss) for loss in m.run.losses)]
        if sampled:
            yield (
                "The values of these runs are estimated from batches or samples; intervals over runs contain "
                f"an error that differs from run to run, and not a bias of all of them: {listed(sampled)}."
            )
        if len({tuple(member.run.steps.tolist()) for member in self.members}) > 1:
            yield "The runs have different steps, so their sums are over different numbers of them."
        if len({member.estimator for member in self.members}) > 1:
            yield "The runs were measured with different estimators: see the settings."

    def condition(self, name: str) -> Condition:
        """The condition of this name.

        Raises
        ------
        UnknownNameError
            If no condition has this name.
        """
        known = {condition.name: condition for condition in self.conditions}
        if name not in known:
            raise UnknownNameError("condition", name, known)
        return known[name]

    def values(self, condition: Condition, by: str = "layer", measured: Measured = "") -> np.ndarray:
        """The sums of each run of a condition, (runs, groups); NaN for a group that a run lacks."""
        names = self.names(by)
        placed = [self.place(m, m.totals(by, self.loss(measured)), by, names) for m in condition.members]
        return np.array(placed)

    def place(
        self, member: Member, values: np.ndarray, by: str = "layer", names: Sequence[str] = ()
    ) -> np.ndarray:
        """Values of a run's groups, along the last axis, in the order of `names`; NaN where none."""
        places = {name: at for at, name in enumerate(names or self.names(by))}
        placed = np.full((*values.shape[:-1], len(places)), np.nan)
        placed[..., [places[name] for name in member.names(by)]] = values
        return placed

    def loss(self, measured: Measured) -> Measured:
        """The name of a measured loss of all runs, or two; the first one for the empty name.

        Raises
        ------
        UnknownNameError
            If not all runs have it.
        LCAError
            If there are not one or two names.
        """
        if not isinstance(measured, str):
            if len(measured) != 2:  # noqa: PLR2004
                raise LCAError(
                    "measured must be the name of a loss, or two names for their difference, got "
                    f"{measured!r}."
                )
            first, second = (self._known(name) for name in measured)
            return first, second
        return self._known(measured)

    def _known(self, measured: str) -> str:
        name = measured or self.losses[0]
        missing = [member for member in self.members if name not in member.run.measured]
        if missing:
            raise UnknownNameError("measured loss", name, set(self.losses) | set(missing[0].run.measured))
        return name

    def pool(self, condition: Condition, values: np.ndarray, *, ci: float = CONFIDENCE) -> RunMeans:
        """The means of values with one row per run of a condition; copies of a run have no interval."""
        found = mean_over_runs(values, confidence=ci)
        return RunMeans(found.mean, np.full_like(found.half, np.nan)) if condition.has_copies else found

    def compare_values(
        self,
        first: Condition,
        second: Condition,
        values: tuple[np.ndarray, np.ndarray],
        *,
        ci: float = CONFIDENCE,
    ) -> RunDifference:
        """The difference of values with one row per run: paired if both conditions have the same seeds."""
        both = (first, second)
        orders = [np.argsort([m.seed for m in c.members], kind="stable").tolist() for c in both]
        seeds = [[c.members[at].seed for at in order] for c, order in zip(both, orders, strict=True)]
        paired = seeds[0] == seeds[1] and all(seeds[0]) and len(set(seeds[0])) == len(seeds[0])
        a, b = (each[order] for each, order in zip(values, orders, strict=True))
        if first.has_copies or second.has_copies:
            a, b = a.mean(axis=0, keepdims=True), b.mean(axis=0, keepdims=True)
        return difference_over_runs(a, b, paired=paired, confidence=ci)

    def totals(self, *, by: str = "layer", measured: Measured = "", ci: float = CONFIDENCE) -> "Dataset":
        """The total of each group in each condition, with its interval over the runs.

        Parameters
        ----------
        by
            ``"layer"``, ``"tensor"``, ``"neuron"``, or another grouping that all records hold.
        measured
            The name of the measured loss; default: the first one that all runs have. Two names, such as
            ``("heldout", "train")``: the first loss minus the second in each run, as for a generalisation
            gap by layer.
        ci
            Level of each interval.

        Returns
        -------
        xarray.Dataset
            ``mean``, ``lower``, ``upper`` and ``n`` (the number of runs), of shape (condition, groups). NaN:
            the condition does not have the group, or has no interval. The settings that define a condition
            are its coordinates.

        Raises
        ------
        UnknownNameError
            If a record does not have the loss or the grouping.
        LCAError
            If a record does not hold these totals.
        """
        return labelled.totals(self, by, self.loss(measured), ci)

    def series(self, *, by: str = "layer", measured: Measured = "") -> "Dataset":
        """The allocation of each step to each group in every run, with the runs side by side.

        Parameters
        ----------
        by, measured
            As for `totals`.

        Returns
        -------
        xarray.Dataset
            ``total`` of shape (run, step, groups), and ``loss_start``, ``loss_end`` of shape (run, step). The
            steps are those of any run; NaN where a run did not measure a step, as after its end. Coordinates
            of ``run``: its label, ``condition``, the settings that define it, and ``seed``.
        """
        return labelled.series(self, by, self.loss(measured))

    def difference(
        self, first: str, second: str, *, by: str = "layer", measured: Measured = "", ci: float = CONFIDENCE
    ) -> "Dataset":
        """The totals of the condition ``second`` minus those of ``first``, with tests.

        If both conditions have the same seeds, the test is Student's, of the differences within each seed;
        otherwise it is Welch's.

        Parameters
        ----------
        first, second
            Names of conditions.
        by, measured
            As for `totals`.
        ci
            Level at which all intervals hold together (Bonferroni).

        Returns
        -------
        xarray.Dataset
            ``mean``, ``lower``, ``upper``, ``p_value`` and ``p_adjusted`` (Holm) of each group. The attribute
            ``test`` names the test.

        Raises
        ------
        UnknownNameError
            If there is no such condition, loss or grouping.
        """
        pair = self.condition(first), self.condition(second)
        return labelled.difference(self, pair, by, self.loss(measured), ci)

    def compare(
        self, first: str, second: str, *, by: str = "layer", measured: Measured = "", ci: float = CONFIDENCE
    ) -> Table:
        """A table of two conditions with their difference, its interval and its p-value; see `difference`."""
        pair = self.condition(first), self.condition(second)
        return tables.comparison(self, pair, by, self.loss(measured), ci)

    def table(self, *, by: str = "layer", measured: Measured = "", ci: float = CONFIDENCE) -> Table:
        """The totals as a table: a column for each condition, and the difference of two.

        The last rows are the change of the loss, and what of it is not allocated to a group.
        """
        if len(self.conditions) == 2:
            first, second = self.conditions
            return self.compare(first.name, second.name, by=by, measured=measured, ci=ci)
        return tables.totals(self, self.conditions, by, self.loss(measured), ci)

    def class_table(
        self, condition: str = "", *, by: str = "layer", measured: str = "", percent: bool = False
    ) -> Table:
        """Groups in rows, classes in columns: means over the runs of a condition.

        Parameters
        ----------
        condition
            The name of the condition; may be omitted if there is one.
        by
            As for `totals`.
        measured
            The loss whose classes are meant, as ``train`` for ``train/class 0``; default: the first one that
            has classes. Classes that are measured losses of their own are those of ``train``.
        percent
            Show each number as a percentage of the sum of all magnitudes of its class.

        Raises
        ------
        LCAError
            If the runs have no losses of classes.
        UnknownNameError
            If there is no such condition or loss.
        """
        if not condition and len(self.conditions) > 1:
            raise LCAError(
                f"there are {len(self.conditions)} conditions; pass the name of one: "
                f"{listed([c.name for c in self.conditions])}."
            )
        chosen = self.condition(condition) if condition else self.conditions[0]
        return tables.classes(self, chosen, by, measured, percent=percent)

    def settings(self) -> Table:
        """All settings of all runs, one run per row."""
        return tables.settings(self)
