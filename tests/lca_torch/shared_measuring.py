"""What one process and several ranks must find alike; a child of test_shared_measuring.py.

torchrun --nproc-per-node 2 -m tests.lca_torch.shared_measuring FOLDER
"""

import sys
import warnings

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import lca
from lca.errors import LCAWarning
from lca.estimators import CrossFit, NextBatch, SampledPathIntegral
from lca_torch import Objective, Penalty, Tracker
from lca_torch._parameters import Leaves
from tests.lca_torch.networks import X, Y, mlp, normalised
from tests.lca_torch.torchrun import run, world

STEPS = 3
DATA = X.double(), Y
LENGTHS = 5, 3, 0, 4, 2
"""Numbers of tokens in batches that do not fit together; one has none, and no loss."""
TOKENS = [(X[i : i + 3, : n or 1].double(), torch.full((3,), n)) for i, n in enumerate(LENGTHS)]


def made(model=None, **options):
    torch.manual_seed(0)
    model = (mlp() if model is None else model()).double()
    return model, Objective(model, cross_entropy, DATA, **{"batch_size": 4, **options})


def at(objective):
    """Loss and gradient at the parameters of the model."""
    theta = objective.theta()
    loss, grad = objective.loss_and_grad(theta)
    assert objective.loss(theta) == loss
    return {"loss": np.array(loss), "grad": grad.numpy()}


def batches():
    """Five measuring batches, the last of one example."""
    return at(made()[1])


