"""`Backend`: the interface that ``lca demo`` and the conformance kit use to run on a framework.

Backends are found through the entry-point group ``lca.backends``, so a third party can add one without
changing this project. A backend receives a framework-independent description (a NumPy `Network`, data, θ_0
and an optimizer) and returns the framework's own objective and steps. Estimators, views and checks are the
same for all backends.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, Literal, Protocol, TypeAlias

import numpy as np

from lca.arrays import Vector
from lca.errors import LCAError, UnknownNameError
from lca.objective import Objective, Sum
from lca.reference._data import Batch
from lca.reference._models import DatasetLoss, L2Penalty, Network
from lca.reference._optimizers import Optimizer
from lca.reference._training import train
from lca.step import Step

Dtype: TypeAlias = Literal["float32", "float64"]
ENTRY_POINT_GROUP = "lca.backends"
"""The entry-point group in which an installed package registers a backend."""


class Backend(Protocol):
    """What a framework implements to take part in the demo and the conformance checks.

    `load_backend` calls the class without arguments. `NumpyBackend` is the reference implementation, and
    `lca.testing.check_backend` compares any other with it.

    Examples
    --------
    A backend is used through its three methods:

    >>> from lca.reference import SGD, logistic_regression
    >>> backend = load_backend("numpy")
    >>> network, data = logistic_regression(2, 3), Batch(np.eye(2), np.array([0, 2]))
    >>> objective = backend.objective(network, data, "float64")
    >>> steps = backend.train(objective, network.init(seed=0), SGD(lr=0.1), [data, data])
    >>> [step.index for step in steps]
    [0, 1]
    """

    @property
    def name(self) -> str:
        """The name under which the backend is registered, as in ``load_backend(name)``."""

    def vector(self, theta: np.ndarray) -> Vector:
        """Convert ``theta`` (K,) to the framework's vector type: same values, same dtype, its device."""

    def objective(
        self, network: Network, data: Batch, dtype: Dtype, *, penalty: float = 0.0, batch_size: int = 1000
    ) -> Objective:
        """Return the weighted mean loss of ``network`` over ``data``, computed in ``dtype``.

        The objective has the layout of the network: the same names, shapes and order. A tied tensor occurs
        once, and a frozen tensor has gradient 0. Dropout is off.

        Parameters
        ----------
        network
            The layers and the loss, without parameter values.
        data
            All examples (N, *input_shape) with their targets and weights.
        dtype
            The precision of θ, of the gradients and of the computation.
        penalty
            c ≥ 0. If c > 0, the objective is a `Sum` of two terms: ``data``, as described above, and
            ``penalty``, ``½ c Σ θ_i²`` over all tensors that are not frozen.
        batch_size
            Examples in each measuring batch, taken from ``data`` in order; the last batch may be smaller.
            Batch normalisation uses the statistics of the measuring batch, or of the batch that is passed.
        """

    def train(
        self, objective: Objective, theta: np.ndarray, optimizer: Optimizer, batches: Iterable[Batch]
    ) -> Iterator[Step]:
        """Train from ``theta`` and yield one `Step` per batch, lazily.

        Frozen tensors stay exactly where they are, also if the optimizer decays weights.

        A step may refer to memory that the next update overwrites: whoever keeps one copies its vectors
        before asking for the next. Its ``batch`` and ``gradient`` are optional, and right where they are set.

        Parameters
        ----------
        objective
            An objective made by this backend. The loss of each update is ``objective`` on that batch.
        theta
            θ_0 (K,), a NumPy vector in the objective's dtype. The steps hold the framework's own vectors.
        optimizer
            A description from `lca.reference`. A backend may apply its ``update`` or use the
            framework's optimizer with the same formula.
        batches
            The training batches, in order.
        """


@dataclass(frozen=True)
class NumpyBackend:
    """The reference backend: hand-derived gradients on NumPy arrays.

    Examples
    --------
    >>> from lca.reference import logistic_regression
    >>> from lca.reference import SGD
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
    """The entry points of all installed backends by name; nothing is imported.

    >>> "numpy" in offered_backends()
    True
    """
    points = sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
    return {point.name: point for point in points}


def load_backend(name: str) -> Backend:
    """Import the installed backend ``name`` and return an instance of it.

    Parameters
    ----------
    name
        A registered name, e.g. ``"numpy"``, ``"torch"`` or ``"tensorflow"``; `offered_backends` lists them.

    Raises
    ------
    UnknownNameError
        If no installed package registers this name; the message lists the registered ones.
    LCAError
        If the backend is registered but its framework cannot be imported.

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
            "install its framework."
        ) from error
    backend: Backend = make()
    return backend
