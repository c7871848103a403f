"""Custom loops in Keras, eager and compiled."""

# ruff: noqa: E731 - a named lambda keeps a case short

import keras
import numpy as np
import tensorflow as tf

import lca
from lca.estimators import CrossFit, SampledPathIntegral
from lca_tensorflow import Objective
from validation.wild import nets_keras as nets
from validation.wild.small_keras import cross_entropy, images, keras_case, looped, mlp, vectors

BETA = 0.0


@keras_case("eager loop")
def _(run):
    return looped(run, mlp())


@keras_case("eager loop, lca.Adaptive() as it is")
def _(run):
    return looped(run, mlp(), tracker={"estimator": lca.Adaptive()})


@keras_case("eager loop, dropout and BatchNorm while training")
def _(run):
    model, entropy = nets.resnet(), cross_entropy()
    training = lambda model, batch: entropy(batch[1], model(batch[0], training=True))
    return looped(run, model, data=images(), training=training, batch_norm="frozen")


@keras_case("compiled loop with tracker.step()")
def _(run):
    return _compiled(run, wrapped=True)


@keras_case("compiled loop without tracker.step()")
def _(run):
    return _compiled(run, wrapped=False)


def _compiled(run, *, wrapped, jit=False):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    optimizer = keras.optimizers.Adam(0.02)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit)
    def train_step(x, y):
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    objective = lambda: Objective(model, loss, (x, y))
    with run.measuring(model, optimizer, objective, lambda: loss(y, model(x, training=False))) as tracker:
        for step in range(4):
            inputs = tf.constant(x[step::3]), tf.constant(y[step::3])
            if wrapped or run.mode == "oracle":
                with tracker.step():
                    train_step(*inputs)
            else:
                train_step(*inputs)
    return model, optimizer


@keras_case("loop compiled by XLA with tracker.step()")
def _(run):
    return _compiled(run, wrapped=True, jit=True)


@keras_case("train_on_batch inside tracker.step()")
def _(run):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    model.compile(keras.optimizers.SGD(0.1, 0.9), loss)
    objective = lambda: Objective(model, None, (x, y))
    with run.measuring(
        model, model.optimizer, objective, lambda: loss(y, model(x, training=False))
    ) as tracker:
        for step in range(4):
            with tracker.step():
                model.train_on_batch(x[step::3], y[step::3])
    return model, model.optimizer


@keras_case("apply_gradients of an old-fashioned loop")
def _(run):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    optimizer = keras.optimizers.RMSprop(0.01)
    objective = lambda: Objective(model, loss, (x, y))
    with run.measuring(model, optimizer, objective, lambda: loss(y, model(x, training=False))):
        for step in range(4):
            with tf.GradientTape() as tape:
                value = loss(y[step::3], model(x[step::3], training=True))
            grads = tape.gradient(value, model.trainable_weights)
            optimizer.apply_gradients(zip(grads, model.trainable_weights, strict=True))
    return model, optimizer


@keras_case("accumulated gradients in an eager loop")
def _(run):
    return _accumulated(run)


@keras_case("CrossFit, accumulated micro-batches", tolerance=0.05)
def _(run):
    return _accumulated(run, estimator=CrossFit(micro_batches=2))


def _accumulated(run, **tracker):
    """Two halves with the same examples: what is estimated from one holds for the other."""
    model, (x, y), loss = mlp(), vectors(24), cross_entropy()
    x, y = np.concatenate([x, x]), np.concatenate([y, y])
    optimizer = keras.optimizers.SGD(0.2)
    objective = lambda: Objective(model, loss, (x, y))
    truth = lambda: loss(y, model(x, training=False))
    with run.measuring(model, optimizer, objective, truth, **tracker) as tracked:
        for batch in tracked.batches([(x, y)] * 5):
            total = None
            for (inputs, labels), weight in tracked.micro_batches(batch, 2):
                with tf.GradientTape() as tape:
                    value = weight * loss(labels, model(inputs, training=True))
                total = tracked.add(total, tape.gradient(value, model.trainable_weights))
            optimizer.apply(total, model.trainable_weights)
    return model, optimizer


