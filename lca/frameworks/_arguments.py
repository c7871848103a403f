"""Arguments of an objective in a wrong order or form: the mistake is named before anything is evaluated."""

from lca.errors import DataError, LayoutError, LCAError
from lca.frameworks._tensors import is_tensor

_ORDER = "the order is Objective(model, loss_fn, data)"


def check_order(model: object, loss_fn: object, data: object, model_type: type, name: str) -> None:
    """Raise `LCAError` unless the arguments can be a model, its loss and its data, in this order.

    A constructor calls this first. ``model_type`` is the class of models, ``name`` what users call it,
    with its article.
    ``loss_fn`` is ``None`` if the loss comes with the model or is a function of a whole batch.

    Raises
    ------
    LayoutError
        If ``model`` is not of this type.
    LCAError
        If ``loss_fn`` cannot be called, or is a class.
    DataError
        If the data lack targets, or are ``[inputs, targets]``, which would be read as two batches.

    Examples
    --------
    >>> check_order(3, max, ([1.0], [2.0]), str, "a string")
    Traceback (most recent call last):
    lca.errors.LayoutError: expected a string, got int; the order is Objective(model, loss_fn, data).
    """
    if not isinstance(model, model_type):
        raise LayoutError(f"expected {name}, got {type(model).__name__}; {_ORDER}.")
    refuse_class(loss_fn)
    if loss_fn is None:
        return
    if not callable(loss_fn):
        raise LCAError(
            f"loss_fn must be a function of outputs and targets, got a {type(loss_fn).__name__}; {_ORDER}."
        )
    if is_tensor(data):
        raise DataError(
            "the data are one tensor, and loss_fn also takes targets; pass data as (inputs, targets), or "
            "batch_loss=function of model and batch instead of loss_fn."
        )
    if isinstance(data, list) and len(data) == 2 and all(map(is_tensor, data)):  # noqa: PLR2004
        raise DataError(
            "the data are a list of two tensors, which is read as two batches; pass (inputs, targets)."
        )


def refuse_class(loss_fn: object) -> None:
    """Raise `LCAError` if ``loss_fn`` is a class: calling it would make a loss, not evaluate one.

    >>> refuse_class(max)
    >>> refuse_class(dict)
    Traceback (most recent call last):
    lca.errors.LCAError: loss_fn is the class dict; pass an instance of it: dict().
    """
    if isinstance(loss_fn, type):
        name = loss_fn.__name__
        raise LCAError(f"loss_fn is the class {name}; pass an instance of it: {name}().")


def refuse_more(more: tuple[object, ...]) -> None:
    """Raise `LCAError` if an objective got more arguments by position than model, loss and data.

    >>> refuse_more(())
    """
    if more:
        raise LCAError(
            "the measured data are one argument: pass Objective(model, loss_fn, (x, y)), and options by name."
        )
