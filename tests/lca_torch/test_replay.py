"""`replay`: checkpoints of every step give what the live tracker gave; what cannot be read is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy

import lca
from lca.errors import TrajectoryError
from lca_torch import Objective, Tracker, replay

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (40,), generator=torch.Generator().manual_seed(2))
SIMPSON = lca.PathIntegral(lca.SIMPSON)


class Kept:
    """A view that keeps everything."""

    def __init__(self, layout):
        self.allocations = []

    def update(self, allocation):
        self.allocations.append(allocation)


class Tied(nn.Module):
    """A network whose last weight is also its first, with batch normalisation between."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6)
        self.second, self.out = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)
        self.second.weight = self.first.weight
        self.register_buffer("temperature", torch.tensor(2.0), persistent=False)

    def forward(self, x):
        return self.out(self.second(torch.tanh(self.norm(self.first(x))))) / self.temperature


def objective_of(model, **options):
    return Objective(model, cross_entropy, (X, Y), batch_size=40, **({"batch_norm": "frozen"} | options))


def run(save, steps=4, **options):
    """Train a fresh network under a tracker; ``save(model, t)`` after t steps."""
    torch.manual_seed(0)
    model = Tied()
    optimizer, objective = torch.optim.Adam(model.parameters(), lr=0.05), objective_of(model, **options)
    save(model, 0)
    with Tracker(model, optimizer, objective, SIMPSON, views=Kept, on_error="raise") as tracker:
        for t in range(steps):
            optimizer.zero_grad()
            cross_entropy(model(X[10 * t : 10 * t + 10]), Y[10 * t : 10 * t + 10]).backward()
            optimizer.step()
            save(model, t + 1)
    return objective, tracker.views["train"].allocations


def torch_file(folder):
    return lambda model, t: torch.save(model.state_dict(), folder / f"step-{8 + t}.pt")


def nested_old_file(folder):
    def save(model, t):
        content = {"epoch": t, "state_dict": {f"net.{n}": v for n, v in model.state_dict().items()}}
        content["state_dict"]["head.weight"] = torch.zeros(1)
        path = folder / f"epoch={t // 2}-step={t}.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=False)

    return save


def safetensors_folder(dropped):
    """As `transformers` writes it: a folder a checkpoint, and tied tensors under one of their names."""

    def saving(folder):
        def save(model, t):
            (folder / f"checkpoint-{t}").mkdir()
            torch.save({}, folder / f"checkpoint-{t}" / "optimizer.pt")
            tensors = {name: v for name, v in model.state_dict().items() if name != dropped}
            save_file(tensors, folder / f"checkpoint-{t}" / "model.safetensors")

        return save

    return saving


def shards(suffix):
    """As `transformers` writes large models: several files, and an index of what is where."""

    def saving(folder):
        def save(model, t):
            inside = folder / f"checkpoint-{t}"
            inside.mkdir()
            stem = "model.safetensors" if suffix == ".safetensors" else "pytorch_model.bin"
            places = {}
            for i, name in enumerate(model.state_dict()):
                if name == "second.weight":
                    continue  # tied to the first
                places[name] = f"{Path(stem).stem}-{i % 3 + 1:05}-of-00003{suffix}"
            for place in set(places.values()):
                content = {n: model.state_dict()[n] for n, at in places.items() if at == place}
                (save_file if suffix == ".safetensors" else torch.save)(content, inside / place)
            index = {"metadata": {"total_size": 1}, "weight_map": places}
            (inside / f"{stem}.index.json").write_text(json.dumps(index))

        return save

    return saving


@pytest.mark.parametrize(
    ("saving", "options"),
    [
        (torch_file, {}),
        (shards(".safetensors"), {}),
        (shards(".bin"), {}),
        (nested_old_file, {"key": "state_dict", "prefix": "net."}),
        (safetensors_folder("second.weight"), {}),
        (safetensors_folder("first.weight"), {}),
    ],
)
def test_replay_is_the_live_run(saving, options, tmp_path):
    objective, live = run(saving(tmp_path))
    (tmp_path / "notes.txt").touch()
    again = list(lca.allocate(objective, replay(tmp_path, objective, **options), SIMPSON))
    assert len(again) == len(live) == 4
    for a, b in zip(again, live, strict=True):
        assert torch.equal(a.values, b.values)
        assert (a.residual, a.state_change, a.loss_end) == (b.residual, b.state_change, b.loss_end)
        assert abs(a.state_change) > 1e-6


