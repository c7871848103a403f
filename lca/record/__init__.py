"""The record of a run: an `xarray.Dataset` on Zarr that is written during the run.

`Record` writes, and `open_record` reads; `lca.open_runs` opens several. Importing this package needs only
NumPy; using it needs the extra ``report``.
"""

from lca.record._citation import citation
from lca.record._reading import open_record
from lca.record._record import Record
from lca.record._schema import SCHEMA_VERSION, RecordError
from lca.record._writers import close_record

__all__ = [
    "SCHEMA_VERSION",
    "Record",
    "RecordError",
    "citation",
    "close_record",
    "open_record",
]
