"""What is cited is what was used, and agrees with CITATION.cff."""

import re
from pathlib import Path

import numpy as np
import pytest

import lca
from lca import Layout, Record, StepAllocation
from lca.cli import main
from lca.record.citation import DATA, ESTIMATORS, METHOD, citation

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


@pytest.mark.parametrize("entry", [METHOD, *ESTIMATORS.values(), *DATA.values(), citation().split("\n\n")[1]])
def test_entries_are_bibtex(entry):
    assert re.fullmatch(
        r"@\w+\{\w+,\n(  \w+ *= \{.*\},?\n| {10,}.*\n|  \w+ *= \{.*\n)+\}", entry.rstrip("\n")
    )
    assert entry.count("{") == entry.count("}")
    lines = entry.rstrip("\n").splitlines()[1:-1]
    assert all(line.endswith((",", "and")) for line in lines[:-1])
    assert not lines[-1].endswith(",")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_that_is_cited_exists(name):
    import lca.estimators  # noqa: PLC0415

    modules = [getattr(lca.estimators, module) for module in ("minibatch", "control_variate", "crossfit")]
    [kind] = [getattr(module, name) for module in modules if hasattr(module, name)]
    assert kind.__name__ == name


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
    assert "there is no record" in capsys.readouterr().err
