"""Every figure takes the same options, and `save_all` writes what a record has data for."""

import numpy as np
import pytest
from matplotlib.text import Text

import lca
from lca import plots
from lca.errors import LCAError, OutputError, UnknownNameError
from lca.runs._margins import margin_bound
from lca.runs._run import Run
from lca.tolerances import EPS64, summed
from tests.report.records import replicates, run_values, write

ROWS = np.array([[-1.0, 0.25], [-2.0, 0.5], [0.5, -1.0]])
PEAKS = np.array([[0, 0], [1, 1], [0, 0], [1, 0], [0, 0]], dtype=bool)
COUNTS, EDGES = np.array([3, 2]), np.array([0.1, 1.0, 10.0])
TWO = ["fc1", "fc2"]
FIGURES = {
    "loss": lambda **o: plots.plot_loss(np.ones(3), np.ones(3), **o),
    "cumulative": lambda **o: plots.plot_cumulative(ROWS, TWO, **o),
    "train_heldout": lambda **o: plots.plot_train_heldout(ROWS, ROWS, TWO, **o),
    "totals": lambda **o: plots.plot_totals(TWO, ROWS[0], ROWS[1], **o),
    "conditions": lambda **o: plots.plot_conditions(TWO, ["adam", "sgd"], ROWS[:2], **o),
    "layer_time": lambda **o: plots.plot_layer_time(ROWS, TWO, **o),
    "neurons": lambda **o: plots.plot_neurons(ROWS, TWO, **o),
    "classes": lambda **o: plots.plot_classes(TWO, ["class 0", "class 1"], ROWS[:2], **o),
    "helping": lambda **o: plots.plot_helping(np.array([60.0]), np.array([5.0]), **o),
    "histogram": lambda **o: plots.plot_histogram(EDGES, COUNTS, COUNTS, **o),
    "learned": lambda **o: plots.plot_learned(ROWS[:2] + 3, TWO, **o),
    "parameter": lambda **o: plots.plot_parameter(*ROWS.T, ROWS[:, 0], **o),
    "peaks": lambda **o: plots.plot_peaks(PEAKS, TWO, **o),
}
NAMES = {"loss": "measured", "helping": "zero", "histogram": "hurting", "parameter": "weight"}
COLORED = {
    "loss": "measured", "cumulative": "fc1", "train_heldout": "fc1", "conditions": "adam",
    "peaks": "one layer", "learned": "fc1",
}  # fmt: skip


def texts(ax):
    """All text of a figure, and of its legends."""
    return " ".join(text.get_text() for text in ax.figure.findobj(Text))


def test_every_figure_is_tried():
    assert sorted(FIGURES) == sorted(n.removeprefix("plot_") for n in plots.__all__ if n.startswith("plot_"))


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_takes_title_labels_limits_and_colours(figure):
    first = NAMES.get(figure, "fc1")
    colors = {COLORED.get(figure, "helping"): "#123456"}
    ax = FIGURES[figure](title="Mine", labels={first: "renamed"}, limits=(0.5, 7), colors=colors)
    assert ax.get_title() == "Mine"
    ax.figure.draw_without_rendering()
    if figure != "neurons":  # which labels the strongest lines only, and those within the limits
        assert "renamed" in texts(ax)
    limits = [each.get_xlim() for each in ax.figure.axes] + [each.get_ylim() for each in ax.figure.axes]
    scales = [mesh.norm.vmax for mesh in ax.collections if mesh.get_array() is not None]
    assert (0.5, 7) in limits or 7 in scales


@pytest.mark.parametrize("figure", FIGURES)
def test_unknown_options_and_names_are_errors(figure):
    with pytest.raises(UnknownNameError, match="option of a figure 'tilte'.*Did you mean 'title'"):
        FIGURES[figure](tilte="x")
    for option in ("labels", "colors"):
        with pytest.raises(UnknownNameError, match=f"name in {option} 'fc9'"):
            FIGURES[figure](**{option: {"fc9": "x"}})
        with pytest.raises(LCAError, match=f"{option} are a mapping or a list"):
            FIGURES[figure](**{option: 20 * ["x"]})
    with pytest.raises(LCAError, match="limits are the lowest and the highest"):
        FIGURES[figure](limits=(1, 0))


def test_colours_and_labels_may_be_lists():
    ax = plots.plot_cumulative(ROWS, TWO, labels=["a"], colors=["red", "blue"])
    drawn = {line.get_label(): line.get_color() for line in ax.lines if not line.get_label().startswith("_")}
    assert drawn == {"a": "red", "fc2": "blue"}
    bars = plots.plot_totals(TWO, ROWS[0], colors=["#000000", "#ffffff"]).patches
    assert [bar.get_facecolor()[0] for bar in bars] == [0, 1]


def test_intervals_are_drawn_where_they_are():
    ax = plots.plot_conditions(TWO, ["adam", "sgd"], ROWS[:2], intervals=(ROWS[:2] - 1, ROWS[:2] + 2))
    ends = [segment[:, 0].tolist() for lines in ax.collections for segment in lines.get_segments()]
    assert ends == [[-2.0, 1.0], [-0.75, 2.25], [-3.0, 0.0], [-0.5, 2.5]]
    unknown = np.full(2, np.nan)
    ax = plots.plot_totals(TWO, ROWS[0], intervals=(unknown, unknown))
    assert not [segment for lines in ax.collections for segment in lines.get_segments()]
    sums = np.zeros((4, 2))
    assert len(plots.plot_cumulative(ROWS, TWO, intervals=(sums - 1, sums + 1)).collections) == 2
    with pytest.raises(LCAError, match=r"each of shape \(2,\) as the values, got \(3,\)"):
        plots.plot_totals(TWO, ROWS[0], intervals=(np.ones(3), np.ones(3)))


