"""Data sets: validated batches, the embedded digits, and readers for NumPy and IDX files."""

from lca.reference.data.batches import Batch, Dataset
from lca.reference.data.digits import load_digits
from lca.reference.data.files import load_split
from lca.reference.data.split import Split

__all__ = ["Batch", "Dataset", "Split", "load_digits", "load_split"]
