"""What every framework's objective shares: data, the checks when it is made, samples, state, terms, replays.

`ModelObjective` describes what a framework must supply. Nothing here imports one.
"""

from lca.frameworks._arguments import check_order, refuse_class
from lca.frameworks._checkpoints import Checkpoint, checkpoints_in_order
from lca.frameworks._data import Batches, Measured, Rows, all_rows, joined, labels_of, read_batches
from lca.frameworks._loss import BatchwiseLoss, ModelLoss
from lca.frameworks._loss_checks import (
    check_loss,
    check_weight,
    loss_errors,
    no_gradient,
    require_weight,
    weight_of,
)
from lca.frameworks._objective import ModelObjective, Sample, Variant
from lca.frameworks._parameters import check_theta, require_one, require_precision
from lca.frameworks._policies import BatchNorm, BatchNormPolicy, Frozen, batch_norm_policies, check_frozen
from lca.frameworks._replay import steps_between
from lca.frameworks._tensors import Tensor, TensorOps, tensor_ops
from lca.frameworks._trees import PyTree, describe, examples_in, is_rows, tensors_in, tree_leaves, tree_map
from lca.frameworks._tryout import DEFAULT_BATCH_SIZE

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "BatchNorm",
    "BatchNormPolicy",
    "Batches",
    "BatchwiseLoss",
    "Checkpoint",
    "Frozen",
    "Measured",
    "ModelLoss",
    "ModelObjective",
    "PyTree",
    "Rows",
    "Sample",
    "Tensor",
    "TensorOps",
    "Variant",
    "all_rows",
    "batch_norm_policies",
    "check_frozen",
    "check_loss",
    "check_order",
    "check_theta",
    "check_weight",
    "checkpoints_in_order",
    "describe",
    "examples_in",
    "is_rows",
    "joined",
    "labels_of",
    "loss_errors",
    "no_gradient",
    "read_batches",
    "refuse_class",
    "require_one",
    "require_precision",
    "require_weight",
    "steps_between",
    "tensor_ops",
    "tensors_in",
    "tree_leaves",
    "tree_map",
    "weight_of",
]
