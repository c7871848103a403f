"""`groups=` and `heads=` of the tracker and the callback in Keras."""

import keras
import numpy as np
import pytest

from lca import tolerances
from lca.errors import LCAError
from lca_tensorflow import LCACallback


def _summary(**options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 6))
    found = keras.layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs)
    found = keras.layers.LayerNormalization(name="norm")(inputs + found)
    outputs = keras.layers.Dense(1, name="out")(keras.layers.GlobalAveragePooling1D()(found))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x, y = np.random.default_rng(0).normal(size=(8, 4, 6)), np.ones((8, 1))
    callback = LCACallback(x, y, on_error="raise", **options)
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[callback])
    return callback.summary()["train"]


def test_layer_types_and_heads_add_up():
    groups = {"norm": keras.layers.LayerNormalization, "attention": keras.layers.MultiHeadAttention}
    summary = _summary(groups=groups, heads=2)
    limit = tolerances.summed(summary["mass"], tolerances.EPS32)
    found, heads = summary["per_group"]["group"], summary["per_head"]
    assert set(found) == {"norm", "attention", "other"}  # the layers inside an attention layer count
    norm = sum(total for name, total in summary["per_tensor"].items() if name.startswith("norm"))
    assert abs(found["norm"] - norm) <= limit
    assert abs(sum(found.values()) - summary["lca_total"]) <= limit
    assert abs(sum(heads.values()) - summary["lca_total"]) <= limit
    assert len(heads) == 3  # noqa: PLR2004


def test_groups_of_the_optimizer_are_refused():
    with pytest.raises(LCAError, match="has no groups of parameters"):
        _summary(groups={"lr": "param_groups"})
