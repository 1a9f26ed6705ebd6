"""What a result was made on: the device in words, and the versions of what computed it."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax

import wm_jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "evosax", "gymnasium", "vizdoom", "numpy")


def device() -> str:
    """For example "2 cores of AMD EPYC" or "1 × NVIDIA H200"."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} × {devices[0].device_kind}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores of " + (
        names[0] if names else platform.machine()
    )


def free_memory() -> int:
    """Bytes that are free on the device that JAX computes on by default."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics["bytes_in_use"]
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return available[0] if available else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def versions() -> dict[str, str]:
    """{"wm-jax", "python", and each package that computes: its version}."""
    return {
        "wm-jax": wm_jax.__version__,
        "python": sys.version.split()[0],
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
