"""How JAX runs in these tests: in float64, and without optimizing code that runs a few times."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def jax_options():
    double = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_enable_x64", double)
    jax.config.update("jax_disable_most_optimizations", False)
