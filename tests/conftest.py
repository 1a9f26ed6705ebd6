import os
import signal
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Strict, here and in every process that a test starts: no array takes on axes in silence, no random key is used twice, no
# warning passes. (pyproject.toml has the warnings of this process; the suite also passes with JAX_ENABLE_X64=1.)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_DEBUG_KEY_REUSE"] = "1"
# Nothing is kept in the home of the one who tests.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "0"
if version("jaxlib").startswith("0.10."):
    # Most of the suite's time is compiling, which takes half as long without these. Later versions cannot do without.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()
# Box2D's types are named as Python no longer wants it.
os.environ["PYTHONWARNINGS"] = "error,ignore:builtin type:DeprecationWarning"
# A shell that starts the tests in the background has them ignore Ctrl-C, and every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For tests of what is computed, not of its last bits, whose time is mostly compiling: XLA takes less care."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    # What other tests compare to the last bit is compiled with the usual care.
    jax.clear_caches()


@pytest.fixture(scope="session")
def probe_experiment() -> Path:
    """The experiment whose best controller is known."""
    return Path(__file__).parent / "experiments" / "probe.py"


@pytest.fixture(scope="session")
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which processes share what they compile, those of pytest's other workers too."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled"
    kept = {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    return {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "1", **kept}


@pytest.fixture(scope="session")
def quick_flags() -> str:
    """XLA's flags for processes of tiny runs, whose time is mostly compiling."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()


@pytest.fixture(scope="session")
def environment(compilation_cache: dict[str, str], quick_flags: str) -> dict[str, str]:
    """An environment for tiny runs: they share what they compile, and compile with less care."""
    return {**compilation_cache, "XLA_FLAGS": quick_flags}
