"""Small loops as people write them: how far off cheap estimators and forecasts are. Nothing is asked.

- ``accumulated``: a ReLU network, AdamW, clipping, shuffled epochs, four accumulated batches to an update.
- ``fit``: a Keras network on TensorFlow in ``fit``, Adam.
- ``large_steps``: a convolutional network, SGD 0.1 with momentum 0.9; the 95 % interval of samples.
- ``forecast_ms``: what measuring adds to a step, as `tracker.estimate` says and as it takes (CPU time).
"""

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lca
from lca.allocation import Estimator
from lca.estimators import CrossFit, LaggedCrossFit, SampledPathIntegral
from lca_torch import Objective, Tracker
from validation.evidence import keep

FOLDER = Path(__file__).parent
EPOCHS, EXAMPLES = 3, 4000
UPDATES, PARTS = 40, 4  # updates in an epoch, batches in an update
Make = Callable[[], Estimator]
CHEAP: dict[str, Make] = {
    "CrossFit()": lambda: CrossFit(PARTS),
    "CrossFit(epoch=40)": lambda: CrossFit(PARTS, epoch=UPDATES),
    "LaggedCrossFit()": LaggedCrossFit,
    "LaggedCrossFit(epoch=40)": lambda: LaggedCrossFit(epoch=UPDATES),
}
SAMPLES: dict[str, Make] = {
    str(size): lambda size=size: SampledPathIntegral(lca.SIMPSON, size=size, micro_batches=4)
    for size in (48, 256)
}


class Classifier:
    """A ReLU network on random points of five classes; each update is made from four batches."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.x, weights = torch.randn(EXAMPLES, 20), torch.randn(20, 5)
        self.y = (self.x @ weights + 0.5 * torch.randn(EXAMPLES, 5)).argmax(1)
        layers = nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)
        self.model, self.loss = nn.Sequential(*layers), nn.CrossEntropyLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.003)
        size, order = EXAMPLES // UPDATES // PARTS, torch.Generator().manual_seed(seed)
        data = TensorDataset(self.x, self.y)
        self.loader = DataLoader(data, batch_size=size, shuffle=True, generator=order)

    def tracker(self, estimator: Estimator) -> Tracker:
        """Of the loss of all examples."""
        objective = Objective(self.model, self.loss, (self.x, self.y))
        return Tracker(self.model, self.optimizer, objective, estimator)

    def train(self, tracker: Tracker | None = None, epochs: int = EPOCHS) -> float:
        """Returns the CPU time of a step in ms."""
        began = time.process_time()
        with tracker or nullcontext():
            for _ in range(epochs):
                for n, (x, y) in enumerate(tracker.batches(self.loader) if tracker else self.loader):
                    (self.loss(self.model(x), y) / PARTS).backward()
                    if (n + 1) % PARTS == 0:
                        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                        self.optimizer.step()
                        self.optimizer.zero_grad()
        return 1e3 * (time.process_time() - began) / (epochs * UPDATES)


def off(summary: dict[str, Any]) -> float:
    """How far the sum of the checked steps is off, in % of the measured change."""
    return 100 * (summary["checked_total"] / summary["checked_change"] - 1)


def accumulated(seeds: int = 4) -> dict[str, list[float]]:
    """By estimator, of each seed."""
    found: dict[str, list[float]] = {name: [] for name in CHEAP}
    for seed in range(seeds):
        for name, make in CHEAP.items():
            case = Classifier(seed)
            tracker = case.tracker(make())
            case.train(tracker)
            found[name].append(off(tracker.summary()["train"]))
    return found


def fit() -> dict[str, float]:
    """`LaggedCrossFit` in ``fit``, without and with the number of updates in an epoch."""
    import keras  # noqa: PLC0415

    from lca_tensorflow import LCACallback  # noqa: PLC0415

    rng, found = np.random.default_rng(0), {}
    x = rng.normal(size=(1500, 20)).astype("float32")
    y = (x @ rng.normal(size=(20, 5)) + 0.5 * rng.normal(size=(1500, 5))).argmax(1)
    for epoch in (None, 50):
        keras.utils.set_random_seed(0)
        dense = keras.layers.Dense
        layers = [keras.Input((20,)), dense(48, activation="relu"), dense(32, activation="relu"), dense(5)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.003), loss)
        callback = LCACallback(x, y, estimator=LaggedCrossFit(epoch=epoch))
        model.fit(x, y, batch_size=30, epochs=2, verbose=0, callbacks=[callback])
        found[f"LaggedCrossFit(epoch={epoch})"] = off(callback.summary()["train"])
    return found


def large_steps() -> dict[str, Any]:
    """By size of the sample: total, half its interval and the change; and `Adaptive`: total and gradients."""
    found: dict[str, Any] = {}
    for name, make in {**SAMPLES, "Adaptive": lca.Adaptive}.items():
        torch.manual_seed(0)
        shapes = torch.randn(8, 1, 12, 12)
        y = torch.randint(8, (2000,))
        x = shapes[y] + 1.5 * torch.randn(2000, 1, 12, 12)
        first = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        second = nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
        model, loss = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(144, 8)), nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        order = torch.Generator().manual_seed(0)
        loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True, generator=order)
        with Tracker(model, optimizer, Objective(model, loss, (x, y)), make()) as tracker:
            for images, labels in [batch for _ in range(3) for batch in loader][:100]:
                optimizer.zero_grad()
                loss(model(images), labels).backward()
                optimizer.step()
        summary = tracker.summary()["train"]
        keys = "lca_total", "checked_margin", "checked_change", "full_gradients_per_step"
        found[name] = {key: summary[key] for key in keys if key in summary}
    return found


def forecast(epochs: int = 6) -> dict[str, dict[str, float]]:
    """By estimator."""
    found = {}
    for name in ("CrossFit()", "LaggedCrossFit()"):
        plain, case = Classifier(0).train(epochs=epochs), Classifier(0)
        tracker = case.tracker(CHEAP[name]())
        said = tracker.estimate(steps=epochs * UPDATES, step_seconds=plain / 1e3).rows[0].seconds
        found[name] = {"said": 1e3 * said, "took": case.train(tracker, epochs) - plain}
    return found


def main() -> None:
    """Measure, keep, print."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = {
        "off_percent": {"accumulated": accumulated(), "fit": fit()},
        "large_steps": large_steps(),
        "forecast_ms": forecast(),
    }
    keep(FOLDER, "small.json", results)


if __name__ == "__main__":
    main()
