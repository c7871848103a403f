"""Tied tensors: the layout, the summary, the record and the page say which names are one tensor."""

import numpy as np
import pytest
import torch
from torch import nn

import lca
from lca.errors import LayoutError
from lca.reference import mlp
from lca.report import _sections as sections
from lca.report._grouped import tables_of
from lca.runs._run import Run
from lca_torch import Objective, Tracker


class Tied(nn.Module):
    """An embedding whose weight is the output layer's as well."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.embed(tokens)))


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    torch.manual_seed(0)
    model, tokens = Tied(), torch.arange(5)
    objective = Objective(model, nn.functional.cross_entropy, (tokens, tokens.flip(0)))
    path, optimizer = tmp_path_factory.mktemp("tied") / "run.zarr", torch.optim.SGD(model.parameters(), 0.1)
    groups = {"kind": {"embedding": "embed"}}
    with Tracker(model, optimizer, objective, record=path, groups=groups) as tracker:
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens), tokens.flip(0)).backward()
            optimizer.step()
    return tracker, path


def test_a_summary_and_its_tables_name_the_tied_tensors(tracked):
    summary = tracked[0].summary()
    assert summary["train"]["tied"] == {"embed.weight": ["head.weight"]}
    for by in ("tensor", "kind"):
        assert "one tensor under its first name: embed.weight = head.weight." in summary.table(by=by).caption


def test_the_record_keeps_the_names_and_the_page_shows_them(tracked):
    run = Run(lca.open_record(tracked[1]))
    assert run.layout.tied == {"embed.weight": ("head.weight",)}
    said = "tied, one tensor: embed.weight = head.weight"
    assert [bar.note for bar in sections.summary(run).bars.rows][0].endswith(said)
    for by, group in (("layer", "embed"), ("kind", "embedding")):
        [table] = tables_of(run, by)
        assert table.notes == {group: said}
    assert ("tied tensors", "embed.weight = head.weight") in sections.method(run).tables[0].rows
    runs = lca.open_runs([tracked[1]])
    assert ("tied tensors", "embed.weight = head.weight") in runs.members[0].setting_rows()


def test_without_ties_nothing_is_said(tmp_path):
    layout = lca.Layout(("w",), ((2,),))
    with lca.Record(tmp_path / "run", layout) as record:
        record.update(lca.StepAllocation(np.array([-1.0, 0.5]), 2.0, 1.5, residual=0.0, mass=1.5))
    run = Run(lca.open_record(tmp_path / "run"))
    assert (run.layout.tied, run.tied_notes("layer")) == ({}, {})
    assert '"tied"' not in run.attributes["layout"]


def test_a_tie_of_a_tensor_that_is_not_there_is_refused():
    with pytest.raises(LayoutError, match="tied lists names for 'v', but the layout has no tensor 'v'"):
        lca.Layout(("w",), ((2,),), tied={"v": ("u",)})


def test_the_reference_names_its_ties():
    network = mlp((4, 4, 4))
    weights = [name for name in network.layout.names if name.endswith("weight")]
    tied = type(network)(network.layers, network.loss, network.input_shape, tied={weights[1]: weights[0]})
    assert tied.layout.tied == {weights[0]: (weights[1],)}
