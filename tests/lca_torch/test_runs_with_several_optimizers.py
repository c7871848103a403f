"""`Tracker` follows the path of θ, whichever optimizers move it, and counts each update once."""

import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

import lca
from lca import tolerances
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, LaggedCrossFit, SameBatch
from lca_torch import Objective, Tracker
from tests.laws.runs import Kept
from tests.lca_torch.loops import X, Y, network

pytestmark = pytest.mark.filterwarnings("ignore:the model trains with")

RULE = lca.PathIntegral(lca.gauss_lobatto(8))
X = X.double()


def model_of():
    return network(norm=False).double()


def objective_of(model):
    return Objective(model, cross_entropy, (X, Y), batch_size=60)


def backward(model, rows=slice(0, 20), factor=1.0):
    (factor * cross_entropy(model(X[rows]), Y[rows])).backward()


def tracker_of(model, optimizer, estimator=RULE, **options):
    return Tracker(model, optimizer, objective_of(model), estimator, **{"on_error": "raise", **options})


def measured_change(model, before, tracker, steps, unmeasured=0.0):
    """Check that so many steps add up to the change of the loss, found by plain evaluation."""
    rows, after = tracker.views["train"].trace.rows, plain_loss(model)
    assert (tracker.steps, len(rows)) == (steps, steps)
    limit = tolerances.conservation(float(rows["mass"].sum()) + 1.0, before, tolerances.EPS64)
    total = float(rows["total"].sum() + rows["residual"].sum()) + unmeasured
    assert abs(total - (after - before)) <= limit
    assert np.abs(rows["residual"]).max() < 1e-7


def plain_loss(model):
    training = model.training
    with torch.no_grad():
        loss = float(cross_entropy(model.eval()(X), Y))
    model.train(training)
    return loss


def left(model, *optimizers):
    """Everything that training leaves behind, hooks included."""
    hooks = [
        (len(o._optimizer_step_pre_hooks), len(o._optimizer_step_post_hooks), "step" in vars(o))
        for o in optimizers
        if hasattr(o, "_optimizer_step_pre_hooks")
    ]
    parameters = list(model.parameters())
    hooks += [(len(p._backward_hooks or ()), len(p._post_accumulate_grad_hooks or ())) for p in parameters]
    hooks += [len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)]
    states = [
        v for o in optimizers for s in o.state.values() for v in s.values() if isinstance(v, torch.Tensor)
    ]
    tensors = [*parameters, *(p.grad for p in parameters if p.grad is not None), *states]
    return hooks, [tensor.detach().clone() for tensor in (*tensors, torch.get_rng_state())]


def same_training(train):
    """Run ``train(model, tracked)`` without a tracker and with one; return what the latter returned."""
    hooks, found = [], []
    for tracked in (False, True):
        model = model_of()
        torch.manual_seed(5)
        before = plain_loss(model)
        tracker, steps, *optimizers = train(model, tracked)
        hooks_left, tensors = left(model, *optimizers)
        hooks.append(hooks_left)
        found.append(tensors)
    assert hooks[0] == hooks[1]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    measured_change(model, before, tracker, steps)


def within(tracker, tracked):
    return tracker if tracked else warnings.catch_warnings()


# --- several optimizers ----------------------------------------------------------------------------------


def test_two_optimizers_that_take_turns_move_along_one_path():
    def train(model, tracked):
        first = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
        second = torch.optim.Adam(model[-1].parameters(), lr=0.01)
        tracker = tracker_of(model, [first, second])
        with within(tracker, tracked):
            for i in range(3):
                for optimizer in (first, second):
                    model.zero_grad()
                    backward(model, slice(10 * i, 10 * i + 10))
                    optimizer.step()
        return tracker, 6, first, second

    same_training(train)


def test_an_optimizer_that_was_not_given_is_followed_and_named_once():
    model = model_of()
    before = plain_loss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tracker_of(model, optimizer) as tracker:
        backward(model)
        optimizer.step()
        second = torch.optim.Adam(model.parameters(), lr=0.01)
        backward(model)
        with pytest.warns(
            LCAWarning, match=r"step 1 is made by an optimizer that .* not given, Adam; .*\[first"
        ):
            second.step()
        backward(model)
        second.step()
    measured_change(model, before, tracker, 3)


def test_the_optimizers_of_other_models_are_ignored():
    model, other = model_of(), nn.Linear(2, 2)
    optimizer, foreign = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    with tracker_of(model, optimizer) as tracker:
        backward(model)
        optimizer.step()
        other(torch.ones(1, 2)).sum().backward()
        foreign.step()
    assert tracker.steps == 1


