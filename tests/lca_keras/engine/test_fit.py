"""The callback measures every update of `fit`, changes nothing, and books what moves besides θ."""

import shutil

import keras
import numpy as np
import pytest
from keras import ops

import lca
from lca import tolerances
from lca.errors import DataError, LCAError, LCAWarning
from lca.estimators import SampledPathIntegral
from lca_keras import LCACallback, Objective, Tracker
from tests.laws.traced_values import STALE, Changes, penalised
from tests.lca_keras.engine.fits import X, Y, cross_entropy, fit, model_of
from tests.nightly import cases

SIMPSON = lca.PathIntegral(lca.SIMPSON)
SAMPLED = SampledPathIntegral(size=8, micro_batches=2)


def accounted(summary):
    change = summary["loss_end"] - summary["loss_start"]
    terms = ("lca_total", "state_change", "residual", "unmeasured_change")
    booked = sum(summary[term] for term in terms)
    scale = summary["mass"] + abs(summary["loss_start"]) + abs(summary["loss_end"])
    return abs(change - booked) <= tolerances.summed(scale, tolerances.EPS32)


@pytest.mark.parametrize(
    ("policy", "every"), cases(("batch", 3), ("frozen", 1), at_night=[("batch", 1), ("frozen", 3)])
)
def test_training_is_the_same_bit_for_bit_and_the_books_close(policy, every):
    callback = LCACallback((X, Y), batch_norm=policy, batch_size=20, every=every, on_error="raise")
    for ours, theirs in zip(fit(model_of(), callback), fit(model_of()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    summary = callback.summary()["train"]
    assert summary["steps"] == (6 if every == 1 else 2)
    assert accounted(summary)
    assert (summary["state_change"] != 0) == (policy == "frozen")
    assert callback.discontinuities == 0


def test_the_losses_are_those_that_the_model_evaluates():
    class Points(keras.callbacks.Callback):
        losses = []  # noqa: RUF012

        def on_train_batch_end(self, batch, logs=None):
            outputs = self.model(X, training=False)
            loss = cross_entropy()(Y, outputs) + sum(self.model.losses)
            self.losses.append(float(ops.stop_gradient(loss)))

    model, points = model_of(), Points()
    callback = LCACallback((X, Y), batch_norm="frozen", estimator=SIMPSON, on_error="raise")
    fit(model, points, callback)
    found = callback.views["train"].trace.losses()[1:]
    limit = tolerances.rebatched(max(points.losses), tolerances.EPS32)
    assert np.abs(found - points.losses).max() <= limit


def test_a_second_run_compiles_nothing(compilations):
    """JAX: in ``fit`` and ``train_on_batch``, Keras keeps the values of variables beside the model."""
    model, found = model_of(), []
    objective = Objective(model, None, (X, Y), batch_norm="frozen")
    version, options = objective._loss._version, {"estimator": SAMPLED, "on_error": "raise"}
    for _ in range(2):
        fit(model, LCACallback(objective, **options))
        with Tracker(model, model.optimizer, objective, **options) as tracker, tracker.step():
            model.train_on_batch(X, Y)
        found.append(compilations())
    assert objective._loss._version is version
    assert found[1] == []
    assert bool(found[0]) == (keras.backend.backend() == "jax")


def test_gradient_accumulation_has_fewer_steps_than_batches():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    callback = LCACallback((X, Y), batch_norm="frozen", on_error="raise")
    fit(model_of(optimizer), callback)
    assert callback.steps == callback.summary()["train"]["steps"] == 3


def test_a_fit_at_a_later_epoch_continues_its_record_at_the_update_of_the_optimizer(tmp_path):
    """After six updates the record ends with step 4, and does not know of the next one."""
    model = model_of()
    for epoch in (0, 2):
        record = lca.Record(tmp_path / "run", mode="a")
        callback = LCACallback((X, Y), batch_norm="frozen", every=4, record=record, on_error="raise")
        fit(model, callback, epochs=epoch + 2, initial_epoch=epoch)
    assert callback.steps == 12
    assert lca.open_record(tmp_path / "run").step.values.tolist() == [0, 4, 8]


@pytest.mark.parametrize("restored", [False, True])
def test_a_new_record_of_a_resumed_fit_has_the_steps_of_the_optimizer(tmp_path, restored):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    model = model_of()
    fit(model, *[backup] * restored)
    if restored:
        model = model_of()
    callback = LCACallback((X, Y), batch_norm="frozen", record=tmp_path / "run", on_error="raise")
    fit(model, callback, *[backup] * restored, epochs=3, initial_epoch=0 if restored else 2)
    assert lca.open_record(tmp_path / "run").step.values.tolist() == [6, 7, 8]
    assert (callback.steps, callback.tracker.estimate().steps) == (9, 3)


def test_a_fit_that_is_resumed_within_the_first_epoch_has_the_steps_of_the_optimizer(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    def steps(name, *more, **options):
        record = lca.Record(tmp_path / name, **options)
        callback = LCACallback((X, Y), batch_norm="frozen", record=record, on_error="raise")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=2, delete_checkpoint=False)
        fit(model_of(), backup, callback, *more, epochs=1)
        return lca.open_record(tmp_path / name).step.values.tolist()

    with pytest.raises(KeyboardInterrupt):
        steps("run", Stop())
    with pytest.raises(LCAError, match=r"continues after 2 updates, .* rows up to step 2; pass resume_at=2"):
        steps("run", mode="a")
    shutil.copytree(tmp_path / "backup", tmp_path / "after")
    assert steps("new") == [2, 3, 4]
    shutil.rmtree(tmp_path / "backup")
    (tmp_path / "after").rename(tmp_path / "backup")
    assert steps("run", mode="a", resume_at=2) == [0, 1, 2, 3, 4]


def test_a_schedule_is_recorded_with_its_rates(tmp_path):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.01])
    callback = LCACallback(
        (X, Y), batch_norm="frozen", record=tmp_path / "run", on_error="raise", log_to=None
    )
    fit(model_of(keras.optimizers.SGD(schedule)), callback)
    found = lca.open_record(tmp_path / "run")
    assert found.learning_rate.values.ravel().tolist() == pytest.approx([0.1] * 3 + [0.01] * 3, rel=1e-6)
    assert found.attrs["complete"]


