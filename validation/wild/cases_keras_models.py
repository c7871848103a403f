"""Models in Keras, in `fit`."""

# ruff: noqa: E731 - a named lambda keeps a case short

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import lca
from lca_tensorflow import Objective
from validation.wild import nets_keras as nets
from validation.wild.small_keras import built, cross_entropy, fitted, images, keras_case, mlp, tokens, vectors


@keras_case("Sequential MLP, SGD")
def _(run):
    return fitted(run, mlp())


@keras_case("functional MLP with a skip")
def _(run):
    inputs = keras.Input((6,))
    x = layers.Dense(6, "tanh")(inputs)
    return fitted(run, keras.Model(inputs, layers.Dense(3)(layers.Add()([x, inputs]))))


class Subclassed(keras.Model):
    """Two layers, the call is written by hand."""

    def __init__(self):
        super().__init__()
        self.body, self.head = layers.Dense(8, "tanh"), layers.Dense(3)

    def call(self, x):
        return self.head(self.body(x))


@keras_case("subclassed MLP")
def _(run):
    return fitted(run, built(Subclassed()))


@keras_case("CNN with dropout (VGG)")
def _(run):
    return fitted(run, nets.vgg(), images())


def _batch_norm(run, policy, model=None):
    """In evaluation with moving statistics; with those of all 16 images for the policy ``batch``."""
    model, (x, y), loss = model or nets.resnet(), images(), cross_entropy()
    options = {"batch_norm": policy} | ({"batch_size": 16} if policy == "batch" else {})
    truth = lambda: loss(y, model(x, training=policy == "batch"))
    return fitted(run, model, (x, y), loss, truth=truth, options=options)


@keras_case("ResNet, BatchNorm on the batch")
def _(run):
    return _batch_norm(run, "batch")


@keras_case("ResNet, BatchNorm with moving statistics")
def _(run):
    return _batch_norm(run, "frozen")


@keras_case("MobileNet, moving statistics")
def _(run):
    return _batch_norm(run, "frozen", nets.mobilenet())


@keras_case("ResNet, GroupNormalization")
def _(run):
    return fitted(run, nets.resnet(lambda: layers.GroupNormalization(2)), images())


@keras_case("BatchNorm base called with training=False in a subclassed model")
def _(run):
    class Transfer(keras.Model):
        def __init__(self):
            super().__init__()
            self.base = keras.Sequential(
                [layers.Dense(8), layers.BatchNormalization(), layers.Activation("tanh")]
            )
            self.head = layers.Dense(3)

        def call(self, x):
            return self.head(self.base(x, training=False))

    model, (x, y), loss = built(Transfer()), vectors(), cross_entropy()
    model.base.layers[1].moving_mean.assign(np.linspace(-1, 1, 8))
    return fitted(
        run,
        model,
        (x, y),
        loss,
        truth=lambda: loss(y, model(x)),
        options={"batch_norm": "batch", "batch_size": 24},
    )


@keras_case("one BatchNorm called in both modes within a pass")
def _(run):
    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.body, self.head = layers.Dense(8), layers.Dense(3)
            self.norm = layers.BatchNormalization(momentum=0.5)

        def call(self, x, training=None):
            z = self.body(x)
            return self.head(self.norm(z, training=training) + 0.5 * self.norm(z, training=False))

    model, (x, y), loss = built(Both()), vectors(), cross_entropy()

    def scaled(z, mean, variance):
        gap = (z - mean) / ops.sqrt(variance + model.norm.epsilon)
        return gap * model.norm.gamma + model.norm.beta

    def truth():
        z = model.body(x)
        batch = scaled(z, *tf.nn.moments(z, [0]))
        return loss(
            y, model.head(batch + 0.5 * scaled(z, model.norm.moving_mean, model.norm.moving_variance))
        )

    return fitted(run, model, (x, y), loss, truth=truth, options={"batch_size": 24})


@keras_case("U-Net, cross-entropy of pixels")
def _(run):
    x, _ = images()
    return fitted(run, nets.unet(), (x, np.random.default_rng(1).integers(2, size=(16, 8, 8))))


