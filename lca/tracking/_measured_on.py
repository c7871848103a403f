"""What a loss is measured on, in words, as far as its objective knows it."""

from collections.abc import Mapping

from lca.errors import LCAError
from lca.objective import Described, Objective, Sampled, Scaled, Sum


def measured_on(objectives: Mapping[str, Objective]) -> dict[str, str]:
    """The setting ``measured_on`` of a record: a text for each loss of which it is known.

    >>> import numpy as np
    >>> from lca.reference import DatasetLoss, bowl, logistic_regression
    >>> train = DatasetLoss(logistic_regression(2, 3), np.eye(2), np.array([0, 2]))
    >>> measured_on({"train": train, "other": bowl(1)})
    {'train': '2 examples'}
    """
    found = {name: text_of(objective) for name, objective in objectives.items()}
    return {name: text for name, text in found.items() if text}


def text_of(objective: Objective) -> str:
    """What one loss is a mean over; of a `Sum`, what its terms with data have in common."""
    if isinstance(objective, Sum):
        parts = objective.terms.values() if objective.whole is None else [objective.whole]
        texts = {text for part in parts if (text := text_of(part))}
        return texts.pop() if len(texts) == 1 else ""
    if isinstance(objective, Scaled):
        return text_of(objective.objective)
    if isinstance(objective, Described):
        return objective.measured_on
    return _examples(objective) if isinstance(objective, Sampled) else ""


def _examples(objective: Sampled) -> str:
    try:
        number = objective.n_examples
    except LCAError:  # examples cannot be drawn from it
        return ""
    return f"{number:,} example{'' if number == 1 else 's'}"
