"""How JAX runs in these tests: in float64."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def jax_options():
    double = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", double)
