"""Figures: they show the numbers they were given, say the sign, and touch no global state."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lca import plots
from lca.errors import LCAError

LOSS, REBUILT = np.array([2.0, 1.0, 0.5]), np.array([2.0, 1.25, 0.375])
ROWS = np.array([[-1.0, 0.25], [-2.0, 0.5], [0.5, -1.0]])
EDGES, HELPING, HURTING = np.logspace(-3, 1, 5), np.array([0, 3, 2, 0]), np.array([0, 1, 4, 0])
DRAW = {
    "loss": lambda ax=None: plots.plot_loss(LOSS, REBUILT, ax=ax),
    "cumulative": lambda ax=None: plots.plot_cumulative(ROWS, ["fc1", "fc2"], ax=ax),
    "totals": lambda ax=None: plots.plot_totals(["fc1", "fc2"], ROWS[0], ROWS[1], ax=ax),
    "helping": lambda ax=None: plots.plot_helping(np.array([60.0, 55.0]), np.array([10.0, 12.0]), ax=ax),
    "histogram": lambda ax=None: plots.plot_histogram(EDGES, HELPING, HURTING, ax=ax),
}
every_figure = pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)


def line(ax, label):
    [found] = [line for line in ax.lines if line.get_label() == label]
    return found.get_ydata()


@every_figure
def test_without_axes_a_new_figure_is_made_and_renders(draw, tmp_path):
    ax = draw()
    assert isinstance(ax, Axes)
    assert tuple(ax.figure.get_size_inches()) == (6, 4)
    ax.figure.savefig(tmp_path / "figure.png")  # warnings are errors: no missing glyph, no squeezed layout
    assert (tmp_path / "figure.png").stat().st_size > 0


@every_figure
def test_with_axes_these_are_drawn_into(draw):
    _, right = Figure().subplots(1, 2)
    assert draw(right) is right


@pytest.mark.parametrize("name", ["cumulative", "totals"])
def test_axes_of_signed_quantities_say_the_sign_and_the_unit(name):
    ax = DRAW[name]()
    label = f"{ax.get_xlabel()} {ax.get_ylabel()}"
    assert "negative = helped" in label
    assert "units of the loss" in label


def test_loss_shows_both_curves_and_their_difference():
    ax = DRAW["loss"]()
    np.testing.assert_array_equal(line(ax, "measured"), LOSS)
    np.testing.assert_array_equal(line(ax, "rebuilt from LCA"), REBUILT)
    [below] = [other for other in ax.figure.axes if other is not ax]
    np.testing.assert_array_equal(below.lines[-1].get_ydata(), [0.0, -0.25, 0.125])


def test_loss_in_axes_outside_a_grid_says_what_to_do():
    with pytest.raises(LCAError, match="add_subplot"):
        DRAW["loss"](Figure().add_axes((0, 0, 1, 1)))


def test_cumulative_starts_at_zero_and_adds_up():
    np.testing.assert_array_equal(line(DRAW["cumulative"](), "fc1"), [0.0, -1.0, -3.0, -2.5])


def test_many_layers_have_colours_of_their_own():
    names = [f"layer{i}" for i in range(20)]
    ax = plots.plot_cumulative(np.ones((3, 20)), names)
    assert (
        len({tuple(np.atleast_1d(line.get_color())) for line in ax.lines if line.get_label() in names}) == 20
    )


def test_totals_put_the_first_group_on_top_with_one_bar_a_loss():
    ax = DRAW["totals"]()
    assert [bar.get_width() for bar in ax.patches] == [-1.0, 0.25, -2.0, 0.5]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["fc1", "fc2"]
    assert ax.yaxis.get_inverted()
    assert len(plots.plot_totals(["fc1", "fc2"], ROWS[0]).patches) == 2


def test_helping_averages_around_steps_without_a_percentage():
    helping = np.array([40.0, np.nan, 60.0, 80.0, 70.0])
    ax = plots.plot_helping(helping, np.zeros(5), window=3)
    np.testing.assert_array_equal(line(ax, "moving mean, 3 steps"), [40.0, 50.0, 70.0, 70.0, 75.0])
    assert np.isnan(line(ax, "helping, % of A ≠ 0")[1])
    assert line(ax, "exactly zero, % of all").tolist() == [0.0] * 5


def test_helping_leaves_a_gap_where_a_whole_window_has_no_percentage():
    ax = plots.plot_helping(np.array([np.nan, 60.0]), np.array([100.0, 0.0]), window=1)
    np.testing.assert_array_equal(line(ax, "moving mean, 1 steps"), [np.nan, 60.0])


def test_histogram_keeps_the_two_signs_apart_and_cuts_empty_bins():
    helped, hurt = DRAW["histogram"]().patches
    assert helped.get_data().values.tolist() == [3, 2]
    assert hurt.get_data().values.tolist() == [1, 4]
    np.testing.assert_array_equal(helped.get_data().edges, EDGES[1:4])


def test_histogram_of_nothing_still_draws():
    plots.plot_histogram(EDGES, np.zeros(4, int), np.zeros(4, int)).figure.draw_without_rendering()


def test_plots_need_neither_pyplot_nor_a_display():
    code = "import sys, lca.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("module", "package"), [("lca.plots", "matplotlib"), ("lca.commands.progress", "tqdm")]
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(module, package):
    code = f"import sys; sys.modules['{package}'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert f"{package} is needed" in done.stderr
    assert "pip install 'loss-change-allocation[report]'" in done.stderr
