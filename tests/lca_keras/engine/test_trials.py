"""A weight that rises from 0 in the course of a run, on the engines of Keras."""

import keras
import numpy as np
import pytest

from lca.errors import LCAError
from lca_keras import Objective
from tests.lca_tensorflow.networks import Regularized, of_batch, of_examples

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")


@pytest.mark.parametrize(
    ("penalty", "weight", "refusal"),
    [(of_batch, None, "not a mean over examples"), (of_examples, np.arange(1.0, 9), "are weighted")],
    ids=["a term of the batch", "a term without weights"],
)
def test_samples_are_refused_when_a_term_gets_a_weight(penalty, weight, refusal):
    keras.utils.set_random_seed(0)
    model = Regularized(penalty)
    model(X[:2])
    objective = Objective(model, keras.losses.MeanSquaredError(), (X, X))
    sample, theta = objective.batch(np.arange(8), weight), objective.theta()
    before = objective.at_state(objective.state())
    before.loss(theta, sample)
    model.beta.assign(0.3)
    with pytest.raises(LCAError, match=rf"beta' from 0 to 0\.3, and now .*{refusal}"):
        objective.at_state(objective.state()).loss(theta, sample)
