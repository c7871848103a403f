"""What a loss was found to be when its objective was made is tried again where θ or its state has moved."""

import numpy as np
import pytest

import lca
from lca.errors import DataError, LCAError, NonFiniteError
from lca.frameworks import BatchwiseLoss, ModelObjective, Rows, all_rows
from lca.frameworks import _trials as trials_module

RNG = np.random.default_rng(4)
N = 60
X, Y = RNG.normal(size=(N, 3)), RNG.integers(0, 2, N)
THETA = np.array([1.0, -0.5, 0.3])


class Squares(BatchwiseLoss):
    """``mean_n (x_n w - y_n)² / 2 + amount · extra(x w)``, where ``amount`` is state."""

    layout = lca.Layout(("w",), ((3,),))
    sample_hint = "weigh the extra term"

    def __init__(self, theta=THETA, amount=0.0, extra=lambda out, weight: out.mean() ** 2, *, weighs=True):
        self._theta, self.amount, self._extra, self._weighs = theta, amount, extra, weighs
        self.other, self.evaluations = 0.0, 0

    def theta(self):
        return self._theta.copy()

    def state(self):
        return {"amount": np.array([self.amount]), "other": np.full(5, self.other)}

    def sample(self, rows, weight):
        return rows if weight is None else (*rows, weight)

    def evaluate_batch(self, theta, batch, state, *, gradient):
        self.evaluations += 1
        amount = (self.state() if state is None else state)["amount"][0]
        steps = 1e-5 * np.eye(3)
        pairs = [
            (self._value(theta + s, batch, amount), self._value(theta - s, batch, amount)) for s in steps
        ]
        grad = np.array([a - b for a, b in pairs]) / 2e-5 if gradient else None
        return self._value(theta, batch, amount), grad

    def _value(self, theta, batch, amount):
        x, y, *weight = batch
        weight = weight[0] if weight and self._weighs else np.ones(len(y))
        out = x @ theta
        return (weight @ (out - y) ** 2) / weight.sum() / 2 + amount * self._extra(out, weight)


def of_mean(out, weight):
    """A mean over examples, which takes no weights: what ``add_loss`` in a model makes."""
    return (out**2).mean()


def made(loss, data=(X, Y), **options):
    return ModelObjective(None, loss, all_rows(data), **options)


def moved(objective, loss, amount):
    loss.amount = amount
    return objective.at_state(loss.state())


LOST = r"'amount' from 0 to 0\.3, and now the loss is not a mean over examples: .*lca\.Adaptive"


def test_samples_are_refused_once_a_term_of_the_whole_batch_has_got_a_weight():
    loss = Squares()
    objective = made(loss)
    sample = objective.batch(np.arange(8))
    assert objective.is_mean
    later = moved(objective, loss, 0.3)
    with pytest.raises(LCAError, match=LOST):
        later.loss(THETA, sample)
    assert not objective.is_mean
    with pytest.raises(LCAError, match="single examples cannot be drawn"):
        objective.batch(np.arange(8))
    loss.amount = 0.0
    with pytest.raises(LCAError, match="not a mean"):  # steps in between may be missing
        objective.at_state(loss.state()).loss(THETA, sample)


def test_slopes_of_examples_and_losses_of_classes_are_refused_as_samples_are():
    loss = Squares()
    objective = made(loss)
    classes, groups = objective.by_class(), objective.layout.groups("tensor")
    later = moved(objective, loss, 0.3)
    with pytest.raises(LCAError, match=LOST):
        lca.objective.at_state(classes, later.state).loss(THETA)
    loss = Squares()
    with pytest.raises(LCAError, match="cannot be drawn"):
        moved(made(loss), loss, 0.3).by_example(THETA, np.ones(3), groups, np.arange(3))


def test_the_whole_loss_is_refused_unless_the_size_of_its_batches_was_stated():
    loss = Squares()
    objective = made(loss)
    with pytest.raises(DataError, match=r"'amount' from 0 to 0\.3, and now the loss depends on .*batch_size"):
        moved(objective, loss, 0.3).loss(THETA)
    loss = Squares()
    stated = made(loss, batch_size=20)
    assert stated.is_mean
    found = moved(stated, loss, 0.3).loss(THETA)
    assert not stated.is_mean
    assert found == Squares(amount=0.3).evaluate(THETA, Rows((X, Y)).batches(20), gradient=False)[0]


