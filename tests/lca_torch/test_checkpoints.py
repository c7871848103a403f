"""Checkpoint files: which are read and in what order; what is damaged or could run code is refused."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

from lca.errors import LayoutError, TrajectoryError
from lca_torch import Objective, replay

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (40,), generator=torch.Generator().manual_seed(2))


def objective_of(model):
    return Objective(model, cross_entropy, (X, Y), batch_size=40)


def saved(folder):
    """Two checkpoints of a linear model, and the objective."""
    model = nn.Linear(6, 3)
    for step in range(2):
        torch.save(model.state_dict(), folder / f"{step}.pt")
    return objective_of(model)


def test_damaged_safetensors_and_wrong_keys_are_said(tmp_path):
    objective = saved(tmp_path)
    (tmp_path / "2.safetensors").write_bytes(b"junk" * 100)
    with pytest.raises(TrajectoryError, match=r"2\.safetensors is damaged"):
        list(replay([tmp_path / "2.safetensors", tmp_path / "0.pt"], objective))
    with pytest.raises(TrajectoryError, match="under key='model', but 'weight', 'bias'; .* leave key"):
        list(replay([tmp_path / "0.pt", tmp_path / "1.pt"], objective, key="model"))
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "0.pt")
    with pytest.raises(TrajectoryError, match="but 'state_dict', 'epoch'; pass one of these as key"):
        list(replay([tmp_path / "0.pt", tmp_path / "1.pt"], objective, key="model"))


def sharded(folder, index, content):
    """A checkpoint of one shard, whose index may say something else; and the first one of a run."""
    objective = saved(folder)
    (folder / "sharded").mkdir()
    save_file(content, folder / "sharded" / "model-1.safetensors")
    (folder / "sharded" / "model.safetensors.index.json").write_text(index)
    return objective, [folder / "0.pt", folder / "sharded"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", r"model\.safetensors\.index\.json is damaged or not a checkpoint: JSONDecodeError"),
        ("{}", r"index\.json is damaged or not a checkpoint: KeyError"),
        (
            '{"weight_map": {"weight": "model-2.safetensors"}}',
            r"names model-2\.safetensors \(with 'weight'\), missing from its folder",
        ),
        (
            '{"weight_map": {"norm": "model-1.safetensors"}}',
            r"says that 'norm' is in model-1\.saf.*, but it",
        ),
        ('{"weight_map": {"weight": "model-1.safetensors"}}', r"lacks 'bias'; it holds 'weight'"),
    ],
)
def test_an_index_that_is_wrong_is_said(index, message, tmp_path):
    objective, paths = sharded(tmp_path, index, {"weight": torch.zeros(3, 6)})
    with pytest.raises(TrajectoryError, match=message):
        list(replay(paths, objective))


class Touch:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    objective = saved(tmp_path)
    torch.save({"weight": Touch(tmp_path / "ran")}, tmp_path / "2.pt")
    (tmp_path / "3.pt").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    for evil in ("2.pt", "3.pt"):
        with pytest.raises(TrajectoryError, match="could run code, so it was not loaded|damaged"):
            list(replay([tmp_path / "0.pt", tmp_path / evil], objective))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["model-1.pt", "model-2.pt", "critic-1.pt"], r"different forms \(critic-#.pt, model-#.pt\)"),
        (["1.pt", "01.pt"], "01.pt and 1.pt have the same numbers"),
        (["epoch=0-seed=9.pt", "epoch=1-seed=5.pt"], "increases and another decreases"),
        (["1.pt"], r"got 1 in .* \(files of kind \.bin, .* with weights\); save one before"),
        ([], "at least two checkpoints"),
    ],
)
def test_a_folder_without_one_order_is_refused(names, message, tmp_path):
    objective = objective_of(nn.Linear(6, 3))
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(TrajectoryError, match=message):
        replay(tmp_path, objective)


def test_paths_that_are_no_checkpoints_are_refused_at_once(tmp_path):
    objective = saved(tmp_path)
    with pytest.raises(TrajectoryError, match=r"there is no checkpoint .*7\.pt"):
        replay([tmp_path / "0.pt", tmp_path / "7.pt"], objective)
    with pytest.raises(TrajectoryError, match=r"holds none of model\.safetensors, model\.safetensors\.index"):
        replay([tmp_path / "0.pt", tmp_path], objective)
    with pytest.raises(TrajectoryError, match=r"there is no folder .*nowhere; pass a folder of checkpoints"):
        replay(tmp_path / "nowhere", objective)
    with pytest.raises(TrajectoryError, match=r"0\.pt is one checkpoint, .*pass a list of paths"):
        replay(str(tmp_path / "0.pt"), objective)
    with pytest.raises(LayoutError, match="the objectives of a replay"):
        replay(tmp_path, {"a": objective, "b": objective_of(nn.Linear(6, 3, bias=False))})