@pytest.mark.filterwarnings("ignore:the state that the loss depends on changed")  # ``save`` resets it
def test_state_that_does_not_move_is_one_object_and_unused_state_is_none(tmp_path):
    def save(model, t):
        model.norm.running_mean.zero_()
        model.norm.running_var.fill_(1.0)
        torch_file(tmp_path)(model, t)

    objective, _ = run(save)
    assert all(step.state[0] is step.state[1] for step in replay(tmp_path, objective))
    assert all("temperature" not in step.state[0] for step in replay(tmp_path, objective))


def test_several_objectives_and_another_dtype(tmp_path):
    objective, _ = run(torch_file(tmp_path))
    double = objective_of(objective.model.double())
    losses = {"sum": lca.Sum({"data": double}), "half": lca.Scaled(double, 0.5)}
    steps = list(replay(sorted(tmp_path.iterdir(), key=lambda p: len(p.name)), losses))
    assert {step.end.dtype for step in steps} == {torch.float64}
    whole, half = (sum(a.values for a in lca.allocate(o, steps, SIMPSON)) for o in losses.values())
    torch.testing.assert_close(half, whole / 2)


def saved(folder, **changes):
    """Two checkpoints of a linear model, the second with other contents; and the objective."""
    model = nn.Linear(6, 3)
    contents = {**model.state_dict(), **changes}
    contents = {name: value for name, value in contents.items() if value is not None}
    torch.save(model.state_dict(), folder / "0.pt")
    torch.save(contents, folder / "1.pt")
    return objective_of(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": None}, r"1\.pt lacks 'bias'; it holds 'weight'"),
        ({"extra": torch.zeros(1)}, r"1\.pt also holds 'extra', which the model does not have"),
        ({"weight": torch.zeros(3, 5)}, r"weight in .*1\.pt has shape \(3, 5\), the model's has \(3, 6\)"),
        ({"weight": torch.zeros(3, 6, dtype=torch.int64)}, r"weight in .* is torch.int64, not a floating"),
        (
            {"bias": None, "weight": None, "net.weight": torch.zeros(3, 6), "net.bias": torch.zeros(3)},
            "pass prefix='net.'",
        ),
        ({"bias": None, "weight": None, "model": {"weight": torch.zeros(3, 6)}}, "pass key='model'"),
    ],
)
def test_what_does_not_fit_is_named(changes, message, tmp_path):
    objective = saved(tmp_path, **changes)
    with pytest.raises(TrajectoryError, match=message):
        list(replay(tmp_path, objective))


@pytest.mark.parametrize(
    ("inside", "prefix", "message"),
    [
        (
            "",
            "net.",
            r"lacks 'weight', 'bias' with prefix='net\.'; .* begin with no prefix .*leave prefix",
        ),
        ("net.", "", r"lacks 'weight', 'bias'; names in it begin with 'net\.': pass prefix='net\.'"),
        ("net.", "module.", r"with prefix='module\.'; names in it begin with 'net\.': pass prefix='net\.'"),
    ],
)
def test_a_prefix_too_many_or_missing_is_told(inside, prefix, message, tmp_path):
    model = nn.Linear(6, 3)
    for step in range(2):
        torch.save({inside + name: v for name, v in model.state_dict().items()}, tmp_path / f"{step}.pt")
    with pytest.raises(TrajectoryError, match=message):
        list(replay(tmp_path, objective_of(model), prefix=prefix))
    assert [step.index for step in replay(tmp_path, objective_of(model), prefix=inside)] == [0]


def test_a_file_of_another_model_is_no_question_of_a_prefix(tmp_path):
    other = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    for step in range(2):
        torch.save(other.state_dict(), tmp_path / f"{step}.pt")
    with pytest.raises(
        TrajectoryError, match=r"it holds '0\.weight', .*; is it a checkpoint of another model\?"
    ):
        list(replay(tmp_path, objective_of(nn.Linear(6, 4))))


