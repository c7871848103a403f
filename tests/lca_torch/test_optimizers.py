"""`updates_without` against really stepping a copy of the optimizer, and against the NumPy forms."""

import copy
from itertools import accumulate

import pytest
import torch
from torch import nn

from lca import tolerances
from lca._micro_batches import mean_gradient
from lca.errors import LCAError
from lca.estimators import CrossFit
from lca.estimators._products import ProductSum
from lca.reference import _optimizers as optimizers
from lca.step import MicroBatch
from lca_torch import Objective, Tracker
from lca_torch._left_out import LongLeftOut
from lca_torch._optimizers import (
    check_known,
    leading_updates,
    require_inherited_step,
    update_slope,
    updates_without,
)

EPS = torch.finfo(torch.float64).eps
WEIGHTS = (0.5, 0.3, 0.2)
SGD, ADAM, ADAMW, RMS = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop
CASES = [
    (SGD, {}),
    (SGD, {"weight_decay": 0.1}),
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (SGD, {"momentum": 0.9, "dampening": 0.3, "maximize": True}),
    (ADAM, {}),
    (ADAM, {"weight_decay": 0.1, "maximize": True, "betas": (0.8, 0.9)}),
    (ADAM, {"amsgrad": True, "weight_decay": 0.1}),
    (ADAM, {"lr": torch.tensor(0.1, dtype=torch.float64), "foreach": False}),
    (ADAMW, {"weight_decay": 0.1, "eps": 1e-3}),
    (ADAMW, {"fused": True, "amsgrad": True}),
    (ADAMW, {"lr": 0.0}),
    (RMS, {}),
    (RMS, {"weight_decay": 0.1, "alpha": 0.5, "maximize": True}),
]


def random(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Run:
    """Five tensors: two groups in another order than the layout's, one without gradient, one not owned."""

    def __init__(self, kind, options):
        self.generator = torch.Generator().manual_seed(5)
        self.parameters = [nn.Parameter(random(self.generator, n, 2)) for n in (3, 1, 4, 2, 5)]
        a, b, c, d, _ = self.parameters
        groups = [{"params": [c, a]}, {"params": [b, d], "lr": options.get("lr", 0.3) * 2}]
        self.optimizer = kind(groups, **{"lr": 0.1, **options})

    def set(self, vector, parameters=None):
        parameters = parameters or self.parameters
        for i, (p, piece) in enumerate(zip(parameters, self.cut(vector), strict=True)):
            p.grad = None if i == 3 and self.steps < 2 else piece.reshape(p.shape).clone()

    def cut(self, vector):
        return vector.split([p.numel() for p in self.parameters])

    def train(self, steps):
        for self.steps in range(steps):
            self.set(random(self.generator, self.size))
            self.optimizer.step()
        self.steps = steps
        return [random(self.generator, self.size) for _ in WEIGHTS]

    @property
    def size(self):
        return sum(p.numel() for p in self.parameters)

    def stepped(self, gradient):
        """θ, and the movement that a copy of the optimizer makes of this gradient."""
        parameters, optimizer = copy.deepcopy((self.parameters, self.optimizer))
        self.set(gradient, parameters)
        before = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        optimizer.step()
        return before, torch.cat([p.detach().reshape(-1) for p in parameters]) - before


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_updates_are_those_of_a_copy_that_steps(kind, options, steps):
    run = Run(kind, options)
    gradients = run.train(steps)
    run.set(sum(w * g for w, g in zip(WEIGHTS, gradients, strict=True)))
    before = copy.deepcopy((run.parameters, run.optimizer.state_dict()))
    updates = updates_without(run.optimizer, run.parameters, gradients, WEIGHTS)
    for m, update in enumerate(updates):
        theta, expected = run.stepped(mean_gradient(gradients, WEIGHTS, [k for k in range(3) if k != m]))
        limit = tolerances.summed(float((theta.abs() + expected.abs()).max()), EPS)
        assert float((update - expected).abs().max()) <= limit
        assert (float(expected.abs().max()) > 0) == (options.get("lr") != 0.0)
    after = run.parameters, run.optimizer.state_dict()
    assert torch.equal(torch.stack([p.sum() for p in after[0]]), torch.stack([p.sum() for p in before[0]]))
    for old, new in zip(before[1]["state"].values(), after[1]["state"].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(old[n]), torch.as_tensor(new[n])) for n in old)


