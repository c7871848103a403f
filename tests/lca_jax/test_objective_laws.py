"""The laws of objectives for `lca_jax.Objective`."""

from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lca_jax
from lca_jax.model import tensors_of
from lca_jax.network import cross_entropy, model_of
from tests.laws.objectives import CLASS_WEIGHTS, LAWS


def _each(out, y):
    return jax.vmap(cross_entropy)(out[:, None], y[:, None])


def _class_weights():
    return jnp.array(CLASS_WEIGHTS)


class Jax:
    """See `tests.laws.subjects`; weights are taken by every loss that is a mean over examples."""

    name = "jax"
    objective = lca_jax.Objective
    context = staticmethod(nullcontext)
    LOSSES = {  # noqa: RUF012
        "mean": cross_entropy,
        "sum": lambda out, y: cross_entropy(out, y) * len(y),
        "each": _each,
        "number": lambda out, y: 1.0,
        "class weights": lambda out, y: (
            (_class_weights()[y] * _each(out, y)).sum() / _class_weights()[y].sum()
        ),
        "contrastive": lambda out, y: cross_entropy(out @ out.T, jnp.arange(len(y))),
        "at least 20": lambda out, y: jnp.maximum(cross_entropy(out, y), 20.0),
        "detached": lambda out, y: jax.lax.stop_gradient(cross_entropy(out, y)),
    }

    @staticmethod
    def model(network):
        return model_of(network, "float64")

    @staticmethod
    def tensors(tree):
        return tuple(map(jnp.array, tree))

    @staticmethod
    def vector(network, theta):
        return jnp.array(theta)

    @staticmethod
    def numbers(network, vector):
        return np.asarray(vector)

    @staticmethod
    def penalty(model, c):
        ridge = lambda params: 0.5 * c * sum((t * t).sum() for t in params.values())  # noqa: E731
        return lca_jax.Penalty(model, ridge)

    @staticmethod
    def visible(model):
        return tensors_of({"params": model.params, "statistics": model.statistics})

    @staticmethod
    def class_weight(batch):
        return np.asarray(CLASS_WEIGHTS)[np.asarray(batch[1])].sum()

    @staticmethod
    def finite_rows(batch):
        return float(np.isfinite(np.asarray(batch[0])).all(1).sum())


@pytest.mark.parametrize("law", LAWS.values(), ids=list(LAWS))
def test_law(law):
    law(Jax())
