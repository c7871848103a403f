"""`LCACallback`: allocates the loss change of every update that `model.fit` makes on PyTorch or JAX."""

from lca_keras._fit_callback import FitCallback
from lca_keras._objective import Objective
from lca_keras._tracker import Fields, Tracker
from lca_keras._tracking import FitTracker


class _FitTracker(FitTracker[Fields], Tracker):
    """A `Tracker` that is called before and after each batch of ``fit``."""


class LCACallback(FitCallback):
    """Allocates every update of ``model.fit(..., callbacks=[LCACallback(x, y)])``.

    Each update is measured before training goes on. The model is only read: training with and without the
    callback gives the same numbers, bit for bit. Compiled training and gradient accumulation need no extra
    code; a batch without an update is not a step. On JAX, where Keras keeps the values of variables beside
    the model in an epoch, they are put into it where a step is measured.

    Parameters
    ----------
    objective
        The measured loss (`lca_keras.Objective` of this model, or a `lca.Sum` with one), or several by name;
        or data in any form that `Objective` takes, on which the compiled loss is measured.
    y
        The targets, if ``objective`` is the inputs.
    batch_size, batch_norm
        As in `Objective`, which is made from the data with them; not allowed with an existing objective.
    span, check_every, check_examples, groups, heads
        As in `lca.tracking.TrackerBase`.
    estimator, every, views, on_error, record, progress, log_to
        As in `Tracker`. ``on_error`` also applies to errors when fit begins.

    Raises
    ------
    LCAError
        If the arguments are invalid; and as ``on_error`` says, for the reasons of `Tracker` and
        `Objective`, and for ``steps_per_execution`` above 1, which hides single updates from callbacks. If a
        Python value that the loss reads changes after the training step was compiled, which keeps it. If
        the compiled loss is measured and a ``train_step`` of the model's own does not compute it.

    Warns
    -----
    LCAWarning
        If fit weighs examples (``class_weight``, ``sample_weight``) and the measured loss does not; or if the
        compiled loss is measured and a ``train_step`` of the model's own adds to it, as its source tells.

    Notes
    -----
    The run begins and ends after what other callbacks do when training begins and ends, whatever their order.
    Every call of ``fit`` is a run of its own: read `views` or `summary` before the next one. Keras does not
    tell callbacks about an error in ``fit``; a record is then closed as incomplete, with all its rows, when
    it is next opened, at the latest when the next fit that is measured begins or the process ends.

    Examples
    --------
    >>> # lca_callback = LCACallback(x, y)
    >>> # model.fit(x, y, epochs=3, callbacks=[lca_callback])
    >>> # lca_callback.summary()["train"]["steps"]
    """

    objective_type = Objective
    tracker_type = _FitTracker
