"""All benchmarks by name, and the report they make."""

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
    """Raise `UserError` where one of `names` is no benchmark, or one of the tasks no task."""
    for name in names:
        require_choice("benchmark", name, BENCHMARKS)
    for task in config.tasks:
        load_task(task)


def measure(name: str, config: BenchConfig, screen: Screen) -> Result:
    """Run one benchmark. What cannot be compared here is said on the screen and left out."""
    # A compile time that was read from a disk would say nothing.
    jax.config.update("jax_enable_compilation_cache", False)
    return import_module(f"wm_jax.bench.{name}").measure(config, screen)


def named(name: str, config: BenchConfig) -> Callable[[Screen], Result]:
    """What runs one benchmark. Raises `UserError` as `check` does."""
    check((name,), config)
    return lambda screen: measure(name, config, screen)


def of_experiment(experiment: Experiment, config: BenchConfig) -> Callable[[Screen], Result]:
    """What measures the parts of an experiment."""
    from wm_jax.bench import experiment as parts

    return lambda screen: parts.measure(experiment, config, screen)


def warn_if_busy(screen: Screen) -> None:
    """Say so where other processes compute, too: call it before the first benchmark."""
    load, cores = os.getloadavg()[0], usable_cores()
    if load > cores / 2:
        screen.warn(f"this machine is busy (load {load:.1f} on {cores} cores): all numbers will be too low, and those of "
                    "PyTorch by far more than ours; wait until it is quiet")  # fmt: skip


def about(config: BenchConfig) -> dict[str, Any]:
    """Where and how it is measured, as a report begins."""
    found = versions()
    # No benchmark takes more than one.
    return {
        "device": device_of(jax.devices()[:1]),
        "jax": found["jax"],
        "precision": config.precision,
        "versions": found,
    }
