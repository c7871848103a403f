"""Lightning with ``strategy="ddp"`` and FSDP2: the callback measures what it measures in one process."""

import numpy as np
import pytest

import lca
from lca import tolerances
from lca.tolerances import EPS64
from tests.lca_torch.torchrun import launch

pytest.importorskip("lightning", reason="Lightning is not installed")
pytest.importorskip("zarr", reason="records need zarr")


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_as_one_process(tmp_path):
    from tests.lca_torch.lightning_ranks import fitted  # noqa: PLC0415 - needs Lightning

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    expected = fitted(tmp_path / "one")
    ended = launch("tests.lca_torch.lightning_ranks", tmp_path / "two", 2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    scale = np.abs(expected).sum(axis=1, keepdims=True)
    for shards in range(2):
        first, second = (np.load(tmp_path / "two" / f"{shards}.{rank}.npy") for rank in range(2))
        np.testing.assert_array_equal(first, second)
        assert (np.abs(first - expected) <= tolerances.allocation(scale, 16 * EPS64)).all()
        record = lca.open_record(tmp_path / "two" / f"run{shards}.zarr")
        assert record.sizes["step"] == len(expected)