def test_weighted_samples_are_refused_once_a_term_without_weights_has_got_a_factor():
    loss = Squares(extra=of_mean)
    objective = made(loss)
    rows, weight = np.arange(4), np.array([1.0, 2.0, 3.0, 4.0])
    weighted, plain = objective.batch(rows, weight), objective.batch(rows)
    later = moved(objective, loss, 0.3)
    with pytest.raises(LCAError, match=r"'amount' from 0 to 0\.3, and now examples drawn by their error"):
        later.loss(THETA, weighted)
    assert later.loss(THETA, plain) > 0
    assert objective.is_mean
    with pytest.raises(LCAError, match="weigh the extra term"):
        objective.batch(rows, weight)


ENDS = np.concatenate([[0], np.arange(1, N - 1), [0]])
UNWEIGHTED = {
    "all losses are one at θ": (np.zeros(3), (X, np.sign(Y - 0.5))),
    "the first and the last example are one": (THETA, (X[ENDS], Y[ENDS])),
}


@pytest.mark.parametrize("case", UNWEIGHTED)
def test_a_loss_that_ignores_weights_is_found_where_few_examples_differ(case):
    theta, data = UNWEIGHTED[case]
    rows, weight = np.arange(4), np.arange(1.0, 5)
    with pytest.raises(LCAError, match="are weighted"):
        made(Squares(theta, weighs=False), data).batch(rows, weight)
    made(Squares(theta), data).batch(rows, weight)


def test_a_trial_of_weights_that_tells_nothing_counts_as_failed_and_is_made_again():
    loss = Squares()
    alike = (np.zeros((N, 3)), np.ones(N))
    objective = made(loss, alike)
    with pytest.raises(LCAError, match="cannot be told .*: the .* examples .* have the same loss, as where"):
        objective.batch(np.arange(4), np.ones(4))
    objective._trials._cuts = made(loss)._trials._cuts  # rows that differ
    objective.batch(np.arange(4), np.ones(4))


@pytest.mark.parametrize("weighs", [True, False])
def test_where_a_trial_of_weights_tells_nothing_the_loss_is_not_blamed(weighs):
    loss = Squares(weighs=weighs)
    one, diverged = made(loss, (X[:1], Y[:1])), made(loss)
    with pytest.raises(LCAError, match="cannot be told whether .*: the measured data are a single example;"):
        one.batch(np.zeros(1, int), np.ones(1))
    loss._theta = np.full(3, np.nan)
    with pytest.raises(NonFiniteError, match="training has probably diverged"):
        diverged.batch(np.zeros(1, int), np.ones(1))


def test_a_later_trial_of_weights_that_tells_nothing_is_no_trial_that_failed():
    loss = Squares(extra=of_mean)
    objective = made(loss)
    weighted = objective.batch(np.arange(4), np.ones(4))
    objective._trials._cuts = made(loss, (np.zeros((N, 3)), np.ones(N)))._trials._cuts
    with pytest.raises(LCAError, match="'amount' from 0 to 0.3, and now .* cannot be told .* the same loss"):
        moved(objective, loss, 0.3).loss(THETA, weighted)


def test_the_mean_is_tried_on_after_weights_were_lost():
    loss = Squares(extra=lambda out, weight: of_mean(out, weight) + loss.other * out.mean() ** 2)
    objective = made(loss)
    plain, weighted = objective.batch(np.arange(8)), objective.batch(np.arange(4), np.ones(4))
    with pytest.raises(LCAError, match="are weighted"):
        moved(objective, loss, 0.3).loss(THETA, weighted)
    loss.other = 1.0
    with pytest.raises(LCAError, match="not a mean over examples"):
        moved(objective, loss, 0.7).loss(THETA, plain)


