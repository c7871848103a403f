"""Losses other than the mean over examples of a classifier: contrastive, of several terms, sparse gradients.

docs/any_loss.md shows the same three in a run.
"""

import numpy as np
import pytest
import torch
from torch import nn

import lca
from lca.errors import DataError, LCAError, LCAWarning
from lca.tolerances import EPS64, summed
from lca_torch import Objective, Tracker

torch.manual_seed(0)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(48, 6, generator=GENERATOR, dtype=torch.float64)
Y = torch.arange(48) % 3
NOISE = torch.randn(48, 4, generator=GENERATOR, dtype=torch.float64)
RULE = lca.PathIntegral(lca.SIMPSON)


def info_nce(model, batch):
    first, second = nn.functional.normalize(model(batch[0]), dim=-1).unbind(1)
    return nn.functional.cross_entropy(first @ second.T / 0.2, torch.arange(len(first)))


def tracked(model, objective, loss, steps=4, lr=0.05):
    """The allocations of a few steps of SGD, and the tracker."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with Tracker(model, optimizer, objective, RULE, on_error="raise") as tracker:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
    return tracker


@pytest.fixture
def encoder():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


@pytest.fixture
def views():
    return (torch.stack([X, X + 0.1 * torch.randn(X.shape, generator=GENERATOR)], dim=1),)


def test_a_contrastive_loss_needs_its_batch_size_and_then_adds_up(encoder, views):
    with pytest.raises(DataError, match="depends on the measuring batches"):
        Objective(encoder, None, views, batch_loss=info_nce)
    objective = Objective(encoder, None, views, batch_loss=info_nce, batch_size=16)
    by_hand = np.mean([float(info_nce(encoder, (part,)).detach()) for part in views[0].split(16)])
    assert abs(objective.loss(objective.theta()) - by_hand) <= summed(48, EPS64) * by_hand
    summary = tracked(encoder, objective, lambda model: info_nce(model, views)).summary()["train"]
    change = summary["loss_end"] - summary["loss_start"]
    assert change < 0
    limit = summed(48 * 64, EPS64) * summary["mass"]
    assert abs(change - summary["lca_total"] - summary["residual"]) <= limit
    assert abs(summary["residual"]) < abs(change) / 100
    with pytest.raises(LCAError, match="mean"):
        objective.by_class()


def test_the_size_of_the_batch_is_part_of_a_contrastive_loss(encoder, views):
    small, large = (Objective(encoder, None, views, batch_loss=info_nce, batch_size=size) for size in (6, 24))
    assert small.loss(small.theta()) < large.loss(large.theta())  # fewer wrong answers


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.of_label, self.classifier = nn.Linear(6, 4), nn.Embedding(3, 4), nn.Linear(4, 3)


def prediction(model, batch):
    x, y, noise = batch
    return nn.functional.cross_entropy(model.classifier(model.encoder(x) + noise), y)


def residual_information(model, batch):
    x, y, _ = batch
    return 0.5 * (model.encoder(x) - model.of_label(y)).square().sum(1).mean()


def test_the_terms_of_a_bottleneck_add_up_for_every_parameter():
    model, beta, data = Bottleneck().double(), 0.3, (X, Y, NOISE)

    def whole(model, batch=data):
        return prediction(model, batch) + beta * residual_information(model, batch)

    with pytest.warns(LCAWarning, match="no gradient reaches"):
        terms = {
            "prediction": Objective(model, None, data, batch_loss=prediction),
            "residual": lca.Scaled(Objective(model, None, data, batch_loss=residual_information), beta),
        }
    losses = {"sum": lca.Sum(terms), "whole": Objective(model, None, data, batch_loss=whole)}
    summary = tracked(model, losses, whole).summary()
    rows = {name: found["per_tensor"] for name, found in summary.items()}
    limit = summed(48 * 64, EPS64) * summary["whole"]["mass"]
    for name, total in rows["whole"].items():
        parts = rows["sum/prediction"][name] + rows["sum/residual"][name]
        assert abs(parts - rows["sum"][name]) <= limit
        assert abs(parts - total) <= limit
    assert rows["sum/prediction"]["of_label.weight"] == rows["sum/residual"]["classifier.weight"] == 0
    assert rows["sum/residual"]["of_label.weight"] != 0


@pytest.mark.parametrize("maker", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_gradients_of_a_wide_output_layer_give_the_values_of_dense_ones(maker):
    rows, touched = 20_000, torch.tensor([3, 70, 1_999, 19_999])
    target = touched[torch.randint(4, (48, 1), generator=GENERATOR)]
    others = torch.randint(0, 500, (48, 5), generator=GENERATOR)
    data = (X, torch.cat([target, others], dim=1))

    class Wide(nn.Module):
        def __init__(self, *, sparse):
            super().__init__()
            self.output = nn.Embedding(rows, 6, sparse=sparse).double()

        def forward(self, x, candidates):
            return torch.einsum("nd,ncd->nc", x, self.output(candidates))

    def loss(model, batch=data):
        return nn.functional.cross_entropy(model(*batch), torch.zeros(len(batch[0]), dtype=torch.long))

    def views(layout):
        return lca.views.AllParameters()

    found = []
    for sparse in (True, False):
        torch.manual_seed(1)
        model = Wide(sparse=sparse)
        optimizer = maker(model.parameters(), lr=0.05)
        objective = Objective(model, None, data, batch_loss=loss)
        with Tracker(model, optimizer, objective, RULE, views=views, on_error="raise") as tracker:
            for _ in range(3):
                optimizer.zero_grad()
                loss(model).backward()
                if not sparse and maker is torch.optim.SparseAdam:
                    model.output.weight.grad = model.output.weight.grad.to_sparse(1)
                optimizer.step()
        found.append(tracker.views["train"].rows.sum(axis=0).reshape(rows, 6))
    untouched = np.setdiff1d(np.arange(rows), data[1].numpy())
    assert (found[0][untouched] == 0).all()
    assert (found[0][touched.numpy()] != 0).all()
    assert np.abs(found[0] - found[1]).max() <= summed(48 * 64, EPS64) * np.abs(found[1]).sum()
