"""Claim: with ten million parameters in one tensor of a Keras model, measuring costs its gradients.

The trapezoid on a short path, against the same gradients with the same allocation and its sum by hand, in a
compiled function; and with the leanest way that we know to all that a step has by default: the allocation,
its mass, and the sum and the signs of the tensor. All sides take turns; CPU time of one thread, medians.
"""

import time
from statistics import median

import keras
import numpy as np
import tensorflow as tf
from scipy.linalg.blas import sasum

import lca
from lca.row import Row
from lca_tensorflow import Objective
from validation.bench_sampled.folder import FOLDER
from validation.evidence import keep

INPUTS, CLASSES, EXAMPLES, STEPS, ROUNDS = 10_000, 1_000, 32, 3, 7
BLOCK = 2**16
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def same_results(
    first: tf.Tensor, last: tf.Tensor, start: tf.Tensor, end: tf.Tensor
) -> tuple[np.ndarray, float, float, int, int]:
    """A of the trapezoid, its mass, its sum and its signs, in blocks that fit the cache."""
    f, g, a, b = (np.asarray(memoryview(tensor)) for tensor in (first, last, start, end))
    values = np.empty_like(a)
    mass = total = 0.0
    negative = positive = 0
    for i in range(0, len(a), BLOCK):
        s = slice(i, i + BLOCK)
        movement = b[s] - a[s]
        part, other = np.multiply(f[s], movement, out=values[s]), g[s] * movement
        mass += 0.5 * (sasum(part) + sasum(other))
        part += other
        part *= 0.5
        total += float(part.sum(dtype=np.float64))
        negative, positive = negative + np.count_nonzero(part < 0), positive + np.count_nonzero(part > 0)
    return values, mass, total, negative, positive


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(CLASSES, use_bias=False)])
    rng = np.random.default_rng(0)
    data = rng.normal(size=(EXAMPLES, INPUTS)).astype("float32"), rng.integers(0, CLASSES, EXAMPLES)
    objective = Objective(model, LOSS, data)
    points = [objective.theta() * (1 + 0.001 * i) for i in range(STEPS + 1)]
    x, y = map(tf.constant, data)

    @tf.function
    def gradient(theta: tf.Tensor) -> tf.Tensor:
        weights = tf.reshape(theta, (INPUTS, CLASSES))
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = LOSS(y, x @ weights)
        return loss, tf.reshape(tape.gradient(loss, weights), [-1])

    @tf.function
    def trapezoid(first: tf.Tensor, last: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        values = 0.5 * (first + last) * (end - start)
        return values, tf.reduce_sum(values)

    def gradients() -> None:
        for point in points:
            float(gradient(point)[0])

    def by_hand() -> None:
        last = gradient(points[0])[1]
        for start, end in zip(points[:-1], points[1:], strict=True):
            first, (loss, last) = last, gradient(end)
            _, total = trapezoid(first, last, start, end)
            float(loss), float(total)

    def leanest() -> None:
        last = gradient(points[0])[1]
        for start, end in zip(points[:-1], points[1:], strict=True):
            first, (loss, last) = last, gradient(end)
            float(loss), same_results(first, last, start, end)

    def evaluated() -> None:
        for point in points:
            objective.loss_and_grad(point)

    def allocated() -> None:
        for a in lca.allocate(
            objective, lca.Trajectory(points), lca.PathIntegral(lca.TRAPEZOID), check=False
        ):
            row = Row(a, objective.layout)
            row.totals("tensor"), row.signs("tensor")

    sides = {
        "gradients": gradients,
        "by hand": by_hand,
        "same results by hand": leanest,
        "objective": evaluated,
        "allocate": allocated,
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):
        for name, side in list(sides.items())[:: 1 if turn % 2 else -1]:
            began = time.process_time()
            side()
            if turn:
                times[name].append(time.process_time() - began)
    found = {f"{name} ms a gradient": 1e3 * median(taken) / len(points) for name, taken in times.items()}
    pairs = ("objective", "gradients"), ("allocate", "by hand"), ("allocate", "same results by hand")
    ratios = {
        f"{side} / {other}": median(a / b for a, b in zip(times[side], times[other], strict=True))
        for side, other in pairs
    }
    for name, value in (found | ratios).items():
        print(f"{name}: {value:.2f}")
    keep(FOLDER, "tensorflow_large.json", {"parameters": INPUTS * CLASSES, **found, **ratios})


if __name__ == "__main__":
    main()
