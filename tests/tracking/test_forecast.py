"""`estimate`: the costs that estimators declare, times the time of a gradient; nothing of training moves."""

import sys
import time

import numpy as np
import pytest

import lca
from lca.allocation import Cost
from lca.errors import LCAError
from lca.estimators import REGISTRY, AdaptiveSampleSize, ControlVariate, CrossFit, SampledPathIntegral
from lca.reference import Batch, DatasetLoss, Quadratic, logistic_regression
from lca.step import ExampleScores, MicroBatch
from lca.tolerances import EPS64, summed
from lca.tracking import FunctionalTracker, _forecast, _speed
from lca.tracking._clock import StepClock
from lca.tracking._forecast import ALTERNATIVES, Forecast, Run, _check_seconds, forecast
from lca.tracking._own_work import MOST, own_work
from lca.tracking._spans import LONGEST, is_compared
from lca.tracking._speed import SECONDS, Speed, speeds_of
from lca.tracking._start_costs import start_costs

PAUSE = 0.002


class Slow(Quadratic):
    """A gradient takes `PAUSE` seconds, a loss a quarter of that."""

    calls = 0

    def loss(self, theta, batch=None):
        time.sleep(PAUSE / 4)
        return super().loss(theta)

    def loss_and_grad(self, theta, batch=None):
        object.__setattr__(self, "calls", self.calls + 1)
        time.sleep(PAUSE)
        return super().loss_and_grad(theta)


def rows_of(found):
    return {row.name: row for row in found.rows}


def equal(a, b):
    return abs(a - b) <= summed(abs(b), EPS64)


def about(seconds, least):
    """Timers are late, by more on a busy machine, and never early."""
    return least <= seconds <= 20 * least


def test_the_time_is_the_declared_cost_times_that_of_a_gradient():
    objective = Slow(np.eye(2))
    found = forecast(
        {"train": objective}, np.ones(2), Run(lca.PathIntegral(lca.BOOLE), steps=100, step_seconds=1.0)
    )
    rows = rows_of(found)
    assert about(found.gradient_seconds, PAUSE)
    gradient = found.gradient_seconds
    assert rows["this: PathIntegral"].cost == Cost(full_gradients=lca.BOOLE.new_gradients)
    assert about(rows["this: PathIntegral"].seconds, lca.BOOLE.new_gradients * gradient)
    assert about(rows["rk4"].seconds, 2 * gradient)
    assert equal(rows["rk4"].factor, 1 + rows["rk4"].seconds)
    assert about(rows["adaptive, span=10"].seconds, gradient / 10)
    assert rows["probe"].seconds is None  # no examples can be drawn
    assert objective.calls <= 6  # of a loss, too, which takes a gradient here


def test_the_alternatives_declare_their_costs_themselves():
    rows = rows_of(forecast({"train": Quadratic(np.eye(2))}, np.ones(2), Run(lca.Adaptive())))
    for name, span in ALTERNATIVES:
        if span == 1:
            assert rows[name].cost == REGISTRY[name].make(1e-3).cost
            assert rows[name].required_fields == REGISTRY[name].required_fields


def test_several_losses_add_up_and_parts_of_one_are_timed_once():
    loss = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    one, two = Slow(np.eye(9)), Slow(np.eye(9))
    speeds = speeds_of({"a": one, "b": lca.Sum({"x": one, "y": two})}, np.ones(9))
    assert speeds["b"].gradient > speeds["a"].gradient
    assert one.calls <= 6
    both = {"train": loss, "by class": loss.by_class()}
    run = Run(lca.PathIntegral(lca.SIMPSON))
    shared = rows_of(forecast(both, np.zeros(9), run))["this: PathIntegral"]
    alone = rows_of(forecast({"by class": loss.by_class()}, np.zeros(9), run))["this: PathIntegral"]
    assert shared.memory == alone.memory


class Counting:
    """An estimator that asks for no gradient and takes its time with vectors."""

    target, degree, cost, required_fields, seen = "full", 1, Cost(), ("micro_batches",), 0

    def start(self, objective):
        self.objective = objective
        return self

    def __call__(self, step):
        assert len(step.micro_batches) == 2
        Counting.seen += 1
        time.sleep(PAUSE)
        value, gradient = self.objective.loss_and_grad(step.start)
        return lca.StepAllocation(gradient, value, value, residual=0.0, mass=0.0, step=step.index)


