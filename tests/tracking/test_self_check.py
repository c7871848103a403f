"""The self-check of sampled estimators: what it measures, its interval, its cost, and when it warns."""

import json
import warnings
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

import lca
from lca._verdict import LARGE_MISS
from lca.allocation import Cost
from lca.analysis import checked_windows
from lca.errors import LCAError, LCAWarning, NonFiniteError
from lca.estimators import SampledPathIntegral
from lca.reference import DatasetLoss, L2Penalty, Quadratic, logistic_regression
from lca.report._overview import summary as overview
from lca.report._sections import balance
from lca.runs._balance import check_conservation
from lca.runs._run import Run
from lca.tolerances import EPS64, summed
from lca.tracking import FunctionalTracker, Session
from lca.tracking._self_check import as_json
from tests.laws.runs import Kept

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(300, 3)), RNG.integers(3, size=300)
LOSS = DatasetLoss(logistic_regression(3, 3), X, Y)
BOWL = Quadratic(np.diag([1.0, 2.0, 3.0]))
EXACT = lca.PathIntegral(lca.SIMPSON)


@dataclass
class Factor:
    """Exact allocations times a factor, declared as sampled; ``spread``: of two replicates at each node."""

    factor: float = 1.0
    spread: float | None = None
    target, degree, cost, unbiased, bias, required_fields = "probe", 1, Cost(), True, "", ()

    def start(self, objective):
        exact = EXACT.start(objective)

        def allocate(step):
            found = exact(step)
            values, nan = self.factor * found.values, np.nan
            nodes = (
                {}
                if self.spread is None
                else {float(step.index): [values + self.spread, values - self.spread]}
            )
            changes = {"loss_start": nan, "loss_end": nan, "residual": nan, "sampled": True}
            terms = {name: replace(term, **changes) for name, term in found.terms.items()}
            return replace(found, values=values, replicates=nodes, terms=terms, **changes)

        return allocate

    def reseeded(self, seed):
        return self


def path(loss, steps, *, lr=0.1):
    points = [np.full(loss.layout.size, 0.5)]
    for _ in range(steps):
        points.append(points[-1] - lr * loss.loss_and_grad(points[-1])[1])
    return points


def tracked(estimator, loss=BOWL, *, steps=40, points=None, **options):
    points = path(loss, steps) if points is None else points
    with FunctionalTracker(points[0], loss, estimator, **{"on_error": "raise", **options}) as tracker:
        for point in points[1:]:
            tracker.update(point)
    return tracker


class Counting(Quadratic):
    losses = 0

    def loss(self, theta, batch=None):
        self.losses += 1
        return super().loss(theta)


@pytest.mark.parametrize(
    ("check_every", "ends"),
    [("doubling", [16, 32, 64, 100]), (25, [25, 50, 75, 100]), (60, [60, 100]), (1000, [100]), (None, [])],
)
def test_one_forward_pass_for_each_end_of_a_window(check_every, ends):
    loss = Counting(np.diag([1.0, 2.0, 3.0]))
    points = path(BOWL, 100)
    found = tracked(Factor(), loss, points=points, check_every=check_every).summary()["train"]
    assert [window["last_step"] + 1 for window in found["checked_windows"]] == ends
    assert loss.losses == (len(ends) + 1 if ends else 0)


def test_steps_that_are_measured_apart_are_checked_four_at_a_time():
    loss = Counting(np.diag([1.0, 2.0, 3.0]))
    found = tracked(Factor(), loss, points=path(BOWL, 80), every=2).summary()["train"]["checked_windows"]
    assert [window["first_step"] for window in found] == [
        2 * n for n in (*range(4), *range(16, 20), *range(32, 36))
    ]
    assert all(window["first_step"] == window["last_step"] for window in found)
    assert loss.losses == 2 * len(found)


def test_short_windows_are_checked_four_at_a_time():
    found = tracked(Factor(), points=path(BOWL, 80), every=lambda t: t % 10 < 2).checked_windows["train"]
    assert [(w.first_step, w.last_step) for w in found] == [(10 * n, 10 * n + 1) for n in range(4)]


