"""The ways of `lca_torch` to the slopes: they agree, and a way that would be wrong is not taken."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca import tolerances
from lca.by_example import ByExample, allocate_by_example
from lca_torch import Objective
from tests.by_example.cases import EPS

N, WORDS, WIDTH = 6, 5, 4
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Flattened(nn.Module):
    """Embeddings, and layers that see words one by one, as rows of a matrix."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, WIDTH, padding_idx=0)
        self.norm, self.mix, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, words):
        rows = self.norm(self.embed(words)).view(-1, WIDTH)
        return self.head(torch.tanh(self.mix(rows)).view(*words.shape, WIDTH).mean(1))


class Attention(nn.Module):
    """A layer whose weights are read otherwise, between others."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 3)
        self.attend = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.scale = nn.Parameter(torch.full((WIDTH,), 0.7))

    def forward(self, words):
        x = self.embed(words)
        return self.head((self.scale * self.attend(x, x, x, need_weights=False)[0]).mean(1))


class TimeFirst(nn.Module):
    """Rows are words, of which there are as many as examples."""

    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, words):
        return self.head(torch.tanh(self.mix(self.embed(words.T))).mean(0))


def images():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.ConvTranspose2d(3, 4, 2),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 3),
    )


WORD_DATA = torch.randint(7, (N, WORDS), generator=torch.Generator().manual_seed(1))
SQUARE = torch.randint(7, (N, N), generator=torch.Generator().manual_seed(1))
IN_ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
MODELS = {
    "images": (images, drawn(N, 2, 4, 4), set()),
    "flattened": (Flattened, WORD_DATA, set()),
    "attention": (Attention, WORD_DATA, {"scale", *(f"attend.{name}" for name in IN_ATTENTION)}),
}


def mean_only(outputs, labels):
    """A loss that does not give those of single examples."""
    return 1.0 * cross_entropy(outputs, labels)


def measured(make, x, way, by="tensor", loss_fn=cross_entropy):
    """The allocation by one way; whether the backward pass was taken."""
    torch.manual_seed(0)
    objective = Objective(make().double(), loss_fn, (x, LABELS), batch_norm="frozen", batch_size=4)
    objective._loss._derivatives.local = way == "backward"
    theta = objective.theta()
    moved = 0.05 * drawn(len(theta))
    if make is Flattened:
        moved[:WIDTH] = 0  # training does not move the row of the padding
    step = lca.Step(theta, theta + moved)
    how = ByExample(by, estimator=lca.PathIntegral(lca.SIMPSON))
    [found] = allocate_by_example(objective, [step], how)
    [whole] = lca.allocate(objective, [step], lca.PathIntegral(lca.SIMPSON), check=False)
    sums = objective.layout.groups(by).total(whole.values)
    return found, sums, objective._loss._derivatives


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("by", ["tensor", "layer"])
@pytest.mark.parametrize("loss_fn", [cross_entropy, mean_only])
def test_all_ways_agree(name, by, loss_fn):
    make, x, used_otherwise = MODELS[name]
    forward, sums, _ = measured(make, x, "forward", by)
    backward, _, used = measured(make, x, "backward", by, loss_fn)
    assert used.uncovered == used_otherwise
    assert used.local
    rounding = tolerances.allocation(backward.mass + 1, EPS, backward.nodes)
    assert np.abs(backward.values - forward.values).max() <= rounding
    for found in (forward, backward):
        assert np.abs(found.values.sum(axis=1) - sums).max() <= rounding
        assert found.converged, found.reason


class Language(nn.Module):
    """A model that returns its loss, the mean over all words."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 7)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 6, dropout=0.0, batch_first=True)

    def forward(self, words):
        logits = self.head(self.layer(self.embed(words[:, :-1])))
        return {"loss": cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())}


