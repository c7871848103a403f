"""`Chosen`: the examples that are allocated, with their weights in the loss and their labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lca.by_example._protocol import Separable
from lca.errors import LCAError, UnknownNameError
from lca.objective import Batch

Array = np.ndarray
CLASS = "class"
"""The labelling by the classes of the objective (`lca.objective.Scored`)."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Examples of an objective.

    Parameters
    ----------
    index
        Their indices, integers (n,).
    weight
        ω (n,), float64: ``L = Σ_n ω_n ℓ_n`` over all examples of the objective.
    labels
        The label of each example, (n,), for each labelling.
    batch
        The batch of these examples, whose loss is ``Σ_n ω_n ℓ_n / Σ_n ω_n``; ``None`` if all are chosen.
    population
        The number of examples from which these were drawn at random, with weights that are larger by the
        ratio of both numbers; 0 if they were not drawn.
    """

    index: Array
    weight: Array
    labels: Mapping[str, Array]
    batch: Batch | None
    population: int = 0


def choose(
    objective: Separable,
    index: Sequence[int] | Array | None,
    labels: Mapping[str, Sequence[Any]],
    *,
    sample: int | None = None,
    seed: int = 0,
) -> Chosen:
    """Select the examples of an objective given by ``index`` (default: all), with their labels.

    With ``sample``, that many of them are drawn at random, each with the same probability, without
    replacement.

    Raises
    ------
    LCAError
        If an example does not exist or is chosen twice, if the length of a labelling differs from that of the
        data, or if there are fewer examples than are to be drawn.
    """
    number = objective.n_examples
    found = np.arange(number) if index is None else _checked(index, number)
    population, factor = 0, 1.0
    if sample is not None:
        population = len(found)
        if sample > population:
            raise LCAError(f"sample={sample} examples cannot be drawn from {population}; omit sample.")
        drawn = np.random.default_rng(seed).choice(population, sample, replace=False)
        found, factor = found[np.sort(drawn)], population / sample
    given = objective.weight
    weights = np.ones(number) if given is None else np.asarray(given, np.float64)
    named = {name: _labelling(name, values, number)[found] for name, values in labels.items()}
    own = getattr(objective, "labels", None)
    if own is not None:
        named.setdefault(CLASS, np.asarray(own)[found])
    is_all = np.array_equal(found, np.arange(number))
    own_weight = None if given is None else weights[found]
    return Chosen(
        found,
        factor * weights[found] / weights.sum(),
        named,
        None if is_all else objective.batch(found, own_weight),
        population,
    )


def require_label(labels: Mapping[str, Array], name: str) -> Array:
    """Return the labelling of this name, or raise `UnknownNameError`."""
    if name not in labels:
        raise UnknownNameError("labelling", name, labels)
    return labels[name]


def _checked(index: Sequence[int] | Array, number: int) -> Array:
    found = np.asarray(index)
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "iu":
        raise LCAError(
            f"examples are chosen by their numbers, a sequence of integers, got {index!r:.80}; for a mask "
            "pass numpy.flatnonzero(mask)."
        )
    if found.min() < 0 or found.max() >= number:
        outside = found[(found < 0) | (found >= number)][0]
        raise LCAError(f"there is no example {outside}; the data have {number}, numbered from 0.")
    if len(np.unique(found)) < len(found):
        values, counts = np.unique(found, return_counts=True)
        raise LCAError(
            f"example {values[counts > 1][0]} is chosen twice; its loss change would count twice in every "
            "sum, so choose each once."
        )
    return found.astype(np.int64)


def _labelling(name: str, values: Sequence[Any], number: int) -> Array:
    found = np.asarray(values)
    if found.shape != (number,):
        raise LCAError(
            f"the labels {name!r} have shape {found.shape}; give one label for each of the {number} examples "
            "of the data, also where only some are allocated."
        )
    return found
