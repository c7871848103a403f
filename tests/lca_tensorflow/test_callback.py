"""The callback sees every update of fit, changes nothing, and says what it cannot see."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import lca
from lca import tolerances
from lca.errors import LayoutError, LCAError, LCAWarning
from lca.estimators import LaggedCrossFit, SampledPathIntegral
from lca_tensorflow import LCACallback, Objective
from lca_tensorflow._callback import _FitTracker
from tests.laws.callbacks import LAWS
from tests.laws.traced_values import STALE, Changes, penalised

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 5)).astype("float32"), RNG.integers(3, size=20)
SIMPSON = lca.PathIntegral(lca.SIMPSON)


def model_of(optimizer=None, *, norm=True, dtype="float32", **options):
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Dense(4, dtype=dtype),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(3, dtype=dtype),
    ]
    if norm:
        layers.insert(1, keras.layers.BatchNormalization(dtype=dtype))
    model = keras.Sequential([keras.Input((5,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, **options)
    return model


def cross_entropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def frozen(model, **options):
    return Objective(model, None, (X, Y), batch_norm="frozen", **options)


class KerasFramework:
    """See `tests.laws.callbacks.CallbackFramework`."""

    updates = 6
    tells_updates = True
    epoch = 3
    lasts_as_its_call = True
    advice = dict.fromkeys(
        ("batch", "micro_batches", "scores"), "which fit does not supply; use a Tracker around"
    )

    def callback(self, *, impossible=False, **options):
        return LCACallback(3 if impossible else (X, Y), **({"batch_norm": "frozen"} | options))

    def fit(self, callback, *, stop_after=None):
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch + 1 == stop_after:
                    raise KeyError("enough")

        keras.backend.clear_session()  # so that the layers get the same names again
        model = model_of(keras.optimizers.SGD(0.1), run_eagerly=True)  # nothing to trace, so it is fast
        return fit(model, *filter(None, [callback]), Stop())


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, tmp_path):
    law(KerasFramework(), tmp_path)


TOKENS = RNG.integers(7, size=(20, 4))[:, :2]  # an unrolled layer is traced step by step


def left_without_input(*callbacks, kernel=keras.initializers.HeNormal, **options):
    """What a fit leaves of a model whose first batch would create its weights."""
    keras.utils.set_random_seed(3)
    # Unrolled, as TensorFlow 2.21 now and then fails in the gradient of a compiled loop ("AddN must have the
    # same size"), in 4 of 180 plain fits of this model on a loaded machine.
    recurrent = keras.layers.LSTM(3, unroll=True)
    layers = [keras.layers.Embedding(7, 4), recurrent, keras.layers.BatchNormalization()]
    layers += [keras.layers.Dropout(0.5), keras.layers.Dense(3, kernel_initializer=kernel())]
    model = keras.Sequential(layers)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), **options)
    model.fit(TOKENS, Y, batch_size=8, epochs=2, verbose=0, callbacks=list(callbacks))
    return [variable.numpy() for variable in (*model.variables, *model.optimizer.variables)]


@pytest.mark.parametrize("options", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_a_model_without_input_begins_with_the_weights_of_a_plain_fit(options):
    callback = LCACallback(TOKENS, Y, batch_norm="frozen", on_error="raise")
    found, plain = left_without_input(callback, **options), left_without_input(**options)
    assert callback.steps == 6
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, plain, strict=True))


def drawn_when_it_is_called():
    return lambda shape, dtype=None: np.random.normal(size=shape).astype("float32")  # noqa: NPY002


def of_a_generator():
    return keras.initializers.HeNormal(keras.random.SeedGenerator(1))


@pytest.mark.parametrize("kernel", [drawn_when_it_is_called, of_a_generator])
def test_weights_that_depend_on_when_they_are_created_are_left_to_fit(kernel):
    message = r"has no weights yet; call it on one batch first, or begin a keras\.Sequential with keras\.Inp"
    with pytest.warns(LCAWarning, match=message):
        found = left_without_input(LCACallback(TOKENS, Y), kernel=kernel)
    plain = left_without_input(kernel=kernel)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, plain, strict=True))


def test_a_fit_inside_another_ends_only_its_own_run(tmp_path):
    outer, inner = (LCACallback(X, Y, batch_norm="frozen", record=tmp_path / name) for name in ("o", "i"))

    class Nested(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                fit(model_of(run_eagerly=True), inner)

    fit(model_of(run_eagerly=True), outer, Nested())
    for name in ("o", "i"):
        found = lca.open_record(tmp_path / name)
        assert (found.sizes["step"], found.attrs["complete"]) == (6, True)


def test_a_loss_that_ignores_a_class_is_refused_with_what_the_callback_takes():
    model = model_of(norm=False)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0))
    options = {"estimator": SampledPathIntegral(size=4), "on_error": "raise"}
    message = r"ignore_class.* batch_weight=.*LCACallback\(Objective\(model, None, data, batch_weight="
    with pytest.raises(LCAError, match=message):
        fit(model, LCACallback(X, Y, **options))
    with pytest.raises(LCAError, match="ignore_class") as refused:
        fit(model, LCACallback(Objective(model, None, (X, Y), batch_size=20), **options))
    assert "LCACallback" not in str(refused.value)


def test_a_recurrent_state_of_fixed_batch_size_is_refused_with_an_estimator_that_fit_supplies():
    def stateful(batch):
        keras.utils.set_random_seed(0)
        cell = keras.layers.GRU(3, stateful=True, unroll=True)
        model = keras.Sequential([keras.Input((5, 1), batch_size=batch), cell, keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    def run(estimator):
        data = X[..., None], Y
        ours = LCACallback(*data, batch_size=10, estimator=estimator, on_error="raise")
        stateful(10).fit(*data, batch_size=10, shuffle=False, verbose=0, callbacks=[ours])
        return ours

    with pytest.raises(LCAError, match=r"on training batches \(.*LaggedCrossFit"):
        run(SampledPathIntegral(size=4))
    assert run(LaggedCrossFit()).steps == 2


class Points(keras.callbacks.Callback):
    """What the callback should see: the losses of the model after every batch."""

    def __init__(self, objective):
        super().__init__()
        self.objective, self.losses = objective, []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(self.objective.loss(self.objective.theta()))


def fit(model, *callbacks, epochs=2):
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return [v.numpy() for v in (*model.variables, *model.optimizer.variables)]


LOOPS = {
    "Adam": ({}, keras.optimizers.Adam),
    "momentum": ({"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}, keras.optimizers.SGD),
    "averaged": ({"use_ema": True, "ema_overwrite_frequency": 2, "clipnorm": 0.1}, keras.optimizers.Adam),
    "accumulated": ({"gradient_accumulation_steps": 2}, keras.optimizers.Adam),
}


MODES = {"graph": {}, "XLA": {"jit_compile": True}, "eager": {"run_eagerly": True}}


@pytest.mark.parametrize(
    ("loop", "mode"), [*((loop, "graph") for loop in LOOPS), ("accumulated", "XLA"), ("momentum", "eager")]
)
def test_every_update_is_measured_and_training_is_bit_identical(loop, mode):
    options, optimizer = LOOPS[loop]
    plain = fit(model_of(optimizer(**options), **MODES[mode]))
    model = model_of(optimizer(**options), **MODES[mode])
    objective = frozen(model)
    ours, points = LCACallback(objective, estimator=SIMPSON, on_error="raise"), Points(objective)
    measured = fit(model, ours, points)
    assert all(np.array_equal(a, b) for a, b in zip(plain, measured, strict=True))
    rows = ours.views["train"].trace.rows
    losses = points.losses[1::2] if loop == "accumulated" else points.losses  # two batches a step
    assert ours.steps == len(rows) == len(losses)
    assert rows["loss_end"].tolist() == losses
    assert rows["loss_start"][1:].tolist() == losses[:-1]
    assert rows["state_change"].all()
    assert ours.discontinuities == 0


def test_moving_statistics_are_told_apart():
    """With frozen statistics that training moves, loss change = allocation + what they did + residual."""
    model = model_of(keras.optimizers.SGD(0.1), dtype="float64")
    ours = LCACallback(frozen(model), estimator=lca.PathIntegral(lca.gauss_lobatto(6)), on_error="raise")
    fit(model, ours)
    rows = ours.views["train"].trace.rows
    assert np.abs(rows["state_change"]).min() > 1e-4
    assert np.abs(rows["residual"]).max() < 1e-7


def test_the_compiled_loss_of_data_is_measured():
    model = model_of(norm=False)
    expected = LCACallback(Objective(model, None, (X, Y)), on_error="raise")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    forms = [LCACallback(X, Y, on_error="raise"), LCACallback((X, Y)), LCACallback(data)]
    fit(model, expected, *forms)
    totals = [form.summary()["train"]["lca_total"] for form in forms]
    assert totals[:2] == [expected.summary()["train"]["lca_total"]] * 2
    assert totals[2] == pytest.approx(totals[0], abs=1e-5)  # summed in other batches


def test_several_losses_and_terms_in_one_fit():
    model = model_of(norm=False)
    losses = {
        "train": Objective(model, None, (X[:15], Y[:15])),
        "held out": Objective(model, None, (X[15:], Y[15:])),
        "by class": Objective(model, None, (X[:15], Y[:15])).by_class(),
    }
    ours = LCACallback(losses, on_error="raise")
    fit(model, ours)
    summary = ours.summary()
    assert set(summary) == {*losses, "by class/class 0", "by class/class 1", "by class/class 2"}
    rest = summary["by class"]["lca_total"] - sum(
        summary[f"by class/class {c}"]["lca_total"] for c in range(3)
    )
    assert abs(rest) <= tolerances.summed(summary["by class"]["mass"], float(np.finfo(np.float32).eps))
    theta = losses["train"].theta()
    assert all(summary[name]["loss_end"] == losses[name].loss(theta) for name in losses)
    assert summary["train"]["loss_end"] != summary["held out"]["loss_end"]


class Infinite(keras.callbacks.Callback):
    """The weights turn infinite before the third batch, so that a scaled gradient is not finite."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            self.kept = self.model.get_weights()
            self.model.layers[0].bias.assign([float("inf")] * 4)

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2:
            self.model.set_weights(self.kept)


