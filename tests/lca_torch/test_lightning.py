"""`LightningCallback` in real fits: the training is the same with it, and the allocation adds up."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lca
from lca import tolerances
from lca.errors import LCAError, LCAWarning
from lca.estimators import CrossFit, NextBatch
from lca_torch import Objective
from tests.laws.callbacks import LAWS
from tests.laws.runs import Kept, Shown

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Lightning and its dependencies about each other, at import
    import lightning.pytorch
    import pytorch_lightning

    from lca_torch.lightning import LightningCallback

# Lightning's advice (more workers, a longer log interval) and calls that torch deprecates. Warnings are told
# apart by the module that they are attributed to, so those of lca stay errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:the model trains with"),
    pytest.mark.filterwarnings(r"ignore:::lightning\."),
    pytest.mark.filterwarnings(r"ignore:::pytorch_lightning\."),
    pytest.mark.filterwarnings(r"ignore:::torch\."),
    # pytest.warns hands on what it did not expect, without the module it came from.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:The '\w+' does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:The number of training batches"),
]

FLAVOURS = {"lightning": lightning.pytorch, "pytorch_lightning": pytorch_lightning}
RULE = lca.PathIntegral(lca.SIMPSON)
DATA = TensorDataset(
    torch.randn(60, 6, generator=torch.Generator().manual_seed(1)),
    torch.randint(3, (60,), generator=torch.Generator().manual_seed(2)),
)


def module(flavour="lightning", *, norm=False, manual=False, optimizers=1):
    """A small network with dropout, a schedule and a validation step."""
    pl = FLAVOURS[flavour]

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual
            middle = [nn.BatchNorm1d(8)] if norm else []
            self.net = nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            x, y = batch
            loss = cross_entropy(self(x), y)
            if manual:
                for optimizer in self.optimizers() if optimizers > 1 else [self.optimizers()]:
                    optimizer.zero_grad()
                    self.manual_backward(cross_entropy(self(x), y))
                    optimizer.step()
            return loss

        def validation_step(self, batch, index):
            x, y = batch
            return cross_entropy(self(x), y)

        def configure_optimizers(self):
            made = [torch.optim.Adam(self.parameters(), lr=0.01) for _ in range(optimizers)]
            return made, [torch.optim.lr_scheduler.StepLR(o, 1, 0.5) for o in made]

    torch.manual_seed(0)
    return Module()


def fit(model, *callbacks, flavour="lightning", epochs=2, checkpoint=None, shuffle=True, **options):
    """Five batches an epoch; continues from the checkpoint, if there is one, and writes it."""
    trainer = FLAVOURS[flavour].Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"logger": False, **options},
    )
    torch.manual_seed(3)
    batches = DataLoader(DATA, batch_size=12, shuffle=shuffle), DataLoader(DATA, batch_size=60)
    trainer.fit(model, *batches, ckpt_path=checkpoint if checkpoint and checkpoint.exists() else None)
    if checkpoint:
        trainer.save_checkpoint(checkpoint)
    return model


def measure(model):
    return Objective(model, cross_entropy, DATA, batch_size=60)


class LightningFramework:
    """See `tests.laws.callbacks.CallbackFramework`."""

    updates = 10
    tells_updates = True
    epoch = 5
    lasts_as_its_call = True
    advice = {
        "micro_batches": r"Trainer\(accumulate_grad_batches=2\)",
        "scores": r"call callback\.tracker\.scores\(index, outputs, labels\) in every training_step",
    }

    def callback(self, *, impossible=False, **options):
        return LightningCallback(impossible_objective if impossible else measure, **options)

    def fit(self, callback, *, stop_after=None):
        class Stop(lightning.pytorch.Callback):
            def on_train_batch_end(self, trainer, *args):
                if trainer.global_step == stop_after:
                    raise KeyError("enough")

        model = module()
        fit(model, *filter(None, [callback]), *([Stop()] if stop_after else []))
        return [tensor.detach().numpy() for tensor in model.state_dict().values()]


def impossible_objective(model):
    return Objective(model, lambda output, target: output, DATA)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, tmp_path):
    law(LightningFramework(), tmp_path)


def same(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("flavour", "options", "steps"),
    [
        ("lightning", {}, 10),
        ("pytorch_lightning", {}, 10),
        ("lightning", {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, 6),
    ],
)
def test_fit_is_the_same_with_it_and_the_allocation_adds_up(flavour, options, steps):
    plain = fit(module(flavour), flavour=flavour, **options)
    model, callback = module(flavour), LightningCallback(measure, lca.PathIntegral(lca.SIMPSON))
    before = measure(model).theta()
    fit(model, callback, flavour=flavour, **options)
    assert same(model, plain)

    objective, rows = measure(model), callback.views["train"].trace.rows
    change = objective.loss(objective.theta()) - objective.loss(before)
    total = rows["total"].sum() + rows["residual"].sum()
    assert abs(total - change) <= tolerances.repeat(objective.loss(before), 2.0**-23)
    assert abs(rows["residual"].sum()) < 1e-3 * abs(change)
    assert len(rows) == callback.steps == callback.summary()["train"]["steps"] == steps
    assert callback.error is None
    assert callback.discontinuities == 0


def test_no_hook_is_left_behind():
    class Keep(lightning.pytorch.Callback):
        def on_train_start(self, trainer, pl_module):
            self.optimizer = trainer.optimizers[0]

    keep, callback = Keep(), LightningCallback(measure)
    model = fit(module(), keep, callback)
    keep.optimizer.step()
    assert callback.steps == 10

    class Stop(lightning.pytorch.Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        fit(model, keep, callback, Stop())
    keep.optimizer.step()
    assert callback.steps == 1


def test_a_part_of_the_module_can_be_measured_and_several_losses():
    def both(model):
        whole, part = measure(model.net), Objective(model.net, cross_entropy, DATA[:20], batch_size=20)
        return {"all": lca.Sum({"data": whole}), "part": part}

    callback = LightningCallback(both, every=3)
    fit(module(), callback)
    steps = {name: summary["steps"] for name, summary in callback.summary().items()}
    assert steps == {"all": 4, "all/data": 4, "part": 4}
    assert set(callback.summary()["all"]["per_tensor"]) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_running_statistics_are_told_apart():
    def frozen(model):
        return Objective(model, cross_entropy, DATA, batch_size=60, batch_norm="frozen")

    model, callback = module(norm=True), LightningCallback(frozen, lca.PathIntegral(lca.SIMPSON))
    before = frozen(model)
    theta, state = before.theta(), before.state()
    fit(model, callback)
    after = frozen(model)
    rows = callback.views["train"].trace.rows
    change = after.loss(after.theta()) - before.at_state(state).loss(theta)
    total = sum(rows[part].sum() for part in ("total", "residual", "state_change"))
    assert abs(rows["state_change"].sum()) > 1e-3
    assert abs(total - change) <= tolerances.repeat(after.at_state(state).loss(theta), 2.0**-23)
    assert abs(rows["residual"].sum()) < 1e-3 * abs(change)


def test_manual_optimization_with_one_optimizer_is_measured():
    callback = LightningCallback(measure)
    model = fit(module(manual=True), callback)
    assert same(model, fit(module(manual=True)))
    assert callback.steps == 10


def test_the_updates_of_several_optimizers_are_steps_of_one_path():
    model, callback = module(manual=True, optimizers=2), LightningCallback(measure, RULE, on_error="raise")
    before = measure(model).theta()
    fit(model, callback)
    assert same(model, fit(module(manual=True, optimizers=2)))
    objective, rows = measure(model), callback.views["train"].trace.rows
    change = objective.loss(objective.theta()) - objective.loss(before)
    total = rows["total"].sum() + rows["residual"].sum()
    assert len(rows) == callback.steps == 20
    assert abs(total - change) <= tolerances.repeat(objective.loss(before), 2.0**-23)
    assert callback.discontinuities == 0


@pytest.mark.parametrize(
    ("make_objective", "match"),
    [
        (
            lca.Adaptive(),
            "make_objective is of type Adaptive; the order is LightningCallback.make_objective, est",
        ),
        (lca.Adaptive, "make_objective is a class"),
        (measure(module()), "make_objective is of type Objective.*lambda model: Objective"),
    ],
    ids=["estimator", "class", "objective"],
)
def test_something_else_than_a_function_is_named(make_objective, match):
    with pytest.raises(LCAError, match=match):
        LightningCallback(make_objective)


def test_a_function_that_returns_no_objective_is_named():
    with pytest.raises(LCAError, match="make_objective returned None and not an Objective"):
        fit(module(), LightningCallback(lambda model: None, on_error="raise"))


def test_random_numbers_drawn_to_make_the_objective_do_not_count():
    def shuffled(model):
        loader = DataLoader(DATA, batch_size=60, shuffle=True)
        return Objective(model, cross_entropy, list(loader), batch_size=60)

    assert same(fit(module(), LightningCallback(shuffled)), fit(module()))


@pytest.mark.usefixtures("whole_micro_batches")
def test_batches_of_an_update_are_its_micro_batches():
    options = {"accumulate_grad_batches": 2, "limit_train_batches": 4, "gradient_clip_val": 0.1}
    callback = LightningCallback(measure, CrossFit(2), views=Kept, on_error="raise")
    model = fit(module(), callback, **options)
    assert same(model, fit(module(), **options))
    rows = callback.views["train"].rows
    assert [row.step for row in rows] == [0, 1, 2]
    assert callback.skipped_steps == 1
    for row, following in zip(rows[:-1], rows[1:], strict=True):
        first, second = row.source.micro_batches
        mean, gradient = (first.gradient + second.gradient) / 2, following.source
        assert float(mean.norm()) > 0.1  # before it was clipped
        assert not torch.equal(first.gradient, second.gradient)
        ours = sum(part.gradient for part in gradient.micro_batches) / 2
        limit = tolerances.gradient(1.0, 2.0**-23)
        assert float((row.source.next_gradient - ours).abs().max()) <= limit


@pytest.mark.parametrize("passed_over", [None, 0], ids=["all trained", "one passed over"])
def test_updates_from_fewer_batches_have_the_gradient_of_their_mean_loss(passed_over):
    """Those left over in an epoch of five, and those for which `training_step` returns no loss."""
    batches = DATA.tensors[0].split(12), DATA.tensors[1].split(12)

    class Loud(lightning.pytorch.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(6, 3)

        def training_step(self, batch, index):
            return None if index == passed_over else cross_entropy(self.net(batch[0]), batch[1])

        def train_dataloader(self):
            return DataLoader(DATA, batch_size=12)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5)

    shown = Shown(("gradient", "micro_batches"))
    callback = LightningCallback(
        lambda model: Objective(model.net, cross_entropy, DATA), shown, on_error="raise"
    )
    options = {"max_epochs": 1, "accumulate_grad_batches": 3, "logger": False, "enable_progress_bar": False}
    options |= {"enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    lightning.pytorch.Trainer(callbacks=[callback], **options).fit(Loud())
    assert len(shown.steps) == 2
    for step, trained in zip(shown.steps, [{0, 1, 2} - {passed_over}, {3, 4}], strict=True):
        weight, bias = step.start[:18].reshape(3, 6), step.start[18:]
        parameters = [weight.requires_grad_(), bias.requires_grad_()]
        losses = [cross_entropy(batches[0][i] @ weight.T + bias, batches[1][i]) for i in sorted(trained)]
        own = [torch.cat([g.ravel() for g in torch.autograd.grad(loss, parameters)]) for loss in losses]
        mean, limit = sum(own) / len(own), tolerances.gradient(1.0, 2.0**-23)
        assert (step.gradient - mean).abs().max() <= limit
        for m, (part, expected) in enumerate(zip(step.micro_batches, own, strict=True)):
            assert (part.gradient - expected).abs().max() <= limit
            others = [g for k, g in enumerate(own) if k != m]
            update = -0.5 * len(own) / 3 * sum(others) / len(others)  # the trainer divides by 3
            assert (part.update - update).abs().max() <= limit


@pytest.mark.usefixtures("whole_micro_batches")
def test_the_halves_of_a_batch_are_taken_from_it_without_a_change_to_the_module():
    def without_dropout():
        made = module()
        made.net[2].p = 0.0
        return made

    options = {"gradient_clip_val": 0.1}
    callback = LightningCallback(measure, CrossFit(own_pass=True), views=Kept, on_error="raise")
    assert same(fit(without_dropout(), callback, **options), fit(without_dropout(), **options))
    rows = callback.views["train"].rows
    assert [row.step for row in rows] == list(range(9))
    for row, following in zip(rows[:-1], rows[1:], strict=True):
        first, second = following.source.halves
        assert not torch.equal(first.gradient, second.gradient)
        ours = (first.gradient + second.gradient) / 2
        assert float((row.source.next_gradient - ours).abs().max()) <= tolerances.gradient(1.0, 2.0**-23)


def test_halves_of_accumulated_batches_are_refused_with_what_to_use_instead():
    callback = LightningCallback(measure, CrossFit(own_pass=True), on_error="raise")
    with pytest.raises(LCAError, match=r"use CrossFit\(micro_batches=M\) without own_pass"):
        fit(module(), callback, accumulate_grad_batches=2)


def test_a_fit_that_is_resumed_is_recorded_in_the_steps_of_the_trainer(tmp_path):
    """The last update before the stop lacks the batch of the next one, so the record ends before it."""

    def part(epochs):
        record = lca.Record(tmp_path / "run.zarr", mode="a")
        callback = LightningCallback(measure, NextBatch(), on_error="raise", record=record)
        fit(module(), callback, epochs=epochs, checkpoint=tmp_path / "last.ckpt")

    part(1)
    with pytest.warns(LCAWarning, match="continues at step 5 and has no row for step 4"):
        part(2)
    assert lca.open_record(tmp_path / "run.zarr").step.values.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_new_record_of_a_resumed_fit_has_the_steps_of_the_trainer(tmp_path):
    fit(module(), epochs=1, checkpoint=tmp_path / "last.ckpt")
    callback = LightningCallback(measure, on_error="raise", record=tmp_path / "run.zarr")
    fit(module(), callback, epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert lca.open_record(tmp_path / "run.zarr").step.values.tolist() == [5, 6, 7, 8, 9]
    assert (callback.steps, callback.tracker.estimate().steps) == (10, 5)


def test_the_next_batch_is_the_one_of_the_next_step(tmp_path):
    record = tmp_path / "run.zarr"
    callback = LightningCallback(measure, NextBatch(), views=Kept, on_error="raise", record=record)
    fit(module(), callback)
    rows = callback.views["train"].rows
    assert len(rows) == 9
    assert len(lca.open_record(record).step) == 9
    shuffled = [row.source.next_batch for row in rows]
    assert all(len(x) == len(y) == 12 for x, y in shuffled)
    seen = torch.cat([x for x, _ in shuffled[4:]])  # the second epoch: every example once
    assert torch.equal(seen.sort(0).values, DATA.tensors[0].sort(0).values)


@pytest.mark.parametrize("estimator", [RULE, CrossFit()])
def test_updates_that_the_tuner_tries_out_in_mid_run_and_undoes_are_no_steps(estimator, tmp_path):
    class SecondEpoch(lightning.pytorch.callbacks.LearningRateFinder):
        def on_fit_start(self, trainer, pl_module):
            pass

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                self.lr_find(trainer, pl_module)

    in_pairs = {"accumulate_grad_batches": 2, "limit_train_batches": 4}

    def tuned(*callbacks):
        model = module()
        model.lr = 0.01
        finder = SecondEpoch(min_lr=1e-3, max_lr=1.0, num_training_steps=10, update_attr=False)
        return fit(model, finder, *callbacks, default_root_dir=tmp_path, **in_pairs)

    callback = LightningCallback(measure, estimator, on_error="raise")
    before = measure(module()).theta()
    model = tuned(callback)
    assert same(model, tuned())
    assert (callback.steps, callback.discontinuities) == (4, 0)
    if estimator is RULE:
        objective, rows = measure(model), callback.views["train"].trace.rows
        change = objective.loss(objective.theta()) - objective.loss(before)
        total = rows["total"].sum() + rows["residual"].sum()
        assert abs(total - change) <= tolerances.repeat(objective.loss(before), 2.0**-23)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_self_check_names_a_loader_that_does_not_shuffle_first(shuffle):
    callback = LightningCallback(measure, NextBatch(lca.RIGHT), on_error="raise")
    with pytest.warns(LCAWarning, match=r"They are not corrected\.") as caught:
        fit(module(), callback, epochs=8, shuffle=shuffle)
    [said] = [str(one.message) for one in caught if "Possible causes" in str(one.message)][:1]
    assert ("the likeliest first:\n- batches are not in random order" in said) != shuffle


def test_the_loggers_of_the_trainer_get_the_numbers():
    class Kept(lightning.pytorch.loggers.Logger):
        name, version = "kept", 0

        def __init__(self):
            super().__init__()
            self.metrics, self.saved = [], 0

        def log_metrics(self, metrics, step=None):
            self.metrics.append((step, metrics))

        def log_hyperparams(self, *args, **kwargs):
            pass

        def save(self):
            self.saved += 1

    kept, callback = Kept(), LightningCallback(measure, RULE, log_to="trainer", on_error="raise")
    fit(module(), callback, logger=kept)
    ours = [
        (step, metrics["lca/train/loss"]) for step, metrics in kept.metrics if "lca/train/loss" in metrics
    ]
    losses = callback.views["train"].trace.rows["loss_end"]
    assert ours == list(enumerate(losses.tolist()))
    assert kept.saved > 0


def test_groups_rates_and_metrics_are_recorded_through_the_trainer(tmp_path):
    pl = FLAVOURS["lightning"]

    class Logging(type(module())):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            self.log("fit_loss", loss, on_step=False, on_epoch=True)
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", super().validation_step(batch, index))

    torch.manual_seed(0)
    own, loader = Logging(), DataLoader(DATA, batch_size=20)
    callback = LightningCallback(
        lambda module: Objective(module, cross_entropy, DATA.tensors),
        RULE,
        record=tmp_path / "run.zarr",
        groups={"first": r"^net\.0", "linear": {"all": nn.Linear}, "lr": "param_groups"},
        on_error="raise",
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[callback], accelerator="cpu", enable_model_summary=False, **quiet
    )
    trainer.fit(own, loader, loader)
    summary, run = callback.summary()["train"], lca.open_record(tmp_path / "run.zarr")
    limit = tolerances.summed(summary["mass"], tolerances.EPS32)
    first = sum(total for name, total in summary["per_tensor"].items() if name.startswith("net.0"))
    assert abs(summary["per_group"]["group"]["first"] - first) <= limit
    assert abs(summary["per_group"]["linear"]["all"] - summary["lca_total"]) <= limit
    assert run.learning_rate.values[:, 0].tolist() == [0.01] * 3 + [0.005] * 3
    assert run.attrs["metrics"]["val_loss"]["step"] == [3, 6]
    assert run.attrs["metrics"]["fit_loss"]["step"] == [3, 6]