@keras_case("ViT with dropout in attention")
def _(run):
    return fitted(run, nets.vit(), images())


@keras_case("causal transformer, cross-entropy of tokens")
def _(run):
    x, _ = tokens()
    fine = lca.Adaptive(tol=1e-5, nested_tol=3e-3, max_gradients=129)  # the first step is far from quadratic
    return fitted(run, nets.transformer(), (x, np.roll(x, -1, 1)), options={"estimator": fine})


@keras_case("LSTM")
def _(run):
    return fitted(run, nets.recurrent(), tokens())


@keras_case("GRU, bidirectional, recurrent dropout")
def _(run):
    return fitted(run, nets.recurrent(layers.GRU, bidirectional=True, dropout=0.2), tokens())


@keras_case("stateful RNN")
def _(run):
    inputs = keras.Input(batch_shape=(8, 5, 4))
    model = keras.Model(inputs, layers.Dense(3)(layers.GRU(5, stateful=True)(inputs)))
    rng, loss = np.random.default_rng(1), cross_entropy()
    x, y = rng.normal(size=(24, 5, 4)).astype(np.float32), rng.integers(3, size=24)
    states = model.layers[1].states

    def truth():
        """Every batch begins in the state that training has left."""
        kept, total = [state.value + 0.0 for state in states], 0.0
        for i in range(0, 24, 8):
            for state, value in zip(states, kept, strict=True):
                state.assign(value)
            total += loss(y[i : i + 8], model(x[i : i + 8], training=False)) / 3
        for state, value in zip(states, kept, strict=True):
            state.assign(value)
        return total

    return fitted(
        run, model, (x, y), loss, truth=truth, options={"batch_size": 8}, fit={"shuffle": False},
        world=states, also=states,
    )  # fmt: skip


@keras_case("mask_zero: a mean over the tokens that are not padding")
def _(run):
    x, _ = tokens(1100)
    x[900:, 2:] = 0
    inputs = keras.Input((7,), dtype="int32")
    hidden = layers.GRU(6, return_sequences=True)(layers.Embedding(11, 5, mask_zero=True)(inputs))
    model, loss = keras.Model(inputs, layers.Dense(11)(hidden)), cross_entropy()
    mask = (x != 0).astype(np.float32)

    def truth():
        logits = model(x, training=False)
        each = keras.losses.sparse_categorical_crossentropy(x, logits, from_logits=True)
        return tf.reduce_sum(each * mask) / tf.reduce_sum(mask)

    return fitted(run, model, (x, x), loss, truth=truth, fit={"batch_size": 300, "epochs": 1})


@keras_case("mask_zero, one label a sequence")
def _(run):
    x, y = tokens()
    x[:, 5:] = 0
    return fitted(run, nets.recurrent(mask_zero=True), (x, y))


@keras_case("shared layer")
def _(run):
    layer, inputs = layers.Dense(6, "tanh"), keras.Input((6,))
    return fitted(run, keras.Model(inputs, layers.Dense(3)(layer(layer(inputs)))))


@keras_case("weight tying: the embedding transposed as the output")
def _(run):
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = layers.Embedding(11, 6), layers.Dense(6, "tanh")

        def call(self, x):
            return self.mix(self.embed(x)) @ ops.transpose(self.embed.embeddings)

    x, _ = tokens()
    return fitted(run, built(Tied(), (1, 7)), (x, np.roll(x, -1, 1)))


@keras_case("SpectralNormalization")
def _(run):
    model = keras.Sequential(
        [keras.Input((6,)), layers.SpectralNormalization(layers.Dense(8)), layers.Dense(3)]
    )
    return fitted(run, model)


@keras_case("Lambda, noise and UnitNormalization")
def _(run):
    model = keras.Sequential(
        [
            keras.Input((6,)), layers.GaussianNoise(0.1), layers.Dense(8, "tanh"), layers.UnitNormalization(),
            layers.Lambda(lambda z: 2.0 * z), layers.Dense(3),
        ]
    )  # fmt: skip
    return fitted(run, model)