def test_terms_and_weights_are_measured():
    model = model_of()
    weight = np.linspace(0.5, 2, 20).astype("float32")
    whole = Objective(model, None, (X, Y, weight), batch_norm="frozen")
    callback = LCACallback({"train": whole.by_term()}, estimator=SIMPSON, on_error="raise")
    fit(model, callback, sample_weight=weight)
    summary = callback.summary()
    total = summary["train/data"]["lca_total"] + summary["train/penalty"]["lca_total"]
    mass = summary["train"]["mass"]
    assert abs(total - summary["train"]["lca_total"]) <= tolerances.allocation(mass, tolerances.EPS32)
    assert summary["train/penalty"]["lca_total"] != 0
    with pytest.warns(LCAWarning, match=r"fit weighs the examples \(sample_weight\)"):
        fit(model_of(), LCACallback((X, Y), batch_norm="frozen"), sample_weight=weight)


def test_weights_that_fit_gets_from_a_generator_are_told():
    batches = ((X[:8], Y[:8], np.ones(8, "float32")) for _ in range(9))
    callback = LCACallback((X, Y), batch_norm="frozen", on_error="raise")
    with pytest.warns(LCAWarning, match=r"fit weighs the examples \(the sample_weight of its data\)"):
        model_of().fit(batches, steps_per_epoch=2, shuffle=False, verbose=0, callbacks=[callback])
    assert callback.steps == 2


