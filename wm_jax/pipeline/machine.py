"""The machine that made a result: the device in words, and the versions of the packages that computed it."""

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from wm_jax.rollouts.workers import usable_cores
from wm_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "evosax", "gymnasium", "vizdoom", "numpy")


def device() -> str:
    """All devices that JAX computes on, for example "2 cores of AMD EPYC" or "8 × NVIDIA H200"."""
    return device_of(jax.devices())


def device_of(devices: Sequence[Any]) -> str:
    """A description of these devices."""
    if devices[0].platform != "cpu":
        return f"{len(devices)} × {devices[0].device_kind}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{usable_cores()} cores of " + (names[0] if names else platform.machine())


def device_memory() -> int:
    """Total memory in bytes, used and free, of a device that this process computes on."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def versions() -> dict[str, str]:
    """Versions of wm-jax, Python and each package that computes, by name."""
    return {
        "wm-jax": __version__,
        "python": sys.version.split()[0],
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