def test_nothing_of_a_class_map_is_cut():
    names = [f"class a rather long name {i}" for i in range(8)]
    ax = plots.plot_classes(["encoder.layers.11.attention.output", "x"], names, np.ones((2, 8)))
    ax.figure.draw_without_rendering()
    whole = ax.figure.bbox
    for label in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title):
        box = label.get_window_extent()
        assert box.x0 >= whole.x0 - 1
        assert box.y0 >= whole.y0 - 1
        assert box.x1 <= whole.x1 + 1
    assert ax.get_xticklabels()[0].get_text() == "a rather long name 0"


# All figures of a record


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "run.zarr"
    losses = ("train", "heldout", "train/class 0", "train/class 1", "class 0")
    settings = {"class_names": ["cat", "dog"]}
    moved = {"extra": lambda step, row: {"source": lca.Step(np.zeros(row.size), row, index=step)}}
    write(path, run_values(), names=losses, settings=settings, trace=[0, 30], **moved)
    return path


def test_all_figures_are_written_and_replaced_on_request_only(record, tmp_path):
    paths = plots.save_all(record, tmp_path / "figures", format="svg")
    assert [path.stem for path in paths] == [
        "classes", "classes-train", "cumulative", "helping", "histogram", "layer_time", "loss", "neurons",
        "parameter-fc1.weight-0-0", "parameter-fc2.weight-0-2", "peaks", "totals", "train_heldout",
    ]  # fmt: skip
    assert set((tmp_path / "figures").iterdir()) == set(paths)
    with pytest.raises(OutputError, match="pass overwrite=True"):
        plots.save_all(record, tmp_path / "figures", format="svg")
    assert plots.save_all(record, tmp_path / "figures", format="svg", overwrite=True) == paths
    paths[0].write_bytes(b"mine")
    with pytest.raises(OutputError, match="was not made by lca"):
        plots.save_all(record, tmp_path / "figures", format="svg", overwrite=True)
    assert paths[0].read_bytes() == b"mine"


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_every_format_can_be_chosen(tmp_path, format):
    write(tmp_path / "run.zarr", run_values(3)[:, :1], layout=lca.Layout(("w",), ((1,),)))
    paths = plots.save_all(tmp_path / "run.zarr", tmp_path / "figures", format=format)
    starts = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
    assert {path.suffix for path in paths} == {f".{format}"}
    assert all(path.read_bytes().startswith(starts[format]) for path in paths)


def test_one_figure_of_a_record_is_shown_in_notebooks(record):
    figure = plots.figure_of(record, "loss")
    assert figure.axes[0].get_title() == "The train loss, measured and rebuilt from its allocation"
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UnknownNameError, match="figure of this record 'los'.*'loss'"):
        plots.figure_of(record, "los")


def test_a_long_label_leaves_room_for_the_axis():
    """With a long name of a layer, the text below the axis is still inside of the figure."""
    figure = plots.plot_totals(["transformer.h.0.attn[head 0]", "b"], np.array([-0.5, -0.25])).figure
    figure.draw_without_rendering()
    assert figure.axes[0].xaxis.label.get_window_extent().x1 <= figure.bbox.width


def test_figures_of_several_runs_have_intervals(tmp_path):
    for seed in range(3):
        for name, steps in (("adam", 12), ("sgd", 9 + seed)):
            values = run_values(steps, seed=seed)
            write(tmp_path / f"{name}-{seed}.zarr", values, settings={"optimizer": name, "seed": seed})
    runs = lca.open_runs(f"{tmp_path}/*.zarr", by=["optimizer", "seed"])
    paths = plots.save_all(runs, tmp_path / "figures")
    assert [path.name for path in paths] == ["conditions.png", "cumulative-adam.png", "cumulative-sgd.png"]


@pytest.mark.parametrize("names", [("train",), ("train", "held out")], ids=len)
def test_figures_of_samples_say_that_they_are_estimates_and_have_intervals(tmp_path, names):
    def sampled(step, row):
        return {"sampled": True, **replicates(step, row)}

    options = {"names": names, "extra": sampled}
    record = write(tmp_path / "run.zarr", run_values(4), **options)
    for name in ("totals", "layer_time", "cumulative"):
        title = plots.figure_of(record, name).axes[0].get_title()
        assert title.startswith("Estimated "), title
    ax = plots.figure_of(record, "totals").axes[0]
    assert ax.get_title().endswith("with 95 % intervals")
    ends = ax.collections[0].get_segments()
    halves = [(right - left) / 2 for (left, _), (right, _) in ends]
    of_losses = np.concatenate([margin_bound(Run(record), "layer", name) for name in names])
    largest = np.abs(ends).max()
    assert np.abs(halves - of_losses).max() <= summed(largest, EPS64)


def test_another_format_is_an_error(record, tmp_path):
    with pytest.raises(UnknownNameError, match="format of a figure 'jpg'"):
        plots.save_all(record, tmp_path, format="jpg")
