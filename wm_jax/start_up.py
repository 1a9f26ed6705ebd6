"""Keeps compiled programs between starts, in JAX's persistent cache, so that a command's next start is fast."""

import hashlib
import os
import platform
from pathlib import Path

import jax

from wm_jax.version import __version__

LARGEST = 2**30
"""Bytes of the kept programs of a machine. The least recently used are deleted first."""


def keep_programs() -> None:
    """Keep compiled programs in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache).

    JAX's own switches take precedence: JAX_COMPILATION_CACHE_DIR names another folder, which JAX manages by its own
    rules; JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing. If the folder cannot be created, nothing is kept.
    """
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] or not chosen["jax_enable_compilation_cache"]:
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wm_jax" / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", LARGEST)
    # Keep fast-compiling programs too: a run has hundreds of them.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _machine() -> str:
    """A name for this machine's processor and this version. Machines may share a home folder, and a program compiled
    for one processor may not run on another."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else [platform.processor()]
    told = sorted({line for line in lines if line.startswith(("model name", "flags", "Features")) or len(lines) == 1})
    return f"{__version__}-{hashlib.sha256(os.linesep.join(told).encode()).hexdigest()[:12]}"
