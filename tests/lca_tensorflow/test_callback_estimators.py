"""The cheap forms that ask nothing of a loop, in `fit` of Keras: chords are right, the others are refused."""

import keras
import numpy as np
import pytest

import lca
from lca.errors import LCAError
from lca.estimators import CrossFit, LaggedCrossFit
from lca_tensorflow import LCACallback

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 5)).astype("float32")
Y = (X @ RNG.normal(size=(5, 3))).argmax(1)
UPDATES = 36


def fitted(estimator, **options):
    """The callback of a run of 36 updates in two epochs, the same for every estimator."""
    keras.utils.set_random_seed(3)
    layers = keras.layers.Dense(8, "tanh", name="hidden"), keras.layers.Dense(3, name="outputs")
    model = keras.Sequential([keras.Input((5,)), *layers], name="net")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss)
    callback = LCACallback(X, Y, batch_size=600, estimator=estimator, on_error="raise", **options)
    rows = np.arange(600)[: UPDATES // 2 * 32]
    model.fit(X[rows], Y[rows], batch_size=32, epochs=2, verbose=0, callbacks=[callback])
    return callback


@pytest.fixture(scope="module")
def exact():
    return fitted(lca.PathIntegral(lca.SIMPSON)).summary()["train"]


def test_chords_close_the_account_in_fit(exact):
    found = fitted(lca.PathIntegral(lca.SIMPSON), span=6).summary()["train"]
    assert (found["span"], found["steps"]) == (6, UPDATES // 6)
    assert abs(found["loss_end"] - exact["loss_end"]) < 1e-6
    assert abs(found["residual"]) < 0.01 * abs(found["lca_total"])
    assert found["per_tensor"].keys() == exact["per_tensor"].keys()
    for name, total in exact["per_tensor"].items():
        assert abs(found["per_tensor"][name] - total) < 0.1 * abs(exact["lca_total"]), name


@pytest.mark.parametrize("estimator", [LaggedCrossFit(), CrossFit(own_pass=True)], ids=["lagged", "own pass"])
def test_forms_of_the_training_gradient_are_refused_as_fit_does_not_show_it(estimator):
    with pytest.raises(LCAError, match=r"requires Step\..*, which fit does not supply; use a Tracker"):
        fitted(estimator)