def test_the_velocity_of_sparse_gradients_is_sparse():
    parameter = nn.Parameter(torch.ones(4, 2, dtype=torch.float64))
    optimizer = SGD([parameter], lr=0.5, momentum=0.5, nesterov=True)
    for row in (1, 3):
        dense = torch.zeros_like(parameter)
        dense[row] = row
        parameter.grad = dense.detach().to_sparse(1)
        optimizer.step()
    gradient = parameter.grad.to_dense().reshape(-1)
    found = updates_without(optimizer, [parameter], [gradient, gradient], (0.5, 0.5))
    [leading] = leading_updates(optimizer, [parameter], gradient, 3)
    before = parameter.detach().clone()
    optimizer.step()
    expected = (parameter.detach() - before).reshape(-1)
    assert torch.equal(found[0], expected)
    assert torch.equal(leading, expected[:3])
    assert torch.count_nonzero(expected) == 4


@pytest.mark.parametrize("multiple", [1.0, 2.5])
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_products_block_by_block_are_those_of_whole_vectors(kind, options, steps, multiple, monkeypatch):
    monkeypatch.setattr("lca_torch._arrays._CPU_BLOCK", 2)  # tensors of 2 to 10 numbers in blocks of 4
    run = Run(kind, options)
    gradients = run.train(steps)
    sums = list(accumulate(w * g for w, g in zip(WEIGHTS, gradients, strict=True)))
    run.set(sums[-1])
    updates = updates_without(run.optimizer, run.parameters, gradients, WEIGHTS)
    parts = zip(gradients, updates, WEIGHTS, strict=True)
    whole = ProductSum.of([MicroBatch(g / multiple, update, w) for g, update, w in parts])
    before = [total.clone() for total in sums]
    left_out = LongLeftOut(
        *(run.optimizer, run.parameters, sums),
        factors=[1 / w for w in WEIGHTS],
        weights=WEIGHTS,
        multiple=multiple,
    )
    found = ProductSum.of(left_out)
    limit = tolerances.gradient(whole.mass, EPS)
    assert (found.values - whole.values).abs().max() <= limit
    assert abs(found.mass - whole.mass) <= limit
    assert (found.count, found.factor) == (whole.count, whole.factor)
    assert all(map(torch.equal, sums, before))
    for micro, update, weight in zip(left_out, updates, WEIGHTS, strict=True):
        assert (micro.update - update).abs().max() <= limit
        assert micro.weight == weight


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"])
def test_the_fast_forms_are_those_of_the_numpy_optimizers(name):
    ours = optimizers.make_optimizer(name)
    theta = nn.Parameter(random(torch.Generator().manual_seed(1), 50))
    kinds = {"sgd": SGD, "momentum": SGD, "nesterov": SGD, "rmsprop": RMS, "adam": ADAM, "adamw": ADAMW}
    same = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}
    torchs = kinds[name]([theta], lr=ours.lr, **same.get(name, {}))
    state = ours.init(theta.detach().clone())
    generator = torch.Generator().manual_seed(2)
    for _ in range(4):
        gradients, weights = [random(generator, 50), random(generator, 50)], (0.7, 0.3)
        theta.grad = mean_gradient(gradients, weights, [0, 1])
        expected = optimizers.leave_one_out(ours, state, gradients, theta.detach(), sizes=weights)
        for update, wanted in zip(
            updates_without(torchs, [theta], gradients, weights), expected, strict=True
        ):
            limit = tolerances.summed(float(wanted.abs().max()), EPS)
            assert float((update - wanted).abs().max()) <= limit
        state, _ = ours.update(state, theta.grad, theta.detach())
        torchs.step()


FORMULAS = [case for case in CASES if not case[1].get("weight_decay") or case[0] is ADAMW]


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(("kind", "options"), FORMULAS)
def test_the_slope_times_the_gradient_is_what_it_adds_to_the_update(kind, options, steps):
    """Which is all of the update where momentum is 0 and nothing decays."""
    run = Run(kind, options)
    gradient = run.train(steps)[0]
    run.set(gradient)
    for state in run.optimizer.state.values():
        for name in {"momentum_buffer", "exp_avg"} & state.keys():
            if state[name] is not None:
                state[name].zero_()
    for group in run.optimizer.param_groups:
        group["weight_decay"] = 0.0
    _, expected = run.stepped(gradient)
    found = update_slope(run.optimizer, run.parameters, gradient) * gradient
    assert float((found - expected).abs().max()) <= tolerances.summed(8.0, EPS)
    assert (float(expected.abs().max()) > 0) == (options.get("lr") != 0.0)