def test_an_optimizer_for_each_tensor_steps_inside_the_backward_pass():
    def train(model, tracked):
        optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

        def step(p):
            optimizers[p].step()
            optimizers[p].zero_grad()

        handles = [p.register_post_accumulate_grad_hook(step) for p in model.parameters()]
        tracker = tracker_of(model, list(optimizers.values()))
        with within(tracker, tracked):
            backward(model)
            backward(model)
        [handle.remove() for handle in handles]
        return tracker, 8, *optimizers.values()

    same_training(train)


# --- one update is one step ------------------------------------------------------------------------------


class Centred(torch.optim.SGD):
    """Changes the gradient and calls the step that it inherits."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.sub_(p.grad.mean())
        return super().step(closure)


class SAM(torch.optim.Optimizer):
    """Steps up the gradient, takes another one there, returns, and steps with that (Foret et al. 2021)."""

    def __init__(self, params, base, rho=0.05):
        super().__init__(params, {"rho": rho})
        self.base_optimizer = base(self.param_groups)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["was"] = p.data.clone()
                p.add_(p.grad, alpha=group["rho"] / float(norm))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["was"]
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure):
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()


class Lookahead(torch.optim.Optimizer):
    """Every second step goes back half of the way; without hooks of its own, as in many packages."""

    def __init__(self, optimizer):
        self.optimizer, self.count = optimizer, 0
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, {}
        self.slow = [p.detach().clone() for g in self.param_groups for p in g["params"]]

    def step(self, closure=None):
        result = self.optimizer.step(closure)
        self.count += 1
        if self.count % 2 == 0:
            with torch.no_grad():
                fast = (p for g in self.param_groups for p in g["params"])
                for slow, p in zip(self.slow, fast, strict=True):
                    p.copy_(slow.add_(p - slow, alpha=0.5))
        return result


def plain_steps(make):
    def train(model, tracked):
        optimizer = make(model.parameters())
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        tracker = tracker_of(model, optimizer)
        with within(tracker, tracked):
            for i in range(4):
                model.zero_grad()
                backward(model, slice(10 * i, 10 * i + 10))
                optimizer.step()
                schedule.step()
        return tracker, 4, optimizer, *(value for value in vars(optimizer).values() if hasattr(value, "step"))

    return train


@pytest.mark.parametrize(
    "make",
    [
        lambda p: Centred(p, lr=0.1, momentum=0.9),
        lambda p: Lookahead(torch.optim.SGD(p, lr=0.1)),
        lambda p: Lookahead(Lookahead(Centred(p, lr=0.1))),
    ],
    ids=["super().step()", "Lookahead", "nested"],
)
def test_a_step_inside_a_step_is_part_of_it(make):
    torch.optim.SGD([torch.zeros(1)], lr=0.1)  # torch hooks the inherited step when such an optimizer is made
    same_training(plain_steps(make))


@pytest.mark.parametrize("in_two", [True, False])
def test_a_step_of_sam_is_one_step_from_where_it_returns(in_two):
    def train(model, tracked):
        optimizer = SAM(model.parameters(), lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9))
        tracker = tracker_of(model, optimizer)
        with within(tracker, tracked):
            for i in range(3):
                rows = slice(10 * i, 10 * i + 10)
                backward(model, rows)
                if in_two:
                    optimizer.first_step()
                    backward(model, rows)
                    optimizer.second_step()
                else:
                    optimizer.step(lambda rows=rows: backward(model, rows))
        assert not tracked or tracker.discontinuities == 0
        return tracker, 3, optimizer, optimizer.base_optimizer

    same_training(train)


@pytest.mark.parametrize("in_two", [True, False])
def test_the_gradient_that_sam_takes_elsewhere_is_refused(in_two):
    model = model_of()
    optimizer = SAM(model.parameters(), lambda groups: torch.optim.SGD(groups, lr=0.1))

    def update():
        backward(model)
        if in_two:
            optimizer.first_step()
            backward(model)
            optimizer.second_step()
        else:
            optimizer.step(lambda: backward(model))

    tracker = tracker_of(model, optimizer, SameBatch())
    with tracker, pytest.raises(LCAError, match="optimizers like SAM"):
        update()


def test_a_gradient_shared_by_two_optimizers_is_refused():
    model = model_of()
    first, second = (torch.optim.SGD(part.parameters(), lr=0.1) for part in (model[0], model[-1]))
    shared = pytest.raises(LCAError, match="several optimizers share one backward pass")
    with shared, tracker_of(model, [first, second], SameBatch()):
        backward(model)
        first.step()
        second.step()


def test_a_step_that_ends_with_an_error_does_not_hide_the_next():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            raise KeyError

    model = model_of()
    before = plain_loss(model)
    failing, good = Failing(model.parameters(), lr=0.0), torch.optim.SGD(model.parameters(), lr=0.1)
    with tracker_of(model, [failing, good]) as tracker:
        backward(model)
        with pytest.raises(KeyError):
            failing.step()
        good.step()
    measured_change(model, before, tracker, 1)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # by torch.compile itself
def test_a_compiled_step_is_measured_as_it_is():
    def run(compiled):
        model = model_of().eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        step = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        with tracker_of(model, optimizer, SameBatch(), views=Kept) as tracker:
            for _ in range(2):
                optimizer.zero_grad()
                backward(model)
                step()
        return torch.stack([row.values for row in tracker.views["train"].rows])

    assert torch.equal(run(compiled=True), run(compiled=False))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # by torch.compile itself
def test_a_compiled_step_with_its_backward_pass_compiles_no_hooks():
    def compiled_frames(measured):
        torch._dynamo.reset()
        counters.clear()
        model = model_of().eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step():
            optimizer.zero_grad()
            backward(model)
            optimizer.step()

        step = torch.compile(step, backend="eager")
        with tracker_of(model, optimizer, SameBatch()) if measured else nullcontext():
            for _ in range(3):
                step()
        return counters["frames"]["ok"]

    assert 0 < compiled_frames(measured=True) <= compiled_frames(measured=False)


def pruned(parameters):
    """A hook keeps the first row of the first tensor at 0."""
    first, *others = parameters
    optimizer = torch.optim.SGD([first, *others], lr=0.1)
    optimizer.register_step_post_hook(lambda *_: first.data[0].zero_())
    return optimizer


@pytest.mark.parametrize("estimator", [CrossFit(own_pass=True), LaggedCrossFit()], ids=["own pass", "lagged"])
@pytest.mark.parametrize(
    "make", [pruned, lambda p: Lookahead(torch.optim.Adam(p, lr=0.1))], ids=["pruned", "Lookahead"]
)
def test_an_update_that_the_optimizer_does_not_make_alone_is_refused(make, estimator):
    model = model_of().eval()
    optimizer = make(model.parameters())
    tracker = tracker_of(model, optimizer, estimator)
    refused = pytest.raises(LCAError, match=r"the update is off by .*a hook, a wrapper such as Lookahead")
    with tracker, refused:
        for x, y in tracker.batches(zip(X.split(20), Y.split(20), strict=True)):
            model.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()


@pytest.mark.parametrize("by_closure", [False, True], ids=["", "closure"])
@pytest.mark.parametrize("estimator", [RULE, LaggedCrossFit()], ids=["path", "lagged"])
def test_a_call_of_step_without_gradients_is_no_step(estimator, by_closure):
    """Also one that still has gradients when it calls its closure, or none any more when it ends."""
    model = model_of().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer.register_step_post_hook(lambda *args: by_closure and optimizer.zero_grad())
    with tracker_of(model, optimizer, estimator) as tracker:
        optimizer.step()  # as before a schedule begins
        for i in range(3):

            def take(i=i):
                optimizer.zero_grad()
                if i != 1:
                    backward(model)

            if by_closure:
                backward(model)
                optimizer.step(take)
            else:
                take()
                optimizer.step()
    assert (tracker.steps, tracker.discontinuities) == (2, 0)


# --- weights that are put in -----------------------------------------------------------------------------


def test_averaged_weights_put_in_for_validation_are_no_discontinuity_if_taken_out_again():
    model = model_of()
    before = plain_loss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model)
    with tracker_of(model, optimizer) as tracker:
        for _ in range(3):
            model.zero_grad()
            backward(model)
            optimizer.step()
            average.update_parameters(model)
            kept = [p.detach().clone() for p in model.parameters()]
            for values in (average.module.parameters(), kept):  # in, and out
                for p, value in zip(model.parameters(), values, strict=True):
                    p.data.copy_(value)
    assert tracker.discontinuities == 0
    measured_change(model, before, tracker, 3)


def test_averaged_weights_put_in_at_the_end_are_unmeasured_change():
    model = model_of()
    before = plain_loss(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = torch.optim.swa_utils.AveragedModel(model)

    def run():
        with tracker_of(model, optimizer) as tracker:
            for _ in range(3):
                model.zero_grad()
                backward(model)
                optimizer.step()
                average.update_parameters(model)
            model.load_state_dict(average.module.state_dict())
        return tracker

    with pytest.warns(LCAWarning, match="the parameters changed after the last update"):
        tracker = run()
    measured_change(model, before, tracker, 3, tracker.summary()["train"]["unmeasured_change"])


def test_updates_that_no_optimizer_of_torch_makes_are_not_passed_over_in_silence():
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def by_hand():
        with tracker_of(model, optimizer):
            for _ in range(3):
                model.zero_grad()
                backward(model)
                with torch.no_grad():
                    for p in model.parameters():
                        p.sub_(0.1 * p.grad)

    with pytest.raises(LCAError, match="the parameters changed during the run, but no update was seen"):
        by_hand()
