"""Data sets: validated batches, the embedded digits, and readers for NumPy and IDX files."""

from lca.reference._data.batches import Batch, Dataset
from lca.reference._data.digits import load_digits
from lca.reference._data.files import load_split
from lca.reference._data.split import Split

__all__ = ["Batch", "Dataset", "Split", "load_digits", "load_split"]
