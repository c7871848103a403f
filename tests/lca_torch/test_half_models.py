"""Models in float16 and bfloat16, measured on float32 copies: ``precision="float32"``."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca.errors import LayoutError, LCAError, UnknownNameError
from lca.estimators import CrossFit
from lca_torch import Objective, Penalty, Tracker, replay
from tests.lca_torch.networks import X, Y, mlp, normalised

TRAPEZOID = lca.PathIntegral(lca.TRAPEZOID)
HALVES = torch.bfloat16, torch.float16


class Mixed(nn.Module):
    """Half-precision layers around a norm in float32, as many language models have them."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 5).bfloat16(), nn.LayerNorm(5)
        self.out = nn.Linear(5, 3).bfloat16()

    def forward(self, x):
        hidden = self.first(x.to(self.first.weight.dtype)).float()
        return self.out(torch.tanh(self.norm(hidden)).to(self.out.weight.dtype)).float()


class Adapted(nn.Sequential):
    """A base in half precision, and a layer in float32 on it."""

    def __init__(self):
        base = nn.Linear(6, 5).bfloat16().requires_grad_(False)
        super().__init__(base, nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x):
        return self[2](self[1](self[0](x.to(self[0].weight.dtype))).to(self[2].weight.dtype))


def frozen_batch_norm():
    return normalised(5).bfloat16()


def half(dtype=torch.bfloat16):
    return mlp().to(dtype)


def objective_of(model, **options):
    return Objective(model, cross_entropy, (X, Y), **{"batch_size": 5, "precision": "float32"} | options)


@pytest.mark.parametrize(
    "make",
    [half, lambda: half(torch.float16), Mixed, frozen_batch_norm],
    ids=["bf16", "fp16", "mixed", "norm"],
)
def test_loss_and_gradient_are_those_of_a_float32_copy(make):
    model = make()
    options = {"batch_norm": "frozen"}
    found = objective_of(model, **options)
    expected = Objective(copy.deepcopy(model).float(), cross_entropy, (X, Y), batch_size=5, **options)
    theta = found.theta()
    assert theta.dtype is torch.float32
    assert torch.equal(theta, expected.theta())
    for point in (theta, 1.3 * theta):
        (loss, grad), (loss32, grad32) = found.loss_and_grad(point), expected.loss_and_grad(point)
        assert loss == found.loss(point) == loss32
        assert torch.equal(grad, grad32)


def test_half_precision_data_and_a_frozen_half_base_are_copied_too():
    torch.manual_seed(0)
    model = Adapted()
    found = Objective(model, cross_entropy, (X.bfloat16(), Y), frozen="omit", precision="float32")
    whole = copy.deepcopy(model).float()
    expected = Objective(whole, cross_entropy, (X.bfloat16().float(), Y), frozen="omit")
    theta = found.theta()
    assert found.loss(theta) == expected.loss(theta)
    with torch.no_grad():
        own = float(cross_entropy(model[2](model[1](model[0](X.bfloat16())).float()), Y))
    assert found.model_dtype == "bfloat16"
    assert found.precision_difference(theta) == own - found.loss(theta) != 0


@pytest.mark.parametrize("dtype", HALVES)
def test_the_difference_is_that_to_the_loss_of_the_model_itself(dtype):
    model = half(dtype)
    objective = objective_of(model, batch_size=17)
    with torch.no_grad():
        own = float(cross_entropy(model(X.to(dtype)), Y))
    theta = objective.theta()
    assert objective.model_dtype == str(dtype).removeprefix("torch.")
    assert objective.precision_difference(theta) == own - objective.loss(theta) != 0
    plain = Objective(model.float(), cross_entropy, (X, Y))
    assert (plain.model_dtype, plain.precision_difference(theta)) == (None, 0.0)


def trained(steps=4, *, tracked=True, **options):
    """Train in bfloat16; the tracker, and θ at the beginning and after every step."""
    torch.manual_seed(0)
    model = half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    objective = objective_of(model)
    tracker = Tracker(
        model, optimizer, options.pop("losses", {"train": objective}), on_error="raise", **options
    )
    thetas = [objective.theta()]
    if tracked:
        tracker.__enter__()
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(X.bfloat16()), Y).backward()
        optimizer.step()
        thetas.append(objective.theta())
    tracker.__exit__(None, None, None)
    return objective, tracker, thetas


class Kept:
    """A view that keeps everything."""

    def __init__(self, layout):
        self.allocations = []

    def update(self, allocation):
        self.allocations.append(allocation)