def test_a_skipped_step_of_a_loss_scale_optimizer_is_no_step():
    model = model_of(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), norm=False)
    ours = LCACallback(frozen(model), estimator=SIMPSON, every=lambda step: step != 2, on_error="raise")
    fit(model, Infinite(), ours, epochs=1)
    assert ours.steps == 2  # of three batches


class Moved(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            self.model.layers[0].bias.assign_add([0.5] * 4)


def test_what_moves_weights_between_updates_is_reported():
    model = model_of(norm=False)
    ours = LCACallback(frozen(model))
    with pytest.warns(LCAWarning, match="parameters changed between steps 1 and 2"):
        fit(model, Moved(), ours, epochs=1)
    assert ours.discontinuities == 1


# --- what goes wrong -------------------------------------------------------------------------------------


class TwoOptimizers(keras.Model):
    """Updates its weights with an optimizer that compile does not know."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(3)
        self.own = keras.optimizers.SGD(0.1)

    def call(self, x):
        return self.layer(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.compute_loss(y=data[1], y_pred=self(data[0]))
        self.own.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def two_optimizers(kind=TwoOptimizers):
    model = kind()
    model(X)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


class NoUpdate(TwoOptimizers):
    def train_step(self, data):
        return {"loss": self.compute_loss(y=data[1], y_pred=self(data[0]))}


def no_update():
    return two_optimizers(NoUpdate)


def other_model():
    return model_of(norm=False)


REFUSED = {
    "steps_per_execution=1": (lambda: model_of(steps_per_execution=3), frozen),
    "'train' refers to .*which are not parameters of the model": (
        other_model,
        lambda model: frozen(two_optimizers()),
    ),
    "no update of the model was made in 3 batches; does train_step call an optimizer": (no_update, frozen),
    "a tuple .x, y. or .x, y, sample_weight.*got int": (other_model, lambda model: 3),
    r"or \(x,\) without targets.*got ndarray": (other_model, lambda model: X),
    "pass batch_size=.* or batch_norm='frozen'": (model_of, lambda model: (X, Y)),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_measured_is_said_and_fit_goes_on_unless_asked_otherwise(message):
    make_model, measured = REFUSED[message]
    model = make_model()
    ours = LCACallback(measured(model))
    before = model.get_weights()
    with pytest.warns(LCAWarning, match=f"training goes on: .*{message}"):
        fit(model, ours, epochs=1)
    trained = any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert trained != isinstance(model, NoUpdate)
    assert isinstance(ours.error, LCAError)
    with pytest.raises(LCAError, match="no step was measured: "):
        ours.summary()
    with pytest.raises(LCAError, match=message):
        fit(model, LCACallback(measured(model), on_error="raise"), epochs=1)


def test_an_objective_of_another_model_of_the_same_form_is_refused():
    """It would read its own moving statistics, which this fit does not move."""
    model = model_of()
    twin = keras.models.clone_model(model)
    twin.compile(loss=model.loss)
    message = r"'train' was made from another model of the same form: its '.*kernel' is not this model's"
    for measured in (frozen(twin), lca.Sum({"half": lca.Scaled(frozen(twin), 0.5)}), frozen(twin).by_class()):
        with pytest.raises(LayoutError, match=message):
            fit(model, LCACallback(measured, on_error="raise"), epochs=1)


def test_an_objective_of_a_part_of_the_model_is_refused_with_the_remedy():
    part = model_of(norm=False)
    whole = keras.Sequential([keras.Input((5,)), part, keras.layers.Dense(3)])
    whole.compile(loss=part.loss, optimizer="sgd")
    with pytest.raises(LayoutError, match=r"'train' was made from a part of the model .* batch_loss=lambda"):
        fit(whole, LCACallback(Objective(part, None, (X, Y)), on_error="raise"), epochs=1)


@pytest.mark.parametrize("options", [{"batch_size": 10}, {"batch_norm": "frozen"}], ids=str)
def test_how_the_data_are_measured_can_be_said(options):
    model = model_of()
    expected = LCACallback(Objective(model, None, (X, Y), **options), on_error="raise")
    ours = LCACallback(X, Y, on_error="raise", **options)
    fit(model, ours, expected, epochs=1)
    assert ours.summary() == expected.summary()
    with pytest.raises(LCAError, match=f"{next(iter(options))} cannot change an existing objective"):
        LCACallback(frozen(model), **options)


def test_wrong_options_are_refused_at_once():
    model = model_of(norm=False)
    for wrong in ((model, X, Y), (model, X), (X, Y, np.ones(20))):
        with pytest.raises(LCAError, match=r"gets the model from fit; write LCACallback\(x, y\), LCA"):
            LCACallback(*wrong)
    with pytest.raises(LCAError, match=r"the second argument is y; pass the estimator by name"):
        LCACallback((X, Y), SIMPSON)
    with pytest.raises(
        LCAError, match=r"the first argument is an objective or x; pass the estimator by name"
    ):
        LCACallback(lca.Adaptive())


# --- what fit does besides -------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 2])
def test_updates_by_optimizers_that_only_train_step_knows_are_steps(every):
    model = two_optimizers()
    ours, points = LCACallback(frozen(model), estimator=SIMPSON, every=every, on_error="raise"), None
    points = Points(ours._measured)
    fit(model, ours, points)
    rows = ours.views["train"].trace.rows
    assert ours.steps == 6
    assert rows["step"].tolist() == list(range(0, 6, every))
    assert rows["loss_end"].tolist() == points.losses[::every]


class Puts(keras.callbacks.Callback):
    """Puts other weights in when training begins or ends, as BackupAndRestore and EarlyStopping do."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def on_train_begin(self, logs=None):
        if self.when == "begin":
            self.model.set_weights([w + 0.25 for w in self.model.get_weights()])

    def on_train_end(self, logs=None):
        if self.when == "end":
            self.model.set_weights([w + 0.25 for w in self.model.get_weights()])


def test_weights_put_in_when_training_begins_come_before_the_first_step():
    found = []
    for order in (1, -1):
        model = model_of()
        objective = frozen(model)
        ours, points = LCACallback(objective, estimator=SIMPSON, on_error="raise"), Points(objective)
        fit(model, *(Puts("begin"), ours, points)[::order], epochs=1)
        rows = ours.views["train"].trace.rows
        assert rows["loss_end"].tolist() == points.losses
        found.append(rows[["loss_start", "state_change", "residual"]].tolist())
        assert np.abs(rows["residual"]).max() < 1e-3 * rows["mass"].max()
    assert found[0] == found[1]


def test_the_run_ends_behind_all_other_callbacks():
    closed = []

    class Closing(_FitTracker):
        def close(self, *, complete=True):
            closed.append(self._live.copy().numpy())
            super().close(complete=complete)

    model = model_of(norm=False)
    ours = LCACallback(frozen(model), on_error="warn")
    ours._make_tracker = lambda: Closing(model, model.optimizer, ours._measured, SIMPSON)
    with pytest.warns(LCAWarning, match="the parameters changed after the last update that was seen"):
        fit(model, ours, Puts("end"), epochs=1)
    np.testing.assert_array_equal(closed[-1], frozen(model).theta())


WEIGHTS = np.linspace(0.5, 2.0, len(X))
CLASSES = {0: 1.0, 1: 2.0, 2: 0.5}


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"class_weight": CLASSES}, "class_weight"), ({"sample_weight": WEIGHTS}, "sample_weight")],
    ids=["class", "sample"],
)
def test_weights_of_fit_that_the_measured_loss_lacks_are_told(arguments, name):
    model = model_of(norm=False)
    with pytest.warns(
        LCAWarning, match=rf"fit weighs the examples \({name}\), and the measured loss does not"
    ):
        model.fit(X, Y, verbose=0, callbacks=[LCACallback(X, Y, on_error="raise")], **arguments)
    weighted = {
        "class_weight": lambda: Objective(model, None, (X, Y), class_weight=CLASSES),
        "sample_weight": lambda: (X, Y, WEIGHTS),
    }[name]()
    model.fit(X, Y, verbose=0, callbacks=[LCACallback(weighted, on_error="raise")], **arguments)


