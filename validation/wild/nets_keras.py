"""Tiny look-alikes of the architectures of `keras.applications` and papers, with random weights."""

import keras
from keras import layers, ops


def resnet(norm=None) -> keras.Model:
    """One residual block."""
    norm = norm or layers.BatchNormalization
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    out = layers.Activation("relu")(norm()(x))
    out = norm()(layers.Conv2D(4, 3, padding="same")(out))
    x = layers.Activation("relu")(layers.Add()([x, out]))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def mobilenet() -> keras.Model:
    """Expand, depthwise, project."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, 2, padding="same")(inputs)
    out = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 1)(x)))
    out = layers.ReLU(6.0)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(out)))
    x = layers.Add()([x, layers.Conv2D(4, 1)(out)])
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def vgg() -> keras.Model:
    """Convolutions, pooling, dropout."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="gelu"), layers.MaxPooling2D(),
            layers.Conv2D(6, 2, activation="gelu"), layers.Flatten(), layers.Dropout(0.5),
            layers.Dense(8, "gelu"), layers.Dense(3),
        ]
    )  # fmt: skip


def unet() -> keras.Model:
    """One level, one skip."""
    inputs = keras.Input((8, 8, 3))
    skip = layers.Conv2D(4, 3, padding="same", activation="silu")(inputs)
    x = layers.Conv2D(6, 3, 2, padding="same", activation="silu")(skip)
    x = layers.Conv2DTranspose(4, 2, 2)(x)
    return keras.Model(inputs, layers.Conv2D(2, 1)(layers.Concatenate()([skip, x])))


class Patches(layers.Layer):
    """Patches with learned positions and a class token."""

    def build(self, shape):
        self.conv = layers.Conv2D(8, 4, 4)
        self.positions = self.add_weight(shape=(1, 5, 8), name="positions")
        self.token = self.add_weight(shape=(1, 1, 8), name="token", initializer="random_normal")

    def call(self, x):
        patches = ops.reshape(self.conv(x), (-1, 4, 8))
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, 8))
        return ops.concatenate([token, patches], 1) + self.positions


def vit() -> keras.Model:
    """One encoder layer, the head on the class token."""
    inputs = keras.Input((8, 8, 3))
    x = Patches()(inputs)
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y)])
    y = layers.Dense(8)(layers.Dense(16, "gelu")(layers.LayerNormalization()(x)))
    x = layers.Add()([x, y])
    return keras.Model(inputs, layers.Dense(3)(layers.LayerNormalization()(x)[:, 0]))


def transformer() -> keras.Model:
    """Masked embedding, causal attention, tokens out."""
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(11, 8)(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)])
    return keras.Model(inputs, layers.Dense(11)(layers.LayerNormalization()(x)))


def recurrent(cell=layers.LSTM, *, mask_zero=False, bidirectional=False, **options) -> keras.Model:
    """Embedding, a recurrent layer, a head."""
    rnn = cell(6, **options)
    return keras.Sequential(
        [
            keras.Input((7,), dtype="int32"), layers.Embedding(11, 5, mask_zero=mask_zero),
            layers.Bidirectional(rnn) if bidirectional else rnn, layers.Dense(3),
        ]
    )  # fmt: skip


class VAE(keras.Model):
    """Dense encoder and decoder; the KL term by `add_loss`, weighted by β."""

    def __init__(self, beta=0.1):
        super().__init__()
        self.encoder, self.decoder, self.beta = layers.Dense(4), layers.Dense(6), beta
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x, training=False):
        mean, log_var = ops.split(self.encoder(x), 2, axis=1)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed) if training else 0.0
        kl = ops.mean(ops.sum(mean**2 + ops.exp(log_var) - log_var - 1, 1)) / 2
        self.add_loss(self.beta * kl)
        return self.decoder(mean + noise * ops.exp(log_var / 2))
