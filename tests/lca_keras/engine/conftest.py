"""How the engines run in these tests: JAX compiles equal losses once."""

import keras
import pytest


@pytest.fixture(autouse=True, scope="session")
def jax_options(tmp_path_factory):
    if keras.backend.backend() != "jax":
        return
    import jax  # noqa: PLC0415

    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def compilations(caplog):
    """A function that returns what JAX has compiled since it was called last; nothing on PyTorch."""

    def since():
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return [message.split()[1] for message in messages if message.startswith("Compiling ")]

    if keras.backend.backend() != "jax":
        yield since
        return
    import jax  # noqa: PLC0415

    with jax.log_compiles():
        yield since
