"""`Products`: a sum of products of sampled gradients and movements, as a `StepAllocation`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np

from lca._micro_batches import LeftOut
from lca.allocation import Cost, StepAllocation
from lca.arrays import Vector, WeightedProducts, array_ops
from lca.estimators._checks import OVERFLOW, check_gradient, non_finite
from lca.layout import Layout
from lca.step import MicroBatch, Step


@dataclass(frozen=True, eq=False)
class ProductSum:
    """``factor · values = Σ_m w_m g_m ∘ Δ^{(−m)}`` (K,) over ``count`` micro-batches; replaces these.

    ``mass`` is that of ``values``.

    >>> found = ProductSum.of([MicroBatch(gradient=np.array([2.0, 4.0]), update=np.array([1.0, -1.0]))])
    >>> found.factor * found.values
    array([ 2., -4.])
    """

    values: Vector
    mass: float
    count: int
    factor: float

    @classmethod
    def of(cls, parts: Sequence[MicroBatch], *, overwrite: bool = False) -> "ProductSum":
        """The sum over these micro-batches, whose updates may be overwritten or not."""
        with np.errstate(over="ignore", invalid="ignore"):  # reported where it is used
            if isinstance(parts, LeftOut):
                weights = parts.weights
                values, mass = parts.products_sum()
            else:
                first, weights = parts[0], [part.weight for part in parts]
                relative = [(part.weight / first.weight, part.gradient, part.update) for part in parts]
                values, mass = array_ops(first.update).products_sum(
                    relative, first.update, first.update, overwrite=overwrite
                )
        return cls(values, mass, len(parts), weights[0] / sum(weights))

    def __len__(self) -> int:
        return self.count


class Products:
    """``Σ_k w_k v_k ∘ f_k`` of sampled gradients, kept to the end, where one pass gives values and mass.

    No loss is measured, so both losses and the residual are NaN.

    Parameters
    ----------
    layout
        The layout of the parameters.
    step
        The step that is allocated.

    Examples
    --------
    >>> layout = Layout(("w",), ((1,),))
    >>> products = Products(layout, Step(np.array([2.0]), np.array([1.0])))
    >>> products.add(0.5, np.array([3.0]))
    >>> products.allocation(Cost()).values
    array([-1.5])
    """

    def __init__(self, layout: Layout, step: Step) -> None:
        self._layout, self._step, self._ops = layout, step, array_ops(step.start)
        self._products: WeightedProducts = []
        self._sums: list[tuple[float, ProductSum]] = []

    def add(self, weight: float, gradient: Vector, update: Vector | None = None) -> None:
        """Add ``weight · g ∘ Δ``, or with an update Δ' (K,) of its own ``weight · g ∘ Δ'``."""
        check_gradient(self._layout, self._step, gradient)
        if update is not None:
            self._layout.check(update, f"an update of a micro-batch of step {self._step.index}")
        self._products.append((weight, gradient, update))

    def add_sum(self, weight: float, found: ProductSum) -> None:
        """Add ``weight`` times a sum of products of gradients and updates."""
        self._layout.check(found.values, f"the products of the micro-batches of step {self._step.index}")
        self._sums.append((weight * found.factor, found))

    def allocation(
        self,
        cost: Cost,
        *,
        start_cost: Cost | None = None,
        replicates: Mapping[float, Sequence[Vector]] | None = None,
    ) -> StepAllocation:
        """The finished `StepAllocation`; uses this up."""
        values, mass = self._values()
        return StepAllocation(
            values=values,
            loss_start=nan,
            loss_end=nan,
            residual=nan,
            mass=mass,
            step=self._step.index,
            cost=cost,
            start_cost=start_cost or Cost(),
            replicates=replicates or {},
            source=self._step,
            sampled=True,
        )

    def with_sums(self) -> tuple[Vector, float, np.ndarray]:
        """The values, their mass, and the sums of the values in each tensor."""
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            values, mass, sums = self._ops.products_and_sums(
                self._products, self._step.start, self._step.end, self._layout.groups("tensor").slices
            )
        self._check(mass)
        return values, mass, sums

    def _values(self) -> tuple[Vector, float]:
        if self._ops.one_pass and not self._sums:
            return self.with_sums()[:2]
        step = self._step
        ops, values, mass = self._ops, None, 0.0
        with np.errstate(over="ignore", invalid="ignore"):  # reported below
            if self._products:
                values, mass = ops.products_sum(self._products, step.start, step.end)
            for weight, found in self._sums:
                mass += abs(weight) * found.mass
                if values is None:
                    values = weight * found.values
                else:
                    values = ops.add_scaled(values, weight, found.values)
        self._check(mass)
        return values, mass

    def _check(self, mass: float) -> None:
        if not isfinite(mass):
            vectors = [gradient for _, gradient, _ in self._products]
            vectors += [found.values for _, found in self._sums]
            wrong = next((v for v in vectors if not self._ops.all_finite(v)), vectors[0])
            raise non_finite(self._layout, self._step, OVERFLOW, wrong)
