"""The measured data come in many forms, all of which mean the same mean loss; unusable ones are refused."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import lca
from lca import tolerances
from lca.errors import DataError, NonDeterministicError
from lca_torch import Objective
from tests.lca_torch.networks import X, Y, mlp


def close(found, expected, eps=tolerances.EPS64):
    """Whether the same loss was added up in another order."""
    return abs(found - expected) <= tolerances.summed(abs(expected), eps)


class Pairs(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], Y[i]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def forms():
    data = TensorDataset(X, Y)
    pieces = [(X[:3], Y[:3]), (X[3:12], Y[3:12]), (X[12:], Y[12:])]
    return {
        "tensors": (X, Y),
        "tensor data set": data,
        "data set": Pairs(),
        "iterable data set": DataLoader(Stream(), batch_size=4),
        "loader": DataLoader(data, batch_size=4),
        "shuffled loader": DataLoader(data, batch_size=5, shuffle=True),
        "subset": Subset(data, range(17)),
        "list of batches": pieces,
        "generator": (piece for piece in pieces),
    }


@pytest.mark.parametrize("form", forms())
def test_data_come_in_many_forms(form):
    model = mlp().double()
    expected = Objective(model, cross_entropy, (X, Y), batch_size=17)
    theta = expected.theta()
    loss, grad = expected.loss_and_grad(theta)
    state = torch.get_rng_state()
    objective = Objective(model, cross_entropy, forms()[form], batch_size=4)
    found, gradient = objective.loss_and_grad(theta)
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(found - loss) <= tolerances.summed(loss, tolerances.EPS64)
    assert (gradient - grad).abs().max() <= tolerances.gradient(1.0, tolerances.EPS64)


def test_reading_a_loader_moves_no_generator():
    loader = DataLoader(TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(0))
    before = loader.generator.get_state()
    Objective(mlp(), cross_entropy, loader)
    assert torch.equal(loader.generator.get_state(), before)


def test_batches_that_do_not_fit_together_are_measured_as_they_come():
    batches = [(torch.randn(2, 4, 6), torch.zeros(2, 4)), (torch.randn(3, 2, 6), torch.ones(3, 2))]
    model = nn.Linear(6, 1).double()

    def loss(model, batch):
        return (model(batch[0]).squeeze(-1) - batch[1]).square().mean()

    objective = Objective(model, None, batches, batch_loss=loss)
    assert objective.batch_size is None
    parts = [objective.loss(objective.theta(), batch) for batch in batches]
    assert close(objective.loss(objective.theta()), (2 * parts[0] + 3 * parts[1]) / 5)
    by_number = Objective(model, None, batches, batch_loss=loss, batch_weight=lambda b: b[1].numel())
    assert close(by_number.loss(by_number.theta()), (8 * parts[0] + 6 * parts[1]) / 14)
    with pytest.raises(DataError, match="cannot be cut anew"):
        Objective(model, None, batches, batch_loss=loss, batch_size=4)


def test_a_loader_can_be_read_at_every_pass():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    kept, read = (
        Objective(mlp(), cross_entropy, loader, keep=keep, batch_size=None) for keep in (True, False)
    )
    theta = kept.theta()
    assert close(read.loss(theta), kept.loss(theta), float(torch.finfo(torch.float32).eps))
    assert read.loss(theta) == read.loss(theta)
    with pytest.raises(DataError, match="it shuffles"):
        Objective(mlp(), cross_entropy, DataLoader(TensorDataset(X, Y), shuffle=True), keep=False)
    with pytest.raises(DataError, match="an iterator can be read only once"):
        Objective(mlp(), cross_entropy, iter([(X, Y)]), keep=False)


class Augmented(Pairs):
    """Another random shift each time an example is read."""

    def __getitem__(self, i):
        return X[i] + torch.randn(6), Y[i]


def test_a_random_augmentation_is_frozen_at_one_draw_or_refused():
    model = mlp()
    objective, plain = (Objective(model, cross_entropy, data(), batch_size=17) for data in (Augmented, Pairs))
    theta = objective.theta()
    assert objective.loss(theta) == objective.loss(theta)
    assert abs(objective.loss(theta) - plain.loss(theta)) > 1e-3
    drawn_anew = Objective(model, cross_entropy, DataLoader(Augmented(), batch_size=17), keep=False)
    with pytest.raises(NonDeterministicError, match="shuffle or augment no data"):
        list(lca.allocate(drawn_anew, lca.Trajectory([theta, 2 * theta]), lca.Adaptive()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TensorDataset(X, Y), batch_size=4, drop_last=True), "drop_last=True .* of its 17"),
        (3, "got int"),
        ((X[:, :4], Y), "raised RuntimeError: mat1 and mat2"),
        ({"x": X}, "loss_fn needs batches"),
    ],
)
def test_unusable_data_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        Objective(mlp(), cross_entropy, data, batch_size=17)
