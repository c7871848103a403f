"""A warning names tensors that move without training and have no gradient."""

import warnings

import numpy as np
import pytest

import lca
from lca import Layout, Step
from lca.errors import LCAWarning
from lca.tracking._session import Session


class Followed:
    """``½ (a - b)²``, where b follows a, and is differentiated on request alone; detached: never."""

    layout = Layout(("a", "b"), ((1,), (1,)))

    def __init__(self, names=("a",), *, detached=True):
        self.differentiated, self.detached = frozenset(names), detached

    def differentiating(self, names):
        return Followed(names, detached=self.detached)

    def loss(self, theta, batch=None):
        return float(theta[0] - theta[1]) ** 2 / 2

    def loss_and_grad(self, theta, batch=None):
        known = [1.0, 0.0 if self.detached or "b" not in self.differentiated else -1.0]
        return self.loss(theta), (theta[0] - theta[1]) * np.array(known)


@pytest.mark.parametrize(
    ("objective", "end", "told"),
    [
        (Followed(), [3.0, 2.0], True),
        (Followed(), [3.0, 1.0], False),  # b does not move
        (Followed(detached=False), [3.0, 2.0], False),  # its move is allocated
        (Followed(("a", "b")), [3.0, 2.0], False),  # it trains, and the loss does not depend on it
    ],
    ids=["follows", "rests", "has a gradient", "trains"],
)
def test_a_tensor_that_follows_others_within_a_step_is_told_of(objective, end, told):
    session = Session({"loss": objective}, lca.PathIntegral())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session.measure(Step(np.array([4.0, 1.0]), np.array(end)))
    texts = [str(each.message) for each in caught if issubclass(each.category, LCAWarning)]
    assert [("b moved in step 0" in text and "frozen='omit'" in text) for text in texts] == [True] * told
