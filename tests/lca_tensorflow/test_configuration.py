"""Python values that a compiled loss has baked in: a change is followed, and the loss before it kept."""

import types
from collections import deque
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf

from lca.errors import LayoutError, NonDeterministicError
from lca.objective import at_state
from lca_tensorflow import Objective, Tracker
from tests.lca_tensorflow.networks import X, Y, cross_entropy, floats, stack

DENSE = keras.layers.Dense
FACTOR = 1.0


@pytest.fixture(autouse=True)
def float64():
    with floats("float64"):
        yield


@pytest.fixture(autouse=True)
def as_before():
    yield
    Schedule.value = scaled.by = 1.0
    by_default.__defaults__ = (1.0,)
    Penalised.shared["epsilon"] = 1.0
    Penalised.array.fill(1.0)
    globals().update(PROPERTY=1.0, STATIC=1.0, CLASS=1.0)


class Schedule:
    """Read by its name."""

    value = 1.0


@dataclass(slots=True)
class Slotted:
    """Has no dictionary."""

    zeta: float = 1.0


def by_default(eta=1.0):
    return eta


class Penalised(keras.Model):
    """A penalty with factors of every kind that Python code may hold."""

    beta = 1.0
    shared = {"epsilon": 1.0}  # noqa: RUF012 - users write this
    array = np.ones(2)

    def __init__(self):
        super().__init__()
        self.hidden, self.out = DENSE(4), DENSE(3)
        self.options = types.SimpleNamespace(gamma=1.0, table=np.ones(2))
        self.factors, self.named = [1.0], {"delta": 1.0}
        self.slots, self.queue = Slotted(), deque([1.0], maxlen=1)

    def call(self, inputs):
        hidden = self.hidden(inputs)
        factor = (
            self.beta * self.options.gamma * self.options.table[1] * self.factors[0] * self.named["delta"]
        )
        factor *= self.shared["epsilon"] * self.array[1] * Schedule.value
        factor *= self.by_property * self.by_static() * self.by_class() * scaled.by * by_default()
        factor *= self.slots.zeta * self.queue[-1]
        self.add_loss(factor * keras.ops.mean(keras.ops.square(hidden)))
        return self.out(hidden)

    @property
    def by_property(self):
        return PROPERTY

    @staticmethod
    def by_static():
        return STATIC

    @classmethod
    def by_class(cls):
        return CLASS


def scaled():
    """Its attribute is read."""


scaled.by = PROPERTY = STATIC = CLASS = 1.0


def set_global(name, value):
    globals()[name] = value


def penalised():
    model = Penalised()
    model(X[:2])
    return model


def table_entry(model, value):
    model.options.table[1] = value


CHANGES = {
    "attribute": lambda model: setattr(model, "beta", 0.25),
    "attribute of a class": lambda model: setattr(Penalised, "beta", 0.25),
    "dictionary of a class": lambda model: Penalised.shared.update(epsilon=0.25),
    "array of a class": lambda model: Penalised.array.fill(0.25),
    "class by its name": lambda model: setattr(Schedule, "value", 0.25),
    "global in a property": lambda model: set_global("PROPERTY", 0.25),
    "global in a static method": lambda model: set_global("STATIC", 0.25),
    "global in a class method": lambda model: set_global("CLASS", 0.25),
    "attribute of a function": lambda model: setattr(scaled, "by", 0.25),
    "attribute of another object": lambda model: setattr(model.options, "gamma", 0.25),
    "attribute in slots": lambda model: setattr(model.slots, "zeta", 0.25),
    "entry of a deque": lambda model: model.queue.append(0.25),
    "default of a function": lambda model: setattr(by_default, "__defaults__", (0.25,)),
    "entry of a list": lambda model: model.factors.__setitem__(0, 0.25),
    "entry of a dictionary": lambda model: model.named.__setitem__("delta", 0.25),
    "entry of an array": lambda model: table_entry(model, 0.25),
}


