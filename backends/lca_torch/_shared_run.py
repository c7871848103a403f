"""Trackers on several ranks: they must begin with the same settings, and tell other ranks when they end."""

from collections.abc import Iterable, Sequence
from typing import Any

from lca.errors import LCAError
from lca.objective import leaves
from lca_torch._process_group import MeasuringRanks
from lca_torch._shared_loss import SharedLoss


def leave(groups: Iterable[MeasuringRanks], reason: str, kind: str = "") -> None:
    """Tell these groups of ranks that, and why, this rank has stopped."""
    for ranks in groups:
        ranks.exchange.tell(reason, kind)


def require_same_tracker(objectives: Iterable[Any], settings: Sequence[str]) -> None:
    """Wait until all ranks that share evaluations begin to track, and compare their settings.

    Raises
    ------
    LCAError
        If the settings differ.
    """
    for ranks in ranks_of(objectives):
        first, *others = ranks.gather("entering the tracker", list(settings))
        for rank, other in enumerate(others, 1):
            if other != first:
                ours, theirs = next(pair for pair in zip(first, other, strict=True) if pair[0] != pair[1])
                raise LCAError(
                    f"the trackers of the ranks differ: {ours} on rank 0, {theirs} on rank {rank}; pass the "
                    "same options on every rank, and a new record (one that is continued is known to rank 0 "
                    "only)."
                )


def ranks_of(objectives: Iterable[Any]) -> list[MeasuringRanks]:
    """The groups of ranks that share evaluations of these objectives, without duplicates."""
    losses = (getattr(own, "_loss", None) for objective in objectives for own in leaves(objective))
    found = (loss.ranks for loss in losses if isinstance(loss, SharedLoss))
    return list({id(ranks.exchange): ranks for ranks in found}.values())
