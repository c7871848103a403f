"""`Objective` as `lca.objective.Scored`: single examples, weighted batches, errors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from lca import tolerances
from lca.errors import LCAError
from lca.estimators import SampledPathIntegral
from lca.objective import Sampled
from lca_torch import Objective
from tests.lca_torch.networks import X, Y, mlp

EPS = torch.finfo(torch.float64).eps
ROWS = X.double(), Y


def objective(loss_fn=cross_entropy, data=ROWS, **options):
    return Objective(mlp().double(), loss_fn, data, **{"batch_size": 4, **options})


def test_weighted_batches_are_weighted_means_with_a_module_as_loss():
    loss, index, weight = (
        objective(nn.CrossEntropyLoss(label_smoothing=0.1)),
        np.array([3, 3, 0, 16, 7, 9]),
        np.arange(1.0, 7.0),
    )
    theta = loss.theta()
    single = [loss.loss_and_grad(theta, loss.batch(np.array([n]))) for n in index]
    value, grad = loss.loss_and_grad(theta, loss.batch(index, weight))
    wanted = sum(w * one for w, (one, _) in zip(weight, single, strict=True)) / weight.sum()
    assert abs(value - wanted) <= tolerances.summed(wanted, EPS)
    mean = sum(w * one for w, (_, one) in zip(weight, single, strict=True)) / weight.sum()
    assert float((grad - mean).abs().max()) <= tolerances.gradient(1.0, EPS)
    everything = loss.loss(theta, loss.batch(np.arange(loss.n_examples)))
    assert abs(everything - loss.loss(theta)) <= tolerances.summed(everything, EPS)


def test_targets_that_are_numbers_have_no_classes():
    loss = objective(mse_loss, (ROWS[0], torch.ones(17, 3, dtype=torch.float64)))
    assert loss.labels is None
    with pytest.raises(LCAError, match="inputs, integer labels"):
        loss.by_class()
    gap = (loss.model(ROWS[0]) - 1).abs().sum(1).detach().numpy() / 3  # ½ Σ_j |2 (f_j - 1) / 3|
    assert np.abs(loss.scores(loss.theta()) - gap).max() <= tolerances.summed(float(gap.max()), EPS)


def test_losses_with_class_weights_are_no_mean_of_examples():
    loss = objective(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)))
    assert not loss.is_mean
    for weight in (None, np.ones(3)):
        with pytest.raises(LCAError, match="by number of examples.*CrossFit"):
            loss.batch(np.arange(3), weight)


MIXED = {
    "data": [(ROWS[0], Y), {"x": ROWS[0], "y": Y}],
    "batch_loss": lambda model, batch: cross_entropy(*pair(model, batch)),
    "loss_fn": None,
    "batch_size": None,
}


def test_what_has_no_single_examples_is_refused_with_the_way_out():
    with pytest.raises(LCAError, match=r"tensors with one row per example.*CrossFit"):
        SampledPathIntegral(size=4).start(objective(**MIXED))


def pair(model, batch):
    x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
    return model(x), y


class Named(dict):
    """Outputs that are read by name, as those of Hugging Face; others than logits do not count."""

    @property
    def logits(self):
        return self["logits"]


class Returning(nn.Module):
    """A network whose outputs are in a container."""

    def __init__(self, pack):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.pack = mlp().double(), pack

    def forward(self, x):
        return self.pack(self.network(x))


@pytest.mark.parametrize(
    ("pack", "logits"),
    [
        (lambda f: Named(loss=f.mean(), logits=f, hidden=f + 1, k=torch.arange(3)), lambda out: out.logits),
        (lambda f: (None, f[:, :1], f[:, 1:]), lambda out: torch.cat(out[1:], 1)),
    ],
    ids=["by name", "in parts"],
)
def test_scores_of_outputs_in_a_container_are_those_of_the_logits_in_it(pack, logits):
    plain = Objective(Returning(lambda f: f), cross_entropy, ROWS, batch_size=4)
    packed = Objective(Returning(pack), lambda out, y: cross_entropy(logits(out), y), ROWS, batch_size=4)
    found, wanted = packed.scores(packed.theta()), plain.scores(plain.theta())
    assert np.abs(found - wanted).max() <= tolerances.summed(1.0, EPS)


def test_scores_of_outputs_that_are_no_tensors_are_refused():
    def mean(out, y):
        return out.value.square().mean()

    packed = Objective(Returning(lambda f: SimpleNamespace(value=f)), mean, ROWS, batch_size=4)
    with pytest.raises(LCAError, match="a SimpleNamespace holds no tensor of them; return a tensor, a tuple"):
        packed.scores(packed.theta())


def test_the_examples_of_a_loss_that_the_model_returns_are_weighed_by_a_loss_of_its_logits():
    model = Returning(lambda f: Named(loss=f.square().mean(), logits=f))
    measured = Objective(model, None, {"x": ROWS[0]})
    with pytest.raises(LCAError, match=r"computes its loss itself, as a mean: pass loss_fn=lambda output, y"):
        measured.batch(np.arange(3), np.ones(3))


def test_without_a_loss_of_outputs_there_are_no_scores():
    loss = objective(None, batch_loss=lambda model, b: cross_entropy(model(b[0]), b[1]))
    assert isinstance(loss, Sampled)
    with pytest.raises(LCAError, match=r"tracker\.scores\(index, errors\)"):
        loss.scores(loss.theta())


def test_labels_that_are_left_out_of_every_example_are_named_with_the_way_to_weigh_examples():
    """As a prompt of one length, which counts in no loss."""
    labels = Y.reshape(-1, 1).repeat(1, 3)
    labels[:, 0] = -100
    rows = X.double(), labels

    def loss_fn(output, target, reduction="mean"):
        losses = cross_entropy(output.unsqueeze(2).expand(-1, -1, 3), target, reduction="none")
        losses = losses.sum(1) / (target != -100).sum(1)
        return losses.mean() if reduction == "mean" else losses

    def plain(output, target, reduction="mean"):
        return cross_entropy(output.unsqueeze(2).expand(-1, -1, 3), target, reduction=reduction)

    refused, taken = objective(plain, rows), objective(loss_fn, rows)
    theta, index, weight = refused.theta(), np.arange(4), np.arange(1.0, 5.0)
    with pytest.raises(
        LCAError, match=r"labels -100 \(ignore_index\).* pass a loss_fn\(output, target, reduct"
    ):
        refused.batch(index, weight)
    single = [taken.loss(theta, taken.batch(np.array([n]))) for n in index]
    wanted = float(weight @ single / weight.sum())
    assert abs(taken.loss(theta, taken.batch(index, weight)) - wanted) <= tolerances.summed(wanted, EPS)