class Weighted(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X, Y, WEIGHTS


def test_weights_in_the_data_of_fit_that_the_measured_loss_lacks_are_told():
    model, data = model_of(norm=False), tf.data.Dataset.from_tensor_slices((X, Y, WEIGHTS)).batch(8)
    for read in (data, Weighted()):
        with pytest.warns(LCAWarning, match="the sample_weight of its data"):
            model.fit(read, verbose=0, shuffle=False, callbacks=[LCACallback(X, Y, on_error="raise")])
        model.fit(read, verbose=0, shuffle=False, callbacks=[LCACallback(data, on_error="raise")])


class OtherLoss(TwoOptimizers):
    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data[0])))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def test_a_train_step_that_does_not_use_the_compiled_loss_is_told():
    model = two_optimizers(OtherLoss)
    message = r"OtherLoss\.train_step computes a loss of its own.*batch_loss="
    with pytest.raises(LCAError, match=message):
        fit(model, LCACallback(X, Y, on_error="raise"), epochs=1)
    with pytest.warns(LCAWarning, match=message) as said:
        fit(model, LCACallback(X, Y), epochs=1)
    assert len(said) == 1
    own = Objective(model, None, (X, Y), batch_loss=lambda m, batch: tf.reduce_mean(tf.square(m(batch[0]))))
    fit(model, LCACallback(own, on_error="raise"), epochs=1)
    fit(two_optimizers(), LCACallback(X, Y, on_error="raise"), epochs=1)  # calls compute_loss


