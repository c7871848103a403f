"""Losses, options, callbacks and data of `fit`."""

# ruff: noqa: E731 - a named lambda keeps a case short

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import lca
from lca_tensorflow import Objective
from validation.wild import nets_keras as nets
from validation.wild.small_keras import built, cross_entropy, fitted, images, keras_case, mlp, vectors

OPTIMIZERS = {
    "SGD, momentum": lambda: keras.optimizers.SGD(0.1, 0.9, nesterov=True),
    "Adam": lambda: keras.optimizers.Adam(0.02),
    "AdamW with a schedule": lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.02, 6)),
    "RMSprop, clipnorm": lambda: keras.optimizers.RMSprop(0.01, clipnorm=0.5),
    "Adagrad, clipvalue": lambda: keras.optimizers.Adagrad(0.05, clipvalue=0.05),
    "Lion": lambda: keras.optimizers.Lion(0.002),
    "Muon": lambda: keras.optimizers.Muon(0.01),
    "Adam, gradient_accumulation_steps": lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=2),
    "Adam with EMA, overwritten every second step": lambda: keras.optimizers.Adam(
        0.02, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
    ),
    "Adam with EMA, put in at the end": lambda: keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.5),
    "LossScaleOptimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    "SGD, weight decay": lambda: keras.optimizers.SGD(0.1, weight_decay=0.05),
}


def _optimizer_case(name, make):
    @keras_case(f"fit with {name}")
    def _(run):
        options = {"estimator": lca.Adaptive()} if name == "Adam" else {}
        return fitted(run, mlp(), optimizer=make(), options=options)


for _name, _make in OPTIMIZERS.items():
    _optimizer_case(_name, _make)


@keras_case("regularizers")
def _(run):
    ridge = keras.regularizers.L2(0.01)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh", kernel_regularizer=ridge), layers.Dense(3)]
    )
    return fitted(run, model)


@keras_case("regularizers, by_term")
def _(run):
    ridge = keras.regularizers.L2(0.01)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh", kernel_regularizer=ridge), layers.Dense(3)]
    )
    return fitted(run, model, measured=lambda: Objective(model, cross_entropy(), vectors()).by_term())


@keras_case("terms by class")
def _(run):
    model = mlp()
    return fitted(run, model, measured=lambda: Objective(model, cross_entropy(), vectors()).by_class())


@keras_case("activity regularizer")
def _(run):
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh", activity_regularizer="l2"), layers.Dense(3)]
    )
    return fitted(run, model)


@keras_case("VAE with add_loss")
def _(run):
    (x, _), loss = vectors(), keras.losses.MeanSquaredError()
    model = built(nets.VAE())
    return fitted(run, model, (x, x), loss)