def test_a_wrong_factor_is_told_where_steps_are_measured_apart():
    with pytest.warns(LCAWarning, match="the measured loss changed by"):
        tracked(Factor(2.0), points=path(BOWL, 140, lr=0.01), every=2)
    with pytest.warns(LCAWarning, match="the measured loss changed by"):
        tracked(Factor(2.0), points=path(BOWL, 150, lr=0.01), every=lambda t: t % 10 < 2)


def test_a_check_at_every_step_is_kept_in_a_fixed_amount_of_memory(monkeypatch):
    points = path(BOWL, 100)
    expected = tracked(Factor(), points=points, check_every=1).checked_windows["train"]
    monkeypatch.setattr("lca.views._rows.HELD_BYTES", 640)
    tracker = tracked(Factor(), points=points, check_every=1)
    assert [(w.first_step, w.last_step, w.change, w.total) for w in tracker.checked_windows["train"]] == [
        (t, t, w.change, w.total) for t, w in enumerate(expected)
    ]
    assert tracker.summary()["train"]["checked_steps"] == 100
    assert tracker._session._check._accounts["train"].rows._held.nbytes <= 2 * 640


@pytest.mark.parametrize("kind", ["sample", "two samples", "four samples"])
def test_the_margin_is_that_of_the_nodes_of_the_window(kind):
    m = {"sample": 1, "two samples": 2, "four samples": 4}[kind]
    points = path(LOSS, 12)
    estimator = SampledPathIntegral(size=40, micro_batches=m)
    [first, second] = tracked(estimator, LOSS, points=points, check_every=7).summary()["train"][
        "checked_windows"
    ]
    rows = tracked(estimator, LOSS, points=points, check_every=None, views=Kept).views["train"].rows
    for window, of in ((first, rows[:7]), (second, rows[7:])):
        nodes = defaultdict(lambda: np.zeros(m))
        for row in of:
            for time, copies in row.replicates.items():
                nodes[time] = nodes[time] + [copy.sum() for copy in copies]
        if m == 1:
            assert window["margin"] is None
            continue
        variances = np.array([sums.var(ddof=1) / m for sums in nodes.values()])
        freedom = variances.sum() ** 2 / (variances**2 / (m + 1)).sum() - 2
        freedom = np.clip(freedom, m - 1, (m - 1) * len(variances))
        margin = stats.t.ppf(0.975, freedom) * np.sqrt(variances.sum())
        assert len(variances) == len(of) + 1
        assert abs(window["margin"] / margin - 1) <= summed(64.0, EPS64)


@dataclass
class Noisy(Factor):
    """As `Factor`, with errors of three random nodes to a step, the largest in its middle."""

    seed: int = 0

    def start(self, objective):
        allocate, first = super().start(objective), np.eye(objective.layout.size)[0]

        def noisily(step):
            found, t = allocate(step), step.index
            nodes = {}
            for time, weight in ((t, 1 / 6), (t + 0.5, 4 / 6), (t + 1, 1 / 6)):
                errors = np.random.default_rng((self.seed, int(2 * time))).normal(size=2)
                nodes[float(time)] = [1e-2 * weight * error * first for error in errors]
            values = found.values + sum(np.mean(own, axis=0) for own in nodes.values())
            return replace(found, values=values, replicates=nodes)

        return noisily


def test_intervals_of_single_steps_cover_what_they_say():
    """1600 windows: ±0.6 % of counting. Each window alone gives 91 %."""
    points, inside = path(BOWL, 40), []
    for seed in range(40):
        for window in tracked(Noisy(seed=seed), points=points, check_every=1).checked_windows["train"]:
            inside.append(abs(window.miss) <= window.margin)
    assert 0.935 <= np.mean(inside) <= 0.985


