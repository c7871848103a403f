"""JAX backend of loss-change-allocation, and the example of docs/write_a_backend.md."""

from lca_jax.arrays import JaxOps
from lca_jax.backend import JaxBackend
from lca_jax.model import Model
from lca_jax.objective import Objective, Penalty

__all__ = ["JaxBackend", "JaxOps", "Model", "Objective", "Penalty"]
