"""What is cited is what was used, and agrees with CITATION.cff."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import lca
from lca import Layout, Record, StepAllocation
from lca._cli import main
from lca.estimators import (
    REGISTRY,
    AdaptiveSampleSize,
    ControlVariate,
    CrossFit,
    SameBatch,
    SampledPathIntegral,
)
from lca.record._citation import DATA, METHOD, citation, citations_of

ENTRIES = sorted({entry for row in REGISTRY.values() for entry in citations_of(row.make(1e-3))})
NESTED = AdaptiveSampleSize(ControlVariate(SampledPathIntegral(micro_batches=2)), examples=500)
ROOT = Path(__file__).resolve().parents[2]


def keys(text):
    return re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)


def test_the_method_and_the_software_are_always_cited():
    assert keys(citation()) == ["lan2019lca", "loss_change_allocation"]
    assert f"version = {{{lca.__version__}}}" in citation()
    assert "version = {0.0.7}" in citation({"lca_version": "0.0.7"})


def test_the_method_is_cited_as_in_citation_cff():
    cff = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for family in re.findall(r"family-names: (\w+)", cff):
        assert family in METHOD
    [title] = re.findall(r'title: "(.*)"', cff)
    assert title.replace("LCA", "{LCA}") in METHOD
    assert re.findall(r"arXiv:([\d.]+)", cff)[0] in METHOD


@pytest.mark.parametrize("entry", [METHOD, *ENTRIES, *DATA.values(), citation().split("\n\n")[1]])
def test_entries_are_bibtex(entry):
    assert re.fullmatch(
        r"@\w+\{\w+,\n(  \w+ *= \{.*\},?\n| {10,}.*\n|  \w+ *= \{.*\n)+\}", entry.rstrip("\n")
    )
    assert entry.count("{") == entry.count("}")
    lines = entry.rstrip("\n").splitlines()[1:-1]
    assert all(line.endswith((",", "and")) for line in lines[:-1])
    assert not lines[-1].endswith(",")


@dataclass(frozen=True)
class Wrapped:
    """A user's own estimator around another one, with an entry of its own."""

    inner: object
    citation = "@misc{doe2026,\n  title = {Wrapping}\n}"
    target = "full"
    degree = 0
    cost = lca.Cost()

    def start(self, objective):
        return self.inner.start(objective)


@pytest.mark.parametrize(
    ("estimator", "wanted"),
    [
        (None, []),
        (lca.Adaptive(), []),
        (SameBatch(), ["zenke2017synaptic"]),
        (CrossFit(), ["chernozhukov2018double"]),
        (NESTED, ["johnson2013svrg"]),
        (Wrapped(Wrapped(NESTED)), ["doe2026", "johnson2013svrg"]),
    ],
    ids=str,
)
def test_an_estimator_is_cited_with_all_that_it_is_made_of(tmp_path, capsys, estimator, wanted):
    assert keys("\n\n".join(citations_of(estimator))) == wanted
    layout = Layout(("w",), ((1,),))
    with Record(tmp_path / "r", layout, estimator=estimator) as record:
        before = record.cite()
        record.update(StepAllocation(np.ones(1), 0.0, 1.0, residual=0.0, mass=1.0))
        assert record.cite() == before
    assert keys(before)[2:] == wanted
    assert main(["cite", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out == before


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        ("SameBatch()", ["zenke2017synaptic"]),
        ("Budget(probe=Anchored(probe=Probe(size=256), every=40), examples=500)", ["johnson2013svrg"]),
        ("Anchored(probe=Probe(rule=QuadratureRule(name='left')))", ["johnson2013svrg"]),
        ("Mine(inner=CrossFit(micro_batches=2))", ["chernozhukov2018double"]),
    ],
)
def test_a_record_without_entries_is_cited_by_the_classes_it_names(text, wanted):
    assert keys(citation({"estimator": text}))[2:] == wanted


@pytest.mark.parametrize("name", REGISTRY)
def test_the_command_cites_every_named_estimator(capsys, name):
    assert main(["cite", "--estimator", name]) == 0
    entries = capsys.readouterr().out
    assert all(entry in entries for entry in citations_of(REGISTRY[name].make(1e-3)))
    assert keys(entries)[:2] == ["lan2019lca", "loss_change_allocation"]


def test_a_record_and_an_estimator_are_not_cited_together(capsys):
    assert main(["cite", "run.zarr", "--estimator", "probe"]) == 2
    assert "pass either the record or --estimator" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ("digits", "alpaydin1998digits"),
        ("/data/MNIST.npz", "lecun1998gradient"),
        ("cifar10", "krizhevsky2009learning"),
    ],
)
def test_known_data_are_cited_and_unknown_ones_asked_for(data, key):
    assert keys(citation({"settings": {"data": data}}))[2:] == [key]
    assert "% The data 'cells.npz': cite where they come from." in citation(
        {"settings": {"data": "cells.npz"}}
    )


def test_a_record_and_the_command_say_the_same(tmp_path, capsys):
    layout = Layout(("w",), ((1,),))
    settings = {"data": "digits"}
    with Record(tmp_path / "r", layout, estimator=lca.Adaptive(), settings=settings) as record:
        record.update(StepAllocation(np.ones(1), 0.0, 1.0, residual=0.0, mass=1.0))
        said = record.cite()
    assert keys(said) == ["lan2019lca", "loss_change_allocation", "alpaydin1998digits"]
    assert main(["cite", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out == said
    assert main(["cite"]) == 0
    assert capsys.readouterr().out == citation()
    assert main(["cite", str(tmp_path / "none")]) == 2
    assert "does not exist; pass the folder written by lca.Record" in capsys.readouterr().err
