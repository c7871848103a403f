"""The order and the numbers of checkpoints, from their names."""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path

from lca.errors import LCAWarning, TrajectoryError

_NUMBER = re.compile(r"\d+\.\d+(?:e[+-]?\d+)?|\d+(?:e[+-]\d+)?")
_SUFFIXES = re.compile(r"(\.[A-Za-z]\w*)+$")
_STEPS = frozenset(
    ("batch", "batches", "checkpoint", "checkpoints", "ckpt", "it", "iter", "iters", "iteration")
    + ("iterations", "step", "steps", "update", "updates")
)
"""Words before a number that counts updates."""
_MEASURES = frozenset(
    ("acc", "accuracy", "auc", "error", "f", "loss", "mae", "mse", "perplexity", "ppl", "score")
)
"""Words before a number that was measured: it says nothing about the order."""


@dataclass(frozen=True)
class _Name:
    """The numbers in one name.

    Attributes
    ----------
    form
        The name with ``#`` in place of each number, without the suffixes.
    words
        The word between each number and the one before it, in lower case; empty text for a number without
        one.
    texts
        Each number as it is written.
    """

    form: str
    words: tuple[str, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, path: str | PathLike[str]) -> "_Name":
        stem = _SUFFIXES.sub("", Path(path).name)
        found = list(_NUMBER.finditer(stem))
        ends = [0, *(match.end() for match in found)]
        words = (
            re.findall(r"[A-Za-z]+", stem[end : match.start()])
            for end, match in zip(ends, found, strict=False)
        )
        before = tuple(known[-1].lower() if known else "" for known in words)
        return cls(_NUMBER.sub("#", stem), before, tuple(match[0] for match in found))


@dataclass(frozen=True)
class _Column:
    """The numbers at one place of all names."""

    word: str
    numbers: tuple[int, ...]

    @property
    def increases(self) -> bool:
        return all(a < b for a, b in pairwise(self.numbers))


def has_number(path: str | PathLike[str]) -> bool:
    """Whether there is a number in a name, apart from its suffixes.

    >>> has_number("epoch-3.weights.h5"), has_number("last.h5")
    (True, False)
    """
    return bool(_Name.of(path).texts)


def checkpoint_numbers(paths: Iterable[str | PathLike[str]]) -> list[int]:
    """The numbers in the names of checkpoints that tell them apart; a replay counts in them.

    Numbers after "step", "checkpoint", "iteration", ... are preferred. Decimals, and numbers after "loss",
    "accuracy", ..., are measured values and never count.

    Parameters
    ----------
    paths
        In the order of training, as they are passed to ``replay``.

    Raises
    ------
    TrajectoryError
        If the names have no number, different counts of numbers, or none that increases.

    Examples
    --------
    >>> checkpoint_numbers(["run2/epoch-0-step-100.pt", "run2/epoch-1-step-250.pt"])
    [100, 250]
    >>> checkpoint_numbers(["m-01-0.93.keras", "m-02-0.71.keras"])
    [1, 2]
    """
    listed = [Path(path) for path in paths]
    names = [_Name.of(path) for path in listed]
    counts = {len(name.texts) for name in names}
    found = [column for column in _columns(names) if column.increases] if len(counts) == 1 else []
    found.sort(key=lambda column: column.word not in _STEPS)
    if found:
        return list(found[0].numbers)
    raise TrajectoryError(
        f"no number in the names of the checkpoints increases "
        f"({', '.join(path.name for path in listed[:3])}, ...); name them after their steps."
    )


def sorted_by_number(paths: Iterable[Path]) -> list[Path]:
    """Sort paths by the numbers in their names; numbers that were measured, such as a loss, say nothing.

    Raises
    ------
    TrajectoryError
        If the order is ambiguous: names of different forms, equal numbers, or two numbers of which one
        increases where the other decreases.

    Warns
    -----
    LCAWarning
        If some have no number ("last.ckpt") and at least two have one: the former are left out.

    Examples
    --------
    >>> [path.name for path in sorted_by_number([Path("step-10.pt"), Path("step-9.pt")])]
    ['step-9.pt', 'step-10.pt']
    """
    names = {path: _Name.of(path) for path in sorted(paths, key=lambda path: path.name)}
    bare = [path.name for path, name in names.items() if not name.texts]
    if bare and len(names) - len(bare) > 1:
        warnings.warn(
            f"left out, as there is no number in the name: {', '.join(bare)}; to include a checkpoint, pass "
            "a list of paths in the order of training.",
            LCAWarning,
            stacklevel=2,
        )
        names = {path: name for path, name in names.items() if name.texts}
    why = _different_forms(names)
    if not why:
        columns = _columns(list(names.values()))
        keys = dict(zip(names, zip(*(column.numbers for column in columns), strict=True), strict=False))
        ordered = sorted(names, key=lambda path: keys.get(path, ()))
        why = next(filter(None, (_conflict(a, b, keys) for a, b in pairwise(ordered))), "")
    if why:
        raise TrajectoryError(
            f"the order of the files in {next(iter(names)).parent} is ambiguous: {why}; pass a list of paths "
            "in the order of training."
        )
    return ordered if names else []


def _columns(names: Sequence[_Name]) -> list[_Column]:
    """The numbers that may count steps, by their place in the names, which all have equally many."""
    found = []
    for words, texts in zip(
        zip(*(name.words for name in names), strict=True),
        zip(*(name.texts for name in names), strict=True),
        strict=True,
    ):
        if words[0] not in _MEASURES and all(text.isdecimal() for text in texts):
            found.append(_Column(words[0], tuple(map(int, texts))))
    return found


def _different_forms(names: dict[Path, _Name]) -> str:
    forms = sorted({name.form + path.suffix for path, name in names.items()})
    return f"they have names of different forms ({', '.join(forms)})" if len(forms) > 1 else ""


def _conflict(before: Path, after: Path, keys: dict[Path, tuple[int, ...]]) -> str:
    """Why it is not clear that ``after`` comes after ``before``; empty if it is."""
    first, second = keys.get(before, ()), keys.get(after, ())
    if first == second:
        return f"{before.name} and {after.name} have the same numbers"
    if any(a > b for a, b in zip(first, second, strict=True)):
        return f"one number increases and another decreases from {before.name} to {after.name}"
    return ""
