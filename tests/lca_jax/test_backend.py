"""The JAX backend is held to the NumPy reference, and found by the entry point of its own project."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from lca._commands.demo_run import DemoSettings, run_demo
from lca.errors import LCAError
from lca.reference import CrossEntropy, Dense, Network, Tanh, load_backend
from lca.testing._backend_checks import loads_no_other_framework
from lca.tolerances import EPS64
from lca_jax import JaxBackend
from lca_jax.network import model_of

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What `pip install docs/examples` would write, on the path of this and of new interpreters."""
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / "lca_jax-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1\n")
    lines = [
        f"[{group}]\n{name} = {at}"
        for group, of in project["entry-points"].items()
        for name, at in of.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{EXAMPLES}", prepend=":")


@pytest.mark.usefixtures("installed")
def test_it_is_found_by_its_name_and_loads_no_other_framework():
    backend = load_backend("jax")
    assert backend == JaxBackend()
    loads_no_other_framework(backend, 1, 0)  # docs/write_a_backend.md runs all other checks of the kit


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("estimator", ["simpson", "probe", "cross-fit"])
def test_the_demo_is_the_references(estimator):
    settings = {"model": "mlp:8", "steps": 6, "optimizer": "adam", "dtype": "float64", "estimator": estimator}
    reference, ours = (
        run_demo(DemoSettings(backend=backend, **settings)).summary for backend in ("numpy", "jax")
    )
    assert ours["per_tensor"].keys() == reference["per_tensor"].keys()
    limit = 2**20 * EPS64 * reference["mass"]  # Adam divides by the root of gradients that may be tiny
    for name, total in reference["per_tensor"].items():
        assert abs(ours["per_tensor"][name] - total) <= limit, name


def test_an_unknown_layer_is_named():
    class Sine(Tanh):
        """A layer that the backend does not know."""

    network = Network((Dense(2, 3), Sine()), CrossEntropy(), (2,))
    model = model_of(network, "float32")
    with pytest.raises(LCAError, match=r"does not know .*Sine\(\); add its function to lca_jax/network\.py"):
        model.apply(model.params, np.ones((1, 2)))
