"""What `AdaptiveSampleSize(relative_error=)` costs, compared with samples of a fixed size.

On the first 600 digits (64-32-10, 120 steps on batches of 50, error bars from two micro-batches): how often
the error is met, and the examples of a step over those of the smallest fixed size with which it is met on
95 % of the steps, interpolated between powers of two.

    python -m validation.cost_frontier.sizes
"""

from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from lca import allocate
from lca.allocation import Estimator
from lca.estimators import AdaptiveSampleSize, SampledPathIntegral
from lca.reference import SGD, Adam, DatasetLoss, load_digits, minibatches, mlp, train
from lca.step import Step
from lca.views import ErrorBars
from validation.evidence import keep

EXAMPLES, BATCH, STEPS, SEEDS, FIXED_SEEDS = 600, 50, 120, 6, 2
SIZES = 2 ** np.arange(3, 13)
ERRORS = (0.02, 0.05)
PART = 0.95
"""The part of the steps on which a fixed size has to meet the error."""
OPTIMIZERS = {"sgd": SGD(lr=0.05, momentum=0.9), "adam": Adam(lr=0.002)}
Sampling: TypeAlias = Literal["uniform", "stratified"]
SAMPLINGS: tuple[Sampling, ...] = ("uniform", "stratified")
DIGITS, NETWORK = load_digits().reshaped((64,)), mlp((64, 32, 10))
LOSS = DatasetLoss(NETWORK, DIGITS.x_train[:EXAMPLES], DIGITS.y_train[:EXAMPLES])
Array = np.ndarray


def errors(estimator: Estimator, steps: list[Step]) -> tuple[Array, float]:
    """The largest standard error of a layer over the largest loss change, by step; the examples of a step."""
    bars, change, largest, spent = ErrorBars(NETWORK.layout.groups("layer")), 0.0, 0.0, 0.0
    found = []
    for a in allocate(LOSS, steps, estimator):
        bars.update(a)
        change += a.values.sum()
        largest = max(largest, abs(change))
        spent += a.cost.examples
        found.append(bars.stderr().max() / largest)
    return np.array(found), spent / len(steps)


def smallest_size(runs: dict[int, list[Array]], error: float) -> float:
    """The size with which the error is met on `PART` of the steps."""
    reached = {size: float(np.mean([np.quantile(own, PART) for own in each])) for size, each in runs.items()}
    above = max((size for size in reached if reached[size] > error), default=None)
    if above is None:
        return float(min(reached))
    ratio = np.log(reached[above] / error) / np.log(reached[above] / reached[2 * above])
    return float(above * 2**ratio)


def case(optimizer_name: str, sampling: Sampling) -> dict[str, dict[str, Any]]:
    """For each error: how often it was met, and at what cost."""
    batches = minibatches(LOSS.x, LOSS.y, batch_size=BATCH, steps=STEPS, seed=0)
    steps = list(train(LOSS, NETWORK.init(seed=0), OPTIMIZERS[optimizer_name], batches, scores=True))

    def probe(size: int, seed: int) -> SampledPathIntegral:
        return SampledPathIntegral(size=size, micro_batches=2, sampling=sampling, seed=seed)

    fixed = {
        int(size): [errors(probe(int(size), seed), steps)[0] for seed in range(FIXED_SEEDS)] for size in SIZES
    }
    found = {}
    for error in ERRORS:
        sized = [
            errors(AdaptiveSampleSize(probe(16, seed), relative_error=error, groups="layer"), steps)
            for seed in range(SEEDS)
        ]
        met, size = [own <= error for own, _ in sized], smallest_size(fixed, error)
        found[f"{error:.0%}"] = {
            "met_at_the_end": sum(bool(own[-1]) for own in met) / SEEDS,
            "met_on_steps": [float(own.mean()) for own in met],
            "examples": float(np.mean([spent for _, spent in sized])),
            "smallest_fixed_size": size,
            "cost": float(np.mean([spent for _, spent in sized])) / size,
        }
    return found


def main() -> None:
    """Measure, print and keep."""
    results = {f"{name}, {own}": case(name, own) for name in OPTIMIZERS for own in SAMPLINGS}
    print("met at the end, on steps, worst run; examples, smallest fixed size, cost")
    for name, each in results.items():
        for error, row in each.items():
            met, worst = np.mean(row["met_on_steps"]), min(row["met_on_steps"])
            shown = f"{row['met_at_the_end']:.0%} {met:.1%} {worst:.1%}; {row['examples']:.0f}"
            print(f"{name:16} {error}: {shown} {row['smallest_fixed_size']:.0f} {row['cost']:.2f}")
    keep(Path(__file__).parent, "sizes.json", results)


if __name__ == "__main__":
    main()