def test_work_on_vectors_is_counted_and_grows_with_them():
    layout, theta = lca.Layout(("w",), ((8,),)), np.ones(8)
    found = own_work(Counting(), layout, theta, None).seconds
    assert about(found, PAUSE)
    assert 0 < Counting.seen <= 5
    large = own_work(Counting(), lca.Layout(("w",), ((4 * MOST,),)), np.ones(4 * MOST), None)
    assert large.seconds >= 4 * PAUSE
    rows = rows_of(
        forecast({"train": Quadratic(np.eye(2))}, np.ones(2), Run(lca.Adaptive(), step_seconds=1e-4))
    )
    assert rows["cross-fit"].seconds > 0
    assert rows["cross-fit"].factor > 1


def test_an_estimator_that_refuses_such_steps_counts_as_what_it_declares():
    class Refusing(Counting):
        def start(self, objective):
            raise LCAError("not this objective.")

    assert own_work(Refusing(), lca.Layout(("w",), ((8,),)), np.ones(8), None) is None
    run = Run(Refusing(), step_seconds=1.0)
    assert rows_of(forecast({"train": Quadratic(np.eye(2))}, np.ones(2), run))["this: Refusing"].seconds == 0


def test_samples_are_extrapolated_to_all_data():
    found = Speed(1.0, 0.5, (10, 100), (0.1, 0.4))
    for n, expected in ((10, 0.1), (55, 0.25), (100, 0.4), (1000, 4.0)):
        assert equal(found.of_examples(n), expected)
    assert Speed(1.0, 0.5).of_examples(10) is None


def test_a_large_data_set_is_not_evaluated_as_a_whole():
    class Counted:
        layout, n_examples, weight = lca.Layout(("w",), ((1,),)), 10**6, None
        seen = 0

        def batch(self, index, weight=None):
            return len(index)

        def loss(self, theta, batch=None):
            return self.loss_and_grad(theta, batch)[0]

        def loss_and_grad(self, theta, batch=None):
            assert batch is not None
            self.seen += batch
            time.sleep(batch * 1e-4)
            return 0.0, theta.copy()

    objective = Counted()
    found = speeds_of({"train": objective}, np.ones(1))["train"]
    assert objective.seen < 20_000
    assert about(found.gradient, 100.0)


class Drawn(Quadratic):
    """A gradient on a sample of any size takes `PAUSE` seconds, and drawing one half of that."""

    n_examples, weight = 64, None

    def batch(self, index, weight=None):
        time.sleep(PAUSE / 2)
        return len(index)

    def loss(self, theta, batch=None):
        return super().loss(theta)

    def loss_and_grad(self, theta, batch=None):
        time.sleep(PAUSE)
        return super().loss_and_grad(theta)


def seconds_of(estimator):
    return forecast({"train": Drawn(np.eye(2))}, np.ones(2), Run(estimator)).rows[0].seconds


def test_each_sample_of_a_step_is_drawn_and_has_a_gradient_of_its_own():
    one, four = (SampledPathIntegral(size=16, micro_batches=m) for m in (1, 4))
    assert own_work(four, lca.Layout(("w",), ((2,),)), np.ones(2), 64).sizes == (4, 4, 4, 4)
    assert about(seconds_of(one), 1.5 * PAUSE)
    assert about(seconds_of(four), 6 * PAUSE)


@pytest.mark.parametrize(
    ("steps", "every", "checks"),
    [(1, "doubling", 2), (64, "doubling", 2 + 3), (64, 8, 2 + 8), (64, None, 0), (None, "doubling", 0)],
)
def test_the_self_check_is_counted_where_the_length_of_the_run_is_known(steps, every, checks):
    speeds = {"train": Speed(1.0, 0.5), "heldout": Speed(1.0, 0.25)}
    run = Run(SampledPathIntegral(), steps=steps, check_every=every)
    assert equal(_check_seconds(run.estimator, speeds, run), 0.75 * checks / (steps or 1))
    assert _check_seconds(lca.PathIntegral(), speeds, run) == 0