class ByHelpers(TwoOptimizers):
    @staticmethod
    def taken(model, x, y):
        return value_of(model, x, y)

    @tf.function
    def helper(self, x, y):
        return self.taken(self, x, y)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.helper(*data)
        self.own.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


def value_of(model, x, y):
    return model.compute_loss(x, y, model(x))


class OtherLossBelow(OtherLoss):
    def train_step(self, data):
        return super().train_step(data)


def test_a_train_step_by_way_of_super_is_looked_into():
    with pytest.raises(LCAError, match=r"OtherLossBelow\.train_step computes a loss of its own"):
        Objective(two_optimizers(OtherLossBelow), None, (X, Y))


def test_a_train_step_may_take_the_compiled_loss_in_what_it_calls(monkeypatch):
    fit(two_optimizers(ByHelpers), LCACallback(X, Y, on_error="raise"), epochs=1)
    monkeypatch.setattr(ByHelpers, "taken", staticmethod(lambda model, x, y: tf.reduce_mean(model(x))))
    with pytest.raises(LCAError, match=r"ByHelpers\.train_step computes a loss of its own"):
        Objective(two_optimizers(ByHelpers), None, (X, Y))


def test_a_model_with_losses_of_its_own_alone_is_measured_without_targets():
    class Small(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.reduce_mean(tf.square(inputs)))
            return inputs

    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3), Small()])
    model.compile("sgd")
    ours = LCACallback((X,), on_error="raise")
    model.fit(X, batch_size=8, verbose=0, callbacks=[ours])
    assert ours.summary()["train"]["lca_total"] < 0