@keras_case("probes", tolerance=0.3)
def _(run):
    entropy = cross_entropy()
    model = mlp()
    measured = lambda: Objective(model, entropy, vectors())
    return looped(run, model, measured=measured, tracker={"estimator": SampledPathIntegral(size=24)})


@keras_case("two optimizers, one tracker for both")
def _(run):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    optimizers = [keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.02)]
    parts = [model.get_layer("body").trainable_variables, model.get_layer("head").trainable_variables]
    objective = lambda: Objective(model, loss, (x, y))
    with run.measuring(model, optimizers, objective, lambda: loss(y, model(x, training=False))):
        for step in range(4):
            with tf.GradientTape() as tape:
                value = loss(y[step::3], model(x[step::3], training=True))
            grads = tape.gradient(value, parts[0] + parts[1])
            optimizers[0].apply(grads[:2], parts[0])
            optimizers[1].apply(grads[2:], parts[1])
    return model, *optimizers


@keras_case("a new optimizer half-way")
def _(run):
    model, (x, y), loss = mlp(), vectors(), cross_entropy()
    first, second = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.02)
    tracked = [first, second] if run.mode == "oracle" else first
    objective = lambda: Objective(model, loss, (x, y))
    with run.measuring(model, tracked, objective, lambda: loss(y, model(x, training=False))):
        for step in range(6):
            with tf.GradientTape() as tape:
                value = loss(y[step::3], model(x[step::3], training=True))
            optimizer = first if step < 3 else second
            grads = tape.gradient(value, model.trainable_weights)
            optimizer.apply(grads, model.trainable_weights)
    return model, first, second


@keras_case("GAN: the generator through a discriminator trained elsewhere")
def _(run):
    generator, critic = mlp(3, 6, 4), mlp(4, 6, 1)
    g, d = keras.optimizers.Adam(0.02), keras.optimizers.Adam(0.02)
    rng = np.random.default_rng(1)
    noise, real = rng.normal(size=(24, 3)).astype(np.float32), rng.normal(1, 1, (24, 4)).astype(np.float32)
    loss = lambda model, batch: tf.reduce_mean(tf.nn.softplus(-critic(model(batch[0]))))
    objective = lambda: Objective(generator, None, (noise,), batch_loss=loss)
    with run.measuring(generator, g, objective, lambda: loss(generator, (noise,)), [critic]):
        for step in range(4):
            part = noise[step::4]
            with tf.GradientTape() as tape:
                fake = tf.reduce_mean(tf.nn.softplus(critic(generator(part))))
                value = fake + tf.reduce_mean(tf.nn.softplus(-critic(real[step::4])))
            d.apply(tape.gradient(value, critic.trainable_weights), critic.trainable_weights)
            with tf.GradientTape() as tape:
                value = loss(generator, (part,))
            g.apply(tape.gradient(value, generator.trainable_weights), generator.trainable_weights)
    return generator, critic, g, d


@keras_case("encoder outside the model, trained along")
def _(run):
    encoder, model, entropy = mlp(6, 8, 5), mlp(5, 8, 3), cross_entropy()
    (x, y), optimizer = vectors(), keras.optimizers.Adam(0.02)
    loss = lambda model, batch: entropy(batch[1], model(encoder(batch[0])))
    objective = lambda: Objective(model, None, (x, y), batch_loss=loss)
    variables = model.trainable_weights + encoder.trainable_weights
    with run.measuring(model, optimizer, objective, lambda: loss(model, (x, y)), [encoder]):
        for step in range(4):
            with tf.GradientTape() as tape:
                value = loss(model, (x[step::3], y[step::3]))
            optimizer.apply(tape.gradient(value, variables), variables)
    return model, encoder, optimizer


