"""Error bars against a slow twin; intervals that cover."""

from dataclasses import replace

import numpy as np
import pytest

from lca import Layout, LCAError, StepAllocation
from lca.tolerances import EPS64, summed
from lca.views import ErrorBars

LAYOUT = Layout(("a.weight", "b.weight"), ((3,), (2,)))
GROUPS = LAYOUT.groups("layer")


def allocations(rng, steps=12, m=3, scale=1.0, exact=None):
    """A trapezoid of nodes whose replicates are normal around their mean: values, and replicates by node.

    The replicates of every ``exact``-th node differ by rounding only.
    """
    nodes = rng.normal(size=(steps + 1, m, 5)) * scale
    if exact:
        nodes[::exact] *= EPS64
    moves = rng.normal(size=(steps, 5)) + 1
    for t in range(steps):
        shares = {t + k: [nodes[t + k, j] * moves[t] / 2 for j in range(m)] for k in (0, 1)}
        values = sum(np.mean(r, axis=0) for r in shares.values())
        yield StepAllocation(values, 0.0, 0.0, 0.0, 0.0, t, replicates=shares)


def fed(rows):
    bars = ErrorBars(GROUPS)
    for row in rows:
        bars.update(row)
    return bars


def slow_variance(rows, group):
    """Node by node, replicate by replicate, in plain Python."""
    members = [i for i in range(5) if GROUPS.index[i] == group]
    nodes = {}
    for row in rows:
        for key, replicates in row.replicates.items():
            for j, r in enumerate(replicates):
                nodes.setdefault(key, {}).setdefault(j, []).append(sum(r[i] for i in members))
    variance = 0.0
    for copies in nodes.values():
        sums = [sum(parts) for parts in copies.values()]
        mean = sum(sums) / len(sums)
        variance += sum((s - mean) ** 2 for s in sums) / (len(sums) * (len(sums) - 1))
    return variance


@pytest.mark.parametrize("window", [(0, 12), (0, 1), (3, 7), (11, 12)])
def test_windows_add_up_by_node(window):
    rows = list(allocations(np.random.default_rng(0)))
    bars = fed(rows)
    for group in range(2):
        expected = slow_variance(rows[slice(*window)], group)
        assert abs(bars.stderr(*window)[group] ** 2 - expected) <= summed(64 * expected, EPS64)
        total = sum(GROUPS.total(row.values)[group] for row in rows[slice(*window)])
        assert abs(bars.totals(*window)[group] - total) <= summed(64.0, EPS64)
    assert len(bars) == 12
    np.testing.assert_array_equal(bars.per_step()[3], bars.stderr(3, 4))


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20, 2.0**-480])
def test_intervals_scale_with_the_loss(factor):
    rows = list(allocations(np.random.default_rng(0)))
    others = [
        replace(
            a,
            values=factor * a.values,
            replicates={time: factor * np.array(found) for time, found in a.replicates.items()},
        )
        for a in rows
    ]
    for window in ((0, 12), (0, 1), (3, 7)):
        ends, scaled = (fed(found).interval(0.95, *window) for found in (rows, others))
        np.testing.assert_array_equal(scaled, factor * np.array(ends))


@pytest.mark.parametrize(("m", "window"), [(2, (0, 12)), (2, (4, 5)), (5, (0, 12)), (5, (4, 5)), (2, (0, 3))])
def test_intervals_cover_what_they_say(m, window):
    rng, inside = np.random.default_rng(m), []
    for _ in range(400):
        low, high = fed(allocations(rng, m=m)).interval(0.95, *window)
        inside.append((low <= 0) & (high >= 0))  # the true sums are 0
    assert 0.92 <= np.mean(inside) <= 0.985  # 800 intervals: ±0.8 % of counting, and Satterthwaite is no law


