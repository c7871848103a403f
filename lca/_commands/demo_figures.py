"""The figures of `lca demo`, as PNG files in memory; needs the extra ``report``."""

from io import BytesIO

from lca import plots
from lca._extras import extra
from lca._output import GENERATOR
from lca.summary import RunViews
from lca.views import LogHistogram

with extra("report"):
    from matplotlib.axes import Axes


def draw_figures(train: RunViews, heldout: RunViews | None) -> dict[str, bytes]:
    """PNG images by file name.

    A run of a sampled estimator has no ``heldout``, and only the figures of sums over layers.
    """
    layers = train.layers.groups.names
    other = None if heldout is None else heldout.layers.totals
    axes = {
        "cumulative": plots.plot_cumulative(train.layers.rows, layers),
        "totals": plots.plot_totals(layers, train.layers.totals, other),
    }
    if heldout is not None:
        signs, histogram = train.signs.per_step(), train.histogram
        axes = {
            "loss": plots.plot_loss(train.trace.losses(), train.trace.rebuilt(), name="training loss"),
            **axes,
            "histogram": plots.plot_histogram(
                histogram.edges, histogram.helping, histogram.hurting, note=_not_shown(histogram)
            ),
            "helping": plots.plot_helping(signs.helping_percent(), signs.zero_percent()),
        }
    return {f"{name}.png": _png(ax) for name, ax in axes.items()}


def _not_shown(histogram: LogHistogram) -> str:
    counts = {"exactly 0": histogram.zero, "smaller": histogram.below, "larger": histogram.above}
    return "\n".join(f"{name}: {count:,}" for name, count in counts.items() if count)


def _png(ax: Axes) -> bytes:
    buffer, figure = BytesIO(), ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(buffer, format="png", metadata={"Software": GENERATOR})
    return buffer.getvalue()
