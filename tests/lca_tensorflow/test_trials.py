"""A weight that rises from 0 in the course of a run: a Keras variable, and a Python attribute."""

import keras
import numpy as np
import pytest

from lca.errors import LCAError
from lca.estimators import SampledPathIntegral
from lca_tensorflow import LCACallback
from tests.lca_tensorflow.networks import Regularized, of_batch, of_examples

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
WEIGHTED = SampledPathIntegral(size=8, sampling="stratified", refresh=1)


@pytest.mark.parametrize(
    ("penalty", "estimator", "refusal"),
    [
        (of_batch, SampledPathIntegral(size=8), "not a mean over examples"),
        (of_examples, WEIGHTED, "weighted"),
    ],
    ids=["a term of the batch", "a term without weights"],
)
@pytest.mark.parametrize("kind", ["variable", "attribute"])
def test_samples_are_refused_when_a_term_gets_a_weight(penalty, estimator, refusal, kind):
    keras.utils.set_random_seed(0)
    model = Regularized(penalty)
    model(X[:2])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=kind == "attribute")
    callback = LCACallback(X, X, estimator=estimator)

    def raise_weight(epoch):
        if kind == "variable":
            model.beta.assign(0.3 * epoch)
        else:
            model.plain = 0.3 * epoch

    warm_up = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: raise_weight(epoch))
    moved = r"beta' from 0 to 0\.3" if kind == "variable" else "plain"
    with pytest.warns(UserWarning, match=rf"stopped at step 4.*{moved}.*, and now .*{refusal}"):
        model.fit(X, X, batch_size=8, epochs=2, verbose=0, callbacks=[warm_up, callback])
    assert isinstance(callback.error, LCAError)
    assert callback.summary()["train"]["steps"] == 4