@pytest.mark.parametrize("run_eagerly", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_value_that_changes_is_followed_and_the_loss_before_it_known(change, run_eagerly, monkeypatch):
    monkeypatch.setattr(Penalised, "beta", 1.0)
    model = penalised()
    objective = Objective(model, cross_entropy(), (X, Y), run_eagerly=run_eagerly)
    theta, before = objective.theta(), objective.state()
    first, grad = objective.loss_and_grad(theta)
    change(model)
    after = objective.state()
    assert after["configuration"] > before["configuration"]
    found = float(cross_entropy()(Y, model(X)) + sum(model.losses))
    assert objective.loss(theta) == pytest.approx(found, rel=1e-12)
    assert at_state(objective, after).loss(theta) == objective.loss(theta) != first
    if run_eagerly:
        with pytest.raises(
            NonDeterministicError, match=r"has changed during the step because of .*; keep such values"
        ):
            at_state(objective, before).loss(theta)
    else:
        again, same = at_state(objective, before).loss_and_grad(theta)
        assert again == first
        assert np.array_equal(grad, same)


def scaled_by_a_global(y, outputs):
    return FACTOR * cross_entropy()(y, outputs)


def test_numbers_that_a_loss_function_refers_to(monkeypatch):
    factor = 1.0

    def scaled(y, outputs):
        return factor * cross_entropy()(y, outputs)

    model = stack((6,), DENSE(3))
    for loss in (scaled, scaled_by_a_global):
        objective = Objective(model, loss, (X, Y))
        theta, before = objective.theta(), objective.state()
        first = objective.loss(theta)
        factor = 2.0
        monkeypatch.setitem(globals(), "FACTOR", 2.0)
        assert objective.loss(theta) == 2 * first
        assert at_state(objective, before).loss(theta) == first
        factor = 1.0
        monkeypatch.undo()


@pytest.mark.parametrize("kind", [tf.Variable, keras.Variable])
def test_another_variable_in_its_place(kind):
    options = types.SimpleNamespace(factor=kind(1.0, dtype="float64"))
    objective = Objective(
        stack((6,), DENSE(3)), lambda y, outputs: options.factor * cross_entropy()(y, outputs), (X, Y)
    )
    theta, before = objective.theta(), objective.state()
    first = objective.loss(theta)
    options.factor = kind(2.0, dtype="float64")
    assert objective.loss(theta) == 2 * first
    options.factor.assign(3.0)
    assert objective.loss(theta) == pytest.approx(3 * first, rel=1e-12)
    assert at_state(objective, before).loss(theta) == first


def test_a_model_that_is_compiled_again():
    model = stack((6,), DENSE(3))
    model.compile("sgd", cross_entropy())
    objective = Objective(model, None, (X, Y))
    theta = objective.theta()
    first, before = objective.loss(theta), objective.state()
    model.compile("adam", cross_entropy())
    assert objective.state() == before  # another optimizer, the same loss
    model.compile("adam", cross_entropy(), loss_weights=[2.0])
    assert objective.loss(theta) == 2 * first
    assert at_state(objective, before).loss(theta) == first


def test_training_changes_nothing_of_it():
    model = stack((6,), DENSE(4), keras.layers.Dropout(0.5), keras.layers.BatchNormalization(), DENSE(3))
    model.compile("sgd", cross_entropy(), metrics=["accuracy"])
    objective = Objective(model, None, (X, Y), batch_size=17)
    configuration, traces = objective._loss._program.configuration, objective.traces
    model.fit(X, Y, epochs=2, verbose=0, validation_data=(X, Y))
    model.predict(X, verbose=0)
    objective.state()
    objective.loss_and_grad(objective.theta())
    assert objective._loss._program.configuration is configuration
    assert objective.traces == traces


def test_a_value_that_changes_back_and_forth_without_meaning_is_followed():
    model = penalised()
    model.counter = 0
    objective = Objective(model, cross_entropy(), (X, Y))
    before = objective.state()["configuration"]
    first = objective.loss(objective.theta())
    for model.counter in range(1, 4):
        assert objective.loss(objective.theta()) == first
    assert objective.state()["configuration"] == before


# --- structure and flags ---------------------------------------------------------------------------------


def test_layers_that_begin_to_train_are_differentiated_from_then_on():
    model = stack((6,), DENSE(4, activation="tanh", name="base"), DENSE(3, name="head"))
    model.layers[0].trainable = False
    objective = Objective(model, cross_entropy(), (X, Y))
    theta = objective.theta()
    assert objective.differentiated == {"head.kernel", "head.bias"}
    frozen = objective.layout.unflatten(objective.loss_and_grad(theta)[1].numpy())
    assert not frozen["base.kernel"].any()
    with tf.GradientTape() as tape:
        tape.watch([v.value for v in model.variables])
        loss = cross_entropy()(Y, model(X))
    expected = tape.gradient(loss, [v.value for v in model.variables])
    asked = objective.differentiating({"base.kernel"}).loss_and_grad(theta)[1].numpy()
    model.layers[0].trainable = True
    assert objective.differentiated == set(objective.layout.names)
    grads = objective.loss_and_grad(theta)[1].numpy()
    assert np.allclose(grads, np.concatenate([np.ravel(g) for g in expected]), rtol=1e-12, atol=1e-15)
    named, only = objective.layout.unflatten(grads), objective.layout.unflatten(asked)
    assert np.allclose(only["base.kernel"], named["base.kernel"], rtol=1e-12, atol=1e-15)
    assert not any(only[name].any() for name in named if name != "base.kernel")


def test_a_variable_that_is_frozen_alone():
    model = stack((6,), DENSE(3, name="head"))
    objective = Objective(model, cross_entropy(), (X, Y))
    model.layers[0].bias.trainable = False
    assert objective.differentiated == {"head.kernel"}
    model.trainable = False
    assert objective.differentiated == set()
    assert not objective.loss_and_grad(objective.theta())[1].numpy().any()


def test_weights_that_are_replaced_are_named():
    model = keras.Sequential([keras.Input((6,)), DENSE(4, name="base"), DENSE(3, name="head")])
    objective = Objective(model, cross_entropy(), (X, Y))
    objective.check()
    model.pop()
    model.add(DENSE(3, name="new"))
    with pytest.raises(
        LayoutError, match=r"head\.kernel, head\.bias: no longer a weight .* make a new Objective"
    ):
        objective.check()


def test_weights_that_are_added_are_named_and_can_be_measured_by_a_new_objective():
    with floats("float32"):  # LoRA's own weights are, too
        model = stack((6,), DENSE(4, name="base"), DENSE(3, name="head"))
    objective = Objective(model, cross_entropy(), (X, Y))
    model.layers[0].enable_lora(2)
    with pytest.raises(LayoutError, match=r"lora_kernel_a, .*new in the model .* make a new Objective"):
        objective.loss(objective.theta())
    adapted = Objective(model, cross_entropy(), (X, Y))
    assert adapted.differentiated == {
        "base.bias",
        "base.lora_kernel_a",
        "base.lora_kernel_b",
        "head.kernel",
        "head.bias",
    }
    expected = float(cross_entropy()(Y, model(X)))
    assert adapted.loss(adapted.theta()) == pytest.approx(expected, rel=1e-6)


def test_an_entry_of_a_large_array_is_found_at_the_latest_when_the_run_ends():
    factors = np.ones(20_000)
    model = stack((6,), DENSE(3))
    loss = lambda y, outputs: factors[7] * cross_entropy()(y, outputs)  # noqa: E731
    objective, optimizer = Objective(model, loss, (X, Y)), keras.optimizers.SGD(0.1)

    def run():
        with Tracker(model, optimizer, objective, on_error="raise"):
            for step in range(3):
                with tf.GradientTape() as tape:
                    value = loss(Y, model(X))
                optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)
                if step == 1:
                    factors[7] = 2.0

    with pytest.raises(NonDeterministicError, match="at the end of the run, the loss 'train' has changed"):
        run()
