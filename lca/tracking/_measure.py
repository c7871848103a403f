"""`measure`: the summary of a run that is given as steps, in one call."""

from collections.abc import Iterable, Mapping
from operator import length_hint
from os import PathLike

from lca.allocation import Estimator
from lca.divisions import Selectors
from lca.errors import LCAError
from lca.layout import Heads
from lca.live import LogTo
from lca.objective import Objective
from lca.record import Record
from lca.step import Step, Trajectory
from lca.summary import Summary
from lca.tracking._session import Session


def measure(
    objective: Objective | Mapping[str, Objective],
    steps: Iterable[Step] | Trajectory,
    estimator: Estimator | None = None,
    *,
    record: Record | str | PathLike[str] | None = None,
    groups: Selectors | None = None,
    heads: int | Heads | None = None,
    progress: bool | int = False,
    log_to: LogTo = None,
) -> Summary:
    """Allocate every step of a stored run, and return its summary; a record is written on the way.

    What a tracker does in a training loop, for steps that exist already: those of ``replay`` (checkpoints),
    of `lca.importers.replay_hdf5`, or of a `lca.Trajectory`. For the allocations themselves there is
    `lca.allocate`.

    Parameters
    ----------
    objective
        The measured loss, or several by name; a single one is called ``train``.
    steps
        The steps, in order. They are read one at a time.
    estimator
        How a step is allocated; default `lca.Adaptive`.
    record, groups, heads, log_to
        As in `lca.tracking.TrackerBase`. A record of a replay counts in the numbers of the checkpoints.
    progress
        Show a bar with steps, rate and residual so far. It has the time left if the number of steps is known:
        from ``replay``, `lca.Trajectory`, a list, or if the number is passed instead of ``True``.

    Returns
    -------
    Summary
        A dictionary by measured loss that prints as a table: see `lca.summary.summarize`.

    Raises
    ------
    LCAError
        If there are no steps, or one cannot be measured. The record then has the steps before it.

    Examples
    --------
    >>> import numpy as np
    >>> from lca import Trajectory
    >>> from lca.reference import Quadratic
    >>> run = Trajectory(np.array([[1.0, 1.0], [0.5, 1.0], [0.0, 1.0]]))
    >>> summary = measure(Quadratic(np.eye(2)), run)
    >>> summary["train"]["lca_total"], summary["train"]["steps"]
    (-0.5, 2)
    """
    session = Session(
        objective,
        estimator,
        on_error="raise",
        record=record,
        groups=groups,
        heads=heads,
        progress=progress,
        log_to=log_to,
    )
    complete, end = False, None
    try:
        if progress is True and (count := length_hint(steps)):
            session.live.expect(count)
        session.live.begin()
        for step in steps:
            session.measure(step)
            end = step.end
        if end is None:
            raise LCAError("there are no steps to measure; was the iterator used before? Make it anew.")
        session.end_check(end)
        session.warn_of_misses()
        complete = True
    finally:
        session.close(complete=complete)
    return session.summary()