class Distiller(TwoOptimizers):
    def imitation(self, x, outputs):
        return tf.reduce_mean(tf.square(outputs - x[:, :3]))

    def total(self, loss, x, outputs):
        return 0.3 * loss + 0.7 * self.imitation(x, outputs), outputs

    def train_step(self, data):
        with tf.GradientTape() as tape:
            outputs = self(data[0])
            loss, _ = self.total(self.compute_loss(y=data[1], y_pred=outputs), data[0], outputs)
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        return {"loss": loss}


class OwnSum(TwoOptimizers):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return super().compute_loss(x, y, y_pred, sample_weight) + tf.reduce_mean(tf.square(y_pred))


def test_a_train_step_that_adds_to_the_compiled_loss_is_told():
    model = two_optimizers(Distiller)
    message = r"Distiller trains another loss .*\(0\.3 \* loss \+ 0\.7 \* self\.imitation"
    with pytest.warns(LCAWarning, match=message) as said:
        fit(model, LCACallback(X, Y, on_error="raise"))
    assert len(said) == 1
    own = Objective(model, None, (X, Y), batch_loss=lambda m, batch: tf.reduce_mean(tf.square(m(batch[0]))))
    fit(model, LCACallback(own, on_error="raise"), epochs=1)
    fit(two_optimizers(OwnSum), LCACallback(X, Y, on_error="raise"), epochs=1)


