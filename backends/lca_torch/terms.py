"""The torch objectives inside what is measured: the terms of sums, what is scaled, several losses by name."""

from collections.abc import Iterator, Mapping

from lca.objective import Objective as AnyObjective
from lca.objective import Scaled, Sum
from lca_torch.objective import AtState, Objective


def torch_objectives(measured: AnyObjective | Mapping[str, AnyObjective]) -> Iterator[Objective]:
    """Every `lca_torch.Objective` in ``measured``, in order.

    >>> import torch
    >>> data = torch.eye(2), torch.tensor([0, 1])
    >>> loss = Objective(torch.nn.Linear(2, 2), torch.nn.functional.cross_entropy, data)
    >>> list(torch_objectives({"train": Sum({"half": Scaled(loss, 0.5)})})) == [loss]
    True
    """
    if isinstance(measured, Mapping):
        for objective in measured.values():
            yield from torch_objectives(objective)
    elif isinstance(measured, Sum):
        yield from torch_objectives(measured.terms)
    elif isinstance(measured, Scaled | AtState):
        yield from torch_objectives(measured.objective)
    elif isinstance(measured, Objective):
        yield measured
