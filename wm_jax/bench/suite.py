"""All benchmarks by name, and their report."""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import jax

from wm_jax.bench import BENCHMARKS
from wm_jax.bench.config import BenchConfig
from wm_jax.bench.table import Result
from wm_jax.errors import require_choice
from wm_jax.experiment import Experiment
from wm_jax.pipeline.machine import device_of, versions
from wm_jax.pipeline.progress import Screen
from wm_jax.rollouts.workers import usable_cores
from wm_jax.tasks import load_task


def check(names: Sequence[str], config: BenchConfig) -> None:
    """Raise `UserError` if one of `names` is not a benchmark, or one of the tasks not a task."""
    for name in names:
        require_choice("benchmark", name, BENCHMARKS)
    for task in config.tasks:
        load_task(task)


def measure(name: str, config: BenchConfig, screen: Screen) -> Result:
    """Run one benchmark. Comparisons that are not possible here are reported on the screen and left out."""
    # A compile time read from the cache would be meaningless.
    jax.config.update("jax_enable_compilation_cache", False)
    return import_module(f"wm_jax.bench.{name}").measure(config, screen)


def named(name: str, config: BenchConfig) -> Callable[[Screen], Result]:
    """A function that runs one benchmark. Raises `UserError` as `check` does."""
    check((name,), config)
    return lambda screen: measure(name, config, screen)


def of_experiment(experiment: Experiment, config: BenchConfig) -> Callable[[Screen], Result]:
    """A function that measures the parts of an experiment."""
    from wm_jax.bench import experiment as parts

    return lambda screen: parts.measure(experiment, config, screen)


def warn_if_busy(screen: Screen) -> None:
    """Warn if other processes use the machine. Call it before the first benchmark."""
    load, cores = os.getloadavg()[0], usable_cores()
    if load > cores / 2:
        screen.warn(f"this machine is busy (load {load:.1f} on {cores} cores): all numbers will be too low, and those of "
                    "PyTorch by far more than ours; wait until it is quiet")  # fmt: skip


def about(config: BenchConfig) -> dict[str, Any]:
    """The device, the versions and the precision: the head of a report."""
    found = versions()
    # No benchmark uses more than one device.
    return {
        "device": device_of(jax.devices()[:1]),
        "jax": found["jax"],
        "precision": config.precision,
        "versions": found,
    }
