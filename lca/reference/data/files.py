"""`load`: data files people already have, read without trusting them (nothing is ever unpickled)."""

import gzip
import math
import zipfile
import zlib
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lca.errors import DataError
from lca.reference.data.split import Split

Array = np.ndarray
KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile)


def load(path: str | PathLike[str], *, dtype: npt.DTypeLike = np.float64) -> Split:
    """Read a training and a held-out set from a file or folder.

    Parameters
    ----------
    path
        An ``.npz`` with ``x_train``, ``y_train``, ``x_test``, ``y_test`` (as Keras' MNIST file), or a folder
        with the four IDX files of MNIST (``train-images-idx3-ubyte``, ...), each plain or ``.gz``.
    dtype
        Of the features. uint8 pixels are divided by 255 in this dtype; floating-point features are taken
        as they are.

    Raises
    ------
    DataError
        If the path cannot be read, holds something else, or its arrays do not fit together; the message
        names the path.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no file or folder {path}; pass an .npz or a folder of IDX files.")
    arrays = _read_idx_folder(path) if path.is_dir() else _read_npz(path)
    try:
        x_train, x_test = (_scaled(arrays[key], key, np.dtype(dtype)) for key in ("x_train", "x_test"))
        return Split(x_train, arrays["y_train"], x_test, arrays["y_test"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            missing = [key for key in KEYS if key not in stored]
            arrays = {key: stored[key] for key in KEYS if key not in missing}
    except (*_UNREADABLE, AttributeError, TypeError) as error:  # a .npy loads as a bare array
        raise DataError(
            f"{path}: expected an .npz of plain arrays {', '.join(KEYS)}, or a folder of IDX files, but "
            f"it cannot be read as such ({error}); write one with numpy.savez_compressed(path, x_train=...)."
        ) from error
    if missing:
        raise DataError(f"{path}: the .npz lacks {', '.join(missing)}; expected the keys {', '.join(KEYS)}.")
    return arrays


def _read_idx_folder(folder: Path) -> dict[str, Array]:
    return {key: _read_idx(folder, name) for key, name in IDX_NAMES.items()}


def _read_idx(folder: Path, name: str) -> Array:
    """One IDX file: two zero bytes, a type code, the number of axes, big-endian sizes, then the numbers."""
    plain, packed = folder / name, folder / f"{name}.gz"
    path = plain if plain.exists() else packed
    try:
        content = path.read_bytes() if path is plain else gzip.decompress(path.read_bytes())
        code, ndim = content[2], content[3]
        shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=ndim, offset=4))
        values = np.frombuffer(content, _IDX_DTYPES[code], offset=4 + 4 * ndim)
        if content[:2] != b"\0\0" or len(values) != math.prod(shape):
            raise ValueError(f"header says shape {shape}, file holds {len(values)} numbers")
    except (*_UNREADABLE, IndexError, KeyError) as error:
        raise DataError(
            f"{path}: expected an IDX file, which cannot be read ({error!r}); the folder needs "
            f"{', '.join(IDX_NAMES.values())}, each plain or .gz."
        ) from error
    return values.reshape(shape).astype(values.dtype.newbyteorder("="))


def _scaled(x: Array, key: str, dtype: np.dtype) -> Array:
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"{key} must hold uint8 pixels or floating-point features, got {x.dtype}.")
    scaled = x.astype(dtype, copy=False)
    if x.dtype == np.uint8:
        scaled /= 255
    return scaled