def test_the_memory_is_that_of_the_estimator_and_of_the_step_in_the_tracker():
    theta = np.ones(2)
    for name, step in (("rk4", 1), ("cross-fit", 2 + 1 + 4 + 1 - 1)):
        estimator = REGISTRY[name].make(1e-3)
        found = forecast({"train": Quadratic(np.eye(2))}, theta, Run(estimator)).rows[0]
        assert found.memory == (estimator.vectors + step) * theta.nbytes


def tracked(**options):
    theta = np.ones(2)
    tracker = FunctionalTracker(theta, Quadratic(np.eye(2)), lca.PathIntegral(), **options)
    return tracker, theta


def test_nothing_of_the_training_is_moved():
    def run(*, asks):
        tracker, theta = tracked()
        np.random.seed(1)  # noqa: NPY002 - the global one is what counts
        with tracker:
            for _ in range(5):
                theta = theta - 0.1 * np.random.normal(size=2)  # noqa: NPY002
                if asks:
                    tracker.estimate(10)
                tracker.update(theta)
        return theta.tolist(), tracker.summary()

    assert run(asks=True) == run(asks=False)


def test_what_was_seen_takes_the_place_of_what_is_declared():
    tracker, theta = tracked()
    assert tracker.estimate(10).step_seconds is None
    with tracker:
        for _ in range(6):
            time.sleep(PAUSE)
            theta = theta * 0.9
            tracker.update(theta)
        found = tracker.estimate(10)
    assert about(found.step_seconds, PAUSE)
    assert found.rows[0].seconds > 0
    assert found.rows[0].factor == 1 + found.rows[0].seconds / found.step_seconds
    assert tracker.estimate(10, step_seconds=5.0).step_seconds == 5.0


@pytest.mark.parametrize("span", [1, 3])
def test_the_clock_of_training_stands_while_something_is_measured(span):
    theta = np.ones(2)
    with FunctionalTracker(theta, Slow(np.eye(2)), lca.PathIntegral(), span=span) as tracker:
        for _ in range(7):
            theta = theta * 0.9
            tracker.update(theta)
        found = tracker.estimate()
    assert found.step_seconds < PAUSE / 4
    assert found.rows[0].seconds > PAUSE / span / 2


def test_the_first_step_and_what_is_stopped_belong_to_no_step():
    clock = StepClock()
    for pause in (0.05, 0.0, 0.0):
        clock.resume()
        time.sleep(pause)
        with clock.stopped():
            time.sleep(0.01)
        clock.pause()
        clock.lap()
    assert clock.steps == 2
    assert clock.training_seconds < 0.01
    assert clock.measuring_seconds() < 0.01


@pytest.mark.parametrize(
    ("every", "span", "fraction", "apart"),
    [
        (1, 1, 1.0, 0.0),
        (4, 1, 0.25, 0.25),
        (2, 5, 0.1, 0.1),
        (lambda t: t < 5, 1, 0.05, 0.0),
        (lambda t: t % 10 in (3, 4), 1, 0.2, 0.1),
    ],
)
def test_only_measured_steps_cost_and_begin_anew_where_they_are_apart(every, span, fraction, apart):
    tracker, _ = tracked(every=every, span=span)
    found = tracker.estimate(100).rows[0]
    compared = sum(map(is_compared, range(1, round(100 * fraction) + 1))) if span > 1 else 0
    step = lca.PathIntegral().cost.full_gradients
    spent = fraction * step + apart + compared * (span * step + 1) / 100
    assert equal(found.cost.full_gradients, spent)


@pytest.mark.parametrize("given", [{"steps": 0}, {"step_seconds": -1.0}])
def test_numbers_that_are_not_positive_are_named(given):
    tracker, _ = tracked()
    with pytest.raises(LCAError, match=f"^{next(iter(given))} must be positive"):
        tracker.estimate(**given)


def test_one_line_says_the_same_as_the_table():
    tracker, _ = tracked()
    found = tracker.estimate(1000, step_seconds=1e-3)
    assert isinstance(found, Forecast)
    for row in found.rows:
        assert row.name in str(found)
        assert (f"({row.name})" in found.line) == (row.seconds is not None)
    assert "needs micro_batches" in str(found)
    assert ("ex.: gradients of single examples" in str(found)) == (" ex. " in str(found))
    assert "\n" not in found.line


