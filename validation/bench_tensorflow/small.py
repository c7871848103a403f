"""Claim on small objectives: allocating costs no more than the gradients written by hand.

Where a gradient takes a millisecond, what surrounds it counts. The time of allocating a path of 20 steps is
divided by that of the gradients at the same points alone, in CPU time of one thread: those of a usual loop
over the data, which sums eager tensors, and those of the leanest function that we know, which takes θ and the
whole data, and returns loss and gradient from one compiled call. ::

    python -m validation.bench_tensorflow.small
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import lca
from lca.reference import Batch
from lca_tensorflow import Objective
from validation.bench_tensorflow import run
from validation.evidence import keep, verdict
from validation.timing import interleaved

FOLDER, STEPS = Path(__file__).parent, 20
SIZES = {100: (20, 63, 10, 4), 500: (64, 128, 64, 10), 2000: (64, 128, 64, 10), 1000: (784, 100, 50, 10)}
"""Examples, and the widths of a network."""


def network(widths: tuple[int, ...]) -> keras.Sequential:
    """Dense layers of these widths."""
    keras.utils.set_random_seed(0)
    *hidden, out = [keras.layers.Dense(n, "tanh") for n in widths[1:]]
    out.activation = keras.activations.linear
    model = keras.Sequential([keras.Input((widths[0],)), *hidden, out])
    model.compile("adam", run.LOSS)
    return model


def leanest(model: keras.Model, data: Batch) -> Callable[[tf.Tensor], float]:
    """Loss and gradient of the whole data, one compiled call."""
    x, y, weights = tf.constant(data.x), tf.constant(data.y), model.trainable_weights
    shapes, sizes = [w.shape for w in weights], [int(np.prod(w.shape)) for w in weights]

    @tf.function
    def gradient(theta: tf.Tensor, x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        for weight, part, shape in zip(weights, tf.split(theta, sizes), shapes, strict=True):
            weight.assign(tf.reshape(part, shape))
        with tf.GradientTape() as tape:
            loss = run.LOSS(y, model(x, training=False))
        return loss, tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(loss, weights)], 0)

    return lambda theta: float(gradient(theta, x, y)[0])


def measure(
    examples: int, widths: tuple[int, ...], rule: lca.QuadratureRule, rounds: int
) -> dict[str, float]:
    """The ratio to both kinds of gradients."""
    rng, model = np.random.default_rng(0), network(widths)
    x = rng.normal(size=(examples, widths[0])).astype("float32")
    data = Batch(x, rng.integers(0, widths[-1], examples))
    objective = Objective(model, run.LOSS, (data.x, data.y), batch_size=examples)
    points = [objective.theta()]
    for seed in range(STEPS):
        points.append(points[-1] + 1e-3 * tf.random.stateless_normal(points[0].shape, [seed, 0]))
    inner = [c for c in rule.nodes if 0 < c < 1]
    nodes = points[:1]
    for start, end in zip(points[:-1], points[1:], strict=True):
        nodes += [start + c * (end - start) for c in inner] + [end]

    def allocate() -> None:
        for _ in lca.allocate(objective, lca.Trajectory(points), lca.PathIntegral(rule), check=False):
            pass

    found = {"parameters": float(objective.layout.size)}
    for name, made in (("by hand", run.by_hand), ("leanest", leanest)):
        gradient = made(model, data)
        times = interleaved(allocate, lambda gradient=gradient: [gradient(node) for node in nodes], rounds)
        found[name] = times.cpu_ratio
    return found


def main() -> None:
    """Measure, print, keep, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    found = {}
    for examples, widths in SIZES.items():
        run.SIZE = examples
        for name, rule in run.RULES.items():
            row = f"{examples} examples, {'-'.join(map(str, widths))}, {name}"
            found[row] = measure(examples, widths, rule, options.rounds)
            print(f"{row}: {found[row]}", flush=True)
    keep(FOLDER, "small.json", {"rounds": options.rounds, **found})
    verdict(
        {f"{row}: {ratios['by hand']:.2f} ≤ 1.05": ratios["by hand"] <= 1.05 for row, ratios in found.items()}
    )


if __name__ == "__main__":
    main()
