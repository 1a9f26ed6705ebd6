"""Timing: medians of alternating runs after a warm-up; compile times are measured separately."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
from jax.stages import Compiled

from wm_jax.pipeline.progress import Screen

Work = Callable[[], float]
"""Does some work, waits for it, and returns its amount: steps, images, operations."""
FEWEST, MOST = 3, 50
"""Minimum and maximum number of runs, of which the median is taken."""

SHORTEST = 0.1
"""Minimum seconds of a run; shorter work is repeated within it."""


def compiled(function: Any, *arguments: Any, **settings: Any) -> tuple[Compiled, float]:
    """Compile a jitted function for these arguments. Returns it, and the seconds of tracing and compiling.

    Call the compiled function without the static arguments.
    """
    begin = time.perf_counter()
    executable = function.lower(*arguments, **settings).compile()
    return executable, time.perf_counter() - begin


def interleaved(title: str, works: dict[str, Work], seconds: float, screen: Screen) -> dict[str, float]:
    """Work per second of each, the median of its runs. The runs alternate, so that other load on the machine affects
    all equally.

    Each work runs once to warm up, then as often as fits in about `seconds` for all together.
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
    """Work of size `amount` that calls `function` and waits for its result."""

    def work() -> float:
        jax.block_until_ready(function())
        return float(amount)

    return work


class Training:
    """Training steps, a few in each run; each continues from the last. The state may be donated."""

    def __init__(self, step: Callable[[Any], Any], state: Any, units: int):
        """`step`: state → next state; `units`: amount of work in one step."""
        self.step, self.state, self.units = step, state, units
        self.steps = 1 if jax.default_backend() == "cpu" else 20
        """Steps in a run: enough that waiting for the last one does not matter."""

    def __call__(self) -> float:
        """Do some steps and wait for them; returns their work."""
        for _ in range(self.steps):
            self.state = self.step(self.state)
        jax.block_until_ready(self.state)
        return float(self.steps * self.units)
