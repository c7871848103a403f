"""Checkpoints of large models: shards with an index, and folders of `torch.distributed.checkpoint`."""

import gc
import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import lca
from lca.errors import TrajectoryError
from lca_torch import Objective, replay

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (20,), generator=torch.Generator().manual_seed(2))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))


def objective_of(model):
    return Objective(model, cross_entropy, (X, Y), batch_size=20)


def run(model, save, steps=3):
    """Move the model, and save it ``steps`` times; returns θ of each checkpoint."""
    thetas = []
    for step in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        save(step)
        thetas.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return thetas


def dcp_save(content, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a single process
        dcp.save(content, storage_writer=dcp.FileSystemWriter(folder, sync_files=False), no_dist=True)


def read(checkpoints, objective, **options):
    """θ of each checkpoint."""
    steps = list(replay(checkpoints, objective, **options))
    return [steps[0].start, *(step.end for step in steps)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- what libraries write --------------------------------------------------------------------------------


def test_shards_of_transformers_are_read(tmp_path):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
    )
    tokens = torch.randint(20, (4, 8))
    thetas = run(model, lambda t: model.save_pretrained(tmp_path / f"checkpoint-{t}", max_shard_size="4KB"))
    assert len(list((tmp_path / "checkpoint-0").glob("model-*-of-*.safetensors"))) > 2
    objective = Objective(model, None, {"input_ids": tokens, "labels": tokens})
    assert_same(read(tmp_path, objective), thetas)


def as_is(model, optimizer, folder):
    dcp_save(model.state_dict(), folder)
    return {}


def in_a_dictionary(model, optimizer, folder):
    dcp_save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, folder)
    return {"key": "model"}


def beside_an_optimizer(model, optimizer, folder):
    dcp_save(model.state_dict() | {"optimizer": optimizer.state_dict()}, folder)
    return {"strict": False}


def as_accelerate_does(model, optimizer, folder):
    dcp_save({"model": model.state_dict()}, folder / "pytorch_model_fsdp_0")
    dcp_save({"optimizer": optimizer.state_dict()}, folder / "optimizer_0")
    return {"key": "model"}


def with_a_prefix(model, optimizer, folder):
    dcp_save({f"module.{name}": value for name, value in model.state_dict().items()}, folder)
    return {"prefix": "module."}


@pytest.mark.parametrize(
    "save", [as_is, in_a_dictionary, beside_an_optimizer, as_accelerate_does, with_a_prefix]
)
def test_folders_of_torch_distributed_are_read(save, tmp_path):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    cross_entropy(model(X), Y).backward()
    optimizer.step()
    options = {}
    thetas = run(model, lambda t: options.update(save(model, optimizer, tmp_path / f"step-{t}")))
    assert_same(read(tmp_path, objective_of(model), **options), thetas)


def changed(folder, change):
    """Apply ``change`` to the metadata of a folder of `torch.distributed.checkpoint`."""
    path = folder / ".metadata"
    metadata = change(pickle.loads(path.read_bytes()))  # noqa: S301 - written a moment ago
    path.write_bytes(pickle.dumps(metadata))


def in_two_chunks(metadata):
    """As two ranks write a tensor: the halves ``0.weight.0`` and ``0.weight.1`` become one."""
    entries, places = dict(metadata.state_dict_metadata), dict(metadata.storage_data)
    halves = [entries.pop(f"0.weight.{i}") for i in range(2)]
    offsets = [torch.Size([0, 0]), torch.Size([2, 0])]
    entries["0.weight"] = replace(
        halves[0],
        size=torch.Size([4, 6]),
        chunks=[ChunkStorageMetadata(at, half.size) for at, half in zip(offsets, halves, strict=True)],
    )
    for i, at in enumerate(offsets):
        [index] = [index for index in places if index.fqn == f"0.weight.{i}"]
        places[MetadataIndex("0.weight", at, i)] = places.pop(index)
    return replace(metadata, state_dict_metadata=entries, storage_data=places, planner_data=None)


def saved_in_two_chunks(model, folder):
    content = dict(model.state_dict())
    whole = content.pop("0.weight")
    dcp_save(content | {"0.weight.0": whole[:2].clone(), "0.weight.1": whole[2:].clone()}, folder)
    changed(folder, in_two_chunks)


def test_a_tensor_in_chunks_is_put_together(tmp_path):
    model = network()
    thetas = run(model, lambda t: saved_in_two_chunks(model, tmp_path / f"step-{t}"))
    assert_same(read(tmp_path, objective_of(model)), thetas)


@pytest.mark.parametrize(
    ("inside", "options"),
    [
        ("_orig_mod.{0}.{1}", {}),
        ("{0}._fsdp_wrapped_module.{1}", {}),
        ("module._orig_mod.{0}._checkpoint_wrapped_module.{1}", {"prefix": "module."}),
        ("_orig_mod.module.{0}.{1}", {"prefix": "module."}),
        ("_orig_mod.module.{0}.{1}", {"prefix": "_orig_mod.module."}),
    ],
)
def test_names_of_wrappers_are_ignored(inside, options, tmp_path):
    model = network()

    def save(step):
        named = {inside.format(*name.split(".")): value for name, value in model.state_dict().items()}
        save_file(named, tmp_path / f"{step}.safetensors")

    thetas = run(model, save)
    assert_same(read(tmp_path, objective_of(model), **options), thetas)
    if options:
        with pytest.raises(
            TrajectoryError, match=r"names in it begin with 'module\.': pass prefix='module\.'"
        ):
            read(tmp_path, objective_of(model))


