"""The measured data come in many forms, all of which mean the same mean loss; unusable ones are refused."""

from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import lca
from lca import tolerances
from lca.errors import DataError, LCAError, NonDeterministicError
from lca_torch import Objective
from lca_torch._data import TorchTensorOps
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
    shuffled = Objective(mlp(), cross_entropy, DataLoader(TensorDataset(X, Y), 4, shuffle=True), keep=False)
    assert close(shuffled.loss(theta), kept.loss(theta), float(torch.finfo(torch.float32).eps))
    assert shuffled.loss(theta) == shuffled.loss(theta)
    with pytest.raises(LCAError, match="read anew at every pass: omit keep=False, or use an estimator"):
        _ = shuffled.n_examples


class Augmented(Pairs):
    """Another random shift each time an example is read."""

    def __getitem__(self, i):
        return X[i] + torch.randn(6), Y[i]


class SeededAnew(Pairs):
    """Its numbers come from the operating system, so that no state of them can be kept."""

    def __getitem__(self, i):
        return X[i] + float(np.random.default_rng().normal()), Y[i]


def test_a_random_augmentation_is_frozen_at_one_draw_or_refused():
    model = mlp()
    objective, plain = (Objective(model, cross_entropy, data(), batch_size=17) for data in (Augmented, Pairs))
    theta = objective.theta()
    assert objective.loss(theta) == objective.loss(theta)
    assert abs(objective.loss(theta) - plain.loss(theta)) > 1e-3
    read_anew = Objective(model, cross_entropy, DataLoader(Augmented(), batch_size=17), keep=False)
    assert read_anew.loss(theta) == read_anew.loss(theta)
    assert abs(read_anew.loss(theta) - plain.loss(theta)) > 1e-3
    drawn_anew = Objective(model, cross_entropy, DataLoader(SeededAnew(), batch_size=17), keep=False)
    with pytest.raises(NonDeterministicError, match="shuffle or augment no data"):
        list(lca.allocate(drawn_anew, lca.Trajectory([theta, 2 * theta]), lca.Adaptive()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "got int"),
        ((X[:, :4], Y), "raised RuntimeError: mat1 and mat2"),
        ({"x": X}, "loss_fn needs batches"),
    ],
)
def test_unusable_data_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        Objective(mlp(), cross_entropy, data, batch_size=17)


class Shifted(TensorDataset):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + 1, y


def test_a_tensor_data_set_with_items_of_its_own_is_read_by_items():
    model = mlp().double()
    found, expected = (Objective(model, cross_entropy, data) for data in (Shifted(X, Y), (X + 1, Y)))
    assert found.loss(found.theta()) == expected.loss(expected.theta())


Example = namedtuple("Example", "x y")


@dataclass
class Record:
    x: torch.Tensor
    y: torch.Tensor


class Items(Dataset):
    """A data set of whatever ``item`` makes of an index."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return self.item(i)


def named(i):
    return {"x": X[i], "y": Y[i]}


def by_name(model, batch):
    return cross_entropy(model(batch["x"]), batch["y"])


def by_attribute(model, batch):
    return cross_entropy(model(batch.x), batch.y)


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        (Items(named), by_name),
        (Items(lambda i: UserDict(named(i))), by_name),
        (UserDict(x=X, y=Y), by_name),
        (DataLoader(range(17), 4, collate_fn=lambda index: UserDict(x=X[index], y=Y[index])), by_name),
        (Items(lambda i: Example(X[i], Y[i])), by_attribute),
        (Items(lambda i: {"x": X[i].numpy(), "y": int(Y[i])}), by_name),
        (DataLoader([named(i) for i in range(17)], 4), by_name),
        ((X, None, Y), lambda model, batch: cross_entropy(model(batch[0]), batch[2])),
    ],
)
def test_examples_come_in_many_structures(data, loss):
    model = mlp().double()
    expected = Objective(model, cross_entropy, (X, Y))
    found = Objective(model, None, data, batch_loss=loss)
    theta = expected.theta()
    assert close(found.loss(theta), expected.loss(theta))


class MapStyle:
    """A data set that is none of torch's, as those of Hugging Face."""

    def __len__(self):
        return 17

    def __getitem__(self, i):
        return named(i)


class Iterated(MapStyle):
    def __iter__(self):
        return map(named, range(17))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Items(lambda i: (torch.zeros(2 + i // 7), Y[i])), r"example 7 is \(float32 \(3,\), .* collate_fn"),
        (Items(lambda i: (X[i], None if i == 3 else Y[i])), r"example 3 is \(float32 \(6,\), NoneType"),
        (Items(lambda i: None if i == 3 else (X[i], Y[i])), "example 3 is NoneType"),
        (Items(lambda i: Record(X[i], Y[i])), "example 0 is Record .* collate_fn"),
        (Items(lambda i: X[i + 1]), "reading example 16 of the Items raised IndexError"),
        (DataLoader(Items(lambda i: (torch.zeros(i + 1), Y[i])), 4), "reading batch 0 of the DataLoader"),
        (MapStyle(), "MapStyle may hold examples or batches"),
        (Iterated(), "Iterated may hold examples or batches"),
        (Stream(), "Stream may hold examples or batches"),
        ([(X.numpy(), Y)], "NumPy array"),
        (DataLoader(range(17), 4, collate_fn=lambda index: X[index].numpy()), "NumPy array"),
        ((X.to_sparse(), Y), "sparse .* dense"),
        ([(torch.nested.nested_tensor([X, X[:3]], layout=torch.jagged), Y)], "nested .*to_padded_tensor"),
        ((X.to("meta"), Y), "meta device"),
        ({"x": X.tolist(), "y": Y.tolist()}, "no tensors"),
        (nn.utils.rnn.pack_sequence([X, X[:3]]), "one row per example"),
        (Subset(Pairs(), []), "empty"),
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_what_cannot_be_batches_is_refused_when_the_objective_is_made(data, message, keep):
    with pytest.raises(DataError, match=message):
        Objective(mlp(), None, data, batch_loss=by_name, keep=keep)


@pytest.mark.parametrize("index", [[2, 2, 0], [-1, 3], [True, False, True, True], []], ids=str)
@pytest.mark.parametrize("rows", [torch.arange(4), torch.arange(24.0).view(3, 2, 4).permute(2, 0, 1)])
def test_rows_are_taken_as_by_indexing(rows, index):
    chosen = np.array(index, dtype=None if index else np.int64)
    assert torch.equal(TorchTensorOps().take(rows, chosen), rows[torch.as_tensor(chosen)])


@pytest.mark.parametrize("index", [4, -5])
def test_rows_that_do_not_exist_are_refused(index):
    with pytest.raises(IndexError, match="out of bounds"):
        TorchTensorOps().take(torch.arange(4), np.array([0, index]))