@keras_case("VAE, β a tf.Variable that a callback raises")
def _(run):
    x, _ = vectors()
    beta = tf.Variable(0.1)
    model = built(nets.VAE(beta))

    class Anneal(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            beta.assign(0.1 + 0.4 * epoch)

    return fitted(
        run, model, (x, x), keras.losses.MeanSquaredError(), callbacks=[Anneal()], world=[beta], also=[beta]
    )


@keras_case("VAE, β a keras weight that a callback raises every batch")
def _(run):
    x, _ = vectors()
    beta = keras.Variable(0.1, trainable=False)
    model = built(nets.VAE(beta))

    class Anneal(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            beta.assign_add(0.1)

    return fitted(
        run, model, (x, x), keras.losses.MeanSquaredError(), callbacks=[Anneal()], world=[beta], also=[beta]
    )


@keras_case("VAE, β a Python attribute that a callback raises, run_eagerly")
def _(run):
    x, _ = vectors()
    model = built(nets.VAE(0.1))

    class Anneal(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.beta = 0.1 + 0.4 * epoch

    return fitted(
        run, model, (x, x), keras.losses.MeanSquaredError(), callbacks=[Anneal()], world=[(model, "beta")],
        compiled={"run_eagerly": True},
    )  # fmt: skip


@keras_case("sample weights in the measured data")
def _(run):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    w = np.linspace(0.1, 2.0, 24).astype(np.float32)

    def truth():
        return loss(y, model(x, training=False), sample_weight=w)

    return fitted(
        run, model, (x, y), loss, truth=truth, measured=lambda: ((x, y, w),), fit={"sample_weight": w}
    )


@keras_case("class weights in fit, with Objective(class_weight=)")
def _(run):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    weights = {0: 1.0, 1: 3.0, 2: 0.2}
    w = np.array([weights[label] for label in y], np.float32)

    def measured():
        return Objective(model, loss, (x, y), class_weight=weights)

    return fitted(
        run, model, (x, y), loss, truth=lambda: loss(y, model(x, training=False), sample_weight=w),
        measured=measured, fit={"class_weight": weights},
    )  # fmt: skip


@keras_case("mean_with_sample_weight in one loss")
def _(run):
    loss = keras.losses.SparseCategoricalCrossentropy(True, reduction="mean_with_sample_weight")
    return _weighted_mean(run, mlp(), loss, lambda model, x: model(x, training=False))


@keras_case("mean_with_sample_weight in a dictionary of losses")
def _(run):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(layers.Dense(8, "tanh")(inputs))})
    loss = keras.losses.SparseCategoricalCrossentropy(True, reduction="mean_with_sample_weight")
    return _weighted_mean(run, model, loss, lambda model, x: model(x, training=False)["a"], name="a")


def _weighted_mean(run, model, loss, output, name=None):
    """Weights that grow with the example: measuring batches of equal length count differently."""
    x, y = vectors(1500)
    w = np.linspace(0.01, 2.0, 1500).astype(np.float32)
    model.compile(keras.optimizers.SGD(0.1), {name: loss} if name else loss)
    truth = lambda: loss(y, output(model, x), sample_weight=w)
    labels, weights = ({name: y}, {name: w}) if name else (y, w)
    own = run.callbacks((x, labels, weights), loss=truth)
    model.fit(x, labels, sample_weight=weights, batch_size=300, epochs=1, verbose=0, callbacks=own)
    return model, model.optimizer


@keras_case("two outputs, dictionary of losses and loss weights")
def _(run):
    inputs = keras.Input((6,))
    z = layers.Dense(8, "tanh")(inputs)
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(z), "b": layers.Dense(1, name="b")(z)})
    (x, y), b = vectors(), np.linspace(-1, 1, 24).astype(np.float32)[:, None]
    losses = {"a": cross_entropy(), "b": keras.losses.MeanSquaredError()}
    model.compile(keras.optimizers.SGD(0.1), losses, loss_weights={"a": 1.0, "b": 0.3})

    def truth():
        out = model(x, training=False)
        return losses["a"](y, out["a"]) + 0.3 * losses["b"](b, out["b"])

    own = run.callbacks(x, {"a": y, "b": b}, loss=truth)
    history = model.fit(x, {"a": y, "b": b}, batch_size=8, epochs=2, verbose=0, callbacks=own).history
    return model, model.optimizer, history


@keras_case("transfer learning in two phases, one objective")
def _(run):
    return _two_phases(run, mlp(), "body")


@keras_case("transfer learning in two phases, BatchNorm base with training=False")
def _(run):
    base = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8), layers.BatchNormalization(), layers.Activation("tanh")],
        name="base",
    )
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3)(base(inputs, training=False)))
    return _two_phases(run, model, "base")


def _two_phases(run, model, frozen):
    """First the head with the rest frozen, then all; both fits are measured, the second is judged."""
    (x, y), loss = vectors(), cross_entropy()
    model.get_layer(frozen).trainable = False
    model.compile(keras.optimizers.SGD(0.3), loss)
    objective = Objective(model, loss, (x, y), batch_norm="frozen") if run.measures else None
    truth = lambda: loss(y, model(x, training=False))
    for phase in range(2):
        if phase:
            model.get_layer(frozen).trainable = True
            model.compile(keras.optimizers.SGD(0.3), loss)
        own = run.callbacks(objective, loss=truth)
        model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=own)
    return model, model.optimizer


