"""`validation.language_model`: the parts of a GPT, what is compared, and its adapters, on a tiny model."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from lca import tolerances
from lca_torch import Objective
from validation.language_model import run as command
from validation.language_model.adapters import ADAPTED, Adapted, adapter_of, with_adapters
from validation.language_model.fine_tuning import fine_tuned
from validation.language_model.gpt import GPT, KINDS, SIZES, next_token_loss
from validation.language_model.text import Windows, library_bytes, prose_bytes
from validation.language_model.training import FIXED, Options, Run, by_kind, compared, part_of, watched

TINY = Options(size="tiny", steps=21, batch=8)


@pytest.fixture(scope="module")
def parts():
    losses = []
    views = watched(TINY, lambda step, loss, *views: losses.append(loss))
    return *views, losses


def test_every_tensor_belongs_to_one_kind_and_to_its_block():
    names = [name for name, _ in GPT(SIZES["tiny"]).named_parameters()]
    found = {part_of(name) for name in names}
    kinds = {"attention 0", "attention 1", "MLP 0", "MLP 1", "norm 0", "norm 1", "norm", "embedding", "head"}
    assert found == kinds


def test_the_sizes_have_the_parameters_that_they_are_called_by():
    counts = {}
    for name, size in SIZES.items():
        with torch.device("meta"):
            counts[name] = sum(parameter.numel() for parameter in GPT(size).parameters())
    assert counts == {"tiny": 42_368, "1M": 867_072, "10M": 10_048_640, "124M": 124_046_592}


def test_a_later_token_does_not_reach_an_earlier_logit():
    torch.manual_seed(0)
    model, tokens = GPT(SIZES["tiny"]), torch.zeros(1, 8, dtype=torch.long)
    changed = tokens.clone()
    changed[0, 5] = 7
    before, after = model(tokens)[0], model(changed)[0]
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before[5:], after[5:])


class Halves:
    """What `Run.step` asks of a tracker, without measuring."""

    def begin_batch(self, batch):
        pass

    def micro_batches(self, batch, n):
        return [(half, 1 / n) for half in batch.chunk(n)]


def test_training_with_both_trackers_is_the_training_without(parts):
    plain = Run(TINY)
    assert parts[2] == [plain.step(Halves()) for _ in range(TINY.steps + 1)]


def test_the_exact_parts_add_up_to_the_loss_change(parts):
    rows = parts[1].trace.rows
    change, eps = rows["loss_end"] - rows["loss_start"], tolerances.EPS64
    total = by_kind(parts[1])[0].sum(axis=1)
    for i, step in enumerate(rows["step"]):
        assert step == 20 * i
        limit = tolerances.summed(rows["mass"][i] + rows["loss_start"][i], eps)
        assert abs(total[i] + rows["residual"][i] - change[i]) <= limit
    assert rows["converged"].all()


def test_what_is_compared_are_the_steps_that_both_have_measured(parts):
    found = compared(parts[0], parts[1])
    assert found["steps"] == [0, 20]
    assert np.shape(found["cheap"]) == np.shape(found["exact"]) == (2, len(KINDS))
    assert found["correlation"] > 0.95
    assert found["error_of_total"] == found["total_cheap"] / found["total_exact"] - 1


def test_the_command_writes_what_it_claims(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "keep_memory", lambda module: None)
    arguments = ["run", "--size", "tiny", "--steps", "21", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        command.main()
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert np.shape(found["rows"]) == (21, len(found["parts"]))
    assert found["wall"]["ratio"] > 0
    assert "| attention |" in capsys.readouterr().out


def test_windows_are_pieces_of_the_text_and_the_same_for_a_seed():
    text = library_bytes(50_000)
    [first, again] = (Windows(text, 9, seed=3).draw(4) for _ in range(2))
    assert torch.equal(first, again)
    assert bytes(first[0].tolist()) in text.tobytes()
    assert b"syntax" in prose_bytes().tobytes()


def test_adapters_change_nothing_at_first_and_hold_what_trains():
    torch.manual_seed(0)
    model, tokens = GPT(SIZES["tiny"]), torch.arange(8).reshape(1, 8)
    before = model(tokens)
    adapted, made = with_adapters(model, rank=2, by_hand=True)
    assert made == "by hand"
    assert torch.equal(adapted(tokens), before)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert {adapter_of(name) for name in trained} == {f"{b} {place}" for b in (0, 1) for place in ADAPTED}
    assert sum(isinstance(module, Adapted) for module in adapted.modules()) == len(trained) / 2


def test_only_the_adapters_are_in_theta_and_add_up():
    found = fine_tuned(Options("tiny", steps=3, batch=4), steps=3, by_hand=True)
    assert found["parameters_of_theta"] == found["parameters_of_model"] - sum(
        parameter.numel() for parameter in GPT(SIZES["tiny"]).parameters()
    )
    limit = tolerances.summed(abs(found["lca_total"]) + found["loss_start"], tolerances.EPS64)
    assert abs(sum(found["adapters"].values()) - found["lca_total"]) <= limit


def test_the_measured_sequences_are_fixed():
    run = Run(TINY)
    objective = run.objective()
    assert isinstance(objective, Objective)
    assert len(run.fixed) == FIXED
    loss = float(next_token_loss(run.model, run.fixed).detach())
    assert abs(objective.loss(objective.theta()) - loss) <= tolerances.rebatched(loss, tolerances.EPS32)
