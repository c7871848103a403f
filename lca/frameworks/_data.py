"""The measured data: rows that are cut into batches of any size, or batches measured as they come."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from lca.arrays import array_ops
from lca.errors import DataError
from lca.frameworks._tensors import is_integer, is_tensor
from lca.frameworks._trees import (
    PyTree,
    concatenate,
    describe,
    examples_in,
    is_rows,
    signature,
    take,
    tensors_in,
)

MOST_BATCHES = 10_000
"""Batches that are read from a source without a length, such as a generator, which may be endless."""
MOST_BYTES = 4 << 30
"""Bytes of such batches that are kept in memory."""
Prepare: TypeAlias = Callable[[PyTree], PyTree]
"""Maps a batch as the user has it to the tensors that the model takes."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A tree of tensors with one row per example, cut into measuring batches of any size; the last is ragged.

    Parameters
    ----------
    tree
        All rows, in nested tuples, lists and mappings.
    came_in
        The batch size of the loader or batched data set that the rows were read from; ``None`` if they were
        not in batches of one size.

    Examples
    --------
    >>> [batch.tolist() for batch in Rows(np.arange(5)).batches(2)]
    [[0, 1], [2, 3], [4]]
    """

    tree: PyTree
    came_in: int | None = None

    def __len__(self) -> int:
        return self._length

    @cached_property
    def _length(self) -> int:
        return examples_in(self.tree)

    @property
    def size_text(self) -> str:
        """The number of examples in words."""
        return f"{len(self):,} example{'' if len(self) == 1 else 's'}"

    def batches(self, batch_size: int | None) -> "Cuts":
        """All rows in order, ``batch_size`` at a time; ``None``: all at once."""
        return Cuts(self, batch_size or len(self))

    def last(self, batch_size: int | None) -> PyTree:
        """The last of these batches, which may be the smallest."""
        size = batch_size or len(self)
        return self.take(slice((len(self) - 1) // size * size, None))

    def take(self, index: slice | np.ndarray) -> PyTree:
        """Some of the rows, as a batch."""
        return take(self.tree, index)


@dataclass(frozen=True, eq=False)
class Cuts(Iterable[PyTree]):
    """The batches of `Rows`, ``size`` rows each; each is cut when it is asked for.

    >>> [batch.tolist() for batch in Cuts(Rows(np.arange(3)), 2)]
    [[0, 1], [2]]
    """

    rows: Rows
    size: int

    @property
    def lengths(self) -> list[int]:
        """The number of rows of each batch."""
        length = len(self.rows)
        if self.size >= length:
            return [length]
        whole, rest = divmod(length, self.size)
        return [self.size] * whole + [rest] * (rest > 0)

    def __iter__(self) -> Iterator[PyTree]:
        length = len(self.rows)
        if self.size >= length:
            return iter([self.rows.tree])
        starts = range(0, length, self.size)
        return (self.rows.take(slice(start, start + self.size)) for start in starts)


@dataclass(frozen=True, eq=False)
class Batches:
    """Measuring batches as they come: kept in a list, or read again at every pass.

    Parameters
    ----------
    source
        The batches. A list is kept; anything else is iterated over at every pass.
    prepare
        Applied to each batch when it is read.
    most_bytes
        The most bytes that a source without a length may give before it is taken for endless.

    Examples
    --------
    >>> [batch.shape for batch in Batches([np.zeros((2, 3)), np.zeros((2, 4))]).batches()]
    [(2, 3), (2, 4)]
    """

    source: Iterable[PyTree]
    prepare: Prepare = lambda batch: batch
    most_bytes: float = math.inf

    @property
    def kept(self) -> bool:
        """Whether the batches are in memory."""
        return isinstance(self.source, list)

    @property
    def size_text(self) -> str:
        """The number of batches in words; empty if the source does not know it."""
        if not _has_length(self.source):
            return ""
        count = len(self.source)  # type: ignore[arg-type]
        return f"{count:,} batch{'' if count == 1 else 'es'}"

    def batches(self, batch_size: int | None = None) -> Iterator[PyTree]:
        """Every batch; ``batch_size`` is ``None``, as these batches cannot be cut.

        Raises
        ------
        DataError
            If there is no batch, or a source without a length has more than 10,000 batches, or than
            ``most_bytes``.
        """
        endless = not _has_length(self.source)
        read = size = 0
        for batch in self.source:
            if endless and (read == MOST_BATCHES or size > self.most_bytes):
                raise DataError(
                    f"the measured data have no length and did not end after {read:,} batches; pass "
                    "those to be measured: list(itertools.islice(stream, n))."
                )
            read += 1
            size += sum(int(getattr(tensor, "nbytes", 0)) for tensor in tensors_in(batch))
            yield self.prepare(batch)
        if not read:
            raise DataError(
                "the measured data are empty: there is no batch; has something else read them to their end?"
            )


Measured: TypeAlias = Rows | Batches


def all_rows(tree: PyTree, came_in: int | None = None) -> Rows:
    """A tree of tensors as `Rows`.

    Parameters
    ----------
    tree
        A tree of tensors, each with one row per example.
    came_in
        The size of the batches that the rows were read from; ``None``: they were read from arrays.

    Raises
    ------
    DataError
        If the tensors differ in length, or there are no examples.

    Examples
    --------
    >>> len(all_rows((np.zeros((7, 3)), np.zeros(7))))
    7
    """
    if not is_rows(tree):
        raise DataError(
            f"all tensors of the data need one row per example and one length, got a {describe(tree)}; pass "
            "data of another form as a list of batches, with batch_weight=function of a batch."
        )
    if not examples_in(tree):
        raise DataError("the measured data are empty.")
    return Rows(tree, came_in)


def read_batches(
    source: Iterable[PyTree], prepare: Prepare = lambda batch: batch, *, keep: bool = True
) -> Measured:
    """The measured data from an iterable of batches.

    Parameters
    ----------
    source
        Any iterable of batches; read once if ``keep``, otherwise at every pass. One without a length is read
        up to 10,000.
    prepare
        Called with every batch.
    keep
        Keep all batches in memory: as `Rows` if they fit together, otherwise as a list.

    Raises
    ------
    DataError
        If there is no batch, there are too many, or the source is an iterator, which would be used up.

    Examples
    --------
    >>> rows = read_batches([np.zeros((2, 3)), np.zeros((1, 3))])
    >>> len(rows), rows.came_in
    (3, 2)
    """
    if isinstance(source, Iterator):
        raise DataError(
            f"the measured data are an iterator ({type(source).__name__}), which can be read only once: "
            "measuring would use it up, and training would find it empty. Pass a list of its batches, "
            "list(batches), and train with that list too; or pass the object that makes the iterator (a "
            "loader)."
        )
    batches = Batches(source, prepare, MOST_BYTES if keep else math.inf)
    return joined(list(batches.batches())) if keep else batches


def joined(batches: list[PyTree]) -> Measured:
    """`Rows` out of batches, if they agree in structure, dtypes and shapes behind the first axis.

    Otherwise `Batches`, which cannot be cut.

    >>> joined([np.zeros((2, 3)), np.zeros((1, 3))]).came_in
    2
    >>> joined([np.zeros((2, 3)), np.zeros((1, 4))]).kept
    True
    """
    if not all(is_rows(batch) and signature(batch) == signature(batches[0]) for batch in batches):
        return Batches(batches)
    size, *sizes = map(examples_in, batches)
    regular = all(n == size for n in sizes[:-1]) and all(n <= size for n in sizes)
    return all_rows(concatenate(batches), size if regular else None)


def labels_of(data: Measured) -> np.ndarray | None:
    """The class of each example, integers (N,), of rows ``(inputs, labels)`` or ``(inputs, labels, weight)``.

    ``None`` if the labels are not integers, one per example.

    Parameters
    ----------
    data
        The measured data.

    Examples
    --------
    >>> labels_of(Rows((np.zeros((2, 3)), np.array([[4], [1]]))))
    array([4, 1])
    """
    tree = data.tree if isinstance(data, Rows) else None
    if not isinstance(tree, tuple | list) or len(tree) not in (2, 3) or not is_tensor(tree[1]):
        return None
    labels = tree[1]
    if not is_integer(labels) or any(size != 1 for size in labels.shape[1:]):
        return None
    return array_ops(labels).to_numpy(labels).reshape(-1)


def copies(batch: PyTree, n: int) -> PyTree:
    """All rows of a batch n times.

    >>> copies(np.arange(2), 2)
    array([0, 1, 0, 1])
    """
    return concatenate([batch] * n) if tensors_in(batch) else batch


def _has_length(source: object) -> bool:
    try:
        len(source)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return False
    return True
