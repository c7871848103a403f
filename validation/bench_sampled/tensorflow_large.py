"""Claim: with ten million parameters in one tensor of a Keras model, measuring costs its gradients.

The trapezoid on a short path, against the same gradients, the same allocation and its sum by hand in compiled
functions. Both sides take turns; CPU time of one thread, medians over rounds.
"""

import time
from statistics import median

import keras
import numpy as np
import tensorflow as tf

import lca
from lca.row import Row
from lca_tensorflow import Objective
from validation.bench_sampled.folder import FOLDER
from validation.evidence import keep

INPUTS, CLASSES, EXAMPLES, STEPS, ROUNDS = 10_000, 1_000, 32, 3, 7
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


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

    def evaluated() -> None:
        for point in points:
            objective.loss_and_grad(point)

    def allocated() -> None:
        for a in lca.allocate(
            objective, lca.Trajectory(points), lca.PathIntegral(lca.TRAPEZOID), check=False
        ):
            Row(a, objective.layout).totals("tensor")

    sides = {"gradients": gradients, "by hand": by_hand, "objective": evaluated, "allocate": allocated}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(ROUNDS + 1):
        for name, side in list(sides.items())[:: 1 if turn % 2 else -1]:
            began = time.process_time()
            side()
            if turn:
                times[name].append(time.process_time() - began)
    found = {f"{name} ms a gradient": 1e3 * median(taken) / len(points) for name, taken in times.items()}
    ratios = {
        "objective / gradients": median(
            a / b for a, b in zip(times["objective"], times["gradients"], strict=True)
        ),
        "allocate / by hand": median(a / b for a, b in zip(times["allocate"], times["by hand"], strict=True)),
    }
    for name, value in (found | ratios).items():
        print(f"{name}: {value:.2f}")
    keep(FOLDER, "tensorflow_large.json", {"parameters": INPUTS * CLASSES, **found, **ratios})


if __name__ == "__main__":
    main()
