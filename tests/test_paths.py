"""What is not a path of this machine is refused; what is one passes unchanged."""

from pathlib import Path

import pytest

from lca._paths import local_path
from lca.errors import DataError, OutputError


@pytest.mark.parametrize("path", ["a/b.zarr", "C:/x", "a::b", "tab\t, ünïcode", "\udcff", "a:b"])
def test_a_path_stays_as_it_is(path):
    assert local_path(path) == local_path(Path(path)) == Path(path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://bucket/run.zarr", "is a URL"),
        (Path("s3://bucket/run.zarr"), "is a URL"),
        ("memory://run", "is a URL"),
        ("file:///tmp/run", "is a URL"),
        ("simplecache::s3://bucket", "is a URL"),
        ("a\0b", "no path can have"),
        ("\ud800", "no path can have"),
        ("x" * 300, "File name too long"),
        ("x/" * 5000, "File name too long"),
        (b"x", "is not a path"),
        (3, "is not a path"),
        (None, "is not a path"),
    ],
)
@pytest.mark.parametrize("error", [OutputError, DataError])
def test_what_is_no_path_is_refused_in_one_short_line(path, said, error):
    with pytest.raises(error, match=said) as caught:
        local_path(path, error)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
