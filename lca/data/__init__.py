"""Data sets: validated batches, the embedded digits, and files people already have."""

from lca.data.batches import Batch, Dataset
from lca.data.digits import load_digits
from lca.data.files import load
from lca.data.split import Split

__all__ = ["Batch", "Dataset", "Split", "load", "load_digits"]
