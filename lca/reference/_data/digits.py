"""The embedded data set: 1,797 handwritten digits, so that a first run needs no download."""

from importlib.resources import files

import numpy as np

from lca.reference._data.split import Split

N_TRAIN = 1500
"""The first 1,500 images of the original file are the training set, the last 297 are held out."""


def load_digits() -> Split:
    """Load the embedded 8x8 grey-level digits (UCI optdigits): 1,500 for training, 297 held out.

    Pixels are float64 in [0, 1] with shape (N, 8, 8): counts 0..16 divided by 16, which float32 represents
    exactly as well. Labels are int64 0..9. The data are licensed under CC BY 4.0; source and licence are in
    ``lca/reference/_data/README.md``.

    Examples
    --------
    >>> digits = load_digits()
    >>> digits.x_train.shape, digits.x_test.shape, digits.n_classes
    ((1500, 8, 8), (297, 8, 8), 10)
    """
    with (
        files("lca.reference._data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        x, y = stored["x"] / 16.0, stored["y"].astype(np.int64)
    return Split(x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:])