class Added(TwoOptimizers):
    """Sums that are differentiated."""

    def of_a_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.compute_loss(*data)
            loss += self.other(data[0])
        return tape.gradient(loss, self.trainable_weights)

    def of_a_list(self, data):
        with tf.GradientTape() as tape:
            losses = [self.compute_loss(*data)]
            losses.append(self.other(data[0]))
            loss = tf.add_n(losses)
        return tape.gradient(loss, self.trainable_weights)

    def of_a_dictionary(self, data):
        with tf.GradientTape() as tape:
            losses = {"compiled": self.compute_loss(*data)}
            losses["other"] = self.other(data[0])
            scaled = self.optimizer.scale_loss(sum(losses.values()))
        return tape.gradient(scaled, self.trainable_weights)

    def of_a_stack(self, data):
        loss = keras.ops.mean(keras.ops.stack([self.compute_loss(*data), self.other(data[0])]))
        loss.backward()

    def of_a_function_within(self, data):
        def loss_of(weights):
            loss, state = self.compute_loss_and_updates(weights, *data)
            return keras.ops.add(loss, self.other(data[0])), state

        return self.own.value_and_grad(loss_of, has_aux=True)(self.trainable_weights)

    def of_penalties_twice(self, data):
        with tf.GradientTape() as tape:
            loss = self.compute_loss(*data) + tf.add_n(self.losses)
        return tape.gradient(loss, self.trainable_weights)

    def of_several_losses(self, data):
        with tf.GradientTape() as tape:
            losses = self.compute_loss(*data), self.other(data[0])
        return tape.gradient(losses, self.trainable_weights)

    def of_a_longer_list(self, data):
        with tf.GradientTape() as tape:
            losses = [self.compute_loss(*data)]
            losses += [self.other(data[0])]
        return tape.gradient(target=losses, sources=self.trainable_weights)

    def of_two_gradients(self, data):
        parameters = self.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(*data)
            other = self.other(data[0])
        first, second = tape.gradient(loss, parameters), tape.gradient(other, self.trainable_weights)
        return [a + b for a, b in zip(first, second, strict=True)]

    def of_a_loop_over_losses(self, data):
        with tf.GradientTape(persistent=True) as tape:
            losses = self.compute_loss(*data), self.other(data[0])
        gradients = [tape.gradient(loss, self.trainable_weights) for loss in losses]
        return [tf.add_n(pair) for pair in zip(*gradients, strict=True)]

    def of_two_functions(self, data):
        def second(weights):
            return self.other(data[0])

        first = self.own.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        return first(self.trainable_weights, *data), self.own.grad(second)(self.trainable_weights)

    def of_backward_twice(self, data):
        outputs = self(data[0])
        tf.reduce_mean(outputs).backward()
        self.compute_loss(*data, outputs).backward()

    def of_a_second_update(self, data):
        self.own.minimize(self.compute_loss(*data), self.trainable_weights)
        self.own.minimize(self.other(data[0]), self.trainable_weights)

    def of_two_batches(self, data):
        loss = self.compute_loss(*data) - self.compute_loss(data[0] + 1, data[1])
        self.apply_gradient(loss)

    def apply_gradient(self, loss):
        self.optimizer.minimize(loss, self.trainable_weights)

    def other(self, x):
        return tf.reduce_mean(self(x))


