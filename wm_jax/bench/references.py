"""The reference loops in the checkout's `benchmarks/`: conventional implementations for comparison."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import jax

from wm_jax.pipeline.progress import Screen

FOLDER = Path(__file__).parents[2] / "benchmarks"


def reference(name: str, screen: Screen) -> ModuleType | None:
    """The module benchmarks/NAME.py, or None if it cannot be used here; then the screen shows what to install.

    PyTorch must use the same kind of device as JAX.
    """
    lack = _lack(name)
    if lack:
        screen.warn(f"the comparison with {name} is left out: {lack}")
        return None
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return import_module(name)


def _lack(name: str) -> str:
    """What is missing for the reference `name`; empty if nothing is."""
    if not (FOLDER / f"{name}.py").is_file():
        return f"{FOLDER / name}.py does not exist; clone the repository, then pip install -e '.[bench]' in it"
    if not name.startswith("torch"):
        return ""
    if find_spec("torch") is None:
        return "PyTorch is not installed; pip install 'wm-jax[bench]'"
    torch, backend = import_module("torch"), jax.default_backend()
    if backend != "cpu" and not (backend == "gpu" and torch.cuda.is_available()):
        return f"PyTorch finds no {backend} here, but JAX does; install a PyTorch build for it"
    torch.set_default_device("cuda" if backend == "gpu" else "cpu")
    # The same precision as JAX's matrix products on GPUs. CPUs multiply in full precision in both.
    torch.set_float32_matmul_precision("high" if backend == "gpu" else "highest")
    return ""
