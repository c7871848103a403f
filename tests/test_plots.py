"""The figures show the numbers they are given, state the sign, and change no global state."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lca import plots
from lca.analysis import WeibullFit
from lca.errors import LCAError, NonFiniteError, OutputError
from lca.tolerances import EPS64, summed

LOSS, REBUILT = np.array([2.0, 1.0, 0.5]), np.array([2.0, 1.25, 0.375])
ROWS = np.array([[-1.0, 0.25], [-2.0, 0.5], [0.5, -1.0]])
EDGES, HELPING, HURTING = np.logspace(-3, 1, 5), np.array([0, 3, 2, 0]), np.array([0, 1, 4, 0])
FIT = WeibullFit(0.5, 0.1, 0.01, 0.01, 0.02, 10)
TRACE = np.array([1.0, 1.5, 1.5, 1.0]), np.array([0.5, 0.0, -0.5, 0.25]), np.array([-1.0, 0.0, 0.5, 0.25])
PEAKS = np.array([[0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=bool)
LEARNED = np.array([[0.0, 3.0, 1.0], [np.nan, 2.0, np.nan]])
DRAW = {
    "loss": lambda ax=None: plots.plot_loss(LOSS, REBUILT, ax=ax),
    "cumulative": lambda ax=None: plots.plot_cumulative(ROWS, ["fc1", "fc2"], ax=ax),
    "conditions": lambda ax=None: plots.plot_conditions(
        ["a", "b"], ["adam", "sgd"], ROWS[:2], intervals=(ROWS[:2] - 1, ROWS[:2] + 1), ax=ax
    ),
    "totals": lambda ax=None: plots.plot_totals(["fc1", "fc2"], ROWS[0], ROWS[1], ax=ax),
    "helping": lambda ax=None: plots.plot_helping(np.array([60.0, 55.0]), np.array([10.0, 12.0]), ax=ax),
    "histogram": lambda ax=None: plots.plot_histogram(EDGES, HELPING, HURTING, fit=FIT, ax=ax),
    "train_heldout": lambda ax=None: plots.plot_train_heldout(ROWS, -ROWS, ["fc1", "fc2"], ax=ax),
    "layer_time": lambda ax=None: plots.plot_layer_time(ROWS, ["fc1", "fc2"], ax=ax),
    "neurons": lambda ax=None: plots.plot_neurons(ROWS, ["fc1[0]", "fc1[1]"], ax=ax),
    "classes": lambda ax=None: plots.plot_classes(["a", "b", "c"], ["class 0", "class 1"], ROWS, ax=ax),
    "learned": lambda ax=None: plots.plot_learned(LEARNED, ["fc1", "fc2"], ax=ax),
    "parameter": lambda ax=None: plots.plot_parameter(*TRACE, name="fc1.weight[0, 0]", ax=ax),
    "peaks": lambda ax=None: plots.plot_peaks(PEAKS, ["fc1", "fc2", "fc3"], ax=ax),
}
every_figure = pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)


def line(ax, label):
    [found] = [line for line in ax.lines if line.get_label() == label]
    return found.get_ydata()


@every_figure
def test_without_axes_a_new_figure_is_made_and_renders(draw, tmp_path):
    ax = draw()
    assert isinstance(ax, Axes)
    assert ax.get_title()
    ax.figure.savefig(
        tmp_path / "figure.png"
    )  # fails on a missing glyph or a collapsed layout, because warnings are errors
    assert (tmp_path / "figure.png").stat().st_size > 0


@every_figure
def test_with_axes_these_are_drawn_into(draw):
    _, right = Figure().subplots(1, 2)
    assert draw(right) is right


def test_set_title_replaces_the_default_title():
    ax = DRAW["helping"]()
    ax.set_title("Mine")
    assert [ax.get_title(loc) for loc in ("left", "center", "right")] == ["", "Mine", ""]


SIGNED = [
    "cumulative",
    "conditions",
    "totals",
    "train_heldout",
    "layer_time",
    "neurons",
    "classes",
    "parameter",
]


@pytest.mark.parametrize("name", SIGNED)
def test_axes_of_signed_quantities_state_the_sign_and_the_unit(name):
    axes = DRAW[name]().figure.axes  # colour bars and panels below included
    label = " ".join(f"{ax.get_xlabel()} {ax.get_ylabel()}" for ax in axes)
    assert "negative = helping" in label
    assert "units of the loss" in label


def test_loss_shows_both_curves_and_their_difference():
    ax = DRAW["loss"]()
    np.testing.assert_array_equal(line(ax, "measured"), LOSS)
    np.testing.assert_array_equal(line(ax, "rebuilt from LCA"), REBUILT)
    [below] = [other for other in ax.figure.axes if other is not ax]
    np.testing.assert_array_equal(below.lines[-1].get_ydata(), [0.0, -0.25, 0.125])


def test_a_loss_in_axes_outside_a_grid_is_refused_with_the_fix():
    with pytest.raises(LCAError, match="add_subplot"):
        DRAW["loss"](Figure().add_axes((0, 0, 1, 1)))


def test_cumulative_starts_at_zero_and_adds_up():
    np.testing.assert_array_equal(line(DRAW["cumulative"](), "fc1"), [0.0, -1.0, -3.0, -2.5])


def test_many_layers_have_different_colours():
    names = [f"layer{i}" for i in range(20)]
    ax = plots.plot_cumulative(np.ones((3, 20)), names)
    assert (
        len({tuple(np.atleast_1d(line.get_color())) for line in ax.lines if line.get_label() in names}) == 20
    )


def test_totals_have_the_first_group_on_top_and_one_bar_per_loss():
    ax = DRAW["totals"]()
    assert [bar.get_width() for bar in ax.patches] == [-1.0, 0.25, -2.0, 0.5]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["fc1", "fc2"]
    assert ax.yaxis.get_inverted()
    assert len(plots.plot_totals(["fc1", "fc2"], ROWS[0]).patches) == 2


def test_the_moving_average_ignores_steps_without_a_percentage():
    helping = np.array([40.0, np.nan, 60.0, 80.0, 70.0])
    ax = plots.plot_helping(helping, np.zeros(5), window=3)
    np.testing.assert_array_equal(line(ax, "moving average of 3 steps"), [40.0, 50.0, 70.0, 70.0, 75.0])
    assert np.isnan(line(ax, "helping, % of A ≠ 0")[1])
    assert line(ax, "zero, % of all").tolist() == [0.0] * 5


def test_the_moving_average_has_a_gap_where_no_step_of_the_window_has_a_percentage():
    ax = plots.plot_helping(np.array([np.nan, 60.0]), np.array([100.0, 0.0]), window=1)
    np.testing.assert_array_equal(line(ax, "moving average of 1 step"), [np.nan, 60.0])


def test_the_histogram_separates_the_signs_and_omits_empty_bins_at_the_ends():
    helping, hurting, _ = DRAW["histogram"]().patches
    assert helping.get_data().values.tolist() == [3, 2]
    assert hurting.get_data().values.tolist() == [1, 4]
    np.testing.assert_array_equal(helping.get_data().edges, EDGES[1:4])


def test_the_histogram_shows_the_expected_counts_of_a_fit():
    fitted = DRAW["histogram"]().patches[2].get_data().values
    survival = np.exp(-np.sqrt(EDGES / 0.1))
    expected = 10 * -np.diff(survival[1:4]) / (survival[0] - survival[4])
    np.testing.assert_allclose(fitted, expected, rtol=summed(2, EPS64))


def test_train_and_heldout_are_solid_and_dashed_in_the_colour_of_their_layer():
    ax = DRAW["train_heldout"]()
    _, *lines = ax.lines
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--", "--"]
    assert lines[0].get_color() == lines[2].get_color() != lines[1].get_color()
    np.testing.assert_array_equal(lines[0].get_ydata(), [0.0, -1.0, -3.0, -2.5])
    np.testing.assert_array_equal(lines[2].get_ydata(), [0.0, 1.0, 3.0, 2.5])


def test_a_map_with_fewer_columns_than_steps_skips_no_step():
    rows = np.random.default_rng(0).normal(size=(103, 2))
    [mesh] = plots.plot_layer_time(rows, ["a", "b"], columns=10).collections
    shown = mesh.get_array().reshape(2, 10)
    assert np.abs(shown.sum(axis=1) - rows.sum(axis=0)).max() <= summed(np.abs(rows).sum(), EPS64)
    assert mesh.get_coordinates()[0, -1, 0] == 103


def test_columns_of_a_map_have_equally_many_steps():
    [mesh] = plots.plot_layer_time(np.full((300, 1), -0.5), ["a"]).collections
    assert mesh.get_array().tolist() == [[-1.0] * 150]


def test_a_map_has_white_for_zero_blue_for_helping_and_red_for_hurting():
    [mesh] = plots.plot_layer_time(np.array([[-1.0, 0.0, 1.0]]), ["helping", "zero", "hurting"]).collections
    red, green, blue = mesh.cmap(mesh.norm(np.array([-1.0, 0.0, 1.0]))).T[:3]
    assert blue[0] > red[0] + 0.5
    assert red[2] > blue[2] + 0.5
    assert min(red[1], green[1], blue[1]) > 0.98
    assert -mesh.norm.vmin == mesh.norm.vmax  # symmetric, so that zero is white


def test_a_map_of_zeros_can_be_drawn():
    plots.plot_layer_time(np.zeros((3, 1)), ["fc"]).figure.draw_without_rendering()


def test_all_neurons_are_drawn_and_the_strongest_of_both_signs_labelled():
    rows = np.array([[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]])
    ax = plots.plot_neurons(rows, list("abcdef"), top=2)
    named = {text.get_text(): text.get_color() for text in ax.texts}
    assert named == {
        "a": plots._canvas.HELPING,
        "b": plots._canvas.HELPING,
        "f": plots._canvas.HURTING,
        "e": plots._canvas.HURTING,
    }
    assert len([line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_alpha() == 0.5]) == 6
    places = sorted(text.xy[1] for text in ax.texts)
    assert np.diff(places).min() > 0


def test_without_helping_neurons_only_hurting_ones_are_labelled():
    ax = plots.plot_neurons(np.array([[1.0, 2.0, 0.0]]), list("abc"), top=3)
    assert {text.get_text() for text in ax.texts} == {"a", "b"}
    assert {text.get_color() for text in ax.texts} == {plots._canvas.HURTING}


def test_labels_of_equal_neurons_do_not_overlap():
    ax = plots.plot_neurons(-np.ones((2, 3)), list("abc"))
    assert np.diff(sorted(text.xy[1] for text in ax.texts)).min() > 0.03 * np.ptp(ax.get_ylim())


def test_classes_show_their_numbers_and_drop_the_word_class():
    ax = DRAW["classes"]()
    assert [text.get_text() for text in ax.texts] == ["−1", "0.25", "−2", "0.5", "0.5", "−1"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1"]


def test_a_parameter_shows_weight_gradient_and_allocation():
    ax = DRAW["parameter"]()
    gradient, allocation = [other for other in ax.figure.axes if other is not ax]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), TRACE[0])
    np.testing.assert_array_equal(gradient.lines[-1].get_ydata(), [-2.0, np.nan, -1.0, 1.0])
    helping, hurting = allocation.collections
    assert [segment[1].tolist() for segment in helping.get_segments()] == [[0.0, -1.0]]
    assert [segment[1].tolist() for segment in hurting.get_segments()] == [[2.0, 0.5], [3.0, 0.25]]
    assert "fc1.weight[0, 0]" in ax.get_title()


def test_coinciding_peaks_have_a_different_colour():
    alone, together = DRAW["peaks"]().collections
    assert [segment[:, 0].tolist() for segment in alone.get_segments()] == [[2, 2]]
    assert sorted(segment[0, 0] for segment in together.get_segments()) == [1, 1, 4, 4, 4]


def test_the_last_frame_shows_the_whole_run(tmp_path):
    loss, rows = np.array([2.0, 1.0, 1.5, 0.5]), np.array([[-1.0, 0.0], [0.0, 0.5], [-1.25, 0.25]])
    animation = plots.animate_training(loss, rows, ["fc1", "fc2"], frames=3)
    plots.save_animation(animation, tmp_path / "run.gif")
    assert (tmp_path / "run.gif").read_bytes()[:3] == b"GIF"
    left, right = animation._fig.axes  # after saving, the figure shows the last frame
    assert left.get_title() == "Loss at step 3: 0.500"
    np.testing.assert_array_equal(left.lines[-1].get_ydata(), loss)
    assert [bar.get_width() for bar in right.patches] == [-2.25, 0.75]
    assert len({tuple(bar.get_facecolor()) for bar in right.patches}) == 2


def short_animation():
    animation = plots.animate_training(np.ones(3), np.zeros((2, 1)), ["fc"], frames=2)
    animation._draw_was_started = True  # keeps matplotlib from warning that it was never rendered
    return animation


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.plot_cumulative(ROWS, ["fc1"]), LCAError, r"1 name\(s\) for 2 column\(s\)"),
        (lambda: plots.plot_layer_time(ROWS * np.nan, ["a", "b"]), NonFiniteError, "contain nan in row 0"),
        (lambda: plots.plot_layer_time(ROWS, ["a", "b"], columns=0), LCAError, "columns must be at least 1"),
        (lambda: plots.plot_loss(LOSS, ROWS), LCAError, r"of equal length, got shapes \(3,\) and \(3, 2\)"),
        (lambda: plots.plot_totals(["a"], np.zeros(3)), LCAError, r"1 name\(s\) for 3 column\(s\)"),
        (lambda: plots.plot_totals(["a", "b"], ROWS[0], LOSS), LCAError, r"got shapes \(2,\) and \(3,\)"),
        (lambda: plots.plot_train_heldout(ROWS, ROWS[:2], ["a", "b"]), LCAError, "must hold the same steps"),
        (lambda: plots.plot_helping(LOSS, LOSS[:2]), LCAError, r"helping % and zero % must be .* \(3,\) and"),
        (lambda: plots.plot_histogram(EDGES, np.ones((5, 4)), np.ones((5, 4))), LCAError, r"\.sum\(axis=0\)"),
        (
            lambda: plots.plot_histogram(EDGES[1:], np.ones(4), np.ones(4)),
            LCAError,
            "4 bins need 5 edges, got 4",
        ),
        (lambda: plots.plot_parameter(LOSS, LOSS, LOSS[:2]), LCAError, r"of equal length, .* and \(2,\)"),
        (lambda: plots.plot_peaks(ROWS, ["a", "b"]), LCAError, "got float64 of shape .*one class at a time"),
        (lambda: plots.animate_training(LOSS, ROWS, ["a", "b"]), LCAError, "3 steps has 4 losses, got 3"),
        (lambda: plots.animate_training(np.ones(4), ROWS, ["a", "b"], frames=1), LCAError, "frames ≥ 2"),
        (
            lambda: plots.save_animation(short_animation(), "run.avi"),
            LCAError,
            r"\*.gif or \*.mp4, got 'run.avi'",
        ),
        (
            lambda: plots.save_animation(short_animation(), "no/such/run.gif"),
            OutputError,
            "the folder 'no/such' does not exist",
        ),
    ],
)
def test_unusable_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_mp4_without_ffmpeg_is_refused_with_the_fix(monkeypatch):
    monkeypatch.setattr("matplotlib.animation.writers.is_available", lambda name: False)
    with pytest.raises(LCAError, match=r"needs the program ffmpeg.*write a .gif"):
        plots.save_animation(short_animation(), "run.mp4")


def test_the_fit_is_drawn_as_so_many_entries_as_the_bins_hold():
    """The bins cut off a third of this distribution; it was fitted given that an entry lies within them."""
    fit = WeibullFit(0.5, 1.0, 0.01, 0.01, 0.02, 1_000)
    ax = plots.plot_histogram(np.logspace(-1, 1, 5), HELPING + 1, HURTING, fit=fit)
    *_, drawn = ax.patches
    assert drawn.get_data().values.sum() == pytest.approx(1_000, rel=summed(4, EPS64))


def test_an_empty_histogram_can_be_drawn():
    plots.plot_histogram(EDGES, np.zeros(4, int), np.zeros(4, int)).figure.draw_without_rendering()


def test_plots_need_neither_pyplot_nor_a_display():
    code = "import sys, lca.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("module", "package"), [("lca.plots", "matplotlib"), ("lca.report._page", "jinja2")])
def test_a_missing_extra_is_named_with_the_command_that_installs_it(module, package):
    code = f"import sys; sys.modules['{package}'] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert f"{package} is not installed" in done.stderr
    assert "pip install 'bokeh>=" in done.stderr
    assert f"'{package}>=" in done.stderr


def test_the_gallery_shows_every_figure_in_small_files_and_each_file_is_shown():
    docs = Path(__file__).resolve().parents[1] / "docs"
    page = (docs / "figures.md").read_text(encoding="utf-8")
    shown = {docs / name for name in re.findall(r"^!\[.+\]\((\S+)\)$", page, re.MULTILINE)}
    assert shown == set((docs / "images" / "figures").iterdir())
    assert max(path.stat().st_size for path in shown) < 150_000
    assert [name for name in plots.__all__ if f"plots.{name}" not in page] == []