@keras_case("unfrozen by a callback in an eager fit")
def _(run):
    model = mlp()
    model.get_layer("body").trainable = False

    class Unfreeze(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.get_layer("body").trainable = bool(epoch)

    optimizer = keras.optimizers.SGD(0.3)
    optimizer.build(model.get_layer("body").variables + model.get_layer("head").variables)
    return fitted(run, model, optimizer=optimizer, compiled={"run_eagerly": True}, callbacks=[Unfreeze()])


@keras_case("compiled again with another loss after the objective was made")
def _(run):
    model, (x, y) = mlp(), vectors()
    targets = keras.utils.to_categorical(y, 3)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    objective = Objective(model, None, (x, targets)) if run.measures else None
    if objective is not None:
        objective.loss_and_grad(objective.theta())
    mse = keras.losses.MeanSquaredError()
    return fitted(
        run, model, (x, targets), mse, truth=lambda: mse(targets, model(x, training=False)),
        measured=lambda: objective,
    )  # fmt: skip


@keras_case("EarlyStopping that restores the best weights")
def _(run):
    stop = keras.callbacks.EarlyStopping("loss", mode="max", patience=1, restore_best_weights=True)
    return fitted(run, mlp(), callbacks=[stop], fit={"epochs": 4})


@keras_case("a callback that projects the weights after every batch")
def _(run):
    class Project(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.layers[0].kernel
            kernel.assign(tf.clip_by_norm(kernel.value, 0.4, axes=[0]))

    return fitted(run, mlp(), callbacks=[Project()])


@keras_case("kernel constraint")
def _(run):
    limit = keras.constraints.MaxNorm(0.8)
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "tanh", kernel_constraint=limit), layers.Dense(3)]
    )
    return fitted(run, model)


@keras_case("SWA: mean weights put in by a callback at the end")
def _(run):
    return fitted(run, mlp(), callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=False)],
        optimizer=keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))  # fmt: skip


@keras_case("ReduceLROnPlateau and a validation set")
def _(run):
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", patience=0)
    return fitted(run, mlp(), callbacks=[plateau], fit={"validation_data": vectors(9), "epochs": 3})


@keras_case("jit_compile")
def _(run):
    return fitted(run, mlp(), compiled={"jit_compile": True})


@keras_case("run_eagerly")
def _(run):
    return fitted(run, mlp(), compiled={"run_eagerly": True})


@keras_case("steps_per_execution=4")
def _(run):
    return fitted(run, mlp(), compiled={"steps_per_execution": 4})


@keras_case("every second batch is measured")
def _(run):
    return fitted(run, mlp(), options={"every": 2})


@keras_case("Simpson's rule in fit")
def _(run):
    return fitted(
        run, mlp(), options={"estimator": lca.PathIntegral(lca.SIMPSON)}, optimizer=keras.optimizers.SGD(0.02)
    )


