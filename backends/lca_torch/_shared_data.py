"""Check that the ranks that share evaluations have the same model and the same measured data."""

import warnings
from collections.abc import Sequence
from math import isnan
from typing import Any

from lca.errors import DataError, LayoutError, LCAError, LCAWarning
from lca.frameworks import Measured, Rows, tensors_in
from lca.frameworks._trees import signature
from lca.layout import Layout
from lca.tolerances import EPS32, rebatched
from lca_torch._process_group import MeasuringRanks
from lca_torch._state import checksum


def require_same_data(
    ranks: MeasuringRanks, layout: Layout, data: Measured, batch_size: int | None, teams: int
) -> None:
    """Compare the names and shapes of parameters, and checksums of all data.

    For data that are read again at every pass, only the first batch is compared here, and the number of
    batches at every pass.

    Raises
    ------
    DataError
        If the data of a rank differ from those of rank 0.
    LayoutError
        If the parameters of a rank differ in names or shapes from those of rank 0.

    Warns
    -----
    LCAWarning
        If there are fewer measuring batches than ``teams``, among which they are divided.
    """
    form = f"{layout.names} {layout.shapes}"
    told = ranks.gather("making the objective", [form, data.size_text, batch_size, *_contents(data)])
    first = told[0]
    for rank, other in enumerate(told):
        if other[0] != first[0]:
            raise LayoutError(f"the model of rank {rank} has other parameters than that of rank 0.")
        if other != first:
            raise DataError(_difference(rank, first[1:], other[1:]))
    if not isinstance(data, Rows) and not data.kept:
        return
    number = sum(1 for _ in data.batches(batch_size))
    if number < teams:
        idle = ranks.count // teams * (teams - number)
        warnings.warn(
            f"the measured data are {number} batch{'' if number == 1 else 'es'}, so that of {ranks.count} "
            f"ranks {idle} evaluate nothing; a smaller batch_size gives every rank a part.",
            LCAWarning,
            stacklevel=5,
        )


def require_same_loss(ranks: MeasuringRanks, loss: float, trainable: Sequence[str]) -> None:
    """Compare the loss of one batch at one point, and the names of the trainable parameters.

    Raises
    ------
    LCAError
        If those of a rank differ from those of rank 0, by more than rounding.
    """
    (first, trained), *others = ranks.gather("comparing the losses", [loss, list(trainable)])
    for rank, (other, names) in enumerate(others, 1):
        near = abs(other - first) <= rebatched(first, EPS32) or (isnan(other) and isnan(first))
        if not near:
            raise LCAError(
                f"rank {rank} measures another loss than rank 0: {other:.6g} in place of {first:.6g} for the "
                "same batch at the same parameters; give the model the same attributes, and the loss "
                "function the same options, on every rank."
            )
        if names != trained:
            odd = sorted(set(names) ^ set(trained))[0]
            raise LCAError(f"{odd!r} is trainable on one of the ranks 0 and {rank} and frozen on the other.")


def _contents(data: Measured) -> tuple[str, list[int]]:
    """Structure and checksums of the data, or of the first batch of data that are read at every pass."""
    if isinstance(data, Rows):
        held = [data.tree]
    elif data.kept:
        held = list(data.batches())
    else:
        held = [next(iter(data.batches()))]
    return signature(held[0]), [checksum(tensor) for batch in held for tensor in tensors_in(batch)]


def _difference(rank: int, first: list[Any], other: list[Any]) -> str:
    """A message that says how the data of two ranks differ, and what to do."""
    ours, theirs = (
        f"{size or form}{f', {cut} at a time' if cut else ''}" for size, cut, form, _ in (first, other)
    )
    differ = f"{theirs}, in place of {ours}" if theirs != ours else "as many, with other values"
    return (
        f"the measured data of rank {rank} are not those of rank 0: {differ}. Give every rank the same data "
        "set, of which each evaluates another part; do not give each a part of its own (Subset, "
        "DistributedSampler, a seed that depends on the rank). To measure the data of one rank alone, pass "
        "process_group=None."
    )
