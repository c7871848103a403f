"""`Objective` on real torch models: the kit's laws, every form of data, every policy, every refusal."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from lca.errors import DataError, LayoutError, LCAError
from lca.testing import check_objective, tolerances
from lca_torch import Objective, Penalty, layout_of
from tests.lca_torch.networks import IMAGES, LABELS, TOKENS, Transformer, X, Y, cnn, mlp, normalised, residual


def close(found, expected):
    """Whether the same loss was added up in another order, in float64."""
    return abs(found - expected) <= tolerances.summed(abs(expected), tolerances.EPS64)


small = st.integers(2, 4)
MODELS = {
    "mlp": (st.builds(mlp, st.builds(lambda hidden: (6, *hidden, 3), st.lists(small, max_size=3))), (X, Y)),
    "cnn": (st.builds(cnn, small), (IMAGES, LABELS)),
    "batch norm": (st.builds(normalised, small), (X, Y)),
    "residual": (st.builds(residual, small), (IMAGES, LABELS)),
    "transformer": (
        st.builds(
            lambda heads, layers: Transformer(4 * heads, heads, layers), st.integers(1, 2), st.integers(1, 2)
        ),
        (TOKENS, TOKENS),
    ),
}


def everything(model):
    """What a call must leave alone, as arrays by name."""
    found = {name: value.numpy() for name, value in model.state_dict().items()}
    found |= {f"grad {n}": p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    found["training"] = np.array([module.training for module in model.modules()])
    found["generator"] = torch.get_rng_state().numpy()
    return found


WITHOUT_NORM = ("mlp", "cnn", "transformer")
"""No policy for BatchNorm makes a difference for these."""


@pytest.mark.parametrize(
    ("kind", "norm"),
    [(kind, norm) for kind in MODELS for norm in ("batch", "frozen")[: 1 if kind in WITHOUT_NORM else 2]],
)
@settings(max_examples=2, suppress_health_check=[HealthCheck.nested_given])  # the kit draws for itself
@given(data=st.data())
def test_models_keep_the_laws_of_objectives(kind, norm, data):
    models, (x, y) = MODELS[kind]
    model = data.draw(models).double().train()
    model(x if x.dtype == torch.int64 else x.double()).sum().backward()  # gradients that must stay
    parts = [(4.0, (x[i : i + 4], y[i : i + 4])) for i in range(0, len(x) - len(x) % 4, 4)]
    parts.append((float(len(x) % 4), (x[-(len(x) % 4) :], y[-(len(x) % 4) :])))
    size = 4 if kind in WITHOUT_NORM or norm == "frozen" else len(x)
    check_objective(
        lambda: Objective(model, cross_entropy, (x, y), batch_size=size, batch_norm=norm),
        vector=torch.tensor,
        batches=parts if size == 4 else (),
        state=lambda: everything(model),
        samples=1,
    )


# --- policies --------------------------------------------------------------------------------------------


def test_the_last_batch_may_be_too_small_for_statistics():
    with pytest.raises(DataError, match="Expected more than 1 value"):
        Objective(normalised(3), cross_entropy, (X, Y), batch_size=4)  # 17 = 4 · 4 + 1


def test_running_statistics_are_the_state_under_their_names():
    model = normalised(3).double()
    model(X.double())  # running statistics that are not 0 and 1
    frozen = Objective(model, cross_entropy, (X, Y), batch_norm="frozen")
    assert set(frozen.state()) == {"1.running_mean", "1.running_var", "configuration"}
    theta, before = frozen.theta(), frozen.loss(frozen.theta())
    model(2 * X.double())
    assert frozen.loss(theta) != before


def test_frozen_parameters_may_have_another_dtype_if_omitted_and_may_train_again():
    model = mlp().double()
    model[0].requires_grad_(False)
    kept = Objective(model, cross_entropy, (X, Y))
    assert not kept.layout.unflatten(kept.loss_and_grad(kept.theta())[1])["0.weight"].any()
    model[0].float()  # of another dtype, as a quantised base may be
    with pytest.raises(LayoutError, match="must share one dtype: '0.weight' has float32"):
        Objective(model, cross_entropy, (X, Y))
    rest = Objective(model, cross_entropy, (X, Y), frozen="omit")
    assert rest.layout.names == ("2.weight", "2.bias")
    rest.loss_and_grad(rest.theta())
    model[0].double().requires_grad_(True)
    assert kept.layout.unflatten(kept.loss_and_grad(kept.theta())[1])["0.weight"].any()


def test_sparse_gradients_are_like_dense_ones():
    dense, sparse = (nn.Sequential(nn.EmbeddingBag(7, 3, sparse=s), nn.Linear(3, 7)) for s in (False, True))
    one, other = (Objective(m, cross_entropy, (TOKENS, TOKENS[:, 0]), batch_size=4) for m in (dense, sparse))
    theta = one.theta()
    difference = one.loss_and_grad(theta)[1] - other.loss_and_grad(theta)[1]
    assert difference.abs().max() <= tolerances.gradient(1.0, float(torch.finfo(torch.float32).eps))


def test_neurons_are_output_channels():
    model = nn.Sequential(nn.Linear(3, 2), nn.ConvTranspose1d(2, 4, 3), nn.Embedding(5, 6))
    assert layout_of(model).neuron_axes == (0, 0, 1, 0, 1)


def test_autocast_is_coarser_and_its_gradient_is_like_theta():
    model = mlp()
    fine, coarse = (
        Objective(model, cross_entropy, (X, Y), batch_size=17, autocast=dtype)
        for dtype in (None, torch.bfloat16)
    )
    loss, grad = coarse.loss_and_grad(coarse.theta())
    assert grad.dtype == torch.float32
    assert 1e-5 < abs(loss - fine.loss(fine.theta())) < 0.05


def test_a_compiled_loss_is_the_same_loss(monkeypatch):
    # Captured and differentiated as any compiled function, but not translated to C++, which takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = mlp()
    plain = Objective(model, cross_entropy, (X, Y), batch_size=17)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler about itself
        compiled = Objective(model, cross_entropy, (X, Y), batch_size=17, compile=True)
        for scale in (1.0, 2.0):  # at another θ, too: nothing of the first may be built in
            theta = scale * plain.theta()
            (loss, grad), (found, gradient) = plain.loss_and_grad(theta), compiled.loss_and_grad(theta)
            eps = float(torch.finfo(torch.float32).eps)
            assert abs(found - loss) <= tolerances.summed(1 + loss, eps)
            assert (gradient - grad).abs().max() <= tolerances.gradient(1 + float(grad.abs().max()), eps)


def test_nothing_accumulates_in_anybodys_grad():
    model, teacher = mlp(), mlp()

    def distill(model, batch):
        return (model(batch[0]) - teacher(batch[0])).square().mean()

    objective = Objective(model, None, (X, Y), batch_loss=distill, batch_size=5)
    objective.loss_and_grad(objective.theta())
    assert all(p.grad is None for p in [*model.parameters(), *teacher.parameters()])


def test_a_penalty_leaves_frozen_parameters_alone_and_is_a_scalar():
    model = mlp().double()
    model[2].bias.requires_grad_(False)
    ridge = Penalty(model, lambda tensors: 0.5 * sum(t.square().sum() for t in tensors.values()))
    theta = Objective(model, cross_entropy, (X, Y)).theta()
    grad = ridge.loss_and_grad(theta)[1]
    assert torch.equal(grad[:-3], theta[:-3])
    assert not grad[-3:].any()
    with pytest.raises(LCAError, match="must be a scalar"):
        Penalty(model, lambda tensors: tensors["0.bias"]).loss(theta)


def test_a_frozen_tensor_of_a_penalty_is_differentiated_if_asked_for():
    model = mlp().double()
    model[2].bias.requires_grad_(False)
    ridge = Penalty(model, lambda tensors: 0.5 * sum(t.square().sum() for t in tensors.values()))
    theta = Objective(model, cross_entropy, (X, Y)).theta()
    assert "2.bias" not in ridge.differentiated
    assert torch.equal(ridge.differentiating(ridge.layout.names).loss_and_grad(theta)[1], theta)


def test_measuring_leaves_a_given_state_alone():
    model = normalised(3).double()
    batch, frozen = (
        Objective(model, cross_entropy, (X, Y), batch_norm=norm, batch_size=17)
        for norm in ("batch", "frozen")
    )
    theta, state = frozen.theta(), frozen.state()
    loss = frozen.at_state(state).loss(theta)
    batch.at_state(state).loss_and_grad(theta)  # writes running statistics, into copies
    assert frozen.at_state(state).loss(theta) == loss