@keras_case("custom train_step with another loss than the compiled one")
def _(run):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = layers.Dense(8, "tanh"), layers.Dense(3)

        def call(self, x):
            return self.head(self.body(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                value = tf.reduce_mean((self(x, training=True) - tf.one_hot(y, 3)) ** 2)
            self.optimizer.apply(tape.gradient(value, self.trainable_variables), self.trainable_variables)
            return {"loss": value}

    return fitted(run, built(Own()))


@keras_case("custom train_step with two updates a batch (GAN-like)")
def _(run):
    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = layers.Dense(8, "tanh"), layers.Dense(3)

        def call(self, x):
            return self.head(self.body(x))

        def train_step(self, data):
            x, y = data
            for _ in range(2):
                with tf.GradientTape() as tape:
                    value = self.compute_loss(x, y, self(x, training=True))
                self.optimizer.apply(tape.gradient(value, self.trainable_variables), self.trainable_variables)
            return {"loss": value}

    return fitted(run, built(Twice()))


@keras_case("InfoNCE in fit")
def _(run):
    x, _ = vectors(1500)

    def info_nce(y, z):
        z, y = tf.math.l2_normalize(z, 1), tf.math.l2_normalize(y[:, :3], 1)
        labels = tf.range(tf.shape(z)[0])
        return keras.losses.sparse_categorical_crossentropy(
            labels, z @ tf.transpose(y) / 0.2, from_logits=True
        )

    other = x + 0.1 * np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    model = mlp()
    truth = lambda: tf.reduce_mean(info_nce(other, model(x, training=False)))
    return fitted(run, model, (x, other), info_nce, truth=truth, fit={"batch_size": 100, "epochs": 1})


@keras_case("loss object with an attribute that a callback changes (label smoothing)")
def _(run):
    x, y = vectors()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.0)

    class Smooth(keras.losses.Loss):
        smoothing = 0.0

        def call(self, y_true, y_pred):
            target = (1 - self.smoothing) * y_true + self.smoothing / 3
            return keras.losses.categorical_crossentropy(target, y_pred, from_logits=True)

    loss = Smooth()

    class Raise(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            loss.smoothing = 0.1 * batch

    return fitted(
        run, mlp(), (x, keras.utils.to_categorical(y, 3)), loss, callbacks=[Raise()],
        compiled={"run_eagerly": True}, world=[(loss, "smoothing")],
    )  # fmt: skip


# --- what fit reads ---------------------------------------------------------------------------------------


@keras_case("tf.data, shuffled")
def _(run):
    x, y = vectors()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(24, seed=3).batch(8)
    return fitted(run, mlp(), source=dataset)


@keras_case("measured on the shuffled tf.data that trains")
def _(run):
    x, y = vectors()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(24).batch(7)
    return fitted(run, mlp(), source=dataset, measured=lambda: dataset)


@keras_case("measured on an endless tf.data")
def _(run):
    dataset = tf.data.Dataset.from_tensor_slices(vectors()).repeat().batch(8)
    return fitted(run, mlp(), source=dataset, measured=lambda: dataset, fit={"steps_per_epoch": 3})


class Batches(keras.utils.PyDataset):
    """Batches of 8, in an order drawn anew every epoch from NumPy's global state."""

    def __init__(self):
        super().__init__()
        self.x, self.y = vectors()
        self.order, self.epochs = np.arange(24), 0

    def __len__(self):
        return 3

    def __getitem__(self, i):
        part = self.order[8 * i : 8 * i + 8]
        return self.x[part], self.y[part]

    def on_epoch_end(self):
        np.random.shuffle(self.order)  # noqa: NPY002
        self.epochs += 1


@keras_case("PyDataset")
def _(run):
    data = Batches()
    return fitted(run, mlp(), source=data, also=[data.epochs, data.order.tolist()])


@keras_case("measured on the PyDataset that trains")
def _(run):
    data = Batches()
    return fitted(run, mlp(), source=data, measured=lambda: data, also=[data.epochs, data.order.tolist()])


@keras_case("Python generator of batches")
def _(run):
    x, y = vectors()
    generator = ((x[i % 3 :: 3], y[i % 3 :: 3]) for i in range(100))
    return fitted(run, mlp(), source=generator, fit={"steps_per_epoch": 3})


@keras_case("NaN among the labels beyond the first batch")
def _(run):
    x, _ = vectors(2000)
    y = np.zeros((2000, 3), np.float32)
    y[1900] = np.nan
    model, loss = mlp(), keras.losses.MeanSquaredError()
    truth = lambda: loss(y[:1000], model(x[:1000], training=False))
    data = x[:600], y[:600]
    return fitted(
        run, model, data, loss, truth=truth, measured=lambda: (x, y), fit={"batch_size": 200, "epochs": 1}
    )


@keras_case("two fits, the callback used again")
def _(run):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    model.compile(keras.optimizers.Adam(0.02), loss)
    own = run.callbacks(x, y, loss=lambda: loss(y, model(x, training=False)))
    for _ in range(2):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=own)
    return model, model.optimizer


@keras_case("BatchNorm made to train on the batch by layer.trainable during fit (moving statistics)")
def _(run):
    model, (x, y), loss = nets.resnet(), images(), cross_entropy()
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    options = {"batch_norm": "batch", "batch_size": 16}
    truth = lambda: loss(y, model(x, training=True))
    return fitted(run, model, (x, y), loss, truth=truth, options=options)