def test_a_part_of_the_data_gives_a_change_whose_interval_covers_that_of_all_data():
    """Coverage of 95 % intervals over 300 random parts: [0.92, 0.975] is three standard errors."""
    weights = RNG.uniform(0.5, 1.5, 300)
    points = [np.zeros(LOSS.layout.size), RNG.normal(size=LOSS.layout.size)]
    inside = 0
    for _ in range(300):
        order = RNG.permutation(300)
        loss = DatasetLoss(logistic_regression(3, 3), X[order], Y[order], weight=weights[order])
        tracker = tracked(Factor(spread=0.0), loss, points=points, check_examples=120)
        [window] = tracker.summary()["train"]["checked_windows"]
        inside += abs(window["change"] - (loss.loss(points[1]) - loss.loss(points[0]))) <= window["margin"]
    assert 0.92 <= inside / 300 <= 0.975


@pytest.mark.parametrize("examples", [2, 50])
@pytest.mark.parametrize("spread", [None, 1e-4], ids=["no error bars", "error bars"])
def test_a_right_sum_beside_the_change_of_a_small_part_is_no_warning(examples, spread):
    """Of 40 parts 33 to 39 were warned of where their noise did not count, and 2 where it was pooled."""
    warned = 0
    for seed in range(40):
        order = np.random.default_rng(seed).permutation(300)
        loss = DatasetLoss(logistic_regression(3, 3), X[order], Y[order])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tracked(Factor(spread=spread), loss, steps=16, check_examples=examples)
        warned += len(caught)
    assert warned == 0


def test_a_part_is_weighed_as_all_data_are():
    x, y, weight = X[:8], Y[:8], 2.0 ** np.arange(8)
    loss = DatasetLoss(logistic_regression(3, 3), x, y, weight=weight)
    points = [np.zeros(loss.layout.size), RNG.normal(size=loss.layout.size)]
    found = tracked(Factor(), loss, points=points, check_examples=3).checked_windows["train"][0].change
    single = [DatasetLoss(logistic_regression(3, 3), x[[n]], y[[n]]) for n in range(8)]
    changes = np.array([own.loss(points[1]) - own.loss(points[0]) for own in single])
    of_parts = [
        weight[list(rows)] @ changes[list(rows)] / weight[list(rows)].sum()
        for rows in combinations(range(8), 3)
    ]
    assert np.abs(np.array(of_parts) - found).min() <= summed(np.abs(changes).max() + 2.0, EPS64)


def test_a_window_whose_end_is_lost_counts_for_nothing():
    """Without a tracker, nothing says where the steps before a gap ended."""
    points, spread = path(BOWL, 9), 1e-3
    session = Session(BOWL, Factor(spread=spread), check_every=2)
    for t in (0, 1, 2, 5, 6, 7, 8):
        session.measure(lca.Step(points[t], points[t + 1], index=t))
    summary = session.summary()["train"]
    steps = [(window["first_step"], window["last_step"]) for window in summary["checked_windows"]]
    assert steps == [(0, 1), (6, 7)]
    variance = 9 * spread**2  # of a step, from two sums that differ by 6 · spread
    margin = stats.t.ppf(0.975, 4) * np.sqrt(4 * variance)  # one degree of freedom for each node
    assert abs(summary["checked_margin"] / margin - 1) <= summed(1e4, EPS64)


@pytest.mark.parametrize("examples", [300, 50, 20])
def test_a_part_as_large_as_the_data_with_a_weight_is_all_data(examples):
    """The others are masked; a group of masked examples alone has no loss."""
    weight = np.where(np.arange(300) < max(examples, 50), 1.0, 0.0)
    loss, points = DatasetLoss(logistic_regression(3, 3), X, Y, weight=weight), path(LOSS, 3)
    summary = tracked(Factor(spread=0.0), loss, points=points, check_examples=examples).summary()["train"]
    [window], part = summary["checked_windows"], summary["checked_examples"]
    assert part == (examples if examples < 50 else None)
    change = loss.loss(points[-1]) - loss.loss(points[0])
    assert abs(window["change"] - change) <= window["margin"]
    assert (window["margin"] == 0.0) == (examples >= 50)


