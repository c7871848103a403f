"""`Backend`: what a framework supplies so that `lca demo` and the conformance kit can run on it.

A backend is found by its entry point in the group ``lca.backends``, so a third party adds one without
touching this project. The same description goes in (a NumPy `Network`, data, θ_0, an optimizer) and the
framework's own objective and steps come out; everything after that is the one engine.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from lca.arrays import Vector
from lca.errors import LCAError, UnknownNameError
from lca.objective import Objective, Sum
from lca.reference.data import Batch
from lca.reference.models import DatasetLoss, L2Penalty, Network
from lca.reference.optimizers import Optimizer
from lca.reference.training import train
from lca.step import Step

Dtype: TypeAlias = Literal["float32", "float64"]
GROUP = "lca.backends"


class Backend(Protocol):
    """A framework as LCA sees it: built without arguments by `load_backend`."""

    @property
    def name(self) -> str:
        """How `load_backend` and summaries call it."""

    def vector(self, theta: np.ndarray) -> Vector:
        """The framework's own vector with the numbers and the dtype of ``theta`` (K,), on its device."""

    def objective(
        self, network: Network, data: Batch, dtype: Dtype, *, penalty: float = 0.0, batch_size: int = 1000
    ) -> Objective:
        """The mean loss of ``network`` over all of ``data``, computed in ``dtype``.

        Its layout is that of the network: same names, same shapes, same order; tied tensors are in it
        once, frozen ones have gradient 0. Dropout is off, and batch statistics are those of the measuring
        batches: ``batch_size`` examples of ``data`` in turn, the last batch ragged, or the batch passed.

        With ``penalty`` = c > 0 it is a `Sum` of the terms ``data`` (as above) and ``penalty``,
        ``½ c Σ θ_i²`` over all tensors that are not frozen.
        """

    def train(
        self, objective: Objective, theta: np.ndarray, optimizer: Optimizer, batches: Iterable[Batch]
    ) -> Iterator[Step]:
        """Train from ``theta`` on the loss of each batch in turn; one `Step` a batch, made when asked for.

        ``objective`` is one that this backend made; ``theta`` (K,) is a NumPy vector in its dtype, the
        vectors of the steps are the framework's own. ``optimizer`` is a description from
        `lca.reference.optimizers`: follow it, or use the framework's optimizer of the same form.
        """


@dataclass(frozen=True)
class NumpyBackend:
    """The reference: hand-derived gradients on NumPy arrays.

    Examples
    --------
    >>> from lca.reference.models import logistic_regression
    >>> from lca.reference.optimizers import SGD
    >>> network, data = logistic_regression(2, 3), Batch(np.eye(2), np.array([0, 2]))
    >>> backend = NumpyBackend()
    >>> objective = backend.objective(network, data, "float32")
    >>> [step] = backend.train(objective, network.init(seed=0, dtype="float32"), SGD(0.1), [data])
    >>> step.end.dtype, objective.loss(step.end) < objective.loss(step.start)
    (dtype('float32'), True)
    """

    name: ClassVar[str] = "numpy"

    def vector(self, theta: np.ndarray) -> np.ndarray:
        return theta

    def objective(
        self, network: Network, data: Batch, dtype: Dtype, *, penalty: float = 0.0, batch_size: int = 1000
    ) -> Objective:
        data = data.astype(dtype)
        loss = DatasetLoss(network, data.x, data.y, weight=data.weight, batch_size=batch_size)
        if not penalty:
            return loss
        free = tuple(name for name in network.layout.names if name not in network.frozen)
        return Sum({"data": loss, "penalty": L2Penalty(network.layout, penalty, tensors=free)})

    def train(
        self, objective: Objective, theta: np.ndarray, optimizer: Optimizer, batches: Iterable[Batch]
    ) -> Iterator[Step]:
        return train(objective, theta, optimizer, batches)


def offered_backends() -> dict[str, EntryPoint]:
    """The backends of installed packages by name, none of them imported."""
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda point: point.name)}


def load_backend(name: str) -> Backend:
    """The installed backend called ``name``.

    Raises
    ------
    UnknownNameError
        If no installed package offers it; the message lists those there are.
    LCAError
        If it is offered but its framework cannot be imported.

    Examples
    --------
    >>> load_backend("numpy")
    NumpyBackend()
    """
    offered = offered_backends()
    if name not in offered:
        raise UnknownNameError("backend", name, offered)
    try:
        make = offered[name].load()
    except ImportError as error:
        raise LCAError(
            f"backend {name!r} ({offered[name].value}) is registered but cannot be imported: {error}; "
            "install the framework it runs on."
        ) from error
    backend: Backend = make()
    return backend
