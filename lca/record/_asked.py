"""Checks of what a user passes to `lca.Record`, before anything is written."""

import json
import operator
import os
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import numpy as np

from lca.allocation import Estimator, StepAllocation
from lca.errors import UnknownNameError
from lca.layout import Layout
from lca.record._about import Dtype, Mode
from lca.record._ownership import foreign_entry
from lca.record._reading import open_group
from lca.record._schema import LARGEST_BLOCK, RecordError
from lca.row import Row

LARGEST_STEP = 2**62
"""Indices of steps are stored in 64 bits."""


def check_options(mode: Mode, *, block: int | None, resume_at: int | None) -> None:
    """Raise `RecordError` unless these options of a `Record` are valid and fit together."""
    if mode not in get_args(Mode):
        raise UnknownNameError("mode", mode, get_args(Mode))
    if block is not None and (type(block) is not int or not 1 <= block <= LARGEST_BLOCK):
        raise RecordError(f"block must be a whole number of rows from 1 to {LARGEST_BLOCK}, got {block!r}.")
    if resume_at is None:
        return
    if not _is_index(resume_at):
        raise RecordError(f"resume_at must be the index of a step, a whole number ≥ 0, got {resume_at!r}.")
    if mode != "a":
        raise RecordError(f"resume_at={resume_at} needs mode='a', got mode={mode!r}.")


def check_content(
    values: Dtype | None, theta: Dtype | None, trace: Sequence[int | str], flags: Mapping[str, bool]
) -> None:
    """Raise `RecordError` unless these say what a record is to hold."""
    for name, dtype in (("values", values), ("theta", theta)):
        if dtype is not None and not (isinstance(dtype, str) and dtype in get_args(Dtype)):
            raise RecordError(f"{name} must be 'float32', 'float64' or None, got {dtype!r}.")
    if isinstance(trace, str) or not isinstance(trace, Sequence):
        raise RecordError(
            f"trace must be a list of positions and names, got {trace!r:.80}; pass trace=[{trace!r:.80}]."
        )
    for entry in trace:
        if not (isinstance(entry, str) or _is_index(entry)):
            raise RecordError(
                f"trace holds {entry!r}, which is neither a position in θ nor a name such as "
                "'fc1.weight[3, 17]'."
            )
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise RecordError(f"{name} must be True or False, got {flag!r}.")


def check_layout(layout: Layout) -> None:
    """Raise `RecordError` unless this is a layout."""
    if not isinstance(layout, Layout):
        raise RecordError(f"layout must be a lca.Layout, got {layout!r:.80}; pass objective.layout.")


def check_target(path: Path, mode: Mode) -> None:
    """Raise `RecordError` unless a record can be written to ``path`` in this mode."""
    if not path.exists():
        if path.is_symlink():
            raise RecordError(
                f"{str(path)!r} is a link to {os.readlink(path)!r}, which does not exist; choose another "
                "path."
            )
        return
    if mode == "x":
        raise RecordError(
            f"{str(path)!r} exists already; lca.Record(path, mode='a') continues a record, and mode='w' "
            "replaces it: record=lca.Record(path, mode='w')."
        )
    open_group(path)  # only a record is ever continued or replaced
    foreign = foreign_entry(path) if mode == "w" else None
    if foreign is not None:
        what = f"{foreign!r} in it is not part of a record" if foreign else "it is a link"
        raise RecordError(
            f"{str(path)!r} is not replaced: {what}; move that, or choose another path for the record."
        )


def as_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings as they are stored; raises `RecordError` unless this is a dictionary that fits in JSON."""
    if not isinstance(settings, Mapping | None):
        raise RecordError(f"settings must be a dictionary, got {settings!r:.80}; pass {{'note': ...}}.")
    other = next((key for key in settings or () if not isinstance(key, str)), None)
    if other is not None:
        raise RecordError(
            f"settings has the key {other!r}, which is not a string; pass {{{str(other)!r}: ...}}."
        )
    found = {}
    for key, value in (settings or {}).items():
        try:
            found[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(
                f"settings[{key!r}] does not fit in JSON ({error}); pass numbers, strings, lists and "
                "dictionaries (float(x) of a NumPy number, str(x) of anything else)."
            ) from error
    return found


def check_estimator(estimator: Estimator | None) -> None:
    """Raise `RecordError` unless this is an estimator, or none is given."""
    if estimator is not None and (isinstance(estimator, type) or not isinstance(estimator, Estimator)):
        raise RecordError(
            f"estimator must be an Estimator, got {estimator!r:.80}; pass the one that measures the "
            "run, such as lca.Adaptive()."
        )


def as_losses(final_losses: Mapping[str, float] | None) -> dict[str, float]:
    """The losses at the end of a run as numbers; raises `RecordError` unless they are finite."""
    found = {name: float(loss) for name, loss in (final_losses or {}).items()}
    for name, loss in found.items():
        if not isfinite(loss):
            raise RecordError(f"the final loss {name!r} is {loss}; omit it from final_losses.")
    return found


def as_allocations(found: object) -> Mapping[str, StepAllocation]:
    """The allocations of one step by name; raises `RecordError` for anything else."""
    found = {"train": found} if isinstance(found, StepAllocation) else found
    if not isinstance(found, Mapping) or not found:
        raise RecordError(
            f"a step is a StepAllocation, or one for each measured loss by name, got {found!r:.80}; pass "
            "what lca.allocate_each yields."
        )
    for name, allocation in found.items():
        if not isinstance(name, str) or not name:
            raise RecordError(
                f"the name of a measured loss must be a string, got {name!r}; pass {{'train': ...}}."
            )
        if not isinstance(allocation, StepAllocation):
            raise RecordError(f"the loss {name!r} needs a StepAllocation, got {allocation!r:.80}.")
    return found


def check_rows(rows: Mapping[str, Row]) -> None:
    """Raise `RecordError` unless one step has these rows, and its allocations are numbers."""
    step = next(iter(rows.values())).allocation.step
    if not _is_index(step, least=-1) or step > LARGEST_STEP:
        raise RecordError(f"the index of a step must be a whole number below 2^62, got {step!r:.80}.")
    for name, row in rows.items():
        kind = str(getattr(row.allocation.values, "dtype", ""))
        if "complex" in kind:
            raise RecordError(
                f"the allocations of {name} in step {step} are {kind}, which a record cannot hold; pass "
                "their real part, or allocate a loss of real parameters."
            )
        with np.errstate(invalid="ignore"):  # Inf of both signs, which is refused here
            finite = isfinite(row.total)
        if not finite:
            raise RecordError(
                f"the allocations of {name} in step {step} hold NaN or Inf, which a record cannot "
                "hold; if the run diverged, lower the learning rate."
            )


def _is_index(value: object, least: int = 0) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) >= least  # type: ignore[arg-type]
    except TypeError:
        return False
