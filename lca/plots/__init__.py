"""Figures of a run, one function each, from plain arrays; needs the extra ``report``.

Every function draws into ``ax``, or into a new figure, and returns the Axes (``ax.figure.savefig(...)``
writes it; ``ax.set_title(...)`` gives it a title of your own). Figures are built without pyplot: no global
state, no display. Losses and allocations are in units of the loss; negative allocations helped. The axis
"step" counts rows: measured steps, where not all were measured. Colours are those of Okabe and Ito, which
stay apart for colour-blind readers.
"""

from lca.plots.animation import animate_training, save_animation
from lca.plots.layers import plot_classes, plot_layer_time, plot_neurons
from lca.plots.loss import plot_cumulative, plot_loss, plot_totals, plot_train_heldout
from lca.plots.noise import plot_helping, plot_histogram, plot_parameter
from lca.plots.synchrony import plot_peaks

__all__ = [
    "animate_training",
    "plot_classes",
    "plot_cumulative",
    "plot_helping",
    "plot_histogram",
    "plot_layer_time",
    "plot_loss",
    "plot_neurons",
    "plot_parameter",
    "plot_peaks",
    "plot_totals",
    "plot_train_heldout",
    "save_animation",
]
