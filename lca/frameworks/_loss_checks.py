"""Checks of losses and weights of measuring batches, and the errors that they raise."""

import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from lca.errors import DataError, LCAError
from lca.frameworks._tensors import is_floating, is_tensor
from lca.frameworks._trees import PyTree, describe

if TYPE_CHECKING:
    from lca.frameworks._loss import ModelLoss

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
MESSAGE_LENGTH = 300
"""Characters of a framework's own error that are repeated in ours."""


def weight_of(loss: "ModelLoss", batch: PyTree) -> float:
    """``loss.batch_weight(batch)``, or a `DataError` if that is not a finite number ≥ 0.

    Raises
    ------
    DataError
        If the weight is negative or not finite, or computing it raises an error.

    Examples
    --------
    >>> import numpy as np
    >>> class Counted:
    ...     def batch_weight(self, batch):
    ...         return len(batch)
    >>> weight_of(Counted(), np.zeros(3))
    3.0
    """
    try:
        weight = float(loss.batch_weight(batch))
    except LCAError:
        raise
    except Exception as error:
        raise DataError(
            f"the batch_weight of a measuring batch ({describe(batch)}) raised {shortened(error)}"
        ) from error
    return check_weight(weight)


def check_weight(weight: float) -> float:
    """``weight``, or a `DataError` if it is not a finite number ≥ 0.

    Raises
    ------
    DataError
        If it is negative or not finite.

    Examples
    --------
    >>> check_weight(0.0)
    0.0
    """
    if not 0 <= weight < math.inf:
        raise DataError(
            f"a measuring batch has the weight {weight:g}; batch_weight must give a finite number that is "
            "not negative, such as the number of tokens."
        )
    return weight


def require_weight(weight: float) -> float:
    """``weight``, or a `DataError` if it is not positive.

    Raises
    ------
    DataError
        If it is not positive.

    Examples
    --------
    >>> require_weight(2.0)
    2.0
    """
    if not weight > 0:
        raise DataError(
            f"the weights of the measured batches add up to {weight:g}; pass a batch_weight that is positive."
        )
    return weight


def unweighted(fix: str) -> LCAError:
    """The error for a weighted sample of a loss that cannot be weighted."""
    return LCAError(
        "examples drawn by their error are weighted: that needs the loss of each example, and a loss that is "
        f"the mean of these (no batch statistics, no class weights); {fix}, or use sampling='uniform'."
    )


def untold(reason: str) -> LCAError:
    """The error for a weighted sample of a loss of which it is not known whether it can be weighted."""
    return LCAError(
        "examples drawn by their error are weighted, and it cannot be told whether the loss of a weighted "
        f"sample is their weighted mean: {reason}; use sampling='uniform'."
    )


class loss_errors:  # noqa: N801 - used as a function
    """Turn whatever the loss of a batch raises into a `DataError` that describes the batch.

    A class, because a context made by a generator takes three times as long, and this one is entered for
    every batch.

    Parameters
    ----------
    batch
        The measuring batch.
    passed_on
        Types of errors that stay as they are, as errors of this library do: out of memory.
    advice
        Ends the message on an error; may be empty.

    Examples
    --------
    >>> import numpy as np
    >>> try:
    ...     with loss_errors(np.zeros((2, 3))):
    ...         raise ValueError("shapes do not match")
    ... except DataError as error:
    ...     print(error)
    the loss of a measuring batch (ndarray of float64 (2, 3)) raised ValueError: shapes do not match
    """

    def __init__(
        self,
        batch: PyTree,
        passed_on: tuple[type[Exception], ...] = (),
        advice: Callable[[Exception], str] = lambda error: "",
    ) -> None:
        self._batch, self._passed_on, self._advice = batch, passed_on, advice

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, (LCAError, *self._passed_on)):
            raise DataError(
                f"the loss of a measuring batch ({describe(self._batch)}) raised {shortened(error)}"
                f"{self._advice(error)}"
            ) from error


def shortened(error: Exception) -> str:
    r"""Type and message of an error of a framework, on one line, without colours and dumps of arguments.

    >>> shortened(TypeError("\x1b[1mno match\x1b[0m\n\nArguments received by Dense.call():\n x=..."))
    'TypeError: no match'
    """
    text = " ".join(_COLOUR.sub("", str(error)).partition("Arguments received by")[0].split())
    text = text if len(text) <= MESSAGE_LENGTH else text[:MESSAGE_LENGTH].rstrip() + " ..."
    return f"{type(error).__name__}: {text}"


def check_loss(loss: object, mean_hint: str) -> None:
    """Raise `LCAError` unless ``loss`` is a floating-point scalar tensor.

    Parameters
    ----------
    loss
        What the loss function returned.
    mean_hint
        How to get a mean in this framework, for the message.

    Raises
    ------
    LCAError
        If it is not a tensor of floating-point numbers, or not a scalar.

    Examples
    --------
    >>> import numpy as np
    >>> check_loss(np.array(1.0), "use the mean")
    """
    if not is_tensor(loss) or not is_floating(loss):
        kind = describe([loss]).removeprefix("list of ") if is_tensor(loss) else type(loss).__name__
        raise LCAError(f"the loss must be a floating-point tensor, got {kind}; return the loss as computed.")
    shape = tuple(loss.shape)  # type: ignore[attr-defined]
    if shape:
        raise LCAError(f"the loss must be a scalar, got shape {shape}; {mean_hint}.")


def no_gradient(gradient_hint: str) -> LCAError:
    """The error for a loss through which no gradient reaches any parameter.

    Parameters
    ----------
    gradient_hint
        What may cause it in this framework, for the message.

    Examples
    --------
    >>> print(no_gradient("is it detached?"))
    the loss does not depend on any parameter that trains; is it detached?
    """
    return LCAError(f"the loss does not depend on any parameter that trains; {gradient_hint}")