class Terminal:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.mark.parametrize(("progress", "shown"), [(True, "7step"), (7, "7/7"), (False, "")])
def test_progress_shows_the_forecast_and_the_steps_and_nothing_without_it(monkeypatch, progress, shown):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    tracker, theta = tracked(progress=progress)
    with tracker:
        for _ in range(7):
            time.sleep(0.11 if progress else 0.0)  # a bar is drawn ten times a second
            theta = theta * 0.5
            tracker.update(theta)
    assert shown in terminal.text
    assert ("residual=" in terminal.text) == ("this: PathIntegral" in terminal.text) == bool(progress)
    if not progress:
        assert terminal.text == ""


def test_a_progress_that_is_no_number_is_refused():
    with pytest.raises(LCAError, match="^progress must be True, False or the number of updates"):
        tracked(progress="yes")


def test_what_the_first_gradient_sets_up_is_not_multiplied_by_the_number_of_samples(monkeypatch):
    times = iter([SECONDS, 0.001])  # such as a function that is traced
    monkeypatch.setattr(_speed, "_once", lambda call: next(times, 0.002))
    rng = np.random.default_rng(0)
    model = logistic_regression(3, 2)
    objective = DatasetLoss(model, rng.normal(size=(1600, 3)), rng.integers(0, 2, 1600))
    found = speeds_of({"train": objective}, model.init(seed=0))["train"]
    assert (found.sizes, found.seconds[0], found.gradient) == ((16, 128, 1024, 1600), 0.001, 0.002)


@pytest.mark.parametrize(("steps", "span", "every"), [(400, 2, 1), (400, 10, 1), (60, 2, 3), (4, 8, 1)])
def test_the_updates_of_compared_lines_are_counted_as_they_are_measured(steps, span, every):
    tracker, theta = tracked(span=span, every=every)
    found = tracker.estimate(steps).rows[0]
    with tracker:
        for _ in range(steps):
            theta = theta * 0.99
            tracker.update(theta)
    summary = tracker.summary()["train"]
    spent = summary["full_gradients_per_step"] * summary["steps"] * span
    assert found.cost == found.largest_cost
    first_gradient, same_point, cut_line = 1, 1, 2  # at the start of the run, of the second line, at its end
    assert abs(found.cost.full_gradients * steps - spent) <= first_gradient + same_point + cut_line


def test_without_the_number_of_steps_the_least_and_the_most_lines_are_compared():
    tracker, _ = tracked(span=10)
    found = tracker.estimate().rows[0]
    line, start = lca.PathIntegral().cost.full_gradients, 1
    assert equal(found.cost.full_gradients, line / 10 + (10 * line + start) / 10 / LONGEST)
    assert equal(found.largest_cost.full_gradients, line / 10 + line + start / 10)


def test_the_most_that_adaptive_may_take_stands_beside_the_least():
    run = Run(lca.Adaptive(max_gradients=9), steps=100)
    found = forecast({"train": Quadratic(np.eye(2))}, np.ones(2), run)
    assert found.rows[0].largest_cost == Cost(full_gradients=10)
    assert " 10.00 " in str(found).splitlines()[2]


def test_the_compared_lines_at_the_beginning_are_not_taken_for_the_usual_ones(monkeypatch):
    """The clock counts gradients here: 2 of a line of 4 updates, and about 3 an update on a compared line."""
    theta, loss = np.ones(2), Slow(np.eye(2))
    monkeypatch.setattr("lca.tracking._clock.perf_counter", lambda: float(loss.calls))
    with FunctionalTracker(theta, loss, lca.PathIntegral(), span=4, check_every=None) as tracker:
        for _ in range(3 * 4 + 2):  # of these lines only the third is not compared with its updates
            theta = theta * 0.9
            tracker.update(theta)
        found = tracker.estimate(64_000, step_seconds=1.0).rows[0]
    assert 0.5 < found.seconds < 0.6


N, SETTLED, WINDOW = 600, 10, 40
NAMED = {name: row.make(1e-3) for name, row in REGISTRY.items()}
SETTINGS = {
    "stratified, refreshed": SampledPathIntegral(size=64, sampling="stratified", refresh=20),
    "refined": SampledPathIntegral(size=64, refine=0.03),
    "Simpson's rule": SampledPathIntegral(lca.SIMPSON, size=64, micro_batches=4),
    "anchored, uniform": ControlVariate(SampledPathIntegral(size=32), every=20),
    "anchored at every step": ControlVariate(SampledPathIntegral(size=32), every=1),
    "budget of 64": AdaptiveSampleSize(SampledPathIntegral(micro_batches=4), examples=64),
    "cross-fit, four": CrossFit(4),
}
AUDITS = {"adaptive": Cost(full_gradients=1), "refined": Cost(examples=32)}
"""What an audit of a rule costs, of estimators that make some, which a longer run has less often."""
MOST_AUDITS = 4