def test_the_record_and_its_page_say_on_how_many_examples_was_checked(tmp_path):
    record = lca.Record(tmp_path / "run")
    tracked(Factor(spread=1e-3), LOSS, points=path(LOSS, 3), check_examples=20, record=record)
    run = lca.open_record(tmp_path / "run")
    assert [window.examples for window in checked_windows(run)[0]] == [20]
    assert " on 20 examples, a difference of" in check_conservation(Run(run), "train").verdict()[1]
    assert ("measured on", "20 examples") in balance(Run(run)).tables[0].rows


def test_a_part_needs_a_mean_over_examples():
    with pytest.raises(LCAError, match="check_examples=5 needs an objective that is a mean over examples"):
        FunctionalTracker(np.zeros(3), BOWL, Factor(), check_examples=5)
    FunctionalTracker(np.zeros(3), BOWL, EXACT, check_examples=5)  # measures its losses anyway


WRONG = {
    "half": (Factor(0.5), 15),
    "an eighth less": (Factor(0.88), 31),
    "a little less, after the noise": (Factor(0.92), 63),
    "outside its interval": (Factor(0.95, spread=1e-4), 15),
}


@pytest.mark.parametrize(("estimator", "step"), WRONG.values(), ids=WRONG)
def test_a_sum_that_is_far_off_is_a_warning_once(estimator, step):
    loss = {"train": BOWL}
    with pytest.warns(LCAWarning, match="allocations of the loss 'train' sum to") as caught:
        tracker = tracked(estimator, loss, points=path(BOWL, 70, lr=0.01))
    [warning] = caught
    summary = tracker.summary()["train"]
    assert f"over {step + 1} steps up to step {step}, but" in str(warning.message)
    bars = "95 % interval of the sum ±" if estimator.spread else "(no error bars)"
    assert bars in str(warning.message)
    total = tracker.views["train"].trace.rows["total"].sum()
    assert summary["lca_total"] == total  # not corrected
    windows = tracker.checked_windows["train"]
    assert [window.total for window in windows] == [w["total"] for w in summary["checked_windows"]]
    assert abs(summary["checked_total"] / summary["checked_change"] - estimator.factor) <= summed(64.0, EPS64)


@dataclass
class Changing(Factor):
    """``factor`` up to step 31, and then another one."""

    late: float = 1.0

    def start(self, objective):
        early, late = Factor(self.factor).start(objective), Factor(self.late).start(objective)
        return lambda step: (early if step.index < 32 else late)(step)


@pytest.mark.parametrize(
    ("late", "last_steps"),
    [
        pytest.param(0.8, [15], id="as before"),
        pytest.param(0.7, [15, 69], id="more, said at the end of the run"),
        pytest.param(0.0, [15, 63, 69], id="twice as much, said at the next check, too"),
    ],
)
def test_a_sum_that_is_farther_off_than_the_last_warning_said_is_another_warning(late, last_steps):
    with pytest.warns(LCAWarning, match="allocations of the loss 'train' sum to") as caught:
        tracked(Changing(0.8, late=late), {"train": BOWL}, points=path(BOWL, 70, lr=0.005))
    for step, warning in zip(last_steps, caught, strict=True):
        assert f"up to step {step}, but" in str(warning.message)


JUDGED = {
    "too few steps": (Factor(0.5), 15, {}, False),
    "enough steps": (Factor(0.5), 16, {}, True),
    "outside 95 % only": (Factor(0.8, spread=1.2e-5), 16, {}, False),
    "far outside 95 % only": (Factor(0.65, spread=2e-5), 16, {}, True),
    "outside 99.9 %": (Factor(0.8, spread=1e-6), 16, {}, True),
    "a part that explains it": (Factor(0.8), 16, {"check_examples": 10}, False),
}


