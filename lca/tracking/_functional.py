"""`FunctionalTracker`: the tracker of a loop that passes its parameters after each update."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias, Unpack

import numpy as np

from lca.allocation import Estimator
from lca.arrays import Vector, array_ops
from lca.errors import LayoutError, LCAError
from lca.layout import Layout, check_same_layout
from lca.objective import Batch, Objective
from lca.step import ExampleScores, MicroBatch
from lca.tracking._options import Options, names_options
from lca.tracking._tracker import TrackerBase, check_arguments

Params: TypeAlias = Any
"""A vector (K,), or what ``pack`` makes one of; by default a mapping or sequence of NumPy arrays."""


class FunctionalTracker(TrackerBase):
    """Allocates the loss change of each `update`, to which the loop passes the new parameters.

    For functional frameworks, where parameters are arrays and not attributes of a model, and for plain loops
    on NumPy arrays. It works with every array type that `lca.arrays.array_ops` knows.

    Parameters
    ----------
    params
        The parameters before the first update: a vector (K,), or a mapping or sequence of NumPy arrays that
        the layout of the objective packs, or whatever ``pack`` accepts.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    objective, estimator, every, views, on_error, record, progress, log_to
        As in `TrackerBase`.
    pack
        From parameters in the form of the loop to a new vector (K,) in the order of the layout.

    Raises
    ------
    LCAError
        If an argument has the wrong type or an invalid value.

    Notes
    -----
    Parameters are copied once an update, and only if the step before or after it is measured, so the loop may
    change its arrays in place. A state that the loss depends on is read with `lca.objective.Stateful`.

    Examples
    --------
    Gradient descent in NumPy on ``½ |θ|²``:

    >>> from lca.reference import Quadratic
    >>> objective, theta = Quadratic(np.eye(2)), np.array([2.0, 1.0])
    >>> with FunctionalTracker(theta, objective) as tracker:
    ...     for _ in range(3):
    ...         gradient = objective.loss_and_grad(theta)[1]
    ...         theta -= 0.5 * gradient
    ...         tracker.update(theta, gradient=gradient)
    >>> summary = tracker.summary()["train"]
    >>> summary["steps"], summary["lca_total"] == objective.loss(theta) - 2.5
    (3, True)
    """

    _advice = {
        "batch": "pass batch= to tracker.update",
        "gradient": "pass gradient= to tracker.update",
        "micro_batches": "pass micro_batches= to tracker.update, at least two lca.step.MicroBatch objects",
        "scores": "pass scores= to tracker.update at every step, or give the estimator refresh=n",
        "update_slope": "pass update_slope= to tracker.update (see lca.Step)",
    }

    @names_options
    def __init__(
        self,
        params: Params,
        objective: Objective | Mapping[str, Objective],
        estimator: Estimator | None = None,
        *,
        pack: Callable[[Params], Vector] | None = None,
        **options: Unpack[Options],
    ) -> None:
        check_arguments("FunctionalTracker(params, objective), with the parameters", {}, objective)
        super().__init__(objective, estimator, **options)
        with self._session.begins():
            layouts = (o.layout for o in self._session.objectives.values())
            self._pack = _Packing(check_same_layout(layouts, "the measured losses"), pack)
            self._theta = _PassedTheta(self._pack, params)
            self._fields: dict[str, Any] = {}
            self._follow(self._theta, self._supply)

    def update(
        self,
        params: Params,
        *,
        batch: Batch | None = None,
        gradient: Params | None = None,
        micro_batches: Sequence[MicroBatch] = (),
        update_slope: Params | float | None = None,
        scores: ExampleScores | None = None,
    ) -> None:
        """Record that the loop has made an update, whose step ends at ``params``.

        Parameters
        ----------
        params
            The parameters after the update.
        batch, gradient, micro_batches, update_slope, scores
            Fields of `lca.Step` for estimators that require them: what the update was computed from, at the
            parameters before it. Gradients and updates have the form of ``params``. What the estimator does
            not require is ignored.
        """
        self._check_active("update")
        given = {
            "batch": batch,
            "gradient": gradient,
            "micro_batches": micro_batches,
            "update_slope": update_slope,
            "scores": scores,
        }
        self._fields = {name: value for name, value in given.items() if value is not None}
        self._follower.before()
        self._follower.collect_fields()
        self._fields = {}
        self._theta.replace(params)
        self._follower.after()
        self._keep()

    def set_params(self, params: Params) -> None:
        """Tell the tracker that the parameters were changed other than by an update (a discontinuity)."""
        self._check_active("set_params")
        self._theta.replace(params)
        self._keep()

    def _keep(self) -> None:
        """Copy the parameters if they are the start of a measured step, as the loop may overwrite them."""
        if self._follower.reads_theta:
            with self._session.guarded(self.steps):
                self._theta.copy()
        else:
            self._theta.release()

    def _supply(self, fields: Collection[str]) -> Mapping[str, Any]:
        """The values of these fields for the update that was passed last."""
        found = {name: value for name, value in self._fields.items() if name in fields}
        if "gradient" in found:
            found["gradient"] = self._pack.copied(found["gradient"])
        if "micro_batches" in found:
            found["micro_batches"] = tuple(
                MicroBatch(self._pack.copied(part.gradient), self._pack.copied(part.update), part.weight)
                for part in found["micro_batches"]
            )
        slope = found.get("update_slope")
        if slope is not None and not isinstance(slope, float | int):
            found["update_slope"] = self._pack.copied(slope)
        return found

    def _check_active(self, method: str) -> None:
        if not self._active:
            raise LCAError(
                f"tracker.{method} was called outside `with tracker:`; put the training loop inside it."
            )


class _Packing:
    """From parameters in the form of the loop to vectors (K,)."""

    def __init__(self, layout: Layout, pack: Callable[[Params], Vector] | None) -> None:
        self._layout, self._function = layout, pack

    def __call__(self, params: Params) -> Vector:
        """The parameters as a vector, perhaps the one that was passed."""
        if self._function is not None:
            vector = self._function(params)
        elif isinstance(params, Mapping | tuple | list):
            vector = self._flattened(params)
        else:
            vector = params
        self._layout.check(vector, "the parameters")
        return vector

    def copied(self, params: Params) -> Vector:
        """The parameters as a new vector, detached from ``params``."""
        vector = self(params)
        if self._function is None and vector is not params:  # flattened: new
            return vector
        return 1 * vector  # what a function returns may be a view

    def _flattened(self, params: Mapping[str, Any] | Sequence[Any]) -> Vector:
        tensors = params.values() if isinstance(params, Mapping) else params
        other = [tensor for tensor in tensors if not isinstance(tensor, np.ndarray)]
        if other:
            raise LayoutError(
                f"the parameters contain a {type(other[0]).__name__}, and only NumPy arrays are packed into "
                "a vector by default; pass pack=, a function from parameters to a vector (K,)."
            )
        return self._layout.flatten(params)


class _PassedTheta:
    """`lca.tracking.LiveTheta` of parameters that the loop passes; packed when first read."""

    def __init__(self, packing: _Packing, params: Params) -> None:
        self._packing = packing
        self._vector: Vector | None = packing.copied(params)
        self._params = params

    def replace(self, params: Params) -> None:
        """Set the parameters of the loop from now on."""
        self._vector, self._params = None, params

    def release(self) -> None:
        """Nothing reads the parameters before they are replaced, or the run ends."""
        self._vector = None

    def copy(self) -> Vector:
        if self._vector is None:
            self._vector = self._packing.copied(self._params)
        return self._vector

    borrow = copy  # a vector that nothing overwrites

    def persist(self, borrowed: Vector, memory: Vector) -> Vector:
        return borrowed

    def is_at(self, theta: Vector) -> bool:
        now = self.copy()
        return now is theta or array_ops(now).abs_total(now - theta) == 0