def fewer_batches_than_ranks():
    """Two ragged batches; a third rank has nothing to evaluate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LCAWarning)
        return at(made(batch_size=9)[1])


def token_loss(model, batch):
    x, n = batch
    return (model(x.new_ones(len(x), 6)) * x.mean(1, keepdim=True)).sum() / n.sum()


def tokens():
    """Batches that do not fit together, weighed by tokens; the loss of one is Inf and does not count."""
    torch.manual_seed(0)
    model = mlp().double()
    weighed = Objective(model, None, TOKENS, batch_loss=token_loss, batch_weight=lambda b: float(b[1].sum()))
    return at(weighed)


def read_at_every_pass():
    loader = DataLoader(TensorDataset(*DATA), batch_size=3)
    return at(Objective(made()[0], cross_entropy, loader, keep=False))


def statistics_of_the_batch():
    return at(made(lambda: normalised(4), batch_norm="batch", batch_size=6)[1])


def scores():
    model, objective = made()
    return {"scores": objective.scores(objective.theta())}


def classes():
    model, objective = made()
    found = lca.objective.evaluate(objective.by_class(), objective.theta())
    terms = {name: term.grad.numpy() for name, term in found.terms.items()}
    return terms | {f"loss of {name}": np.array(term.loss) for name, term in found.terms.items()}


def samples():
    """A sample that weighs nothing in part, and one of a single example."""
    model, objective = made()
    theta, found = objective.theta(), {}
    for name, index, weight in (("many", np.arange(9), np.arange(9.0)), ("one", np.array([3]), None)):
        loss, grad = objective.loss_and_grad(theta, objective.batch(index, weight))
        found |= {f"loss of {name}": np.array(loss), name: grad.numpy()}
    return found


class Values:
    """A view that stores the allocation of each step."""

    def __init__(self, layout):
        self.rows = []

    def update(self, allocation):
        a = allocation
        numbers = [a.mass, a.state_change or 0.0, a.loss_start, a.loss_end]  # a probe measures no loss
        self.rows.append(np.nan_to_num(np.append(np.asarray(a.values), numbers)))


def tracked(make, estimator=None, *, parallel=False, batches=False, halves=False, **options):
    """The allocations of a short training; with ``parallel`` each rank trains on a part of the batch.

    ``halves``: a rank has a part of each half of the batch, with other numbers of examples than other ranks,
    and the loop weighs the losses of the ranks by them.
    """
    torch.manual_seed(0)
    model, measured = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    count, rank = world() if parallel else (1, 0)
    trained = DistributedDataParallel(model) if count > 1 else model
    chosen = [torch.arange(step, step + 12, 12 // 6) % 17 for step in range(STEPS)]  # 6 examples
    if halves:  # of 4 and 3 examples
        chosen = [torch.arange(step, step + 14, 2) % 17 for step in range(STEPS)]
        own = [torch.cat([index[:4][rank::count], index[4:][rank::count]]) for index in chosen]
    else:
        own = [index[rank::count] for index in chosen]
    parts = [(DATA[0][index], Y[index]) for index in own]
    weight = count * len(own[0]) / len(chosen[0])
    tracker = Tracker(model, optimizer, measured, estimator, views=Values, on_error="raise", **options)
    with tracker:
        for x, y in tracker.batches(parts) if batches else parts:
            optimizer.zero_grad()
            (weight * cross_entropy(trained(x), y)).backward()
            optimizer.step()
    summary = tracker.summary()
    assert all(np.isfinite(summary[name]["lca_total"]) for name in tracker.views)
    return {name: np.array(view.rows) for name, view in tracker.views.items()}


def several_losses():
    def make():
        model, train = made()
        test = Objective(model, cross_entropy, (DATA[0][::2], Y[::2]), batch_size=3)
        penalty = Penalty(model, lambda m: 0.01 * sum((p**2).sum() for p in m.values()))
        return model, {
            "train": train,
            "test": test,
            "classes": test.by_class(),
            "sum": lca.Sum({"data": train, "penalty": penalty}),
        }

    return tracked(make)


def whole(model, objective):
    return model, {"train": objective}


def moving_state():
    """Running statistics move: state_change is a part of the loss change."""
    return tracked(lambda: whole(*made(lambda: normalised(4), batch_norm="frozen")))


def probe():
    return tracked(lambda: whole(*made()), SampledPathIntegral(size=6, micro_batches=2, seed=3))


def importance():
    drawn = SampledPathIntegral(size=5, sampling="stratified", refresh=1, seed=3)
    return tracked(lambda: whole(*made()), drawn, check_every=1)


def data_parallel():
    return tracked(lambda: whole(*made()), lca.PathIntegral(lca.SIMPSON), parallel=True)


def next_batch():
    """The batch of each rank is a part of the batch whose loss is measured."""
    return tracked(lambda: whole(*made()), NextBatch(), parallel=True, batches=True)


def own_pass():
    """A half of the batch is that of the parts of all ranks, which may weigh differently."""
    estimator = CrossFit(own_pass=True)
    return tracked(lambda: whole(*made()), estimator, parallel=True, batches=True, halves=True)


def statistics_of_rank_0():
    """Running statistics that differ between the ranks: those of rank 0 count, as in training."""
    model, objective = made(lambda: normalised(4), batch_norm="frozen")
    rank = world()[1]
    model.train()
    model(DATA[0][: 4 + rank])
    return at(objective)


def forecast():
    """The ranks evaluate equally often, although each has a clock of its own."""
    model, objective = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Tracker(model, optimizer, objective, progress=4, on_error="raise") as tracker:
        tracker.estimate(10)
        cross_entropy(model(DATA[0]), Y).backward()
        optimizer.step()
    return {}


CASES = [
    batches,
    fewer_batches_than_ranks,
    tokens,
    read_at_every_pass,
    statistics_of_the_batch,
    scores,
    classes,
    samples,
    several_losses,
    moving_state,
    probe,
    importance,
    data_parallel,
    next_batch,
    own_pass,
    statistics_of_rank_0,
    forecast,
]


def weight_of_one_gradient():
    """The examples that this process evaluates for one gradient."""
    objective, weights, add = made()[1], [], Leaves.add_gradient

    def adding(self, loss, weight=1.0):
        weights.append(weight)
        add(self, loss, weight)

    Leaves.add_gradient = adding
    try:
        objective.loss_and_grad(objective.theta())
    finally:
        Leaves.add_gradient = add
    return {"weight": np.array(sum(weights))}


if __name__ == "__main__":
    run([*CASES, weight_of_one_gradient], sys.argv[1])
