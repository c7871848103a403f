"""The embedded data: 1,797 handwritten digits, so that the first run needs no download."""

from importlib.resources import files

import numpy as np

from lca.reference.data.split import Split

N_TRAIN = 1500
"""In the order of the original file, the first 1,500 train and the last 297 are held out; no shuffling."""


def load_digits() -> Split:
    """8x8 grey digits (UCI optdigits, CC BY 4.0): 1,500 to train on, 297 held out.

    Pixels are counts 0..16 divided by 16: float64 in [0, 1], shape (N, 8, 8), exact in float32 too. Labels
    are int64 0..9. Source and licence: README.md beside this file.

    >>> digits = load_digits()
    >>> digits.x_train.shape, digits.x_test.shape, digits.n_classes
    ((1500, 8, 8), (297, 8, 8), 10)
    """
    with (
        files("lca.reference.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        x, y = stored["x"] / 16.0, stored["y"].astype(np.int64)
    return Split(x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:])