def test_nothing_is_tried_while_no_state_moves_and_ever_less_while_it_moves_all_the_time(monkeypatch):
    tried = []

    def counted(loss, points, *arguments):
        if len(points) > 1:  # else it is tried because θ moves
            tried.append(steps)
        return test(loss, points, *arguments)

    test = trials_module.split_test
    monkeypatch.setattr(trials_module, "split_test", counted)
    monkeypatch.setattr(trials_module, "doubles", lambda *count: False)
    loss = Squares()
    objective = made(loss)
    sample, still = objective.batch(np.arange(8)), objective.at_state(loss.state())
    steps, before = 0, loss.evaluations
    for _ in range(10):
        still.loss(THETA, sample)
    assert not tried
    assert loss.evaluations == before + 10
    for steps in range(1, 1001):
        loss.other = float(steps)
        objective.at_state(loss.state()).loss(THETA, sample)
    assert tried == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768]


def test_an_entry_that_moves_at_last_is_noticed_at_once_beside_one_that_moves_all_the_time():
    loss = Squares()
    objective = made(loss)
    sample = objective.batch(np.arange(8))
    for step in range(1, 100):
        loss.other = float(step)
        objective.at_state(loss.state()).loss(THETA, sample)
    loss.other = 100.0
    with pytest.raises(LCAError, match=r"has moved \(in the last 36 eval.*: 'amount' from 0 to 0.3, 'other'"):
        moved(objective, loss, 0.3).loss(THETA, sample)


def test_what_moves_while_no_trial_is_due_is_tried_later():
    loss = Squares()
    objective = made(loss)
    sample = objective.batch(np.arange(8))
    for step in range(1, 10):  # too little to be seen
        moved(objective, loss, 1e-17 * step).loss(THETA, sample)
    later = moved(objective, loss, 0.3)  # the state stays there
    with pytest.raises(LCAError, match="which may be wrong"):
        _ = [later.loss(THETA, sample) for _ in range(8)]


def free_bits(out, weight):
    """Constant while the mean is below 2, and linear above 9: a mean over examples there, and not between."""
    return np.clip((out**2).mean(), 2.0, 9.0)


INACTIVE, BETWEEN = 0.1 * THETA, 1.5 * THETA


def test_samples_are_refused_once_theta_has_moved_to_where_the_loss_is_no_mean():
    objective = made(Squares(INACTIVE, amount=0.3, extra=free_bits))
    sample = objective.batch(np.arange(8))
    for _ in range(5):
        objective.loss(INACTIVE, sample)
    for _ in range(2):  # the 8th evaluation is the next trial
        objective.loss(BETWEEN, sample)
    with pytest.raises(LCAError, match=r"tried, 4 evaluations ago \(.*and now .*not a mean.*max\(mean, c\)"):
        objective.loss(BETWEEN, sample)
    assert not objective.is_mean


def test_the_whole_loss_is_tried_where_it_is_cut_into_batches_whose_size_is_not_stated(monkeypatch):
    from lca.frameworks import _tryout  # noqa: PLC0415 - of this test alone

    whole = made(Squares(INACTIVE, amount=0.3, extra=free_bits))
    for _ in range(9):
        whole.loss(BETWEEN)
    assert whole.is_mean  # it was not tried
    monkeypatch.setattr(_tryout, "DEFAULT_BATCH_SIZE", 20)
    cut = made(Squares(INACTIVE, amount=0.3, extra=free_bits))
    with pytest.raises(DataError, match=r"tried, 2 evaluations ago .*and now .*depends on .*batch_size"):
        _ = [cut.loss(BETWEEN) for _ in range(2)]


def test_at_the_end_of_a_run_the_loss_is_tried_once_more_if_anything_depends_on_it():
    objective = made(Squares(INACTIVE, amount=0.3, extra=free_bits))
    objective.end_run(lambda: BETWEEN)
    sample = objective.batch(np.arange(8))
    _ = [objective.loss(INACTIVE, sample) for _ in range(5)]
    with pytest.raises(LCAError, match="tried, 1 evaluation ago .*not a mean"):
        objective.end_run(lambda: BETWEEN)


def test_nothing_is_said_where_a_run_has_diverged():
    objective = made(Squares(INACTIVE, amount=0.3, extra=free_bits))
    sample = objective.batch(np.arange(8))
    with np.errstate(all="ignore"):
        for theta in (np.full(3, np.nan), np.full(3, 1e200)):
            _ = [objective.loss(theta, sample) for _ in range(4)]
    assert objective.is_mean
