"""Batches, data sets, the embedded digits, and files: what is read, and how bad input is refused."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lca.errors import DataError
from lca.reference import Batch, Dataset, Split, load_digits, load_split

X, Y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 1, 0])
SPLIT = {
    "x_train": np.arange(24, dtype=np.uint8).reshape(3, 2, 4) * 10,
    "y_train": np.array([0, 2, 1], dtype=np.uint8),
    "x_test": np.full((2, 2, 4), 255, dtype=np.uint8),
    "y_test": np.array([1, 0], dtype=np.uint8),
}
IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def test_batch_keeps_its_arguments() -> None:
    batch = Batch(X, Y.astype(np.uint8), [1, 2, 0, 1])
    assert batch.x is X
    assert (len(batch), batch.total_weight, Batch(X, Y).total_weight) == (4, 4.0, 4.0)
    assert (batch.y.dtype, batch.weight.dtype) == (np.int64, np.float64)
    part = batch.take(np.array([True, False, True, False]))
    np.testing.assert_array_equal(part.x, X[[0, 2]])
    np.testing.assert_array_equal(part.weight, [1, 0])
    assert batch.astype(np.float32).x.dtype == np.float32
    assert batch.astype(np.float32).y.dtype == np.int64
    assert Batch(X, X).astype(np.float32).y.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X[:0], Y[:0]), r"at least one example with at least one feature, got shape \(0, 3\)"),
        ((X[:, :0], Y), r"at least one feature, got shape \(4, 0\)"),
        ((X.astype(np.uint8), Y), "x must be floating point, got uint8; scale pixels first, e.g. x / 255.0"),
        ((np.where(X == 7, np.nan, X), Y), r"x must be finite, got nan in example 2 \(index \(2, 1\)\)"),
        ((np.where(X == 7, np.inf, X), Y), "x must be finite, got inf"),
        ((X, Y[:3]), r"one row per example: x has 4 rows, y has shape \(3,\)"),
        ((X, np.array(3)), "one row per example"),
        ((X, Y.astype(float)), r"integer labels .* got float64 of shape \(4,\); use y.astype\(int\)"),
        ((X, Y[:, None]), r"got int64 of shape \(4, 1\)"),
        ((X, Y, np.ones(3)), r"weight must have shape \(4,\), one entry per example, got \(3,\)"),
        ((X, Y, np.array([1, -1, 1, 1])), "finite and ≥ 0, got -1.0 for example 1"),
        ((X, Y, np.array([1, 1, np.nan, 1])), "got nan for example 2"),
    ],
)
@pytest.mark.parametrize("kind", [Batch, Dataset])
def test_bad_examples_are_refused(kind: type, arguments: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        kind(*arguments)


@given(st.integers(1, 20), st.integers(1, 25))
def test_dataset_yields_every_example_once_in_order(n: int, batch_size: int) -> None:
    x, weight = np.arange(float(n))[:, None], np.arange(float(n)) + 1
    data = Dataset(x, np.arange(n), weight, batch_size=batch_size)
    batches = list(data)
    assert len(batches) == len(data)
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    np.testing.assert_array_equal(np.concatenate([b.x for b in batches]), x)
    np.testing.assert_array_equal(np.concatenate([b.y for b in batches]), np.arange(n))
    np.testing.assert_array_equal(np.concatenate([b.weight for b in batches]), weight)


def test_dataset_from_batches_concatenates_them() -> None:
    data = Dataset.from_batches([Batch(X, Y), Batch(X[:1] + 50, Y[:1] + 1, np.array([3.0]))])
    np.testing.assert_array_equal(data.x, np.concatenate([X, X[:1] + 50]))
    np.testing.assert_array_equal(data.y, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(data.weight, [1, 1, 1, 1, 3])
    assert Dataset.from_batches([Batch(X, Y)]).weight is None


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Batch(X[:, :2], Y), r"one feature shape: batch 0 has \(3,\), batch 1 has \(2,\)"),
        (Batch(X, X), r"one type of target: batch 0 has int64 \(\), batch 1 has float64 \(3,\)"),
    ],
)
def test_batches_of_different_shapes_are_refused(other: Batch, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset.from_batches([Batch(X, Y), other])


def test_empty_data_sets_are_refused() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        Dataset.from_batches([])
    with pytest.raises(DataError, match="batch_size must be a positive integer, got 2.5"):
        Dataset(X, Y, batch_size=2.5)


def test_digits_are_the_file_described_in_the_readme() -> None:
    digits = load_digits()
    assert (digits.x_train.shape, digits.x_test.shape) == ((1500, 8, 8), (297, 8, 8))
    assert (digits.x_train.dtype, digits.y_train.dtype, digits.n_classes) == (np.float64, np.int64, 10)
    pixels = np.concatenate([digits.x_train, digits.x_test]) * 16
    assert (pixels.min(), pixels.max()) == (0, 16)
    np.testing.assert_array_equal(pixels, np.round(pixels))
    content = pixels.astype(np.uint8).tobytes() + np.concatenate([digits.y_train, digits.y_test]).tobytes()
    assert (
        hashlib.sha256(content).hexdigest()
        == "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"
    )


def test_digits_are_complete_and_of_balanced_classes() -> None:
    digits = load_digits()
    for y, n in ((digits.y_train, 1500), (digits.y_test, 297)):
        counts = np.bincount(y, minlength=10)
        assert counts.sum() == n
        assert counts.min() > 0.8 * n / 10


def test_split_reshapes_in_row_major_order() -> None:
    digits = load_digits()
    flat = digits.reshaped((64,))
    np.testing.assert_array_equal(flat.x_test[3], digits.x_test[3].ravel())
    np.testing.assert_array_equal(flat.reshaped((1, 8, 8)).x_train[:, 0], digits.x_train)
    with pytest.raises(DataError, match=r"shape \(8, 8\) cannot be reshaped to \(65,\)"):
        digits.reshaped((65,))


def write_idx(folder: Path, arrays: dict[str, np.ndarray], *, packed: bool = False) -> Path:
    for key, name in IDX_FILES.items():
        array = arrays[key]
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
        content = header + array.tobytes()
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def assert_is_split(split: Split, dtype: type) -> None:
    for key in ("x_train", "x_test"):
        expected = SPLIT[key].astype(dtype) / dtype(255)
        np.testing.assert_array_equal(getattr(split, key), expected, strict=True)
    np.testing.assert_array_equal(split.y_train, SPLIT["y_train"].astype(np.int64), strict=True)
    np.testing.assert_array_equal(split.y_test, SPLIT["y_test"].astype(np.int64), strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_load_npz_and_idx(tmp_path: Path, dtype: type) -> None:
    np.savez(tmp_path / "data.npz", **SPLIT)
    assert_is_split(load_split(tmp_path / "data.npz", dtype=dtype), dtype)
    for packed in (False, True):
        folder = tmp_path / f"idx-{packed}"
        folder.mkdir()
        assert_is_split(load_split(str(write_idx(folder, SPLIT, packed=packed)), dtype=dtype), dtype)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_with_a_dot_are_found(tmp_path: Path, packed: bool) -> None:
    for file in list(write_idx(tmp_path, SPLIT, packed=packed).iterdir()):
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    assert_is_split(load_split(tmp_path, dtype=np.float64), np.float64)


def test_files_that_inflate_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lca.reference._data.files.LARGEST_UNPACKED", 2**16)
    zeros = {**SPLIT, "x_train": np.zeros((2**16, 2, 4), np.uint8), "y_train": np.zeros(2**16, np.uint8)}
    write_idx(tmp_path, zeros, packed=True)
    np.savez_compressed(tmp_path / "packed.npz", **zeros)
    np.savez(tmp_path / "plain.npz", **zeros)
    for path, advice in ((tmp_path, "gunzip it first"), (tmp_path / "packed.npz", "numpy.savez")):
        with pytest.raises(
            DataError, match=f"inflates to more than .* GiB; if that is not a mistake, .*{advice}"
        ):
            load_split(path)
    assert len(load_split(tmp_path / "plain.npz").x_train) == 2**16


def test_floating_point_features_are_not_scaled(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "data.npz", **(SPLIT | {k: SPLIT[k] * np.float32(0.5) for k in ("x_train", "x_test")})
    )
    np.testing.assert_array_equal(
        load_split(tmp_path / "data.npz").x_test, np.full((2, 2, 4), 127.5), strict=True
    )


def test_load_keras_mnist(data_dir: Path) -> None:
    mnist = load_split(data_dir / "mnist.npz", dtype=np.float32)
    assert (mnist.x_train.shape, mnist.x_test.shape, mnist.n_classes) == (
        (60000, 28, 28),
        (10000, 28, 28),
        10,
    )
    assert (mnist.x_train.min(), mnist.x_train.max()) == (0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": SPLIT["y_train"][:2]}, "x_train, y_train: .*one row per example"),
        ({"y_test": np.array([0.0, 1.0])}, "y_test: y must be integer labels"),
        ({"y_test": np.array([[0.0], [1.0]])}, "y_test must hold integer labels ≥ 0"),
        ({"y_test": np.array([0, -1])}, "y_test must hold integer labels ≥ 0 .* got -1"),
        ({"x_test": SPLIT["x_test"].astype(np.int32)}, "x_test must hold uint8 pixels .* got int32"),
        ({"x_test": SPLIT["x_test"][:, :1]}, r"one feature shape, got \(2, 4\) and \(1, 4\)"),
        ({"x_test": np.full((2, 2, 4), np.nan)}, "x_test, y_test: x must be finite"),
        ({"x_train": np.array([{"a": 1}, None, "b"], dtype=object)}, "but reading it failed"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **(SPLIT | change))
    with pytest.raises(DataError, match=message) as caught:
        load_split(path)
    assert str(path) in str(caught.value)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x_train=SPLIT["x_train"], x=SPLIT["x_test"])
    with pytest.raises(DataError, match="lacks y_train, x_test, y_test; expected the keys x_train"):
        load_split(tmp_path / "data.npz")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", **SPLIT)
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    (tmp_path / "text.npz").write_text("x_train, y_train")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "bare.npy", SPLIT["x_train"])
    for name in ("half.npz", "text.npz", "empty.npz", "bare.npy"):
        with pytest.raises(DataError, match="but reading it failed") as caught:
            load_split(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(DataError, match="there is no file or folder"):
        load_split(tmp_path / "absent.npz")


@pytest.mark.parametrize("content", [b"", b"\0\0\x08\x03", b"\0\0\x77\x01\0\0\0\0", b"\1\0\x08\x01\0\0\0\0"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_broken_idx_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    write_idx(tmp_path, SPLIT)
    (tmp_path / IDX_FILES["x_test"]).unlink()
    (tmp_path / (IDX_FILES["x_test"] + suffix)).write_bytes(content)
    with pytest.raises(DataError, match="expected an IDX file.*each plain or with the ending .gz"):
        load_split(tmp_path)


def test_a_short_or_missing_idx_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path, SPLIT)
    images = tmp_path / IDX_FILES["x_test"]
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"header says shape \(2, 2, 4\), file holds 15 numbers"):
        load_split(tmp_path)
    images.unlink()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte"):
        load_split(tmp_path)