@pytest.mark.filterwarnings("ignore:the tolerance of Adaptive")  # so small that every step is refined
@pytest.mark.parametrize("small", [True, False], ids=["copied", "read in place"])
@pytest.mark.parametrize(
    "estimator", [TRAPEZOID, lca.PathIntegral(lca.RK4), lca.Adaptive(tol=1e-9, audit=1, max_gradients=3)]
)
def test_a_run_is_allocated_as_its_float32_points_are(estimator, small, monkeypatch):
    if not small:
        monkeypatch.setattr("lca_torch._tracker.SMALL", 0)
    objective, tracker, thetas = trained(estimator=estimator, views=Kept)
    points = lca.Trajectory([theta.clone() for theta in thetas])
    for found, expected in zip(
        tracker.views["train"].allocations, lca.allocate(objective, points, estimator), strict=True
    ):
        assert torch.equal(found.values, expected.values)
        assert (found.residual, found.loss_end) == (expected.residual, expected.loss_end)
        assert abs(found.residual) <= lca.tolerances.conservation(1.0, 1.0, 1.0)


def test_training_is_unchanged_and_the_summary_tells_the_differences():
    objective, tracker, thetas = trained(estimator=TRAPEZOID)
    _, _, untracked = trained(tracked=False)
    assert all(torch.equal(a, b) for a, b in zip(thetas, untracked, strict=True))
    summary = tracker.summary()["train"]
    assert summary["model_dtype"] == "bfloat16"
    assert summary["precision_difference_start"] == objective.precision_difference(thetas[0]) != 0
    assert summary["precision_difference_end"] == objective.precision_difference(thetas[-1]) != 0
    terms = ("lca_total", "state_change", "residual", "unmeasured_change")
    change = summary["loss_end"] - summary["loss_start"]
    total = sum(summary[term] for term in terms)
    assert abs(change - total) <= lca.tolerances.summed(abs(change) + summary["mass"], lca.tolerances.EPS64)


def test_a_sum_differs_by_its_terms_and_a_float32_model_says_nothing():
    torch.manual_seed(0)
    model = half()

    def ridge(tensors):
        return 0.01 * sum(tensor.square().sum() for tensor in tensors.values())

    data = objective_of(model)
    losses = {
        "sum": lca.Sum({"data": data, "ridge": Penalty(model, ridge, precision="float32")}),
        "half": lca.Scaled(data, 0.5),
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with Tracker(model, optimizer, losses, TRAPEZOID, on_error="raise") as tracker:
        cross_entropy(model(X.bfloat16()), Y).backward()
        optimizer.step()
    summary = tracker.summary()
    difference = summary["sum"]["precision_difference_start"]
    assert summary["half"]["precision_difference_start"] == 0.5 * difference != 0
    plain = mlp()
    run = lca.Trajectory([torch.zeros(53), torch.ones(53)])
    assert "model_dtype" not in lca.measure(Objective(plain, cross_entropy, (X, Y)), run)["train"]


class OnlySingle(nn.Module):
    """A layer that this machine cannot compute in half precision."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        if self.layer.weight.dtype is not torch.float32:
            raise NotImplementedError("no kernel for BFloat16")
        return self.layer(x)


def test_a_model_that_cannot_be_evaluated_in_its_own_precision_is_measured_with_a_warning():
    objective = objective_of(OnlySingle().bfloat16())
    run = lca.Trajectory([objective.theta(), 1.1 * objective.theta()])
    with pytest.warns(
        lca.errors.LCAWarning, match=r"'train' .* in bfloat16 could not be measured: .*no kernel for"
    ):
        summary = lca.measure(objective, run)["train"]
    assert summary["precision_difference_start"] is None
    assert summary["steps"] == 1


def test_checkpoints_in_half_precision_are_replayed(tmp_path):
    model = half()
    objective = objective_of(model)
    for step in range(2):
        torch.save(model.state_dict(), tmp_path / f"{step}.pt")
        nn.init.constant_(model[0].bias, 0.5)
    [step] = replay(tmp_path, objective)
    assert step.end.dtype is torch.float32
    assert torch.equal(step.end, objective.theta())
    summary = lca.measure(objective, replay(tmp_path, objective))["train"]
    assert summary["precision_difference_end"] == objective.precision_difference(step.end) != 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": None}, LayoutError, r"is bfloat16; .* with precision='float32'"),
        ({"precision": "float16"}, UnknownNameError, "float16"),
        ({"autocast": torch.bfloat16}, LCAError, r"autocast=torch\.bfloat16 .* pass one of the two"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        objective_of(half(), **options)


def test_a_copy_with_fewer_digits_is_refused():
    with pytest.raises(LayoutError, match=r"parameter '0\.weight' is float64, .* omit precision"):
        objective_of(mlp().double())


def test_what_is_computed_with_gradients_of_training_is_refused():
    model = half()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with pytest.raises(
        LCAError, match=r"requires micro_batches.* θ is in torch\.float32 on cpu; use lca\.Ada"
    ):
        Tracker(model, optimizer, objective_of(model), CrossFit(2))


def test_losses_of_different_forms_are_refused():
    model = mlp()
    losses = {"a": Objective(model, cross_entropy, (X, Y)), "b": objective_of(model.double(), precision=None)}
    with pytest.raises(LCAError):
        Tracker(model, torch.optim.SGD(model.parameters(), lr=0.1), losses)
