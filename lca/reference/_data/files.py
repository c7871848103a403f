"""`load_split`: read a training and a held-out set from ``.npz`` or IDX files, without unpickling."""

import gzip
import math
import zipfile
import zlib
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lca._paths import local_path
from lca.errors import DataError
from lca.reference._data.split import Split

Array = np.ndarray
KEYS = ("x_train", "y_train", "x_test", "y_test")
IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, zlib.error, zipfile.BadZipFile)
LARGEST_UNPACKED = 2 * 2**30
"""The most bytes to which the compressed data of a file may inflate: a few MB can become many GB."""


def load_split(path: str | PathLike[str], *, dtype: npt.DTypeLike = np.float64) -> Split:
    """Read a training and a held-out set from a file or folder.

    Files are untrusted input: pickled objects are refused, and so are compressed files that inflate to more
    than 2 GiB.

    Parameters
    ----------
    path
        An ``.npz`` file with the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``, such as Keras'
        ``mnist.npz``, or a folder with the four IDX files of MNIST (``train-images-idx3-ubyte`` or
        ``train-images.idx3-ubyte``, ...), each plain or with the ending ``.gz``.
    dtype
        The dtype of the features. uint8 pixels are converted to it and divided by 255; floating-point
        features are converted and not scaled.

    Raises
    ------
    DataError
        If the path cannot be read, has another content, or its arrays do not fit together; the message
        names the path.

    Examples
    --------
    >>> import tempfile
    >>> pixels, labels = np.full((2, 3), 51, np.uint8), np.array([0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     arrays = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    ...     np.savez(f"{folder}/data.npz", **arrays)
    ...     split = load_split(f"{folder}/data.npz")
    >>> split.x_train[0], split.n_classes
    (array([0.2, 0.2, 0.2]), 2)
    """
    path = local_path(path, DataError)
    if not path.exists():
        raise DataError(f"there is no file or folder {path}; pass an .npz file or a folder of IDX files.")
    arrays = _read_idx_folder(path) if path.is_dir() else _read_npz(path)
    try:
        x_train, x_test = (_scaled(arrays[key], key, np.dtype(dtype)) for key in ("x_train", "x_test"))
        return Split(x_train, arrays["y_train"], x_test, arrays["y_test"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        _check_unpacked_size(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            missing = [key for key in KEYS if key not in stored]
            arrays = {key: stored[key] for key in KEYS if key not in missing}
    except DataError:
        raise
    except (*_UNREADABLE, AttributeError, TypeError) as error:  # a .npy loads as a bare array
        raise DataError(
            f"{path}: expected an .npz of plain arrays {', '.join(KEYS)}, or a folder of IDX files, but "
            f"reading it failed ({error}); write one with numpy.savez_compressed(path, x_train=...)."
        ) from error
    if missing:
        raise DataError(f"{path}: the .npz lacks {', '.join(missing)}; expected the keys {', '.join(KEYS)}.")
    return arrays


def _read_idx_folder(folder: Path) -> dict[str, Array]:
    return {key: _read_idx(folder, name) for key, name in IDX_NAMES.items()}


def _read_idx(folder: Path, name: str) -> Array:
    """Read an IDX file: two zero bytes, a type code, the number of axes, big-endian sizes, the numbers."""
    names = [other + end for end in ("", ".gz") for other in (name, name.replace("-idx", ".idx"))]
    path = next((folder / name for name in names if (folder / name).exists()), folder / name)
    try:
        content = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
        code, ndim = content[2], content[3]
        shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=ndim, offset=4))
        values = np.frombuffer(content, _IDX_DTYPES[code], offset=4 + 4 * ndim)
        if content[:2] != b"\0\0" or len(values) != math.prod(shape):
            raise ValueError(f"header says shape {shape}, file holds {len(values)} numbers")
    except DataError:
        raise
    except (*_UNREADABLE, IndexError, KeyError) as error:
        raise DataError(
            f"{path}: expected an IDX file, but reading it failed ({error!r}); the folder needs "
            f"{', '.join(IDX_NAMES.values())}, each plain or with the ending .gz."
        ) from error
    return values.reshape(shape).astype(values.dtype.newbyteorder("="))


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as file:
        content = file.read(LARGEST_UNPACKED + 1)
    if len(content) > LARGEST_UNPACKED:
        raise _too_large(path, "gunzip it first")
    return content


def _check_unpacked_size(path: Path) -> None:
    """Raise `DataError` if the compressed arrays of an archive are too large; the others are on the disk."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        packed = [member for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    if sum(member.file_size for member in packed) > LARGEST_UNPACKED:
        raise _too_large(path, "store its arrays with numpy.savez, which does not compress them")


def _too_large(path: Path, advice: str) -> DataError:
    return DataError(
        f"{path} inflates to more than {LARGEST_UNPACKED / 2**30:g} GiB; if that is not a mistake, {advice}."
    )


def _scaled(x: Array, key: str, dtype: np.dtype) -> Array:
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise DataError(f"{key} must hold uint8 pixels or floating-point features, got {x.dtype}.")
    scaled = x.astype(dtype, copy=False)
    if x.dtype == np.uint8:
        scaled /= 255
    return scaled
