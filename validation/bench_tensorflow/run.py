"""Claims on speed with Keras: measuring costs its gradient passes; a callback without measurement is free.

- allocating over the same compiled gradient passes written by hand, on MNIST-FC;
- `model.fit` with a callback that measures no step, over plain fit;
- traces of the measured loss after the first step: none;
- the usual first-order notebook (eager, NumPy, concatenation) over the callback with the same rule.

Times are ratios inside one run: both sides alternate, the order swaps every round, and the median of the
pairwise ratios is quoted; beside it the same in CPU time, which other load on the machine disturbs less.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import lca
from lca.reference import Batch
from lca_tensorflow import LCACallback, Objective
from validation.evidence import keep, verdict
from validation.mnist_fc import images
from validation.timing import interleaved

FOLDER = Path(__file__).parent
RULES = {"trapezoid": lca.TRAPEZOID, "rk4": lca.RK4}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SIZE, BATCH = 1000, 250
NOTEBOOKS = ("float64", "float32")
"""Dtypes of the pixels of the notebook that is compared with: the usual one, and what costs no conversion."""


def mnist_fc() -> keras.Sequential:
    """784-100-50-10 with ReLU, compiled with Adam 0.002."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(n, activation, kernel_initializer="he_normal")
        for n, activation in ((100, "relu"), (50, "relu"), (10, None))
    ]
    model = keras.Sequential([keras.Input((784,)), *layers])
    model.compile(keras.optimizers.Adam(0.002), LOSS)
    return model


def compared(
    name_a: str, a: Callable[[], object], name_b: str, b: Callable[[], object], rounds: int
) -> dict[str, Any]:
    """Seconds of both, and the ratio a over b, by the clock and in CPU time."""
    found = interleaved(a, b, rounds)
    ratios = {"ratio": found.ratio, "cpu_ratio": found.cpu_ratio, "ratio of the fastest": found.fastest}
    return {f"{name_a}_s": found.a, f"{name_b}_s": found.b, **ratios}


# --- allocating over bare gradients ----------------------------------------------------------------------


def by_hand(model: keras.Model, data: Batch) -> Callable[[tf.Tensor], float]:
    """Loss and gradient over the data, compiled: what one writes without a library."""
    x, y = tf.constant(data.x), tf.constant(data.y)
    weights = model.trainable_weights
    shapes, sizes = [w.shape for w in weights], [int(np.prod(w.shape)) for w in weights]

    @tf.function
    def gradient(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=False))
        return loss, tape.gradient(loss, weights)

    def full(theta: tf.Tensor) -> float:
        for weight, part, shape in zip(weights, tf.split(theta, sizes), shapes, strict=True):
            weight.assign(tf.reshape(part, shape))
        total, sums = tf.zeros([], tf.float64), [tf.zeros(shape) for shape in shapes]
        for i in range(0, len(data), SIZE):
            loss, grads = gradient(x[i : i + SIZE], y[i : i + SIZE])
            share = min(SIZE, len(data) - i) / len(data)
            total += share * tf.cast(loss, tf.float64)
            sums = [a + share * g for a, g in zip(sums, grads, strict=True)]
        return float(total)

    return full


def overhead(model: keras.Model, data: Batch, rule: lca.QuadratureRule, rounds: int) -> dict[str, Any]:
    """Allocating a short path over the gradients at the same points by hand; and how often was traced."""
    objective = Objective(model, LOSS, (data.x, data.y), batch_size=SIZE)
    bare, points = by_hand(model, data), [objective.theta()]
    for seed in range(3):
        noise = tf.random.stateless_normal(points[0].shape, [seed, 0])
        points.append(points[-1] + 1e-3 * noise)
    inner = [c for c in rule.nodes if 0 < c < 1]
    nodes = points[:1]
    for start, end in zip(points[:-1], points[1:], strict=True):
        nodes += [start + c * (end - start) for c in inner] + [end]
    traces: list[int] = []

    def allocate() -> None:
        path = lca.Trajectory(points)
        for _ in lca.allocate(objective, path, lca.PathIntegral(rule), check=False):
            traces.append(objective.traces)

    figures = compared("allocate", allocate, "by_hand", lambda: [bare(node) for node in nodes], rounds)
    return {
        "gradients": len(nodes),
        **figures,
        "traces in the first step": traces[0],
        "traces after it": traces[-1] - traces[0],
    }


# --- a callback that measures nothing --------------------------------------------------------------------