def test_terms_of_a_batch_loss_are_refused_with_what_this_backend_has():
    whole = Objective(
        model_of(), None, (X, Y), batch_norm="frozen", batch_loss=lambda m, b: cross_entropy()(b[1], m(b[0]))
    )
    with pytest.raises(LCAError, match=r'"penalty": Objective\(model, None, data, batch_loss=function of'):
        whole.by_term()


def test_class_weights_are_those_of_fit():
    model, classes = model_of(), {0: 3.0, 1: 1.0, 2: 0.25}
    with pytest.warns(LCAWarning, match=r"fit weighs the examples \(class_weight\).*class_weight=\.\.\."):
        fit(model, LCACallback((X, Y), batch_norm="frozen"), class_weight=classes)
    weighted = Objective(model, None, (X, Y), class_weight=classes, batch_norm="frozen")
    fit(model, LCACallback(weighted, on_error="raise"), class_weight=classes)
    by_hand = Objective(model, None, (X, Y, np.array([classes[int(y)] for y in Y])), batch_norm="frozen")
    assert weighted.loss(weighted.theta()) == by_hand.loss(by_hand.theta())
    with pytest.raises(DataError, match="class_weight names class 7, which no example has"):
        Objective(model, None, (X, Y), class_weight=classes | {7: 2.0}, batch_norm="frozen")


def test_several_outputs_are_measured_as_compiled():
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(4, activation="tanh")(inputs)
    outputs = {"a": keras.layers.Dense(3, name="a")(hidden), "b": keras.layers.Dense(1, name="b")(hidden)}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"a": cross_entropy(), "b": "mse"}, loss_weights={"a": 1.0, "b": 0.25})
    targets = {"a": Y, "b": X[:, :1]}
    callback = LCACallback(X, targets, estimator=SIMPSON, on_error="raise")
    model.fit(X, targets, batch_size=8, epochs=2, verbose=0, callbacks=[callback])
    summary = callback.summary()["train"]
    assert summary["steps"] == 6
    assert accounted(summary)
    assert summary["state_change"] == 0  # Keras' running means of the losses do not count as state
    expected = model.evaluate(X, targets, batch_size=20, verbose=0, return_dict=True)["loss"]
    assert abs(summary["loss_end"] - expected) <= tolerances.rebatched(expected, tolerances.EPS32)


def test_a_frozen_layer_moves_nothing():
    model = model_of()
    model.get_layer("first").trainable = False
    model.compile(keras.optimizers.SGD(0.1), cross_entropy())
    callback = LCACallback((X, Y), batch_norm="frozen", on_error="raise")
    fit(model, callback, epochs=1)
    totals = callback.summary()["train"]["per_tensor"]
    assert totals["first.kernel"] == 0
    assert totals["second.kernel"] != 0


