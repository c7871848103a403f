"""Precision and compilation: autocast, mixed-precision wrappers, half-precision parts, the real compiler."""

import copy
import shutil
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca.errors import LCAError
from lca.estimators import CrossFit
from lca.testing import check_objective, tolerances
from lca_torch import Objective, Tracker
from tests.lca_torch.networks import X, Y, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of accelerate and its dependencies about each other, at import
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from lightning.fabric import Fabric

EPS32 = float(torch.finfo(torch.float32).eps)


def seeded_mlp():
    torch.manual_seed(0)
    return mlp()


@pytest.fixture
def fresh_state():
    """Accelerate keeps one global state a process, which other tests that train with it leave behind."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def accelerated(model):
    """Model and optimizer as accelerate hands them back for bfloat16: the forward pass is patched."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    return accelerator, *accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.05))


def train(*, tracked):
    accelerator, model, optimizer = accelerated(seeded_mlp())
    objective = Objective(model, cross_entropy, (X, Y), batch_size=5)
    tracker = Tracker(model, optimizer, objective, lca.PathIntegral(lca.SIMPSON), on_error="raise")
    if tracked:
        tracker.__enter__()
    for _ in range(3):
        optimizer.zero_grad()
        accelerator.backward(cross_entropy(model(X), Y))
        optimizer.step()
    tracker.__exit__(None, None, None)
    return objective, tracker


@pytest.mark.usefixtures("fresh_state")
def test_a_forward_pass_that_accelerate_patched_is_measured_as_it_is():
    """In bfloat16, that is, bit for bit as with ``autocast``, on several batches and with gradients."""
    plain = seeded_mlp()
    _, patched, _ = accelerated(copy.deepcopy(plain))
    coarse, fine, found = (
        Objective(model, cross_entropy, (X, Y), batch_size=5, autocast=dtype)
        for model, dtype in ((plain, torch.bfloat16), (plain, None), (patched, None))
    )
    theta = fine.theta()
    loss, grad = found.loss_and_grad(theta)
    assert (loss, found.loss(theta)) == (coarse.loss(theta), coarse.loss(theta))
    assert torch.equal(grad, coarse.loss_and_grad(theta)[1])
    assert abs(loss - fine.loss(theta)) > tolerances.repeat(loss, EPS32)


def test_a_model_that_fabric_wrapped_is_measured_as_it_is():
    """In bfloat16, though its outputs refuse other backward passes than those of Fabric."""
    plain = seeded_mlp()
    coarse = Objective(plain, cross_entropy, (X, Y), autocast=torch.bfloat16)

    def measured(trained_in, **options):
        wrapped = Fabric(accelerator="cpu", devices=1, precision=trained_in).setup(copy.deepcopy(plain))
        return Objective(wrapped, cross_entropy, (X, Y), **options)

    theta = coarse.theta()
    (loss, grad), (found, gradient) = coarse.loss_and_grad(theta), measured("bf16-mixed").loss_and_grad(theta)
    assert found == loss
    assert torch.equal(gradient, grad)
    with pytest.raises(LCAError, match=r"pass the module inside \(that of Fabric: wrapped\.module\)"):
        measured("bf16-true", precision="float32")


@pytest.mark.usefixtures("fresh_state")
def test_autocast_training_is_the_same_with_a_tracker_and_adds_up():
    objective, tracker = train(tracked=True)
    without, idle = train(tracked=False)
    assert torch.equal(objective.theta(), without.theta())
    assert (tracker.steps, idle.steps) == (3, 0)
    summary = tracker.summary()["train"]
    assert summary["loss_end"] == objective.loss(objective.theta())
    assert summary["state_change"] == 0
    # What bfloat16 leaves of each step is a rounding of the loss, not of the allocation.
    assert summary["max_step_residual"] <= tolerances.repeat(summary["loss_start"], 2.0**-8)


class Adapted(nn.Module):
    """A frozen base in half precision, which takes half-precision inputs, and an adapter in full."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(6, 5).half().requires_grad_(False)
        self.adapter = nn.Linear(5, 3)

    def forward(self, x):
        return self.adapter(torch.tanh(self.base(x)).to(self.adapter.weight.dtype))


def test_half_precision_inputs_reach_an_omitted_base_as_they_are():
    torch.manual_seed(0)
    model = Adapted()

    def make():
        return Objective(model, cross_entropy, (X.half(), Y), frozen="omit", batch_size=5)

    objective = make()
    assert objective.layout.names == ("adapter.weight", "adapter.bias")
    by_hand = cross_entropy(model(X.half()), Y)
    by_hand.backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.adapter.parameters()])
    loss, grad = objective.loss_and_grad(objective.theta())
    assert (grad - expected).abs().max() <= tolerances.gradient(1.0, EPS32)
    assert abs(loss - float(by_hand.detach())) <= tolerances.summed(loss, EPS32)
    # Half precision rounds single rows otherwise than long samples.
    apart = ("samples_are_means_of_their_examples", "weighted_samples_are_weighted_means")
    check_objective(make, vector=torch.tensor, samples=2, skip=apart)


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on the path")
def test_a_loss_compiled_to_machine_code_is_the_same_loss():
    """With the real compiler, which takes some twenty seconds; other tests stop before the code is made."""
    model = seeded_mlp()
    plain = Objective(model, cross_entropy, (X, Y), batch_size=17)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        compiled = Objective(model, cross_entropy, (X, Y), batch_size=17, compile=True)
        theta = 2 * plain.theta()  # nothing of the first θ may be built in
        (loss, grad), (found, gradient) = plain.loss_and_grad(theta), compiled.loss_and_grad(theta)
    assert abs(found - loss) <= tolerances.summed(1 + loss, EPS32)
    assert (gradient - grad).abs().max() <= tolerances.gradient(1 + float(grad.abs().max()), EPS32)


class _Casting(nn.Module):
    """Its forward pass runs under an autocast of its own, as one that a trainer has patched."""

    def __init__(self):
        super().__init__()
        self.net = seeded_mlp()

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x)


def trained_on_halves(model, loss, autocast):
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    objective = Objective(model, cross_entropy, (X, Y), autocast=autocast)
    full_batches = CrossFit(own_pass=True, independent=True, epoch=1)
    with Tracker(model, optimizer, objective, full_batches, on_error="raise", check_every=None) as tracker:
        for x, y in tracker.batches([(X, Y)] * 4):
            optimizer.zero_grad()
            with torch.autocast("cpu", autocast, enabled=autocast is not None):
                value = loss(model(x), y)
            value.backward()
            optimizer.step()
    return tracker.steps


@pytest.mark.parametrize(
    ("make", "autocast"),
    [(seeded_mlp, torch.bfloat16), (seeded_mlp, torch.float16), (_Casting, None)],
    ids=["bfloat16", "float16", "of the model"],
)
def test_halves_in_mixed_precision_are_compared_in_that_precision(make, autocast):
    assert trained_on_halves(make(), cross_entropy, autocast) == 4

    def dropped(out, y):
        return cross_entropy(nn.functional.dropout(out, 0.1), y)

    for wrong in (nn.CrossEntropyLoss(label_smoothing=0.1), dropped):
        with pytest.raises(LCAError, match="loss of training is not the measured one on its batch"):
            trained_on_halves(make(), wrong, autocast)
