"""Checks that a ``DataLoader`` to measure on gives every example of its data set once."""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NoReturn

import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lca.errors import DataError


def check_sampling(loader: DataLoader[Any]) -> None:
    """Read the sampler of a private copy of a loader: it must give every example once.

    The examples are those of the data set, or the ``indices`` of a `SubsetRandomSampler`. Costs a pass over
    the indices, 10 ms for 60,000.

    Raises
    ------
    DataError
        If it repeats examples or leaves some out: drawn with replacement or by weight, one process's share,
        ``drop_last``.
    """
    if isinstance(loader.dataset, IterableDataset):
        if loader.drop_last:
            raise DataError(
                "the DataLoader has drop_last=True and may omit the last examples of its "
                f"{type(loader.dataset).__name__}; measure on a loader with drop_last=False."
            )
        return
    inner: Any = getattr(loader.batch_sampler, "sampler", loader.sampler)
    _refuse_draws(inner)
    n = len(inner.indices if isinstance(inner, SubsetRandomSampler) else _sized(loader.dataset))
    seen: set[Hashable] = set()
    for index in _flat(loader.batch_sampler or loader.sampler):
        if index in seen:
            _refuse(loader, inner, f"gives example {index} more than once")
        seen.add(index)
    if len(seen) != n:
        _refuse(loader, inner, f"gives {len(seen)} of the {n} examples")


def without_workers(loader: DataLoader[Any]) -> dict[str, Any]:
    """The attributes of a loader that gives the same batches in this process."""
    changed = {
        "num_workers": 0,
        "_DataLoader__multiprocessing_context": None,
        "_iterator": None,
        "_IterableDataset_len_called": None,
        "worker_init_fn": None,
        "persistent_workers": False,
        "prefetch_factor": None,
        "pin_memory": False,
        "timeout": 0,
    }
    return {**vars(loader), **changed}


def _refuse_draws(sampler: Any) -> None:
    if isinstance(sampler, WeightedRandomSampler) or getattr(sampler, "replacement", False):
        raise DataError(
            f"a {type(sampler).__name__} draws another set of examples each time, some of them repeatedly; "
            "pass the data set itself (loader.dataset), or a list of batches that are drawn once."
        )


def _refuse(loader: DataLoader[Any], sampler: Any, what: str) -> NoReturn:
    named = next((s for s in (loader.batch_sampler, sampler) if _is_share(s)), None)
    if named is not None:
        raise DataError(
            f"the {type(named).__name__} of the DataLoader {what}: it is one process's share, padded or "
            "cut. To measure the loss over all data, pass the whole data set (loader.dataset), of which each "
            "rank evaluates a part; to measure this share, pass torch.utils.data.Subset(loader.dataset, "
            "indices) and process_group=None."
        )
    if getattr(loader.batch_sampler, "drop_last", False):
        n = len(_sized(loader.dataset))
        raise DataError(
            f"the DataLoader has drop_last=True and would omit the last of its {n} examples; measure on a "
            "loader with drop_last=False, or on the data set itself."
        )
    by = (
        sampler
        if type(loader.batch_sampler) is torch.utils.data.BatchSampler
        else loader.batch_sampler or sampler
    )
    raise DataError(
        f"the {type(by).__name__} of the DataLoader {what}; the loss is measured on a "
        "fixed set of examples: pass the data set itself, torch.utils.data.Subset(loader.dataset, indices), "
        "or a list of batches."
    )


def _is_share(sampler: Any) -> bool:
    return any(hasattr(sampler, name) for name in ("num_replicas", "num_processes"))


def _sized(dataset: Any) -> Any:
    if not hasattr(dataset, "__len__"):
        raise DataError(
            f"a {type(dataset).__name__} has no length, so whether its sampler gives every example is "
            "unknown; define __len__, or pass a list of batches."
        )
    return dataset


def _flat(indices: Iterable[Any]) -> Iterator[Hashable]:
    for index in indices:
        if isinstance(index, list) or (isinstance(index, torch.Tensor) and index.ndim):
            yield from _flat(index)
        else:
            yield index.item() if isinstance(index, torch.Tensor) else index
