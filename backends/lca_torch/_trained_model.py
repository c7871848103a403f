"""`TrainedTorchModel`: why the gradients of training may differ from those of the measured loss."""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from lca.tracking._trained_model import TrainedModel
from lca_torch._gradient_hooks import with_gradient_hooks
from lca_torch._moving_buffers import moved_before_use
from lca_torch._objective import Objective
from lca_torch._policies import dropout_rates


class TrainedTorchModel(TrainedModel):
    """As `lca.tracking._trained_model.TrainedModel`."""

    def __init__(self, model: nn.Module, losses: Sequence[Objective]) -> None:
        super().__init__(model, losses)
        self._modes = dict[int, bool]()

    def note_modes(self) -> None:
        """The gradient of an update was taken: remember which modules are in training mode."""
        self._modes = {id(module): module.training for module in self._model.modules()}

    def dropout(self) -> Iterator[str]:
        for name, module in self._model.named_modules():
            if self._trains(module) and dropout_rates(module):
                yield name or type(module).__name__

    def frozen_statistics(self) -> Iterator[str]:
        copies = [dict(own._loss._versions.current.model.named_modules()) for own in self._losses]
        for name, module in self._model.named_modules():
            uses_batch = isinstance(module, nn.modules.batchnorm._NormBase) and self._trains(module)
            if uses_batch and not all(copy[name].training for copy in copies if name in copy):
                yield name or type(module).__name__

    def in_training(self) -> dict[str, type]:
        return {
            name: type(module)
            for name, module in self._model.named_modules()
            if self._trains(module) and not _moves(module)
        }

    def gradient_hooks(self) -> Iterator[str]:
        return with_gradient_hooks(self._model)

    def keeps_order(self, loader: object) -> bool:
        if not isinstance(loader, DataLoader):
            return False
        batches = loader.batch_sampler
        if type(batches) is BatchSampler:
            return isinstance(batches.sampler, SequentialSampler)
        return batches is None and isinstance(loader.sampler, SequentialSampler)

    def _trains(self, module: nn.Module) -> bool:
        """Whether a module was in training mode when the gradient of the update was taken."""
        return bool(self._modes.get(id(module), module.training))


def _moves(module: nn.Module) -> bool:
    """Whether a module moves buffers in training, for which measuring has rules of its own."""
    return isinstance(module, nn.modules.batchnorm._NormBase) or bool(moved_before_use(module))
