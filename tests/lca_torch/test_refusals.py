"""What cannot be measured is refused, at once or when it stops fitting, by name and with the fix."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.data import DataLoader

import lca
from lca.errors import DataError, LayoutError, LCAError, LCAWarning, NonDeterministicError, NonFiniteError
from lca_torch import Objective, Tracker
from tests.lca_torch.networks import X, Y, mlp, normalised

# --- models and losses ----------------------------------------------------------------------------------


def test_labels_are_no_loss():
    with pytest.raises(LCAError, match="must be a floating-point tensor, got int64"):
        Objective(mlp(), lambda out, y: relu(out).argmax(), (X, Y), batch_size=17)


def test_models_that_cannot_be_measured_are_refused():
    half, split, none = mlp().half(), mlp(), mlp().requires_grad_(False)
    split[2].to("meta")
    for model, message in [
        (half, "'0.weight' is float16.*autocast"),
        (split, "must share one device: '0.weight' has cpu, '2.weight' has meta"),
        (none, "nothing to allocate to"),
        (cross_entropy, "expected a torch.nn.Module, got function"),
        (nn.LazyLinear(3), "run the model on one batch first"),
    ]:
        with pytest.raises(LayoutError, match=message):
            Objective(model, cross_entropy, (X, Y))
    with pytest.raises(LCAError, match="not both"):
        Objective(mlp(), cross_entropy, (X, Y), batch_loss=lambda model, batch: model(batch[0]).mean())


def test_a_parameter_without_gradient_is_named():
    model = mlp()
    model.unused = nn.Linear(2, 2)
    with pytest.warns(LCAWarning, match=r"no gradient reaches unused\.weight, unused\.bias"):
        Objective(model[:3], cross_entropy, (X, Y), batch_size=17) and Objective(
            nn.ModuleDict({"net": model[:3], "unused": model.unused}),
            None,
            (X, Y),
            batch_loss=lambda model, batch: cross_entropy(model["net"](batch[0]), batch[1]),
            batch_size=17,
        )


def test_nan_and_randomness_are_found_when_allocating():
    model = mlp()
    objective = Objective(model, cross_entropy, (X, Y), batch_size=17)
    start, end = objective.theta(), objective.theta()
    end[-1] = float("nan")
    with pytest.raises(NonFiniteError, match="step 0: NaN or Inf in the parameters at the end, in 2.bias"):
        list(lca.allocate(objective, lca.Trajectory([start, end]), lca.Adaptive()))

    def noisy(model, batch):
        return cross_entropy(model(nn.functional.dropout(batch[0])), batch[1])

    random = Objective(model, None, (X, Y), batch_loss=noisy, batch_size=17)
    with pytest.raises(NonDeterministicError, match="Turn off dropout"):
        list(lca.allocate(random, lca.Trajectory([start, 2 * start]), lca.Adaptive()))


def test_wrong_vectors_are_refused():
    objective = Objective(mlp(), cross_entropy, (X, Y), batch_size=17)
    for wrong, message in [
        (np.zeros(53), "got ndarray"),
        (torch.zeros(52), r"expected shape \(53,\)"),
        (torch.zeros(53, dtype=torch.float16), "got float16"),
        (torch.zeros(53, device="meta"), "theta is on meta"),
    ]:
        with pytest.raises(LayoutError, match=message):
            objective.loss(wrong)


class Kinds(nn.Module):
    """A model with one parameter of a kind that cannot be measured."""

    def __init__(self, parameter, to_weight):
        super().__init__()
        self.layer, self.own, self.to_weight = nn.Linear(6, 3), nn.Parameter(parameter), to_weight

    def forward(self, x):
        return self.layer(x) + self.to_weight(self.own)


@pytest.mark.parametrize(
    ("parameter", "to_weight", "message"),
    [
        (torch.ones(3, dtype=torch.complex64), torch.real, "'own' is complex64; make it a real parameter"),
        (torch.zeros(0, 3), torch.sum, r"'own' has no entries \(shape \(0, 3\)\)"),
        (torch.eye(3).to_sparse(), lambda own: own.to_dense().sum(0), "'own' is sparse"),
    ],
)
def test_parameters_of_other_kinds_are_refused_with_advice_that_works(parameter, to_weight, message):
    model = Kinds(parameter, to_weight)
    with pytest.raises(LayoutError, match=message):
        Objective(model, cross_entropy, (X, Y), batch_size=17)
    model.own.requires_grad_(False)
    left_out = Objective(model, cross_entropy, (X, Y), batch_size=17, frozen="omit")
    assert left_out.layout.names == ("layer.weight", "layer.bias")
    assert abs(left_out.loss(left_out.theta()) - cross_entropy(model(X), Y).item()) < 1e-6


def test_two_real_parts_in_place_of_a_complex_parameter_work():
    own = torch.view_as_real(torch.ones(3, dtype=torch.complex64))
    model = Kinds(own, lambda own: torch.view_as_complex(own).abs())
    Objective(model, cross_entropy, (X, Y), batch_size=17)


def test_a_model_without_numbers_is_refused():
    with pytest.raises(LayoutError, match="'0.weight' has no numbers.*to_empty"):
        Objective(mlp().to("meta"), cross_entropy, (X, Y), batch_size=17)


# --- sums ------------------------------------------------------------------------------------------------


def of_rows(model, batch):
    """For batches of any shape: one value a row."""
    return (model(batch[0]).mean((1, 2)) - batch[1]).square()


RAGGED = [(torch.randn(2, 4, 6), torch.zeros(2)), (torch.randn(3, 2, 6), torch.ones(3))]


def test_sums_are_refused_in_batches_that_do_not_fit_together():
    model = nn.Linear(6, 1)
    with pytest.raises(LCAError, match="their sum, not their mean"):
        Objective(model, None, RAGGED, batch_loss=lambda model, batch: of_rows(model, batch).sum())
    Objective(model, None, RAGGED, batch_loss=lambda model, batch: of_rows(model, batch).mean())


def test_a_loss_that_doubles_by_accident_is_no_sum():
    """With two examples that look alike, a contrastive loss is log 2, and log 4 with both of them twice."""
    model = nn.Linear(6, 3)

    def contrastive(model, batch):
        out = 1e-4 * model(batch[0])
        return cross_entropy(out @ out.T, torch.arange(len(out)))

    Objective(model, None, (X[:2],), batch_loss=contrastive, batch_size=2)


# --- data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ((X.numpy(), Y.numpy()), r"data\[0\] is a NumPy array \(float32 \(17, 6\)\)"),
        (
            (csr_matrix(X.numpy()), Y),
            r"data\[0\] is a sparse matrix of SciPy",
        ),
        ((X, Y.numpy()), r"data\[1\] is a NumPy array \(int64 \(17,\)\)"),
        ({"x": X.numpy(), "y": Y}, r"data\['x'\] is a NumPy array"),
        (X.numpy(), "data is a NumPy array"),
        ([(X, Y.numpy())], r"data.*\[1\] is a NumPy array"),
    ],
)
def test_numpy_arrays_are_named(data, where):
    with pytest.raises(DataError, match=where + ".*pass torch.as_tensor"):
        Objective(mlp(), cross_entropy, data, batch_size=17)


def test_numpy_arrays_are_named_in_batches_that_are_not_kept():
    with pytest.raises(DataError, match=r"data\[1\] is a NumPy array"):
        Objective(mlp(), cross_entropy, DataLoader([0], collate_fn=lambda _: (X, Y.numpy())), keep=False)


def with_nan(index, value=float("nan")):
    x = X.clone()
    x[index] = value
    return x


def test_nan_in_nested_data_is_named_also_with_batch_statistics():
    message = r"row 9 of the measured data\[0\]\['input'\] holds NaN.*leave such examples out, or mask them"
    for model in (mlp(), normalised(3)):
        with pytest.raises(DataError, match=message):
            Objective(model, cross_entropy, ({"input": with_nan(9)}, Y), batch_size=6)


def test_nan_is_named_in_batches_that_do_not_fit_together():
    batches = [RAGGED[0], (RAGGED[1][0], torch.tensor([1.0, 0.0, torch.nan]))]
    with pytest.raises(DataError, match=r"row 2 of batch 1 of the measured data\[1\] holds NaN"):
        Objective(nn.Linear(6, 1), None, batches, batch_loss=lambda m, batch: of_rows(m, batch).mean())


def test_nan_that_the_loss_masks_is_no_error():
    def masked(model, batch):
        x, y = batch
        known = ~torch.isnan(x).any(1)
        return cross_entropy(model(x[known]), y[known])

    data = with_nan(7), Y
    objective = Objective(mlp(), None, data, batch_loss=masked, batch_size=6)
    assert np.isfinite(objective.loss(objective.theta()))


def test_a_model_that_needs_a_loss_fn_is_told_from_one_that_brings_its_own():
    fix = "With loss_fn=None a Sequential is called with the whole batch.*for any other model pass loss_fn"
    for data in ((X, Y), {"x": X, "y": Y}):
        for size in (17, None):
            with pytest.raises(DataError, match=rf"raised TypeError: .*forward\(\).*{fix}"):
                Objective(mlp(), None, data, batch_size=size)
    with pytest.raises(DataError, match="got a Tensor; pass loss_fn or batch_loss"):
        Objective(mlp(), None, X, batch_size=17)
    with pytest.raises(DataError) as raised:  # a loss_fn is there: nothing to explain
        Objective(mlp(), lambda out: out.mean(), (X, Y), batch_size=17)
    assert "loss_fn=None" not in str(raised.value)


# --- a model that changes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "now"),
    [
        (lambda model: model.double(), "'0.weight' is torch.float64 on cpu"),
        (lambda model: model.half(), "'0.weight' is torch.float16 on cpu"),
        (lambda model: model[2].double(), "'2.weight' is torch.float64 on cpu"),
        (lambda model: model.to("meta"), "'0.weight' is torch.float32 on meta"),
    ],
)
def test_a_model_that_was_converted_is_named_at_the_next_call(change, now):
    model = mlp()
    objective = Objective(model, cross_entropy, (X, Y), batch_size=17)
    theta = objective.theta()
    change(model)
    message = (
        f"{now} now, but was torch.float32 on cpu when the objective was made; convert and move the model"
    )
    for call in (objective.theta, lambda: objective.loss(theta), lambda: objective.loss_and_grad(theta)):
        with pytest.raises(LayoutError, match=message):
            call()
    with pytest.raises(LayoutError, match=message):
        objective.by_class().loss(theta)


def test_a_parameter_that_is_gone_is_named():
    model = mlp()
    objective = Objective(model, cross_entropy, (X, Y), batch_size=17)
    theta = objective.theta()
    nn.utils.parametrizations.weight_norm(model[0])
    with pytest.raises(LayoutError, match=r"no parameter '0\.weight' any more.*then make the objective"):
        objective.loss(theta)


def test_a_loss_class_or_a_loss_in_place_of_the_model_is_named():
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(LCAError, match=r"loss_fn is the class CrossEntropyLoss; pass an instance"):
        Objective(nn.Linear(2, 3), nn.CrossEntropyLoss, (x, y))
    with pytest.raises(LCAError, match=r"CrossEntropyLoss has no parameters.*the order is Objective\(model"):
        Objective(nn.CrossEntropyLoss(), nn.Linear(2, 3), (x, y))


# --- data that change, and integers where numbers are expected -------------------------------------------


def test_data_that_are_changed_in_place_are_named():
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    objective, copied = (
        Objective(nn.Linear(4, 3), nn.functional.cross_entropy, data) for data in ((x, y), [(x, y)])
    )
    theta, loss = objective.theta(), copied.loss(copied.theta())
    objective.loss(theta)
    x[:2].add_(1.0)
    for call in (objective.check, lambda: objective.loss(theta)):
        with pytest.raises(DataError, match=r"data were changed in place.*x.clone\(\)"):
            call()
    assert copied.loss(copied.theta()) == loss  # batches that are put together are copies


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.ones(6, 4, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64)),
        (torch.ones(6, 4, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)),
        (torch.ones(6, 4), torch.zeros(6, dtype=torch.int32)),
    ],
)
def test_integers_that_do_not_fit_are_to_be_converted(x, y):
    with pytest.raises(DataError, match=r"raised RuntimeError.*inputs.float\(\), labels.long\(\)"):
        Objective(nn.Linear(4, 3), nn.functional.cross_entropy, (x, y))


def test_a_parameter_of_a_class_of_its_own_is_named():
    class Own(torch.Tensor):
        pass

    model = mlp()
    model[0].weight = nn.Parameter(model[0].weight.detach().as_subclass(Own))
    with pytest.raises(LayoutError, match="is a Own, a subclass of Tensor.*as_subclass"):
        Objective(model, cross_entropy, (X, Y))


def test_a_model_that_grows_with_a_new_optimizer_is_noticed_at_its_first_step():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    objective = Objective(model, cross_entropy, (X, Y), batch_size=17)
    with Tracker(model, optimizer, objective) as tracker:
        cross_entropy(model(X), Y).backward()
        optimizer.step()
        model[0], model[2] = nn.Linear(6, 9), nn.Linear(9, 3)
        grown = torch.optim.SGD(model.parameters(), 0.1)
        cross_entropy(model(X), Y).backward()
        with pytest.warns(
            LCAWarning, match="measuring stopped at step 1.*'0.weight' has shape.*on_error='raise'"
        ):
            grown.step()
    assert isinstance(tracker.error, LayoutError)
