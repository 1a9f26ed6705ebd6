"""Progress of a run on the screen: bars with rate and time left on a terminal, lines in a log file."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from types import FrameType

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wm_jax import parallel
from wm_jax.errors import UserError
from wm_jax.rollouts.acting import Count

SECONDS_BETWEEN_LINES = 15.0
"""Without a terminal, a progress line is printed at this interval."""
SECONDS_BETWEEN_BARRIERS = 1.0
"""Interval at which processes that work independently exchange their progress."""


class Stopped(UserError):
    """The user asked to stop (Ctrl-C or SIGTERM). Finished work is saved."""


class Interrupt:
    """Turns the first Ctrl-C or SIGTERM into a stop request, served at the next safe point. A second one stops at
    once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "Interrupt":
        self.before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def agreed(self) -> bool:
        """Whether any process of this run was asked to stop. All processes call it."""
        return parallel.agree(self.requested)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Barrier:
    """Progress of all processes in work that each does a share of at its own pace.

    From time to time, all processes wait for each other and exchange their progress. They also agree there whether to
    stop, so that all stop together.
    """

    def __init__(self, interrupt: Interrupt, show: Callable[[list[float], bool], None]):
        """`show` receives the sums of all processes' counts, and whether any process was asked to stop. An exception
        that it raises ends the work on all processes."""
        self.interrupt, self.show = interrupt, show
        self.last = -SECONDS_BETWEEN_BARRIERS

    def tell(self, *counts: float) -> None:
        """Report this process's progress. Call it often."""
        if jax.process_count() == 1 or time.monotonic() - self.last > SECONDS_BETWEEN_BARRIERS:
            self._wait(counts, finished=False)

    def finish(self, *counts: float) -> None:
        """Report that this process has finished its share; wait for all others."""
        while not self._wait(counts, finished=True):
            pass

    def count(self, count: Count) -> None:
        """`tell` for episodes: number finished, their steps, and the steps of unfinished ones."""
        self.tell(*astuple(count))

    def finish_count(self, count: Count) -> None:
        """`finish` for episodes."""
        self.finish(*astuple(count))

    def _wait(self, counts: tuple[float, ...], finished: bool) -> bool:
        """Exchange counts; returns whether all processes have finished."""
        told = parallel.gather([counts, finished, self.interrupt.requested])
        self.last = time.monotonic()
        self.show([sum(column) for column in zip(*(each[0] for each in told), strict=True)], any(t[2] for t in told))
        return all(each[1] for each in told)


LIVES_ON = 0.25
"""An episode already longer than the others is expected to continue for this fraction of their length."""


def expected_steps(episodes: int, typical: float, finished: float, steps: float, running: float) -> int:
    """Expected total steps of `episodes` episodes. The `finished` ones took `steps`; the others have taken `running` so
    far. Episodes are assumed to be as long as the finished ones; before any has finished, `typical` steps.

    Progress counts steps instead of episodes: the first episode may take minutes.
    """
    mean = steps / finished if finished else typical
    left = (episodes - finished) * mean
    return round(steps + running + max(left - running, left * LIVES_ON))


class Bar:
    """Progress of one stage."""

    def __init__(self, console: Console, title: str, unit: str, total: int, done: int):
        self.console, self.title, self.unit, self.total = console, title, unit, total
        self.done = self.begun_at = done
        self.start = self.last_line = time.monotonic()
        self.progress: Progress | None = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
            )  # fmt: skip
            self.progress = Progress(*columns, console=console)
            self.task = self.progress.add_task(title, total=total, completed=done, note="")
            self.progress.start()

    def begin(self, done: int, total: int) -> None:
        """Correct the expected total. The first call also sets the amount done by an earlier run."""
        if self.total == 0:
            self.begun_at = done
        self.total = total
        if self.progress is not None:
            self.progress.update(self.task, total=total)

    def update(self, done: int, note: str = "") -> None:
        """`done` units are finished; `note` is the latest value to show."""
        self.done = done
        now = time.monotonic()
        rate = (done - self.begun_at) / max(now - self.start, 1e-9)
        left = _duration((self.total - done) / rate) if rate > 0 else "?"
        text = f"{rate:,.4g} {self.unit}/s, {left} left{'  ' + note if note else ''}"
        if self.progress is not None:
            self.progress.update(self.task, completed=done, note=text)
        elif now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.console.print(f"  {self.title}: {done:,}/{self.total:,} {self.unit}, {text}", soft_wrap=True)

    def close(self) -> None:
        """Leave the finished bar, or a last line, on the screen."""
        seconds = time.monotonic() - self.start
        if self.progress is not None:
            self.progress.stop()
        else:
            rate = (self.done - self.begun_at) / max(seconds, 1e-9)
            self.console.print(
                f"  {self.title}: {self.done:,}/{self.total:,} {self.unit} in {_duration(seconds)} "
                f"({rate:,.4g} {self.unit}/s)", soft_wrap=True
            )  # fmt: skip


class Screen:
    """Prints a run's messages and progress."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False)

    def say(self, message: str) -> None:
        """Print a line."""
        self.console.print(message, soft_wrap=True, markup=False)

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.console.print(f"warning: {message}", style="yellow", soft_wrap=True, markup=False)

    @contextmanager
    def bar(self, title: str, unit: str, total: int, done: int = 0) -> Iterator[Bar]:
        """Show progress of `total` units; `done` were finished by an earlier run."""
        bar = Bar(self.console, title, unit, total, done)
        try:
            yield bar
        finally:
            bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