def test_one_number_is_the_slope_of_all_parameters_that_move_alike():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    one = SGD(parameters, lr=0.5)
    two = SGD([{"params": parameters[1:]}, {"params": parameters[:1], "lr": 0.25}], lr=0.5)
    assert update_slope(one, parameters, torch.ones(3)) == -0.5
    assert update_slope(two, parameters, torch.ones(3)).tolist() == [-0.25, -0.25, -0.5]
    parameters[0].grad = None
    assert update_slope(one, parameters, torch.ones(3)).tolist() == [0.0, 0.0, -0.5]


class Defaults(torch.optim.AdamW):
    """Has defaults of its own."""

    def __init__(self, params, lr=0.004):
        super().__init__(params, lr=lr, betas=(0.9, 0.99), weight_decay=0.05)


class Counts(torch.optim.RMSprop):
    """Counts its steps."""

    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)


class Halves(torch.optim.SGD):
    """Changes a part of the gradients before the step that it inherits."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.grad[0].mul_(0.5)
        return super().step(closure)


class Averages(torch.optim.Adam):
    """Changes the parameters after every fifth step."""

    steps = 0

    def step(self, closure=None):
        super().step(closure)
        self.steps += 1
        if self.steps % 5 == 0:
            with torch.no_grad():
                for p in self.param_groups[0]["params"]:
                    p.mul_(0.9)


def crossed(kind, base, **options):
    """What `CrossFit` allocates in 12 steps with a class and with the one that it inherits from."""
    x, y = torch.randn(24, 3, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 2
    found = []
    for make in (kind, lambda p: base(p, **options)):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = make(model.parameters())
        tracker = Tracker(
            model,
            optimizer,
            Objective(model, nn.functional.cross_entropy, (x, y)),
            CrossFit(2, independent=True, epoch=24 / 20),
            on_error="raise",
            check_every=None,
        )
        with tracker:
            for _ in range(12):
                optimizer.zero_grad()
                for (own, labels), weight in tracker.micro_batches((x[:20], y[:20]), 2):
                    (weight * nn.functional.cross_entropy(model(own), labels)).backward()
                optimizer.step()
        found.append(tracker.summary()["train"]["per_tensor"])
    return found


@pytest.mark.parametrize(
    ("kind", "base", "options"),
    [
        (Defaults, torch.optim.AdamW, {"lr": 0.004, "betas": (0.9, 0.99), "weight_decay": 0.05}),
        (Counts, torch.optim.RMSprop, {}),
    ],
)
def test_a_subclass_that_makes_the_same_updates_is_as_its_base(kind, base, options):
    base([nn.Parameter(torch.zeros(1))])  # torch calls hooks for its step from now on, too
    found, expected = crossed(kind, base, **options)
    assert found == expected


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_rate_of_lower_precision_than_the_model_rounds_the_update(kind):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(24, 3, dtype=torch.float64), torch.arange(24) % 2
    objective = Objective(model, nn.functional.cross_entropy, (x, y))
    optimizer = kind(model.parameters(), lr=torch.tensor(0.01))
    estimator = CrossFit(2, independent=True, epoch=1)
    with Tracker(model, optimizer, objective, estimator, on_error="raise", check_every=None) as tracker:
        for _ in range(5):
            optimizer.zero_grad()
            for (own, labels), weight in tracker.micro_batches((x, y), 2):
                (weight * nn.functional.cross_entropy(model(own), labels)).backward()
            optimizer.step()
    assert tracker.summary()["train"]["steps"] == 4


@pytest.mark.parametrize("kind", [Halves, Averages])
def test_a_step_of_a_subclass_that_makes_other_updates_is_refused(kind):
    with pytest.raises(LCAError, match=rf"the update is off by .* from the one that {kind.__name__} makes"):
        crossed(kind, kind)


def test_a_step_of_a_subclass_is_refused_where_no_update_is_compared():
    parameters = [nn.Parameter(torch.zeros(2))]
    require_inherited_step(Defaults(parameters))
    with pytest.raises(LCAError, match=r"Counts has a step of its own.* train with RMSprop, or use"):
        require_inherited_step(Counts(parameters))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            torch.optim.LBFGS,
            "LBFGS would make .* train with SGD or Adam or AdamW or RMSprop, or use an estimator",
        ),
        (lambda p: RMS(p, centered=True), "group 0 of this RMSprop has centered=True.*NextBatch"),
        (lambda p: RMS(p, momentum=0.5), "RMSprop has momentum=0.5"),
    ],
)
def test_what_cannot_be_computed_is_refused(make, message):
    optimizer = make([nn.Parameter(torch.zeros(2))])
    with pytest.raises(LCAError, match=message):
        check_known(optimizer)