def test_two_names_of_one_tensor_are_refused(tmp_path):
    model = network()
    both = {**model.state_dict(), "_orig_mod.0.bias": torch.zeros(4)}
    for step in range(2):
        save_file(both, tmp_path / f"{step}.safetensors")
    with pytest.raises(TrajectoryError, match=r"holds '0\.bias' and '_orig_mod\.0\.bias', two names"):
        read(tmp_path, objective_of(model))


# --- what is refused -------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path):
    """Two checkpoints of two shards each: the objective, the folder of the second, its index."""
    model = network()
    objective = objective_of(model)
    for step in range(2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        tensors = model.state_dict()
        places = {n: f"model-0000{1 if n.startswith('0') else 2}-of-00002.safetensors" for n in tensors}
        for place in set(places.values()):
            save_file({n: tensors[n] for n in tensors if places[n] == place}, folder / place)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return objective, folder, {"weight_map": places}


def missing(folder, index):
    (folder / "model-00002-of-00002.safetensors").unlink()


def outside(folder, index):
    (folder.parent / "other").mkdir()
    (folder / "model-00002-of-00002.safetensors").rename(folder.parent / "other" / "shard")
    index["weight_map"]["2.bias"] = "../other/shard"


def absolute(folder, index):
    index["weight_map"]["2.bias"] = str(folder / "model-00002-of-00002.safetensors")


def twice(folder, index):
    first = folder / "model-00001-of-00002.safetensors"
    save_file(load_file(first) | {"2.bias": torch.zeros(3)}, first)


def elsewhere(folder, index):
    index["weight_map"]["2.bias"] = "model-00001-of-00002.safetensors"


def other_shape(folder, index):
    second = folder / "model-00002-of-00002.safetensors"
    save_file(load_file(second) | {"2.weight": torch.zeros(3, 5)}, second)


def truncated(folder, index):
    second = folder / "model-00002-of-00002.safetensors"
    second.write_bytes(second.read_bytes()[:-8])


def no_names(folder, index):
    index["weight_map"] = ["model-00001-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"names model-00002-of-00002\.safetensors \(with '2\.\w+' and 1 more tensors\), missing"),
        (outside, r"names '\.\./other/shard', which is outside of its folder, and was not read"),
        (absolute, r"names '/.*model-00002-of-00002\.safetensors', which is outside of its folder"),
        (twice, r"'2\.bias' is in two shards, .*model-0000[12].* and .*model-0000[12]"),
        (elsewhere, r"says that '2\.bias' is in model-00001-of-00002\.safetensors, but it is not"),
        (other_shape, r"2\.weight in .*model-00002-of-00002\.safetensors has shape \(3, 5\), .* \(3, 4\)"),
        (truncated, r"model-00002-of-00002\.safetensors is damaged or not a checkpoint: Safetensor"),
        (no_names, r"index\.json is damaged or not a checkpoint: TypeError: weight_map is not a mapping"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_shards_are_refused(shards, damage, message):
    objective, folder, index = shards
    damage(folder, index)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TrajectoryError, match=message):
        list(replay(folder.parent, objective))


def test_an_index_that_names_a_tensor_twice_is_refused(shards):
    objective, folder, _ = shards
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a.bin", "w": "b.bin"}}')
    with pytest.raises(TrajectoryError, match=r"index\.json is damaged .*: it names 'w' twice"):
        list(replay(folder.parent, objective))


def test_shards_without_their_index_are_refused_at_once(shards):
    objective, folder, _ = shards
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(
        TrajectoryError, match=r"checkpoint-1 holds model-00001.*, but not its index \(\*\.ind"
    ):
        replay(folder.parent, objective)


@pytest.fixture
def folders(tmp_path):
    """Two folders of `torch.distributed.checkpoint`: the objective, the second folder."""
    model = network()
    for step in range(2):
        saved_in_two_chunks(model, tmp_path / f"step-{step}")
    return objective_of(model), tmp_path / "step-1"


def without_metadata(folder):
    (folder / ".metadata").unlink()


def without_file(folder):
    (folder / "__0_0.distcp").unlink()


def cut(folder):
    path = folder / "__0_0.distcp"
    path.write_bytes(path.read_bytes()[:-2000])


def no_pickle(folder):
    (folder / ".metadata").write_bytes(b"junk" * 10)


def leading_outside(folder):
    def change(metadata):
        for info in metadata.storage_data.values():
            info.relative_path = "../__0_0.distcp"
        return metadata

    changed(folder, change)


def without_a_chunk(folder):
    def change(metadata):
        del metadata.state_dict_metadata["0.weight"].chunks[1]
        return metadata

    changed(folder, change)


def without_the_place_of_a_chunk(folder):
    def change(metadata):
        del metadata.storage_data[MetadataIndex("0.weight", [2, 0])]
        return metadata

    changed(folder, change)


def with_chunks_that_overlap(folder):
    def change(metadata):
        entry = metadata.state_dict_metadata["0.weight"]
        moved = ChunkStorageMetadata(torch.Size([1, 0]), entry.chunks[1].sizes)
        metadata.state_dict_metadata["0.weight"] = replace(entry, chunks=[entry.chunks[0], moved])
        old = metadata.storage_data.pop(MetadataIndex("0.weight", [2, 0]))
        metadata.storage_data[MetadataIndex("0.weight", [1, 0])] = old
        return metadata

    changed(folder, change)


def of_another_shape(folder):
    def change(metadata):
        metadata.state_dict_metadata["0.bias"] = metadata.state_dict_metadata["2.bias"]
        metadata.storage_data[MetadataIndex("0.bias", [0])] = metadata.storage_data[
            MetadataIndex("2.bias", [0])
        ]
        return metadata

    changed(folder, change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_metadata, r"step-1 holds __0_0\.distcp, but not its index \(\.metadata\)"),
        (without_file, r"\.metadata names __0_0\.distcp \(with '.*'\), which is missing from its folder"),
        (cut, r"'[\w.]+' in .*step-1 is damaged or not a checkpoint: \w+"),
        (no_pickle, r"step-1/\.metadata is damaged or not a checkpoint: UnpicklingError"),
        (leading_outside, r"names '\.\./__0_0\.distcp', which is outside of its folder, and was not read"),
        (without_a_chunk, r"\.metadata has only a part of '0\.weight'"),
        (without_the_place_of_a_chunk, r"lacks the part of '0\.weight' that begins at \(2, 0\)"),
        (with_chunks_that_overlap, r"\.metadata has a part of '0\.weight' twice"),
        (of_another_shape, r"0\.bias in .*step-1.* has shape \(3,\), the model's has \(4,\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_folders_are_refused(folders, damage, message):
    objective, folder = folders
    damage(folder)
    with pytest.raises(TrajectoryError, match=message):
        list(replay(folder.parent, objective))


class Touch:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["alone", "inside"])
def test_code_in_the_metadata_is_refused_and_not_run(where, folders, tmp_path):
    objective, folder = folders
    evil = Touch(tmp_path / "ran")
    changed(folder, lambda metadata: evil if where == "alone" else replace(metadata, planner_data=evil))
    with pytest.raises(
        TrajectoryError, match=r"step-1/\.metadata holds a pickled pathlib\.Path\.touch, and loading"
    ):
        list(replay(folder.parent, objective))
    assert not (tmp_path / "ran").exists()


# --- memory, and what a step is --------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["shards", "folder"])
def test_memory_does_not_grow_with_the_number_of_checkpoints(form, tmp_path):
    """Three vectors at most: both ends of a step, and the next point while it is read."""
    model = nn.Linear(50, 40, bias=False)

    def save(step):
        folder = tmp_path / f"step-{step}"
        if form == "folder":
            dcp_save(model.state_dict(), folder)
            return
        folder.mkdir()
        save_file(model.state_dict(), folder / "model-1.safetensors")
        index = {"weight_map": {"weight": "model-1.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    run(model, save, steps=12)
    objective = Objective(model, nn.functional.mse_loss, (torch.randn(3, 50), torch.randn(3, 40)))
    most = {count: _most_vectors(sorted(tmp_path.iterdir())[:count], objective) for count in (3, 12)}
    assert most[3] == most[12] <= 3


def _most_vectors(checkpoints, objective):
    return max(len(_vectors(objective.layout.size)) for _ in replay(checkpoints, objective))


def _vectors(size):
    """The vectors (K,) that exist; the parameters of the models have another shape."""
    return {
        tensor.untyped_storage().data_ptr()
        for tensor in gc.get_objects()
        if type(tensor) is torch.Tensor and tensor.shape == (size,)
    }


def test_a_replay_says_that_its_steps_are_lines_and_which_are_not_resolved(tmp_path):
    """Between two checkpoints far apart nothing is known of the path, however many nodes the line has."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(61):
        if step in (0, 20, 60):
            torch.save(model.state_dict(), tmp_path / f"step-{step}.pt")
        optimizer.zero_grad()
        cross_entropy(5 * model(X), Y).backward()
        optimizer.step()
    objective, estimator = objective_of(model), lca.Adaptive(tol=1e-4, max_gradients=3)
    summary = lca.measure(objective, replay(tmp_path, objective), estimator)
    train = summary["train"]
    assert train["checkpoints"] == {"first": 0, "last": 60, "largest_gap": 40}
    caption = " ".join(str(summary.table()).split())
    assert "2 straight lines between the checkpoints 0 and 60 (at most 40 apart), not the path" in caption
    steps = list(lca.allocate(objective, replay(tmp_path, objective), estimator))
    reasons = [a.reason for a in steps if not a.converged]
    assert train["unconverged_steps"] == len(reasons) > 0
    assert "too large at the limit of 3 gradients inside" in reasons[0]
