"""Where the vectors (K,) are: ``vectors="host"`` gives the same numbers, one gradient tensor at a time."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca.errors import UnknownNameError
from lca_torch import Objective, Penalty, Tracker, replay
from lca_torch import _parameters as parameters
from lca_torch._form import VectorForm
from tests.lca_torch.networks import X, Y, mlp


def objective_of(model, vectors="host", **options):
    return Objective(model, cross_entropy, (X, Y), **{"batch_size": 5, "vectors": vectors} | options)


@pytest.fixture
def summed_in_place(monkeypatch):
    """The gradients of the default are summed tensor by tensor too, as those of large models are."""
    monkeypatch.setattr(parameters, "is_small", lambda tensor: False)


@pytest.mark.usefixtures("summed_in_place")
def test_loss_and_gradient_are_those_on_the_device():
    model = mlp()
    found, expected = objective_of(model), objective_of(model, "device")
    for point in (found.theta(), 1.3 * found.theta()):
        (loss, grad), (loss32, grad32) = found.loss_and_grad(point), expected.loss_and_grad(point)
        assert loss == found.loss(point) == loss32
        assert torch.equal(grad, grad32)
    terms, others = (one.by_class().terms.values() for one in (found, expected))
    for a, b in zip(terms, others, strict=True):
        assert torch.equal(a.loss_and_grad(found.theta())[1], b.loss_and_grad(found.theta())[1])


def test_a_pass_holds_one_gradient_at_a_time(monkeypatch):
    seen, most = {}, []

    def moving(leaf, **options):
        seen[id(leaf)] = leaf
        most.append(sum(one.grad is not None for one in seen.values()))
        move(leaf, **options)

    move = parameters._move
    monkeypatch.setattr(parameters, "_move", moving)
    objective = objective_of(mlp())
    seen.clear(), most.clear()
    objective.loss_and_grad(objective.theta())
    assert len(most) == 4 * 4  # tensors, batches
    assert max(most) == 1
    assert all(leaf.grad is None for leaf in seen.values())


def test_parameters_without_a_gradient_and_several_sums_are_right():
    """Sparse gradients, a tensor that no batch of a class reads, and a sum for each class."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    tokens = torch.randint(7, (12, 2))
    labels = torch.arange(12) % 3
    made = {
        vectors: Objective(model, cross_entropy, (tokens, labels), batch_size=4, vectors=vectors)
        for vectors in ("device", "host")
    }
    theta = made["host"].theta()
    expected = made["device"].loss_and_grad(theta)[1]
    [grad, *terms] = [
        one.loss_and_grad(theta)[1] for one in (made["host"], *made["host"].by_class().terms.values())
    ]
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(sum(terms), expected)


class Kept:
    """A view that keeps everything."""

    def __init__(self, layout):
        self.allocations = []

    def update(self, allocation):
        self.allocations.append(allocation)


def trained(vectors, estimator):
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    loss = objective_of(model, vectors)
    if estimator.target == "full":
        ridge = Penalty(model, lambda tensors: 0.01 * sum(t.square().sum() for t in tensors.values()))
        loss = lca.Sum({"data": loss, "ridge": ridge})
    with Tracker(model, optimizer, loss, estimator, views=Kept, on_error="raise") as tracker:
        for _ in range(4):
            optimizer.zero_grad()
            cross_entropy(model(X), Y).backward()
            optimizer.step()
    return tracker


@pytest.mark.usefixtures("summed_in_place")
@pytest.mark.parametrize("small", [True, False], ids=["copied", "read in place"])
@pytest.mark.parametrize(
    "estimator",
    [
        lca.PathIntegral(lca.TRAPEZOID),
        lca.Adaptive(tol=1e-4, audit=1),
        lca.estimators.SampledPathIntegral(size=4, sampling="importance", refresh=2),
    ],
)
def test_a_run_is_allocated_as_on_the_device(estimator, small, monkeypatch):
    if not small:
        monkeypatch.setattr("lca_torch._tracker.SMALL", 0)
    found, expected = (trained(vectors, estimator) for vectors in ("host", "device"))
    pairs = zip(*(tracker.views["train"].allocations for tracker in (found, expected)), strict=True)
    for a, b in pairs:
        assert torch.equal(a.values, b.values)


def test_allocation_by_example_is_that_on_the_device():
    model = mlp()
    theta = objective_of(model).theta()
    movement = 0.1 * torch.randn(len(theta))
    groups = objective_of(model).layout.groups("tensor")
    slopes = [
        objective_of(model, vectors).by_example(theta, movement, groups, np.arange(17)).slopes
        for vectors in ("host", "device")
    ]
    np.testing.assert_array_equal(*slopes)


def test_a_replay_reads_into_the_memory_of_the_host(tmp_path):
    model = mlp()
    for step in range(2):
        torch.save(model.state_dict(), tmp_path / f"{step}.pt")
    [step] = replay(tmp_path, objective_of(model))
    assert torch.equal(step.end, objective_of(model).theta())


def test_a_vector_of_another_form_is_read_piece_by_piece():
    """The pieces are converted when they are read, and an allocation on them is that on a copy."""
    tensors = [torch.randn(2, 3).bfloat16(), torch.randn(4).bfloat16()]
    form = VectorForm(torch.float32, torch.device("cpu"))
    vector, expected = form.borrow(tensors), torch.cat([tensor.reshape(-1).float() for tensor in tensors])
    assert vector.dtype is torch.float32
    assert torch.equal(2 * vector, 2 * expected)
    assert [piece.dtype for piece in vector.pieces] == [torch.float32] * 2
    assert form.holds(form.copy(tensors), tensors)
    assert not form.holds(form.copy(tensors) + 1, tensors)
    start = torch.zeros(10)
    ops = lca.arrays.array_ops(vector)
    assert ops.movement_sums([(1.0, expected)], start, vector) == ops.movement_sums(
        [(1.0, expected)], start, expected
    )
    assert torch.equal(ops.between(start, vector, 0.5), ops.between(start, expected, 0.5))
    assert ops.moved(start, vector, [slice(0, 6), slice(6, 10)]) == [True, True]
    assert ops.moved(start, vector, [slice(0, 3)]) == [True]
    memory = torch.empty(10)
    assert torch.equal(vector.persist(memory), expected)
    assert ops.unchanged(ops.snapshot(vector), memory)


def test_unknown_places_are_refused():
    with pytest.raises(UnknownNameError, match="disk"):
        objective_of(mlp(), "disk")
