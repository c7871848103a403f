"""Data sets: validated batches, the embedded digits, and files people already have."""

from lca.reference.data.batches import Batch, Dataset
from lca.reference.data.digits import load_digits
from lca.reference.data.files import load
from lca.reference.data.split import Split

__all__ = ["Batch", "Dataset", "Split", "load", "load_digits"]