@keras_case("learned temperature outside the model")
def _(run):
    model, entropy, t = mlp(), cross_entropy(), keras.Variable(0.3)
    (x, y), optimizer = vectors(), keras.optimizers.Adam(0.02)
    loss = lambda model, batch: entropy(batch[1], model(batch[0]) / tf.exp(t.value))
    objective = lambda: Objective(model, None, (x, y), batch_loss=loss)
    variables = [*model.trainable_weights, t]
    with run.measuring(model, optimizer, objective, lambda: loss(model, (x, y)), [t]):
        for step in range(4):
            with tf.GradientTape() as tape:
                value = loss(model, (x[step::3], y[step::3]))
            optimizer.apply(tape.gradient(value, variables), variables)
    return model, t, optimizer


@keras_case("PINN: a loss of derivatives by the inputs")
def _(run):
    x = np.linspace(0, 1, 24, dtype=np.float32)[:, None]

    def loss(model, batch):
        (x,) = batch
        x = tf.convert_to_tensor(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            u = model(x)
        return tf.reduce_mean((tape.gradient(u, x) + u) ** 2) + tf.reduce_mean(
            (model(tf.zeros((1, 1))) - 1) ** 2
        )

    return looped(run, mlp(1, 8, 1), loss, (x,))


@keras_case("MAML: an inner gradient step inside the loss")
def _(run):
    entropy, (x, y) = cross_entropy(), vectors()

    def loss(model, batch):
        x, y = batch
        weights = [w.value for w in model.trainable_weights]
        frozen = [w.value for w in model.non_trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            inner = entropy(y, model.stateless_call(weights, frozen, x)[0])
        fast = [w - 0.1 * g for w, g in zip(weights, tape.gradient(inner, weights), strict=True)]
        return entropy(y[::-1], model.stateless_call(fast, frozen, x[::-1])[0])

    return looped(run, mlp(), loss, (x, y))


@keras_case("VAE, β in a closure that the loop raises")
def _(run):
    x, _ = vectors()
    model, schedule = mlp(6, 4, 6), type("Schedule", (), {"beta": 0.1})()

    def loss(model, batch):
        out = model(batch[0])
        return tf.reduce_mean((out - batch[0]) ** 2) + schedule.beta * tf.reduce_mean(out**2)

    def anneal(step):
        schedule.beta += 0.2

    return looped(run, model, loss, (x,), after=anneal, world=[(schedule, "beta")])


@keras_case("VAE, β a tf.Variable that the loop raises")
def _(run):
    x, _ = vectors()
    model, beta = mlp(6, 4, 6), tf.Variable(0.1)

    def loss(model, batch):
        out = model(batch[0])
        return tf.reduce_mean((out - batch[0]) ** 2) + beta * tf.reduce_mean(out**2)

    return looped(run, model, loss, (x,), after=lambda step: beta.assign_add(0.2), world=[beta], also=[beta])


@keras_case("gradual unfreezing in an eager loop")
def _(run):
    model = mlp()
    model.get_layer("body").trainable = False

    def after(step):
        if step == 1:
            model.get_layer("body").trainable = True

    optimizer = keras.optimizers.SGD(0.3)
    optimizer.build(model.get_layer("body").variables + model.get_layer("head").variables)
    return looped(run, model, optimizer=optimizer, after=after)


@keras_case("alternating blocks in an eager loop")
def _(run):
    model = mlp()

    def after(step):
        model.get_layer("body").trainable = step % 2 == 1
        model.get_layer("head").trainable = step % 2 == 0

    optimizer = keras.optimizers.SGD(0.3)
    optimizer.build(model.trainable_variables)
    return looped(run, model, optimizer=optimizer, after=after)


@keras_case("weights clipped after every step (WGAN)")
def _(run):
    model = mlp()

    def clip(step):
        for variable in model.trainable_variables:
            variable.assign(tf.clip_by_value(variable.value, -0.4, 0.4))

    return looped(run, model, after=clip)


@keras_case("mean weights put in after the last step")
def _(run):
    model = mlp()
    means = [variable.numpy() for variable in model.trainable_variables]

    def average(step):
        for i, variable in enumerate(model.trainable_variables):
            means[i] = 0.5 * means[i] + 0.5 * variable.numpy()
            if step == 3:
                variable.assign(means[i])

    return looped(run, model, after=average)


@keras_case("the best weights put back half-way")
def _(run):
    model = mlp()
    best = model.get_weights()

    def put_back(step):
        if step == 1:
            model.set_weights(best)

    return looped(run, model, after=put_back)


@keras_case("graph batches with a weight")
def _(run):
    rng, model, entropy = np.random.default_rng(1), mlp(4, 6, 3), cross_entropy()
    sizes = (5, 3, 8, 4)
    graphs = [
        (
            rng.normal(size=(n, 4)).astype(np.float32),
            rng.random((n, n)).astype(np.float32),
            rng.integers(3, size=n),
        )
        for n in sizes
    ]
    loss = lambda model, graph: entropy(graph[2], model(tf.matmul(graph[1], graph[0])))
    weight = lambda graph: tf.cast(tf.shape(graph[0])[0], tf.float32)
    truth = lambda: sum(n * loss(model, g) for n, g in zip(sizes, graphs, strict=True)) / sum(sizes)
    optimizer = keras.optimizers.Adam(0.02)
    objective = lambda: Objective(model, None, graphs, batch_loss=loss, batch_weight=weight)
    with run.measuring(model, optimizer, objective, truth):
        for graph in graphs:
            with tf.GradientTape() as tape:
                value = loss(model, graph)
            optimizer.apply(tape.gradient(value, model.trainable_weights), model.trainable_weights)
    return model, optimizer


@keras_case("dice loss of the whole batch")
def _(run):
    x, _ = images(12)
    y = np.random.default_rng(1).integers(2, size=(12, 8, 8)).astype(np.float32)

    def dice(model, batch):
        p = tf.nn.softmax(model(batch[0]))[..., 1]
        return 1 - (2 * tf.reduce_sum(p * batch[1]) + 1) / (tf.reduce_sum(p) + tf.reduce_sum(batch[1]) + 1)

    return looped(run, nets.unet(), dice, (x, y))


class Entry:
    """Lets the oracle set what a schedule sets, as an attribute."""

    def __init__(self, read, write):
        vars(self).update(read=read, write=write)

    def __getattr__(self, name):
        return self.read()

    def __setattr__(self, name, value):
        self.write(value)


def _annealed(run, read, write):
    """A penalty with a factor that is raised once, before the last two of six steps."""
    entropy = cross_entropy()
    write(0.0)

    def loss(model, batch):
        out = model(batch[0], training=False)
        return entropy(batch[1], out) + read() * tf.reduce_mean(out**2)

    def after(step):
        if step == 3:
            write(0.5)

    return looped(run, mlp(), loss, after=after, steps=6, world=[(Entry(read, write), "value")])


@keras_case("schedule in a class, read by its name")
def _(run):
    class Schedule:
        beta = 0.0

    return _annealed(run, lambda: Schedule.beta, lambda value: setattr(Schedule, "beta", value))


@keras_case("schedule in a dictionary of a class")
def _(run):
    class Schedule:
        options = {"beta": 0.0}  # noqa: RUF012 - as users write it

        def value(self):
            return self.options["beta"]

    return _annealed(run, Schedule().value, lambda value: Schedule.options.update(beta=value))


@keras_case("schedule in a global number, read by a property and a static method")
def _(run):
    class Schedule:
        @property
        def half(self):
            return BETA / 2

        @staticmethod
        def other_half():
            return BETA / 2

        def value(self):
            return self.half + self.other_half()

    return _annealed(run, Schedule().value, lambda value: globals().update(BETA=value))


@keras_case("schedule in an attribute of a function")
def _(run):
    def factor():
        return factor.beta

    return _annealed(run, factor, lambda value: setattr(factor, "beta", value))


@keras_case("entry of a large array, changed after the last audit")
def _(run):
    table = np.zeros(20_000)
    return _annealed(run, lambda: float(table[7]), lambda value: table.__setitem__(7, value))