@pytest.mark.parametrize(("estimator", "steps", "options", "wrong"), JUDGED.values(), ids=JUDGED)
def test_a_record_is_judged_as_its_tracker_judges(tmp_path, estimator, steps, options, wrong):
    points = path(LOSS, steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tracked(estimator, LOSS, points=points, record=tmp_path / "run", **options)
    assert bool(caught) == wrong
    check = check_conservation(Run(lca.open_record(tmp_path / "run")), "train")
    assert bool(check.failure) == wrong
    assert abs(check.checked_allocated / check.checked_change - 1) > LARGE_MISS


def test_a_large_miss_outside_95_percent_only_is_a_warning_when_the_run_ends():
    """Error bars silenced the check where the rule was off by a third; many checks would find chance."""
    with pytest.warns(LCAWarning, match="allocations of the loss 'train' sum to") as caught:
        tracked(Factor(0.65, spread=2e-5), LOSS, points=path(LOSS, 40))
    [warning] = caught
    assert "up to step 39, but" in str(warning.message)


@pytest.mark.parametrize(
    "estimator",
    [Factor(), Factor(0.97), Factor(0.95, spread=0.05), Factor(0.995, spread=1e-6), Factor(spread=0.0)],
)
def test_a_sum_that_is_near_or_inside_its_interval_is_no_warning(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracked(estimator, points=path(BOWL, 70, lr=0.01))


def test_the_margin_scales_with_the_loss():
    margins = [
        tracked(Factor(spread=0.01 * scale), lca.Scaled(BOWL, scale), points=path(BOWL, 5)).summary()[
            "train"
        ]["checked_margin"]
        for scale in (1.0, 2.0**-480)
    ]
    assert abs(margins[1] / 2.0**-480 - margins[0]) <= summed(64 * margins[0], EPS64)
    assert margins[0] > 0


def test_few_steps_without_error_bars_are_not_judged():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = tracked(Factor(0.5), steps=15).summary()["train"]
    assert abs(summary["checked_total"] / summary["checked_change"] - 0.5) <= summed(64.0, EPS64)


def test_terms_are_checked_beside_their_sum():
    terms = {"data": BOWL, "penalty": L2Penalty(BOWL.layout, 0.5)}
    points = path(BOWL, 5)
    found = tracked(Factor(), lca.Sum(terms), points=points).summary()
    for name, loss in terms.items():
        change = loss.loss(points[-1]) - loss.loss(points[0])
        assert abs(found[f"train/{name}"]["checked_change"] - change) <= summed(
            2 * loss.loss(points[0]), EPS64
        )
        assert abs(found[f"train/{name}"]["checked_total"] - change) <= summed(
            8 * loss.loss(points[0]), EPS64
        )


def test_losses_may_have_any_name():
    points = path(BOWL, 5)
    losses = {"a/b": BOWL, "a": lca.Scaled(BOWL, 2.0)}
    found = tracked(Factor(), losses, points=points).summary()
    change = BOWL.loss(points[-1]) - BOWL.loss(points[0])
    assert (found["a/b"]["checked_change"], found["a"]["checked_change"]) == (change, 2 * change)


def test_a_tracker_that_is_entered_again_is_checked_again():
    points = path(BOWL, 8)
    tracker = FunctionalTracker(points[0], BOWL, Factor(), on_error="raise")
    for part in (points[1:4], points[4:]):
        with tracker:
            for point in part:
                tracker.update(point)
    windows = tracker.summary()["train"]["checked_windows"]
    assert [(window["first_step"], window["last_step"]) for window in windows] == [(0, 2), (3, 7)]


class Stated(Quadratic):
    """``scale · L``, where the scale is a state."""

    scale = 1.0

    def state(self):
        return {"scale": np.array([self.scale])}

    def at_state(self, state):
        return lca.Scaled(BOWL, float(state["scale"][0]))


def test_a_step_in_which_the_state_moves_is_checked_in_its_first_state():
    loss, points = Stated(np.diag([1.0, 2.0, 3.0])), path(BOWL, 3)
    states = [{"scale": np.array([1.0 + t])} for t in range(4)]
    session = Session(loss, Factor(), on_error="raise", check_every=1)
    for t in range(3):
        session.measure(lca.Step(points[t], points[t + 1], t, state=(states[t], states[t + 1])))
    windows = session.checked_windows["train"]
    expected = [(1.0 + t) * BOWL.loss(points[t + 1]) - (1.0 + t) * BOWL.loss(points[t]) for t in range(3)]
    assert [(w.first_step, w.last_step, w.change) for w in windows] == [(t, t, expected[t]) for t in range(3)]


@pytest.mark.parametrize("check_every", [1, 2, 3])
def test_a_state_that_moves_where_a_window_ends_is_in_no_checked_change(check_every):
    """The next window is measured from its start in the new state, not in the one that the last ended in."""
    loss, points = Stated(np.diag([1.0, 2.0, 3.0])), path(BOWL, 8)
    with FunctionalTracker(points[0], loss, Factor(), on_error="raise", check_every=check_every) as tracker:
        for t, point in enumerate(points[1:]):
            loss.scale = 1.0 + 10 * (t // check_every)
            tracker.update(point)
    losses = [BOWL.loss(point) for point in points]
    for window in tracker.summary()["train"]["checked_windows"]:
        first, last = window["first_step"], window["last_step"]
        scale = 1.0 + 10 * (first // check_every)
        assert scale == 1.0 + 10 * (last // check_every)
        expected = scale * (losses[last + 1] - losses[first])
        assert abs(window["change"] - expected) <= summed(2 * scale * losses[0], EPS64)


def test_what_the_state_does_is_in_no_checked_change_and_the_page_says_so(tmp_path):
    loss, points = Stated(np.diag([1.0, 2.0, 3.0])), path(BOWL, 4)
    options = {"on_error": "raise", "check_every": 2, "record": tmp_path / "run"}
    with FunctionalTracker(points[0], loss, Factor(), **options) as tracker:
        for t, point in enumerate(points[1:]):
            loss.scale = 1.0 + t
            tracker.update(point)
    summary = tracker.summary()["train"]
    losses = [BOWL.loss(point) for point in points]
    windows = [(w["first_step"], w["last_step"], w["change"]) for w in summary["checked_windows"]]
    assert windows == [(0, 0, losses[1] - losses[0]), (2, 2, 3 * losses[3] - 3 * losses[2])]
    assert np.isnan(summary["state_change"])  # Factor declares that it measures no loss
    limit = summed(8 * losses[0], EPS64)
    assert abs(summary["checked_total"] - summary["checked_change"]) <= limit  # of an exact allocation
    run = Run(lca.open_record(tmp_path / "run"))
    assert run.state_moved_steps == summary["state_moved_steps"] == 3
    assert "In 3 of 4 steps the state moved" in " ".join(text for _, text in overview(run).verdicts)


def test_a_state_that_has_moved_is_named_among_the_causes():
    loss, points = Stated(np.diag([1.0, 2.0, 3.0])), path(BOWL, 20)
    tracker = FunctionalTracker(points[0], loss, Factor(2.0, spread=0.0), on_error="raise", check_every=1)

    def run():
        with tracker:
            for t, point in enumerate(points[1:]):
                loss.scale = 2.0 - t % 2
                tracker.update(point)

    with pytest.warns(LCAWarning, match="(?s)not corrected.*no longer be a mean over examples: a new"):
        run()


def test_a_loss_that_is_not_finite_ends_the_measuring():
    class Overflowing(Quadratic):
        def loss(self, theta, batch=None):
            return np.inf if theta[0] < 0.4 else super().loss(theta)

    loss = Overflowing(np.diag([1.0, 2.0, 3.0]))
    with pytest.raises(NonFiniteError, match="the loss 'train' is inf where it was measured to check"):
        tracked(Factor(), loss, points=path(BOWL, 5), check_every=3)


def test_a_summary_with_a_check_fits_in_json_and_the_record_ends_with_it(tmp_path):
    tracker = tracked(Factor(), record=lca.Record(tmp_path / "run", block=4))
    found, _ = checked_windows(lca.open_record(tmp_path / "run"))
    assert list(map(as_json, found)) == list(map(as_json, tracker.checked_windows["train"]))
    keys = {key: value for key, value in tracker.summary()["train"].items() if key.startswith("checked")}
    assert json.loads(json.dumps(keys, allow_nan=False)) == keys
    final = lca.open_record(tmp_path / "run").attrs["final_checks"]
    assert final == {"train": {"margin": None, "noise": 0.0, "windows": keys["checked_windows"][-1:]}}


def test_a_run_that_failed_keeps_the_checks_it_had():
    points = [*path(BOWL, 20), np.full(3, np.nan)]
    with pytest.warns(LCAWarning, match="measuring stopped at step 20"):
        tracker = tracked(Factor(), points=points, on_error="warn")
    assert tracker.summary()["train"]["checked_steps"] == 16


CONTINUED = DatasetLoss(logistic_regression(2, 2), RNG.normal(size=(40, 2)), RNG.integers(2, size=40))


def record_part(folder, points, *, close=True, resume_at=None):
    """Continue a record along ``points``, with a check after every other step; returns the tracker."""
    record = lca.Record(folder / "run", mode="a", resume_at=resume_at)
    estimator = SampledPathIntegral(size=8, micro_batches=2)
    tracker = FunctionalTracker(points[0], CONTINUED, estimator, record=record, check_every=2).__enter__()
    for point in points[1:]:
        tracker.update(point)
    if close:
        tracker.__exit__(None, None, None)
    else:  # as a process that is killed leaves it
        record.flush()
        record._lock.release()
    return tracker


@pytest.mark.parametrize(
    ("killed", "stop", "expected"),
    [
        (False, 4, [(0, 1), (2, 3), (4, 5), (6, 6)]),
        (True, 4, [(0, 1), (2, 3), (4, 5), (6, 6)]),
        (False, 3, [(0, 1), (2, 2), (3, 4), (5, 6)]),
    ],
)
def test_the_windows_of_both_parts_of_a_continued_record_are_kept(tmp_path, killed, stop, expected):
    points = path(CONTINUED, 7)
    record_part(tmp_path, points[: stop + 1], close=not killed)
    first = checked_windows(lca.open_record(tmp_path / "run"))[1]
    later = record_part(tmp_path, points[stop:]).summary()["train"]["checked_margin"]
    windows, margin = checked_windows(lca.open_record(tmp_path / "run"))
    assert [(window.first_step, window.last_step) for window in windows] == expected
    assert abs(margin - np.hypot(first, later)) <= summed(4 * margin, EPS64)


def test_dropped_windows_are_in_no_margin(tmp_path):
    points = path(CONTINUED, 7)
    record_part(tmp_path, points)
    own = record_part(tmp_path, points, resume_at=0).summary()["train"]["checked_margin"]
    assert checked_windows(lca.open_record(tmp_path / "run"))[1] == own


class Drawing(DatasetLoss):
    """A loss with noise that is drawn anew at each call, as that of a diffusion model."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.rng = np.random.default_rng(0)

    def loss(self, theta, batch=None):
        return super().loss(theta, batch) + 1e-3 * self.rng.normal()


@pytest.mark.parametrize("sampled", [True, False])
def test_a_random_loss_is_no_check_of_estimators_on_training_batches(sampled):
    class OfBatches(Factor):
        target = "batch"

    drawing = Drawing(logistic_regression(3, 3), X, Y)
    points = path(LOSS, 20)
    loss = drawing if sampled else lca.Scaled(drawing, 1.0)
    with pytest.warns(LCAWarning, match="the loss 'train' was .* it draws random numbers") as caught:
        summary = tracked(OfBatches(), loss, points=points).summary()["train"]
    assert len(caught) == 1
    assert (summary["checked_steps"], summary["checked_windows"]) == (0, [])
    quiet = tracked(OfBatches(), LOSS, points=points).summary()["train"]
    assert quiet["checked_steps"] == 20
