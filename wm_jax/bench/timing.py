"""Clocks: medians of runs that take turns, after a warm-up; compile times apart."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import jax

from wm_jax.pipeline.progress import Screen

Work = Callable[[], float]
"""Does some work, waits until it is done and returns how much it was: steps, images, operations."""
FEWEST, MOST = 3, 50
"""Runs of which the median is taken."""


@dataclass(frozen=True)
class Speed:
    """The median run of a `Work`."""

    rate: float
    """Work per second."""
    seconds: float
    """Of the whole run."""


def compiled(function: Any, *arguments: Any, **settings: Any) -> tuple[Callable[..., Any], float]:
    """A jitted function compiled for these arguments, and the seconds that tracing and compiling took.

    It is called without the static ones among the arguments.
    """
    begin = time.perf_counter()
    executable = function.lower(*arguments, **settings).compile()
    return executable, time.perf_counter() - begin


def interleaved(title: str, works: dict[str, Work], seconds: float, screen: Screen) -> dict[str, Speed]:
    """The speed of each work. They take turns, so that whatever else the machine does concerns all of them alike.

    Each is run once to warm up; then as often as fits in about `seconds` for all together.
    """
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    with screen.bar(title, "runs", len(works) * (FEWEST + 1)) as bar:
        begin = time.perf_counter()
        for count, work in enumerate(works.values(), 1):
            work()
            bar.update(count)
        rounds = min(max(FEWEST, int(seconds / (time.perf_counter() - begin))), MOST)
        bar.begin(len(works), len(works) * (rounds + 1))
        for round_number in range(1, rounds + 1):
            for name, work in works.items():
                runs[name].append(_timed(work))
            bar.update(len(works) * (round_number + 1))
    return {
        name: Speed(median(amount / taken for amount, taken in found), median(taken for _, taken in found))
        for name, found in runs.items()
    }


def _timed(work: Work) -> tuple[float, float]:
    begin = time.perf_counter()
    amount = work()
    return amount, time.perf_counter() - begin


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