def spent(estimator, every):
    """The mean cost of an update, after the first measured steps, and that which was forecast."""
    model, rng = logistic_regression(3, 2), np.random.default_rng(0)
    loss = DatasetLoss(model, rng.normal(size=(N, 3)), rng.integers(0, 2, N))
    theta, costs = model.init(seed=0), []
    zero, move = np.zeros_like(theta), 1e-3 * rng.normal(size=theta.shape)
    fields = {
        "batch": Batch(loss.x[:9], loss.y[:9]),
        "gradient": zero,
        "micro_batches": [MicroBatch(zero, zero)] * getattr(estimator, "micro_batches", 2),
        "update_slope": -1.0,
        "scores": ExampleScores(np.arange(9), np.ones(9)),
    }

    class Costs:
        def __init__(self, layout):
            pass

        def update(self, allocation):
            costs.append(allocation.cost)

    options = {"every": every, "views": Costs, "check_every": None, "on_error": "raise"}
    tracker = FunctionalTracker(theta, loss, estimator, **options)
    told = tracker.estimate(10_000).rows[0]
    with tracker:
        for _ in range((SETTLED + WINDOW + 1) * every):
            theta = theta + move
            tracker.update(theta, **fields)
    window = costs[SETTLED : SETTLED + WINDOW]
    assert len(window) == WINDOW
    mean = {name: np.mean([getattr(c, name) for c in window]) / every for name in vars(Cost())}
    return mean, told


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("name", [*NAMED, *SETTINGS])
def test_what_is_forecast_is_what_is_spent_whether_or_not_steps_are_apart(name, every, monkeypatch):
    monkeypatch.setattr(_forecast, "ALTERNATIVES", ())
    estimator = (NAMED | SETTINGS)[name]
    mean, told = spent(estimator, every)
    for field, most in mean.items():
        audits = getattr(AUDITS.get(name, Cost()), field) * MOST_AUDITS / WINDOW / every
        least, found = most - audits, getattr(told.cost, field)
        assert least <= found <= most or equal(found, most), (field, told.cost, mean)
    assert all(getattr(told.largest_cost, field) >= 0 for field in mean)


@pytest.mark.parametrize("name", [*NAMED, *SETTINGS])
def test_the_work_on_vectors_of_every_estimator_is_timed(name):
    found = own_work((NAMED | SETTINGS)[name], lca.Layout(("w",), ((8,),)), np.ones(8), N)
    assert found is not None
    assert found.seconds > 0


def test_what_a_first_step_sets_up_is_not_taken_for_the_work_of_a_step():
    class Sorting(Counting):
        set_up = False

        def __call__(self, step):
            time.sleep(0 if self.set_up else 0.15)
            self.set_up = True
            return super().__call__(step)

    assert own_work(Sorting(), lca.Layout(("w",), ((8,),)), np.ones(8), None).seconds < 0.15


def test_an_estimator_that_refuses_other_steps_costs_no_more_at_their_start():
    class Shaped(Counting):
        def __call__(self, step):
            return super().__call__(step).values[7]

    assert start_costs(Shaped(), lca.Layout(("w",), ((8,),)), None).usual == Cost()


def test_the_least_of_an_adapted_size_is_that_of_its_smallest_samples_where_steps_are_apart():
    estimator = AdaptiveSampleSize(
        SampledPathIntegral(size=16, micro_batches=2), relative_error=0.05, groups="layer"
    )
    for examples in (N, 10**7):
        found = start_costs(estimator, lca.Layout(("a.w", "b.w"), ((8,), (3,))), examples)
        assert found.usual == Cost(examples=16)
        assert found.largest == Cost(examples=examples)


def test_an_anchor_is_no_part_of_what_a_step_costs_more_at_its_start():
    found = start_costs(
        ControlVariate(SampledPathIntegral(size=32), every=20), lca.Layout(("w",), ((8,),)), N
    )
    assert found.usual == found.largest == Cost(examples=64)