class NotAdded(Added):
    """Sums of which the gradient is that of the compiled loss, or that are not differentiated."""

    def of_micro_batches(self, data):
        total = 0.0
        for part in data:
            total += self.compute_loss(*part) / len(data)
        total.backward()

    def of_a_generator(self, data):
        loss = sum(self.compute_loss(*part) for part in data)
        (loss + tf.stop_gradient(self.other(data[0]))).backward()

    def of_penalties(self, data):
        with tf.GradientTape() as tape:
            loss = self._compile_loss(data[1], self(data[0]))
            loss += sum(tf.reduce_sum(one) for one in self.losses)
        return tape.gradient(loss, self.trainable_weights)

    def of_a_log(self, data):
        loss = self.compute_loss(*data)
        loss.backward()
        loss = loss + self.other(data[0])
        return {"loss": loss}

    def of_outputs(self, data):
        found = self.all_of(data)
        found["loss"].backward()

    def all_of(self, data):
        outputs = self(data[0])
        return {"loss": self.compute_loss(*data, outputs), "outputs": outputs}

    def of_parts_of_the_model(self, data):
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(*data)
            fool = self.other(data[0])
        grads = tape.gradient(loss, self.layers[0].trainable_weights)
        return grads + tape.gradient(loss, self.layers[1].trainable_weights) + tape.gradient(fool, data[0])

    def of_a_second_pass(self, data):
        def taken(x, y):
            return self.compute_loss(x, y, self(x))

        with tf.GradientTape() as tape:
            loss = taken(*data)
        ahead = tape.gradient(loss, self.trainable_weights)
        with tf.GradientTape() as tape:
            again = self.all_of(data)["loss"]
        return ahead, tape.gradient(again, self.trainable_weights)

    def of_itself(self, data):
        loss = self.compute_loss(*data) * self.of_itself(data[1:])
        loss.backward()
        return loss


def steps_of(kind):
    return [getattr(kind, name) for name in vars(kind) if name.startswith("of_")]


@pytest.mark.parametrize("step", steps_of(Added) + steps_of(NotAdded), ids=lambda step: step.__name__)
def test_sums_that_are_differentiated_are_read_from_the_source(step, monkeypatch):
    kind = NotAdded if step in steps_of(NotAdded) else Added
    model = two_optimizers(kind)
    monkeypatch.setattr(kind, "train_step", step)
    if kind is NotAdded:
        Objective(model, None, (X, Y))
    else:
        with pytest.warns(LCAWarning, match="Added trains another loss than is measured"):
            Objective(model, None, (X, Y))


def test_a_list_of_callbacks_is_left_as_it_was():
    model = model_of(norm=False)
    ours = LCACallback(X, Y, on_error="raise")
    made = keras.callbacks.CallbackList([ours], add_history=True, model=model)
    before = list(made.callbacks)
    for _ in range(2):
        model.fit(X, Y, batch_size=8, verbose=0, callbacks=made)
        assert made.callbacks == before
        assert ours.steps == 3


def test_several_callbacks_of_one_fit_all_end_their_runs(tmp_path):
    model = model_of(keras.optimizers.SGD(0.1), norm=False, run_eagerly=True)
    objective = frozen(model)
    callbacks = [LCACallback(objective, record=tmp_path / name, on_error="raise") for name in "ab"]
    fit(model, *callbacks, epochs=1)
    for name, callback in zip("ab", callbacks, strict=True):
        record = lca.open_record(tmp_path / name)
        assert record.attrs["complete"]
        assert record.sizes["step"] == callback.steps == 3


def test_losses_add_up_in_float32_as_well():
    model = model_of(keras.optimizers.SGD(0.05), norm=False)
    ours = LCACallback(X, Y, estimator=lca.PathIntegral(lca.gauss_lobatto(5)), on_error="raise")
    fit(model, ours)
    rows = ours.views["train"].trace.rows
    eps = float(np.finfo(np.float32).eps)
    limits = [tolerances.conservation(row["mass"], row["loss_start"], eps) for row in rows]
    assert (np.abs(rows["residual"]) <= 10 * np.array(limits)).all()


@pytest.mark.parametrize(
    ("optimizer", "counted"),
    [
        (lambda: keras.optimizers.SGD(0.1), False),
        (lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), True),
        (lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)), True),
    ],
    ids=["plain", "accumulated", "scaled"],
)
def test_updates_are_counted_only_where_a_batch_may_make_none(monkeypatch, optimizer, counted):
    reads = []
    unseen = _FitTracker._unseen
    monkeypatch.setattr(_FitTracker, "_unseen", lambda self: reads.append(0) or unseen(self))
    model = model_of(optimizer())
    callback = LCACallback(frozen(model), every=2, on_error="raise")
    fit(model, callback)  # 6 batches
    assert len(reads) == (6 if counted else 0)
    assert callback.steps == int(model.optimizer.iterations)