@keras_case("layer with an int32 counter that the loss reads")
def _(run):
    class Counted(layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), dtype="int32", trainable=False, initializer="zeros")

        def call(self, x, training=False):
            if training:
                self.calls.assign_add(1)
            return x / (1.0 + 0.1 * ops.cast(self.calls, "float32"))

    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), Counted(), layers.Dense(3)])
    return fitted(run, model)


@keras_case("layer that counts its calls in Python (eager)")
def _(run):
    class Counted(layers.Layer):
        calls = 0

        def call(self, x, training=False):
            if training:
                self.calls += 1
            return x / (1.0 + 0.1 * self.calls)

    layer = Counted()
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), layer, layers.Dense(3)])
    layer.calls = 0
    return fitted(run, model, compiled={"run_eagerly": True}, world=[(layer, "calls")])


@keras_case("layer that is random in evaluation")
def _(run):
    class Noisy(layers.Layer):
        def call(self, x):
            return x + 0.3 * keras.random.normal(ops.shape(x))

    model = keras.Sequential([keras.Input((6,)), Noisy(), layers.Dense(3)])
    return fitted(run, model)


@keras_case("layer that is random in evaluation, run_eagerly")
def _(run):
    class Noisy(layers.Layer):
        def call(self, x):
            return x + 0.3 * tf.random.normal(tf.shape(x))

    model = keras.Sequential([keras.Input((6,)), Noisy(), layers.Dense(3)])
    model.compile("sgd", cross_entropy())

    def measured():
        return Objective(model, None, vectors(), run_eagerly=True)

    return fitted(run, model, measured=measured, compiled={"run_eagerly": True})


@keras_case("EMA codebook in a non-trainable weight (VQ)")
def _(run):
    class Quantizer(layers.Layer):
        def build(self, shape):
            self.codes = self.add_weight(shape=(4, 8), trainable=False, initializer="random_normal")

        def call(self, z, training=False):
            nearest = ops.argmin(ops.sum((z[:, None] - self.codes) ** 2, -1), -1)
            hit = ops.one_hot(nearest, 4)
            if training:
                mean = ops.transpose(hit) @ z / (ops.sum(hit, 0)[:, None] + 1e-3)
                self.codes.assign(0.8 * self.codes + 0.2 * ops.stop_gradient(mean))
            return z + ops.stop_gradient(hit @ self.codes - z)

    model = keras.Sequential([keras.Input((6,)), layers.Dense(8), Quantizer(), layers.Dense(3)])
    return fitted(run, model)


@keras_case("LSTM with unroll and peephole-like custom cell")
def _(run):
    class Cell(layers.Layer):
        state_size = output_size = 5

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], 5), name="w")
            self.u = self.add_weight(shape=(5, 5), name="u")

        def call(self, x, states):
            h = ops.tanh(x @ self.w + states[0] @ self.u)
            return h, [h]

    model = keras.Sequential([keras.Input((4, 6)), layers.RNN(Cell()), layers.Dense(3)])
    x = np.random.default_rng(1).normal(size=(24, 4, 6)).astype(np.float32)
    return fitted(run, model, (x, vectors()[1]))


@keras_case("nested model as a layer")
def _(run):
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(8, "tanh"), layers.Dense(6)])
    inputs = keras.Input((6,))
    return fitted(run, keras.Model(inputs, layers.Dense(3)(inner(inputs))))


@keras_case("float64 model")
def _(run):
    keras.config.set_floatx("float64")
    x, y = vectors()
    return fitted(run, mlp(), (x.astype(np.float64), y))


@keras_case("mixed precision (bfloat16)", tolerance=0.05, eps=4e-3)
def _(run):
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = mlp()
    return fitted(run, model)


@keras_case("model in bfloat16", tolerance=0.1, eps=4e-3)
def _(run):
    keras.config.set_dtype_policy("bfloat16")
    return fitted(run, mlp())
