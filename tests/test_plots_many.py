"""Figures of many layers: no text covers other text, and what is not named is counted."""

import numpy as np
import pytest

from lca import analysis, plots
from lca.plots._many import MAX_LINES

COUNT, STEPS = 200, 30
RNG = np.random.default_rng(0)
NAMES = [f"encoder.layer.{i // 4}.{('query', 'out', 'dense_in', 'dense_out')[i % 4]}" for i in range(COUNT)]
ROWS = RNG.normal(size=(STEPS, COUNT)) - 0.5
TOTALS = ROWS.sum(axis=0)
BOTH = np.stack([TOTALS, 0.5 * TOTALS])
CLASSES = [f"train/class {i}" for i in range(COUNT)]
DRAW = {
    "cumulative": lambda: plots.plot_cumulative(ROWS, NAMES),
    "train_heldout": lambda: plots.plot_train_heldout(ROWS, 0.8 * ROWS, NAMES),
    "totals": lambda: plots.plot_totals(NAMES, *BOTH, intervals=(BOTH - 1, BOTH + 1)),
    "conditions": lambda: plots.plot_conditions(NAMES, ["a", "b"], BOTH, intervals=(BOTH - 1, BOTH + 1)),
    "layer_time": lambda: plots.plot_layer_time(ROWS, NAMES),
    "classes": lambda: plots.plot_classes(NAMES, CLASSES, RNG.normal(size=(COUNT, COUNT))),
    "peaks": lambda: plots.plot_peaks(analysis.learning_peaks(ROWS, top=5), NAMES),
    "learned": lambda: plots.plot_learned(RNG.integers(STEPS, size=(COUNT, 50)), NAMES),
    "neurons": lambda: plots.plot_neurons(ROWS, NAMES),
}
NAMED_ROWS = ["totals", "conditions", "layer_time", "classes", "peaks"]


def boxes(texts):
    """The rectangles of texts that are shown, in pixels."""
    shown = [text for text in texts if text.get_visible() and text.get_text()]
    return np.array([text.get_window_extent().extents for text in shown])


def overlaps(rectangles):
    """The largest overlap of two, in heights of a line, along the better direction."""
    x0, y0, x1, y1 = rectangles.T
    wide = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    high = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    common = np.minimum(wide, high)
    np.fill_diagonal(common, 0)
    return float(common.max() / (y1 - y0).min())


@pytest.mark.parametrize("name", DRAW)
def test_no_name_covers_another_one(name):
    ax = DRAW[name]()
    figure = ax.get_figure(root=True)
    figure.draw_without_rendering()
    assert max(figure.get_size_inches()) <= 16
    legend = ax.get_legend()
    groups = {"rows": ax.get_yticklabels(), "texts": ax.texts}
    if legend is not None:
        groups["legend"] = legend.get_texts()
    if name != "classes":  # those of the columns are rotated, so that their rectangles say little
        groups["columns"] = ax.get_xticklabels()
    for what, texts in groups.items():
        found = boxes(texts)
        if len(found) > 1:
            assert overlaps(found) < 0.1, what


@pytest.mark.parametrize("name", NAMED_ROWS)
def test_rows_without_a_name_are_counted(name):
    ax = DRAW[name]()
    named = [label.get_text() for label in ax.get_yticklabels()]
    assert 30 < len(named) < COUNT
    assert ax.get_ylabel().startswith(f"{len(named)} of {COUNT} named")
    if name == "totals":
        assert NAMES[int(np.argmax(np.abs(TOTALS)))] in named


@pytest.mark.parametrize("name", ["cumulative", "train_heldout"])
def test_lines_without_a_name_are_counted_and_grey(name):
    ax = DRAW[name]()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts[-1] == f"{COUNT - MAX_LINES} others"
    largest = np.argsort(-np.abs(TOTALS))[:MAX_LINES]
    assert set(texts) >= {NAMES[i] for i in largest}
    assert NAMES[int(np.argmin(np.abs(TOTALS)))] not in texts


def test_of_many_groups_those_that_learned_most_examples_are_named():
    learned = np.full((COUNT, COUNT), np.nan)
    for group in range(COUNT):
        learned[group, : group + 1] = 3.0  # the later a group, the more examples it has learned
    texts = [text.get_text() for text in plots.plot_learned(learned, NAMES).get_legend().get_texts()]
    assert texts == [*NAMES[-MAX_LINES:], f"{COUNT - MAX_LINES} others"]


def test_few_layers_are_all_named():
    ax = plots.plot_totals(NAMES[:20], TOTALS[:20])
    assert [label.get_text() for label in ax.get_yticklabels()] == NAMES[:20]
    assert ax.get_ylabel() == ""
    assert len(plots.plot_cumulative(ROWS[:, :20], NAMES[:20]).get_legend().get_texts()) == 20


def test_an_animation_of_many_layers_names_those_that_have_room():
    animation = plots.animate_training(np.append(0, ROWS.sum(axis=1).cumsum()), ROWS, NAMES, frames=2)
    animation._draw_frame(STEPS)
    figure = animation._fig
    figure.draw_without_rendering()
    assert overlaps(boxes(figure.axes[1].get_yticklabels())) < 0.1
    animation._draw_was_started = True  # nothing is saved here