WEIGHT = 1.0


@pytest.mark.parametrize(
    "estimator", [None, SampledPathIntegral(size=8), LaggedCrossFit()], ids=["full", "sampled", "lagged"]
)
def test_an_attribute_that_a_compiled_training_step_keeps_is_named(estimator):
    ours = LCACallback(X, Y, estimator=estimator, on_error="raise")
    with pytest.raises(LCAError, match=STALE.format(name="beta")):
        fit(penalised(), Changes("beta", [0.0, 2.0]), ours)
    assert ours.steps == 3  # the first epoch is right


@pytest.mark.parametrize("kind", ["global", "closure", "layer"])
def test_other_values_that_a_compiled_training_step_keeps_are_named(kind, monkeypatch):
    weight, scale = 1.0, keras.layers.Rescaling(1.0)
    monkeypatch.setitem(globals(), "WEIGHT", WEIGHT)

    def loss(y, outputs):
        return weight * WEIGHT * cross_entropy()(y, outputs)

    class Change(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            nonlocal weight
            if kind == "global":
                globals()["WEIGHT"] = 2.0
            elif kind == "closure":
                weight = 2.0
            else:
                scale.scale = 2.0

    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3), scale])
    model.compile("sgd", loss, jit_compile=kind == "layer")
    name = {"global": "WEIGHT", "closure": "weight", "layer": r"rescaling\w*\.scale"}[kind]
    with pytest.raises(LCAError, match=STALE.format(name=name)):
        fit(model, LCACallback(X, Y, on_error="raise"), Change())


def test_a_floor_that_changes_the_loss_only_later_is_named():
    squares, plain = [], penalised()
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: squares.append(float(ops.mean(ops.square(plain(X)))))
    )
    fit(plain, note, epochs=20)
    floor = (squares[0] + squares[-1]) / 2
    assert squares[0] > floor
    ours = LCACallback(X, Y, on_error="raise")
    with pytest.raises(LCAError, match=STALE.format(name="floor")):
        fit(penalised(), Changes("floor", [0.0] + [floor] * 19), ours, epochs=20)
    assert ours.steps > 3


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (Changes("beta", [2.0, 2.0]), {}),
        (Changes("beta", [0.0, 2.0], anew=True), {}),
        (Changes("beta", [0.0, 2.0]), {"run_eagerly": True}),
        (Changes("seen", [0, 1]), {}),
        (Changes("stop_training", [False, False]), {}),
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)), {}),
    ],
    ids=["before", "anew", "eager", "unread", "of Keras", "variable"],
)
def test_what_a_compiled_training_step_reads_anew_or_not_at_all_is_no_error(change, options):
    ours = LCACallback(X, Y, on_error="raise")
    fit(penalised(**options), change, ours, keras.callbacks.LambdaCallback())
    summary = ours.summary()["train"]
    assert summary["steps"] == 6
    assert (summary["state_change"] != 0) == (getattr(change, "name", "") == "beta")


def test_a_value_of_a_loss_that_is_not_trained_may_change():
    model = penalised()

    class Share:
        now = 1.0

        def __call__(self, model, batch):
            return self.now * keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
                batch[1], model(batch[0])
            )

        def grow(self, *_):
            self.now += 1

    share = Share()
    own = Objective(model, None, (X, Y), batch_loss=share)
    grows = keras.callbacks.LambdaCallback(on_epoch_begin=share.grow)
    ours = LCACallback(own, on_error="raise")
    fit(model, grows, Changes("seen", [0, 0]), ours)
    assert ours.summary()["train"]["state_change"] > 0


@pytest.mark.parametrize("shared", [False, True])
def test_a_training_step_that_an_earlier_fit_has_compiled_keeps_its_values(shared):
    model = penalised()
    objective = Objective(model, None, (X, Y))

    def run():
        ours = LCACallback(*([objective] if shared else [X, Y]), on_error="raise")
        fit(model, ours, epochs=1)
        return ours

    run()
    model.seen += 1
    assert run().steps == 3
    model.beta = 2.0
    with pytest.raises(LCAError, match=STALE.format(name="beta")):
        run()
    model.make_train_function(force=True)
    assert run().steps == 3
