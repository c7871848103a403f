"""`Model`: a function of a tree of parameters; and `Packing`: this tree as one vector θ."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from lca.errors import LayoutError, UnknownNameError
from lca.frameworks import Frozen, check_frozen, require_one, require_precision
from lca.layout import Layout

Params: TypeAlias = Any
"""JAX arrays in any pytree: nested dictionaries, lists, tuples, registered classes."""
Tensors: TypeAlias = Mapping[str, jax.Array]
"""Parameters by name, as in `Layout.names`."""
Statistics: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Running statistics of normalisation layers: arrays by name of the layer, then by their own name."""


@dataclass(eq=False)
class Model:
    """A functional model; training replaces its ``params`` and ``statistics``, as JAX arrays are immutable.

    Parameters
    ----------
    apply
        From ``params`` and inputs to outputs, with dropout off; a pure function. A model with ``statistics``
        is called with ``(params, inputs, statistics)``, and a normalisation layer that is missing in these
        statistics uses those of the batch.
    params
        The parameters, float32 or float64. A tensor that ``apply`` uses twice is tied; it is here once.
    statistics
        Running statistics, ``{"bn1": {"mean": ..., "variance": ...}}``.
    frozen
        Names of the parameters that do not train, e.g. ``"fc1.weight"`` for ``params["fc1"]["weight"]``.

    Examples
    --------
    >>> model = Model(lambda params, x: x @ params["w"], {"w": jnp.ones(2)})
    >>> model.apply(model.params, jnp.ones((1, 2))).tolist()
    [2.0]
    """

    apply: Callable[..., Any]
    params: Params
    statistics: Statistics = field(default_factory=dict)
    frozen: Collection[str] = ()


def tensors_of(params: Params) -> dict[str, jax.Array]:
    """The arrays of a tree, named by their path.

    >>> list(tensors_of({"fc": {"weight": jnp.ones(2)}, "scale": [jnp.ones(())]}))
    ['fc.weight', 'scale.0']
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {".".join(map(_step, path)): jnp.asarray(leaf) for path, leaf in leaves}


def _step(entry: Any) -> str:
    """One step of a path in a tree: a key of a dictionary, an attribute, or a position in a list."""
    return str(next(getattr(entry, kind) for kind in ("key", "name", "idx") if hasattr(entry, kind)))


@dataclass(frozen=True)
class Packing:
    """Which parameters are in θ, in which order; compared by value, as compiled functions are kept by it.

    Attributes
    ----------
    layout
        Names and shapes of the parameters in θ.
    names, tree
        Names of all parameters, and the structure of their tree.
    frozen
        Names of those that do not train.
    """

    layout: Layout
    names: tuple[str, ...]
    tree: Any
    frozen: frozenset[str]

    @classmethod
    def of(cls, model: Model, frozen: Frozen) -> "Packing":
        """The parameters of a model; raises `LCAError` if they cannot be measured."""
        check_frozen(frozen)
        every = tensors_of(model.params)
        for name in model.frozen:
            if name not in every:
                raise UnknownNameError("parameter", name, every)
        kept = {n: t for n, t in every.items() if frozen == "zero" or n not in model.frozen}
        if not kept.keys() - set(model.frozen):
            raise LayoutError(
                "no parameter trains, so there is nothing to allocate to; shorten Model.frozen."
            )
        dtypes = {name: str(tensor.dtype) for name, tensor in kept.items()}
        require_one("dtype", dtypes, "convert them, or leave those that do not train out with frozen='omit'")
        require_precision(dtypes, "keep the parameters in float32 and convert them inside apply")
        # Output neurons are the last axis of a Flax kernel, and the first axis of any other tensor.
        last = {name: tensor.ndim - 1 for name, tensor in kept.items() if name.endswith("kernel")}
        axes = (last.get(name, 0) if tensor.ndim else None for name, tensor in kept.items())
        layout = Layout(tuple(kept), tuple(tensor.shape for tensor in kept.values()), tuple(axes))
        return cls(layout, tuple(every), jax.tree.structure(model.params), frozenset(model.frozen))

    def pack(self, params: Params) -> jax.Array:
        """A tree of parameters, or of gradients, as a vector (K,); a vector is returned as it is."""
        if isinstance(params, jax.Array):
            return params
        tensors = tensors_of(params)
        return jnp.concatenate([tensors[name].ravel() for name in self.layout.names])

    def params(self, tensors: Tensors) -> Params:
        """The tree of all parameters, by name; no gradient goes through those that do not train."""
        leaves = [jax.lax.stop_gradient(tensors[n]) if n in self.frozen else tensors[n] for n in self.names]
        return jax.tree.unflatten(self.tree, leaves)