def test_buffers_of_an_older_version_are_ignored_on_request(tmp_path):
    """Checkpoints of GPT-NeoX hold masks and frequencies that the model of today computes."""
    model = nn.Sequential(nn.Linear(6, 3))
    for step in range(3):
        old = {
            "0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
            "0.attention.masked_bias": torch.tensor(-1e9),
            "0.rotary_emb.inv_freq": torch.ones(2),
        }
        torch.save(old | model.state_dict(), tmp_path / f"step{step}.pt")
        nn.init.constant_(model[0].bias, step)
    objective = objective_of(model)
    with pytest.raises(
        TrajectoryError, match=r"also holds '0\.attention\.bias', .* strict=False ignores them"
    ):
        list(replay(tmp_path, objective))
    steps = list(replay(tmp_path, objective, strict=False))
    assert [float((step.end - step.start)[-1]) != 0 for step in steps] == [True, True]
    torch.save({"0.weight": torch.zeros(3, 6)}, tmp_path / "step2.pt")
    with pytest.raises(TrajectoryError, match=r"step2\.pt lacks '0\.bias'"):
        list(replay(tmp_path, objective, strict=False))


def test_an_empty_file_is_said_to_end_too_early(tmp_path):
    objective = saved(tmp_path)
    (tmp_path / "1.pt").write_bytes(b"")
    with pytest.raises(TrajectoryError, match=r"1\.pt is damaged or not a checkpoint: EOFError\b.*\w"):
        list(replay(tmp_path, objective))


def test_files_are_read_when_their_turn_comes(tmp_path):
    objective = saved(tmp_path)
    (tmp_path / "2.pt").write_bytes(b"junk" * 100)
    steps = replay(tmp_path, objective)
    assert next(steps).index == 0
    with pytest.raises(TrajectoryError, match=r"2\.pt is damaged or not a checkpoint"):
        next(steps)


def test_importing_the_backend_loads_no_trainer():
    heavy = {"lightning", "pytorch_lightning", "transformers", "accelerate", "safetensors"}
    code = f"import sys, lca_torch; print({heavy} & {{*sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    assert done.stdout.strip() == "set()"


def test_an_adapter_is_found_by_the_names_that_peft_saves_it_with(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 4), nn.ModuleDict({"lora_B": nn.ModuleDict({"mine": nn.Linear(4, 3)})})
    )
    model.forward = lambda x: model[1]["lora_B"]["mine"](model[0](x))
    model[0].requires_grad_(False)
    model.peft_config = {"mine": None}
    objective = Objective(model, cross_entropy, (X, Y), frozen="omit")
    for step in range(2):
        nn.init.constant_(model[1]["lora_B"]["mine"].bias, step)
        tensors = {name.replace(".mine", ""): t for name, t in model.state_dict().items() if "lora" in name}
        assert set(tensors) == {"1.lora_B.weight", "1.lora_B.bias"}
        torch.save(tensors, tmp_path / f"step-{step}.pt")
    [step] = replay(tmp_path, objective)
    assert torch.equal(step.end, objective.theta())
    assert torch.equal(step.start[-3:], torch.zeros(3))
    model.peft_config["other"] = None  # a name without that of the adapter is not clear any more
    with pytest.raises(TrajectoryError, match="lacks '1.lora_B.mine.weight'"):
        list(replay(tmp_path, objective))


def test_checkpoints_of_adapters_alone_are_replayed_with_the_frozen_parameters_of_the_model(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    objective = Objective(model, cross_entropy, (X, Y), frozen="omit")
    whole, adapters = tmp_path / "whole", tmp_path / "adapters"
    for folder in (whole, adapters):
        folder.mkdir()
    for step in range(3):
        nn.init.constant_(model[2].bias, step)
        tensors = model.state_dict()
        torch.save(tensors, whole / f"step-{step}.pt")
        torch.save({name: tensors[name] for name in tensors if name[0] == "2"}, adapters / f"step-{step}.pt")
    steps = list(replay(adapters, objective))
    for found, expected in zip(steps, replay(whole, objective), strict=True):
        assert torch.equal(found.end, expected.end)
        assert all(torch.equal(found.state[1][name], value) for name, value in expected.state[1].items())
    torch.save({n: t for n, t in tensors.items() if n != "0.bias"}, whole / "step-1.pt")
    with pytest.raises(TrajectoryError, match=r"lacks '0.bias'; it holds .* of another model"):
        list(replay(whole, objective))
    with pytest.raises(TrajectoryError, match="lacks '0.weight', '0.bias'; make .* with frozen='omit'"):
        list(replay(adapters, Objective(model, cross_entropy, (X, Y), frozen="zero")))
