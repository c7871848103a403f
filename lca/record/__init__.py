"""The record of a run: an `xarray.Dataset` on Zarr that is written during the run.

`Record` writes; `open_record` and `open_records` read. Importing this package needs only NumPy; using it
needs the extra ``report``.
"""

from lca.record.reading import open_record, open_records
from lca.record.record import Record
from lca.record.schema import SCHEMA_VERSION, RecordError

__all__ = ["SCHEMA_VERSION", "Record", "RecordError", "open_record", "open_records"]
