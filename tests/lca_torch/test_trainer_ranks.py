"""`transformers.Trainer` and accelerate on several ranks: what is measured is what one process measures."""

import numpy as np
import pytest

from lca import tolerances
from lca.tolerances import EPS64
from tests.lca_torch.torchrun import launch

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_as_one_process(tmp_path, monkeypatch):
    from tests.lca_torch.trainer_ranks import CASES  # noqa: PLC0415 - needs transformers

    monkeypatch.setattr("sys.argv", ["", str(tmp_path)])
    ended = launch("tests.lca_torch.trainer_ranks", tmp_path, 2)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for case in CASES:
        expected = case()
        first, second = (np.load(tmp_path / f"{case.__name__}.{rank}.npy") for rank in range(2))
        np.testing.assert_array_equal(first, second)
        scale = np.abs(expected).sum(axis=1, keepdims=True)
        assert first.shape == expected.shape
        assert (np.abs(first - expected) <= tolerances.allocation(scale, 16 * EPS64)).all(), case.__name__
