"""Clocks: medians of runs that take turns, after a warm-up; compile times apart."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
from jax.stages import Compiled

from wm_jax.pipeline.progress import Screen

Work = Callable[[], float]
"""Does some work, waits until it is done and returns how much it was: steps, images, operations."""
FEWEST, MOST = 3, 50
"""Runs of which the median is taken."""

SHORTEST = 0.1
"""Seconds of a run, at least: shorter work is done again and again in one."""


def compiled(function: Any, *arguments: Any, **settings: Any) -> tuple[Compiled, float]:
    """A jitted function compiled for these arguments, and the seconds that tracing and compiling took.

    It is called without the static ones among the arguments.
    """
    begin = time.perf_counter()
    executable = function.lower(*arguments, **settings).compile()
    return executable, time.perf_counter() - begin


def interleaved(title: str, works: dict[str, Work], seconds: float, screen: Screen) -> dict[str, float]:
    """Work per second of each, the median of its runs. They take turns, so that whatever else the machine does concerns all
    of them alike.

    Each is run once to warm up; then as often as fits in about `seconds` for all together.
    """
    rates: dict[str, list[float]] = {name: [] for name in works}
    with screen.bar(title, "runs", len(works) * (FEWEST + 1)) as bar:
        begin = time.perf_counter()
        for count, work in enumerate(works.values(), 1):
            work()
            bar.update(count)
        once = max(time.perf_counter() - begin, len(works) * SHORTEST)
        rounds = min(max(FEWEST, int(seconds / once)), MOST)
        bar.begin(len(works), len(works) * (rounds + 1))
        for round_number in range(1, rounds + 1):
            for name, work in works.items():
                rates[name].append(_rate(work))
            bar.update(len(works) * (round_number + 1))
    return {name: median(found) for name, found in rates.items()}


def _rate(work: Work) -> float:
    """Work per second of one run."""
    begin, amount = time.perf_counter(), work()
    while (taken := time.perf_counter() - begin) < SHORTEST:
        amount += work()
    return amount / taken


def waited(function: Callable[[], Any], amount: float) -> Work:
    """Calls `function` and waits for what it returns; a call is so much work."""

    def work() -> float:
        jax.block_until_ready(function())
        return float(amount)

    return work


class Training:
    """The steps of a training, a few a run, each going on from the last; the state may be donated."""

    def __init__(self, step: Callable[[Any], Any], state: Any, units: int):
        """`step`: state → the next; `units`: how much work one step is."""
        self.step, self.state, self.units = step, state, units
        self.steps = 1 if jax.default_backend() == "cpu" else 20
        """In a run: enough that waiting for the last one does not count."""

    def __call__(self) -> float:
        """Some steps, waited for; returns the work in them."""
        for _ in range(self.steps):
            self.state = self.step(self.state)
        jax.block_until_ready(self.state)
        return float(self.steps * self.units)
