"""Checks of the outputs and labels from which scores of single examples are computed."""

import numpy as np

from lca.errors import LCAError
from lca.tracking._splitting import IGNORED


def check_logits(logits: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Raise `LCAError` unless these are the shapes (n, C) and (n,) or (n, 1)."""
    if len(logits) != 2 or labels not in (logits[:1], (*logits[:1], 1)):
        raise LCAError(
            f"scores(index, outputs, labels) expects logits (n, C) and class labels (n,), got outputs "
            f"{logits} and labels {labels}; for other losses pass the scores themselves (n,), without labels."
        )


def check_classes(labels: np.ndarray, classes: int) -> None:
    """Raise `LCAError` unless ``labels`` (n,) are those of ``classes`` classes, counted from 0."""
    if not (np.issubdtype(labels.dtype, np.integer) and ((labels >= 0) & (labels < classes)).all()):
        raise LCAError(
            f"scores(index, outputs, labels) expects labels that are integers from 0 to {classes - 1}, as "
            f"outputs has {classes} classes, or {IGNORED} for examples that the loss leaves out; got "
            f"{labels.dtype} from {labels.min()} to {labels.max()}."
        )