def idle_callback(model: keras.Model, data: Batch, rounds: int) -> dict[str, Any]:
    """An epoch of MNIST-FC in fit: with a callback whose schedule never measures, and without."""
    objective = Objective(model, LOSS, (data.x, data.y), batch_size=SIZE)
    dataset = tf.data.Dataset.from_tensor_slices((data.x, data.y)).batch(BATCH)

    def fit(*callbacks: keras.callbacks.Callback) -> None:
        model.fit(dataset, verbose=0, callbacks=list(callbacks))

    def with_callback() -> None:
        fit(LCACallback(objective, every=lambda step: False))

    return {"steps": len(data) // BATCH, **compared("callback", with_callback, "plain", fit, rounds)}


# --- the usual first-order notebook ----------------------------------------------------------------------


def notebook(model: keras.Model, data: Batch, steps: int) -> np.ndarray:
    """First order as notebooks do it, (steps, K): eager, the whole set in one tape, NumPy all the way.

    The set is handed over as a NumPy array at every step, weights and gradients are copied tensor by tensor
    into vectors that grow by concatenation, and everything is kept. (The gradient is taken before the update
    here; those that take it after the update do the same work.)
    """
    optimizer, weights = keras.optimizers.Adam(0.002), model.trainable_weights
    rows = []

    def vector(tensors: list[Any]) -> np.ndarray:
        flat = np.array([])
        for tensor in tensors:
            flat = np.concatenate([flat, np.copy(tensor.numpy()).flatten()])
        return flat

    for step in range(steps):
        part = slice(BATCH * step, BATCH * (step + 1))
        with tf.GradientTape() as full_tape:
            full = LOSS(data.y, model(data.x, training=False))
        gradient = vector(full_tape.gradient(full, weights))
        before = vector(weights)
        with tf.GradientTape() as tape:
            loss = LOSS(data.y[part], model(data.x[part], training=True))
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        rows.append(gradient * (vector(weights) - before))
    return np.stack(rows)


class Keep:
    """A view that keeps every allocation, as the notebook does."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []

    def update(self, allocation: lca.StepAllocation) -> None:
        self.rows.append(allocation.values.numpy())


def against_the_notebook(data: Batch, steps: int, rounds: int, dtype: str) -> dict[str, Any]:
    """The notebook over fit with the callback and the same rule: the same weights, the same batches.

    ``dtype`` is that of the notebook's pixels: ``x / 255.0`` leaves float64, which Keras converts at every
    call.
    """
    pixels = Batch(data.x.astype(dtype), data.y)
    model = mnist_fc()
    start = model.get_weights()
    objective = Objective(model, LOSS, (data.x, data.y))
    used = steps * BATCH
    batches = tf.data.Dataset.from_tensor_slices((data.x[:used], data.y[:used])).batch(BATCH)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        model.set_weights(start)
        for variable in model.optimizer.variables[2:]:  # the moments; what comes before is the count and rate
            variable.assign(tf.zeros_like(variable))
        model.optimizer.iterations.assign(0)
        callback = LCACallback(
            objective,
            estimator=lca.PathIntegral(lca.LEFT),
            views=lambda layout: Keep(),
            on_error="raise",
        )
        model.fit(batches, verbose=0, callbacks=[callback])
        found["ours"] = np.stack(callback.views["train"].rows)

    def theirs() -> None:
        model.set_weights(start)
        found["notebook"] = notebook(model, pixels, steps)

    figures = compared("notebook", theirs, "ours", ours, rounds)
    difference = np.abs(found["ours"] - found["notebook"]).sum() / np.abs(found["ours"]).sum()
    return {
        "steps": steps,
        "measuring batch": objective.batch_size,
        **figures,
        "difference over mass": float(difference),
    }


def least(data: Batch, rounds: int) -> float:
    """Seconds of two matrix products of the first layer, forward and for its weights, in NumPy's BLAS.

    Nine tenths of the arithmetic of a gradient, and all of it has to be done: how fast one can be at all.
    """
    weights, errors = np.ones((data.x.shape[1], 100), np.float32), np.ones((len(data), 100), np.float32)

    def products() -> None:
        data.x @ weights
        data.x.T @ errors

    return interleaved(products, products, rounds).a


def main() -> None:
    """Measure, print, write results.json, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    began, data, model = time.perf_counter(), images(), mnist_fc()
    results: dict[str, Any] = {"rounds": options.rounds}
    for name, rule in RULES.items():
        results[name] = overhead(model, data, rule, options.rounds)
    results["callback without measurement"] = idle_callback(model, data, 5 * options.rounds)
    for dtype in NOTEBOOKS:
        few = max(3, options.rounds // 3)
        results[f"first order, notebook in {dtype}"] = against_the_notebook(data, 40, few, dtype)
    products = results["products of the first layer, s"] = least(data, options.rounds)
    for dtype in NOTEBOOKS:
        found = results[f"first order, notebook in {dtype}"]
        found["ratio to these products alone"] = found["notebook_s"] / found["steps"] / products
    results["seconds"] = time.perf_counter() - began
    for name, figures in results.items():
        print(f"{name}: {figures}")
    keep(FOLDER, "results.json", results)
    idle = results["callback without measurement"]["ratio"]
    notebooks = {dtype: results[f"first order, notebook in {dtype}"] for dtype in NOTEBOOKS}
    same = max(figures["difference over mass"] for figures in notebooks.values())
    verdict(
        {f"{name}: {results[name]['ratio']:.3f} ≤ 1.05": results[name]["ratio"] <= 1.05 for name in RULES}
        | {f"callback without measurement: {idle:.3f} ≤ 1.05": idle <= 1.05}
        | {f"{name}: no trace after the first step": results[name]["traces after it"] == 0 for name in RULES}
        | {
            f"first order: {found['ratio']:.2f} times faster than the notebook in {dtype}, ≥ 3": found[
                "ratio"
            ]
            >= 3
            for dtype, found in notebooks.items()
        }
        | {
            f"and the same numbers: they differ by {same:.1e} of the mass, ≤ 1e-3": same <= 1e-3,
        }
    )


if __name__ == "__main__":
    main()