def test_a_custom_train_step_needs_a_loss_of_its_own():
    class Own(keras.Sequential):
        def train_step(self, *args):
            return {}

    model = Own([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile("sgd", cross_entropy(), run_eagerly=True)
    with pytest.raises(LCAError, match="train_step computes a loss of its own"):
        Objective(model, None, (X, Y))


class Distiller(keras.Sequential):
    """Adds to the compiled loss, in the training step of either engine."""

    def sum_of(self, loss, outputs):
        return 0.3 * loss + 0.7 * ops.mean(ops.square(outputs))

    def compute_loss_and_updates(self, *arguments, **options):
        """What Keras itself differentiates on JAX."""
        loss, found = super().compute_loss_and_updates(*arguments, **options)
        return self.sum_of(loss, found[1]), found


class TorchDistiller(Distiller):
    def train_step(self, data):
        self.zero_grad()
        outputs = self(data[0])
        loss = self.sum_of(self.compute_loss(*data, outputs), outputs)
        loss.backward()
        values = [variable.value.grad for variable in self.trainable_weights]
        self.optimizer.apply(values, self.trainable_weights)
        return {"loss": loss}


class OwnSum(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight) + ops.mean(ops.square(y_pred))


def test_a_training_step_that_adds_to_the_compiled_loss_is_told():
    torch = keras.backend.backend() == "torch"
    for kind in (TorchDistiller if torch else Distiller, OwnSum):
        model = kind([keras.Input((5,)), keras.layers.Dense(3)])
        model.compile("sgd", cross_entropy(), run_eagerly=True)
        callback = LCACallback((X, Y), on_error="raise")
        if kind is OwnSum:
            fit(model, callback, epochs=1)
        else:
            with pytest.warns(
                LCAWarning, match=r"trains another loss .*\(0\.3 \* loss \+ 0\.7 \* ops"
            ) as said:
                fit(model, callback)
            assert [one.category for one in said].count(LCAWarning) == 1
        assert callback.steps > 0


class TwoGradients(keras.Sequential):
    """Adds the gradient of another loss to that of the compiled one."""

    def penalty(self, trained, others, x):
        return ops.mean(ops.square(self.stateless_call(trained, others, x)[0]))

    def train_step(self, state, data):
        import jax  # noqa: PLC0415

        trained, others, optimizer, metrics = state
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        found = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        (loss, (_, others, _)), gradients = found(trained, others, metrics, x, y, training=True)
        more = jax.grad(self.penalty)(trained, others, x)
        gradients = jax.tree.map(lambda one, other: one + other, gradients, more)
        trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
        return {"loss": loss}, (trained, others, optimizer, metrics)


class Guide(keras.Sequential):
    """The training step of Keras' guide for JAX, several times."""

    def train_step(self, state, data):
        import jax  # noqa: PLC0415

        trained, others, optimizer, metrics = state
        x, y = data
        found = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        for _ in range(2):
            (loss, (outputs, others, metrics)), gradients = found(
                trained, others, metrics, x, y, training=True
            )
            trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
        new = [metric.stateless_update_state(metrics, y, outputs) for metric in self.metrics]
        return {"loss": loss}, (trained, others, optimizer, new)


class TorchTwoGradients(keras.Sequential):
    def train_step(self, data):
        x, y = data
        self.zero_grad()
        outputs = self(x, training=True)
        self.compute_loss(y=y, y_pred=outputs).backward(retain_graph=True)
        ops.mean(ops.square(outputs)).backward()
        trained = [*self.trainable_weights]
        self.optimizer.apply([one.value.grad for one in trained], trained)
        return {}


class TorchSeveralLosses(keras.Sequential):
    def train_step(self, data):
        import torch  # noqa: PLC0415

        x, y = data
        outputs = self(x, training=True)
        losses = [self.compute_loss(y=y, y_pred=outputs), ops.mean(ops.square(outputs))]
        torch.autograd.backward(losses)
        return {}


class TorchGuide(keras.Sequential):
    """The training step of Keras' guide for PyTorch."""

    def train_step(self, data):
        import torch  # noqa: PLC0415

        x, y = data
        self.zero_grad()
        outputs = self(x.to("cpu").float(), training=True)
        loss = self.compute_loss(y=y.long(), y_pred=outputs)
        loss.backward()
        trained = list(self.trainable_weights)
        gradients = [one.value.grad for one in trained]
        with torch.no_grad():
            self.optimizer.apply(gradients, trained)
        for metric in self.metrics:
            metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, outputs)
        return {one.name: one.result() for one in self.metrics}


TORCH = {
    TorchTwoGradients: r"adds to .*\(ops\.mean\(ops\.square\(outputs\)\)\.backward",
    TorchSeveralLosses: r"adds to .*\(losses\)",
    TorchGuide: "",
}
JAX = {
    TwoGradients: r"adds to .*\(jax\.grad\(self\.penalty\)\)",
    Guide: "",
}
STEPS = TORCH if keras.backend.backend() == "torch" else JAX


@pytest.mark.parametrize("kind", STEPS, ids=lambda kind: kind.__name__)
def test_a_training_step_that_trains_another_loss_is_told(kind):
    model = kind([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile("sgd", cross_entropy(), run_eagerly=True)
    if STEPS[kind]:
        with pytest.warns(LCAWarning, match=f"{kind.__name__} trains another loss than .*{STEPS[kind]}"):
            Objective(model, None, (X, Y))
    else:
        Objective(model, None, (X, Y))


def test_a_custom_train_step_may_take_the_compiled_loss_in_a_method_of_its_own():
    class Guide(keras.Sequential):
        """As in the guide of Keras for JAX."""

        def compute_loss_and_updates(self, trained, others, x, y):
            outputs, others = self.stateless_call(trained, others, x, training=True)
            return self.compute_loss(x, y, outputs), others

        def train_step(self, *args):
            return {"loss": self.compute_loss_and_updates}

    class Stateless(keras.Sequential):
        def train_step(self, state, data):
            return self.stateless_compute_loss(*state, *data)

    class Own(Guide):
        def compute_loss_and_updates(self, trained, others, x, y):
            return keras.ops.mean(self(x)), others

    for kind in (Guide, Stateless, Own):
        model = kind([keras.Input((5,)), keras.layers.Dense(3)])
        model.compile("sgd", cross_entropy(), run_eagerly=True)
        if kind is not Own:
            Objective(model, None, (X, Y))
        else:
            with pytest.raises(LCAError, match="train_step computes a loss of its own"):
                Objective(model, None, (X, Y))


@pytest.mark.parametrize("estimator", [None, SAMPLED], ids=["full", "sampled"])
def test_an_attribute_that_a_compiled_training_step_keeps_is_named(estimator):
    ours = LCACallback((X, Y), estimator=estimator, on_error="raise")
    if keras.backend.backend() == "jax":
        with pytest.raises(LCAError, match=STALE.format(name="beta")):
            fit(penalised(), Changes("beta", [0.0, 2.0]), ours)
        assert ours.steps == 3
    elif estimator is None:  # Python runs at every step
        fit(penalised(), Changes("beta", [0.0, 2.0]), ours)
        assert ours.summary()["train"]["state_change"] > 0


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch compiles no training step")
def test_a_floor_that_changes_the_loss_only_later_is_named():
    squares, plain = [], penalised()
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: squares.append(float(ops.mean(ops.square(plain(X)))))
    )
    fit(plain, note, epochs=20)
    floor = (squares[0] + squares[-1]) / 2
    assert squares[0] > floor
    ours = LCACallback((X, Y), on_error="raise")
    with pytest.raises(LCAError, match=STALE.format(name="floor")):
        fit(penalised(), Changes("floor", [0.0] + [floor] * 19), ours, epochs=20)
    assert ours.steps > 3


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (Changes("beta", [0.0, 2.0], anew=True), {}),
        (Changes("beta", [0.0, 2.0]), {"run_eagerly": True}),
        (Changes("beta", [0.0, 2.0]), {"jit_compile": False}),
        (Changes("seen", [0, 1]), {}),
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)), {}),
    ],
    ids=["anew", "eager", "not compiled", "unread", "variable"],
)
def test_what_a_training_step_reads_anew_or_not_at_all_is_no_error(change, options):
    ours = LCACallback((X, Y), on_error="raise")
    fit(penalised(**options), change, ours)
    summary = ours.summary()["train"]
    assert summary["steps"] == 6
    assert (summary["state_change"] != 0) == (getattr(change, "name", "") == "beta")


def test_a_training_step_that_an_earlier_fit_has_compiled_keeps_its_values():
    model = penalised()

    def run():
        ours = LCACallback((X, Y), on_error="raise")
        fit(model, ours, epochs=1)
        return ours

    run()
    model.beta = 2.0
    if keras.backend.backend() == "jax":
        with pytest.raises(LCAError, match=STALE.format(name="beta")):
            run()
        model.make_train_function(force=True)
    assert run().steps == 3
