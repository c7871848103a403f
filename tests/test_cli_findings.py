"""`lca findings` prints what the statistics of its runs say."""

import json

import numpy as np
import pytest

from lca import analysis
from lca._cli import main
from lca._commands.demo_run import DemoSettings, run_demo
from lca._commands.findings import findings, text
from lca.tolerances import EPS64, summed

SMALL = ("--model", "mlp:6,5", "--steps", "30", "--seeds", "3")


@pytest.fixture(scope="module")
def results():
    return [
        run_demo(DemoSettings(model="mlp:6,5", steps=30, estimator="adaptive", seed=seed))
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def found(results):
    return findings(results)


def test_the_numbers_are_those_of_the_runs(results, found):
    rows = np.array([result.train.layers.rows for result in results])
    assert found["noise"]["helping_percent"] == [r.summary["helping_percent"] for r in results]
    [first, *_] = found["layers"]["training"]
    assert first["name"] == "fc1"
    limit = summed(3 * 30, EPS64)
    assert first["mean"] == pytest.approx(rows.sum(axis=1).mean(axis=0)[0], rel=limit)
    heldout = [r.heldout.layers.totals for r in results]
    assert [row["mean"] for row in found["layers"]["held-out"]] == pytest.approx(
        np.mean(heldout, axis=0), rel=limit
    )
    test = analysis.synchrony_test(analysis.learning_peaks(rows[1]), permutations=1_999)
    assert found["synchrony"]["p_values"][1] == test.p_value


def test_the_command_prints_the_findings_of_its_runs(capsys, results, found):
    assert main(["findings", *SMALL]) == 0
    printed = capsys.readouterr().out
    assert printed == "\n".join(text(found, results[0].summary, 3)) + "\n"
    for heading in ("1. Learning is noisy.", "2. Some layers hurt.", "3. Layers learn at the same steps."):
        assert heading in printed
    assert "no layer hurts here" in printed
    assert max(map(len, printed.splitlines())) <= 110
    assert main(["findings", *SMALL, "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)
    assert {name: stored[name] for name in found} == json.loads(json.dumps(found))
    assert main(["findings", *SMALL, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_a_layer_that_hurts_is_named(results, found):
    rows = {loss: [dict(row) for row in tests] for loss, tests in found["layers"].items()}
    rows["held-out"][1] |= {"mean": 0.2, "p_adjusted": 0.01}
    rows["training"][0] |= {"mean": 0.2, "p_adjusted": 0.2}  # not more than chance
    printed = "\n".join(text({**found, "layers": rows}, results[0].summary, 3))
    assert "these layers hurt: fc2 (held-out loss)." in printed


def test_one_run_is_refused(capsys):
    assert main(["findings", "--seeds", "1"]) == 2
    assert "pass --seeds 2 or more, got 1" in capsys.readouterr().err
