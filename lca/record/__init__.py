"""The record of a run: an `xarray.Dataset` on Zarr that is written during the run.

`Record` writes; `open_record` and `open_records` read. Importing this package needs only NumPy; using it
needs the extra ``report``.
"""

from lca.record._citation import citation
from lca.record._reading import open_record, open_records
from lca.record._record import Record
from lca.record._schema import SCHEMA_VERSION, RecordError

__all__ = [
    "SCHEMA_VERSION",
    "Record",
    "RecordError",
    "citation",
    "open_record",
    "open_records",
]
