"""The laws of callbacks for a plain loop that calls back, which is also what a callback takes to write."""

import numpy as np
import pytest

from lca.errors import LCAError
from lca.reference import Quadratic
from lca.tracking import CallbackBase, FunctionalTracker
from tests.laws.callbacks import LAWS


class LoopCallback(CallbackBase[FunctionalTracker]):
    """For `LoopFramework.fit`."""

    def on_begin(self, theta):
        self._begin(lambda: FunctionalTracker(theta, self._measured(), self._estimator, **self._options))

    def on_update(self, theta):
        if self.tracker is not None:
            self.tracker.update(theta)

    def on_end(self):
        self._end()


def _impossible():
    raise LCAError("there are no data.")


class LoopFramework:
    """Gradient descent on ``½ |θ|²``; an error ends it without a call to the callback."""

    updates = 5
    tells_updates = False
    epoch = None
    lasts_as_its_call = False
    advice = {field: rf"pass {field}= to tracker\.update" for field in ("batch", "micro_batches")}

    def callback(self, *, impossible=False, **options):
        return LoopCallback(_impossible if impossible else lambda: Quadratic(np.eye(2)), **options)

    def fit(self, callback, *, stop_after=None):
        theta = np.array([2.0, 1.0])
        if callback:
            callback.on_begin(theta)
        for t in range(self.updates):
            if t == stop_after:
                raise KeyError("enough")
            theta = 0.5 * theta
            if callback:
                callback.on_update(theta)
        if callback:
            callback.on_end()
        return [theta]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_loop_with_callbacks(law, tmp_path):
    law(LoopFramework(), tmp_path)
