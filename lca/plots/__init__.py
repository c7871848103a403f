"""Figures of a training run, one function each, from plain arrays; needs the extra ``report``.

Every ``plot_*`` function draws into ``ax`` if given, or else into a new figure, and returns the Axes:
``ax.figure.savefig(...)`` writes the figure. All of them take the options of `Style`: ``labels``, ``colors``,
``limits``, ``title`` and ``ax``. `save_all` writes every figure that a record has data for, and `figure_of`
returns one of them, both by layer or, with ``by=``, by groups that the record holds. The figures are built
without pyplot, so they need no display and no global state.

Losses and allocations are in units of the loss; negative = helping (blue), positive = hurting (orange-red).
These two colours, which colour-blind readers can tell apart, are used for the sign and for nothing else:
losses and layers have other colours, and a held-out loss is dashed or hatched. The axis "step" counts the
rows of the arrays, which are the measured steps of the run.

Examples
--------
>>> import numpy as np
>>> from lca import plots
>>> ax = plots.plot_cumulative(np.array([[-1.0, 0.5], [-0.5, -0.25]]), ["fc1", "fc2"])
>>> [text.get_text() for text in ax.get_legend().get_texts()]
['fc1', 'fc2']
"""

from lca.plots._animation import animate_training, save_animation
from lca.plots._canvas import Style
from lca.plots._examples import plot_learned
from lca.plots._layers import plot_classes, plot_layer_time, plot_neurons
from lca.plots._loss import plot_conditions, plot_cumulative, plot_loss, plot_totals, plot_train_heldout
from lca.plots._noise import plot_helping, plot_histogram, plot_parameter
from lca.plots._save import figure_of, save_all
from lca.plots._synchrony import plot_peaks

__all__ = [
    "Style",
    "animate_training",
    "figure_of",
    "plot_classes",
    "plot_conditions",
    "plot_cumulative",
    "plot_helping",
    "plot_histogram",
    "plot_layer_time",
    "plot_learned",
    "plot_loss",
    "plot_neurons",
    "plot_parameter",
    "plot_peaks",
    "plot_totals",
    "plot_train_heldout",
    "save_all",
    "save_animation",
]