def test_a_model_with_a_loss_of_its_own():
    torch.manual_seed(0)
    objective = Objective(Language().double(), None, {"words": WORD_DATA})
    theta = objective.theta()
    step = lca.Step(theta, theta + 0.05 * drawn(len(theta)))
    how = ByExample("layer", labels={"task": list("aabbcc")}, estimator=lca.PathIntegral(lca.SIMPSON))
    [found] = allocate_by_example(objective, [step], how)
    [whole] = lca.allocate(objective, [step], lca.PathIntegral(lca.SIMPSON), check=False)
    rounding = tolerances.allocation(found.mass + 1, EPS, found.nodes)
    sums = objective.layout.groups("layer").total(whole.values)
    assert np.abs(found.values.sum(axis=1) - sums).max() <= rounding
    assert abs(found.residual.sum() - whole.residual) <= rounding
    assert found.converged, found.reason
    assert found.over("task").values.shape == (len(sums), 3)


class Sorted(nn.Module):
    """Rows in an order of their own between the first layer and the last."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(WORDS, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, words):
        x = words.double()
        order = x.sum(1).argsort(stable=True)
        return self.head(torch.tanh(self.mix(x[order]))[order.argsort()])


class Views(Sorted):
    """Two views of each example, one after the other, through one layer."""

    def forward(self, words):
        x = words.double()
        first, second = torch.tanh(self.mix(torch.cat([x, x.flip(1)]))).chunk(2)
        return self.head(first + second)


@pytest.mark.parametrize(("make", "x"), [(TimeFirst, SQUARE), (Sorted, WORD_DATA), (Views, WORD_DATA)])
@pytest.mark.parametrize("speed", [1.0, 1e-3])
def test_examples_are_kept_apart_where_rows_are_not(make, x, speed):
    """Also where a layer moves so little that it hardly counts in a sum."""
    torch.manual_seed(0)
    objective = Objective(make().double(), cross_entropy, (x, LABELS))
    theta = objective.theta()
    moved = 0.05 * drawn(len(theta))
    moved[: -3 * WIDTH - 3] *= speed  # all but the last layer
    how = ByExample("tensor", estimator=lca.PathIntegral(lca.SIMPSON))
    found = []
    for local in (True, False):
        objective._loss._derivatives.local = local
        found += allocate_by_example(objective, [lca.Step(theta, theta + moved)], how)
    assert objective._loss._derivatives.uncovered == set()
    size = np.abs(found[1].values).max(axis=1, keepdims=True)
    bound = tolerances.allocation(1.0, EPS, found[0].nodes) * np.maximum(size, EPS)
    assert (np.abs(found[0].values - found[1].values) <= 2**10 * bound).all()


def test_any_number_of_examples_can_be_chosen():
    """Of a model whose rows are no examples."""
    torch.manual_seed(0)
    objective = Objective(TimeFirst().double(), cross_entropy, (SQUARE, LABELS), batch_size=N)
    theta = objective.theta()
    step = lca.Step(theta, theta + 0.05 * drawn(len(theta)))
    for examples in ([1], [1, 2], [0, 1, 2], range(N)):
        how = ByExample("tensor", examples, estimator=lca.PathIntegral(lca.SIMPSON))
        [found] = allocate_by_example(objective, [step], how)
        rounding = tolerances.allocation(found.mass + 1, EPS, found.nodes)
        assert np.abs(found.group_residual).max() <= rounding
        assert np.abs(found.residual).max() <= found.mass / 100


def test_the_model_and_its_gradients_are_untouched():
    torch.manual_seed(0)
    model = images().double()
    x = MODELS["images"][1]
    cross_entropy(model(x), LABELS).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    objective = Objective(model, cross_entropy, (x, LABELS), batch_norm="frozen")
    theta, generator = objective.theta(), torch.get_rng_state()
    for by in ("tensor", "neuron"):
        list(allocate_by_example(objective, [lca.Step(theta, 1.01 * theta)], ByExample(by)))
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(grads, model.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_frozen_layer_that_momentum_moves_on_is_allocated():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model[0].requires_grad_(False)
    objective = Objective(model, cross_entropy, (drawn(N, 4), LABELS))
    theta = objective.theta()
    how = ByExample("layer", estimator=lca.PathIntegral(lca.gauss_legendre(8)))
    [found] = allocate_by_example(objective, [lca.Step(theta, 1.1 * theta)], how)
    assert found.values[0].any()
    assert found.converged, found.reason
    assert np.abs(found.residual).max() <= tolerances.conservation(
        found.mass + 1, found.loss_start.sum(), EPS
    )