def simpson_allocations(rng, m, steps=20):
    """As `allocations`, with a node in the middle of each step that has four times the weight."""
    ends, middles = (rng.normal(size=(n, m, 5)) for n in (steps + 1, steps))
    for t in range(steps):
        pieces = {t: (1 / 6, ends[t]), t + 0.5: (4 / 6, middles[t]), t + 1: (1 / 6, ends[t + 1])}
        shares = {key: [weight * r for r in rows] for key, (weight, rows) in pieces.items()}
        values = sum(np.mean(r, axis=0) for r in shares.values())
        yield StepAllocation(values, 0.0, 0.0, 0.0, 0.0, t, replicates=shares)


@pytest.mark.parametrize(
    ("m", "window"), [(2, (9, 10)), (4, (9, 10)), (2, (0, 1)), (2, (5, 9)), (2, (0, 20))]
)
def test_intervals_cover_where_one_node_has_most_of_the_weight(m, window):
    """300 runs of two groups: ±0.9 % of counting. The nodes of the window alone give 86 % for one step."""
    rng, inside = np.random.default_rng(m), []
    for _ in range(300):
        low, high = fed(simpson_allocations(rng, m)).interval(0.95, *window)
        inside.append((low <= 0) & (high >= 0))
    assert 0.925 <= np.mean(inside) <= 0.99


def test_steps_by_another_rule_do_not_count():
    rng = np.random.default_rng(0)
    mixed = [*simpson_allocations(rng, 2, 6), *(allocations(rng, 8, 2))]
    rows = [replace(row, step=t) for t, row in enumerate(mixed)]
    bars = fed(rows)
    half = (bars.interval(0.95, 9, 10)[1] - bars.totals(9, 10)) / bars.stderr(9, 10)
    alone = fed(rows[6:])
    wanted = (alone.interval(0.95, 3, 4)[1] - alone.totals(3, 4)) / alone.stderr(3, 4)
    assert np.abs(half - wanted).max() <= summed(16.0, EPS64)


def test_intervals_cover_beside_exact_nodes():
    """Every eighth node is an anchor, exact up to rounding; if it counts, 86 % of the intervals cover."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(150):
        rows = list(allocations(rng, 17, 2, exact=8))
        bars = fed(rows)
        for window in ((7, 8), (8, 9)):
            low, high = bars.interval(0.95, *window)
            inside.append((low <= 0) & (high >= 0))
    assert 0.93 <= np.mean(inside) <= 0.985


def test_a_wider_level_is_a_wider_interval_and_no_spread_is_no_width():
    bars = fed(allocations(np.random.default_rng(1)))
    narrow, wide = bars.interval(0.5), bars.interval(0.99)
    assert (wide[0] < narrow[0]).all()
    assert (wide[1] > narrow[1]).all()
    still = fed(allocations(np.random.default_rng(1), scale=0.0))
    low, high = still.interval()
    np.testing.assert_array_equal(low, high)
    with pytest.raises(LCAError, match=r"level must lie between 0 and 1, got 95; e.g. 0.95"):
        bars.interval(95)


def test_without_replicates_there_is_a_reason():
    row = StepAllocation(np.zeros(5), 0.0, 0.0, 0.0, 0.0, 4)
    with pytest.raises(LCAError, match="step 4: the estimator gives no replicates"):
        ErrorBars(GROUPS).update(row)


@pytest.mark.parametrize("window", [(10, 5), (3, 3), (0, 13), (-2, None), (12, None)])
def test_windows_outside_the_run_are_refused(window):
    bars = fed(allocations(np.random.default_rng(0)))
    for read in (bars.stderr, bars.totals, lambda *w: bars.interval(0.95, *w)):
        with pytest.raises(LCAError, match=r"0 ≤ start < stop ≤ 12, .*; got start=-?\d+, stop=\d+"):
            read(*window)


def test_what_is_no_groups_is_refused():
    with pytest.raises(LCAError, match="needs groups, got a Layout; .*for a tracker views=lambda layout"):
        ErrorBars(LAYOUT)
