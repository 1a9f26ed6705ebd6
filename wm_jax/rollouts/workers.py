"""Worker processes for jobs that are numbered: fast to start, without JAX, and never missed when they die.

A worker is a Python process in a session of its own. It reads one job a line (JSON) from its standard input and answers
each with one line. When its input closes, because the parent has finished or was killed, it ends, and takes the games
it has started with it.
"""

import contextlib
import ctypes
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from _thread import interrupt_main
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from wm_jax.errors import UserError

DEATHS_ALLOWED = 3
"""A job whose workers died this many times is given up."""
POLL_SECONDS = 0.25
"""How often the caller is given a chance to stop."""
GRACE_SECONDS = 3.0
"""How long a worker may take to close its game when it is told to end."""
KEPT_PIECE = 32 << 20
"""Bytes: what a worker frees in smaller pieces it keeps for itself; glibc allows no more."""
LAST_WORDS = 4096
"""Bytes of a dead worker's standard error that are looked at."""

Answer = tuple[int, Any]
"""Job number, what the worker made of it."""


def usable_cores() -> int:
    """Cores that this process may run on; all of the machine's where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, where its C library can (glibc). Car Racing draws each step on a new
    surface of 3 MB, whose pages the system would otherwise hand out, cleared, and take back every time."""
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, KEPT_PIECE)
        mallopt(trim_threshold, 2**31 - 1)


def serve(prepare: Callable[[dict], Callable[[int], Any]]) -> None:
    """The worker's main loop: `prepare` turns the first line, the settings, into the function that does a job.

    A `UserError` is sent to the parent; any other exception ends the process, with its traceback on standard error.
    """
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()

    def answer(message: dict) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        try:
            work = prepare(json.loads(lines.get()))
            while line := lines.get():
                answer({"result": work(json.loads(line))})
        except UserError as error:
            answer({"error": str(error)})


def _listen(lines: SimpleQueue[str]) -> None:
    """Hand lines to the main thread; at the end of the input interrupt it, and end everything if it does not react."""
    for line in sys.stdin:
        lines.put(line)
    lines.put("")
    interrupt_main()
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """The parent's, with this package to be found, and one thread for each worker's numerical libraries."""
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Worker:
    """The parent's end of one worker process."""

    def __init__(self, entry: str, settings: dict):
        module, function = entry.split(":")
        self.job = -1
        self._stderr, path = tempfile.mkstemp()
        os.unlink(path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import {function}; {function}()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            start_new_session=True,
            env=_environment(),
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._orders, self.answers = self.process.stdin, self.process.stdout
        self._send(settings)

    def _send(self, message: Any) -> None:
        # A worker that has died is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(json.dumps(message).encode() + b"\n")
            self._orders.flush()

    def begin(self, job: int) -> None:
        """Hand it a job."""
        self.job = job
        self._send(job)

    def answer(self) -> dict | None:
        """Its answer, waited for; None where the process has died."""
        line = self.answers.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def last_words(self) -> str:
        """The last line it wrote on standard error."""
        size = os.fstat(self._stderr).st_size
        lines = os.pread(self._stderr, LAST_WORDS, max(0, size - LAST_WORDS)).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def tell_to_end(self) -> None:
        """Close its input."""
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()

    def end(self) -> int:
        """Wait until it has ended, kill what is left of its session, and return its exit code."""
        self.tell_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.answers.close()
        os.close(self._stderr)
        return self.process.wait()


class Team:
    """Workers that do jobs; all of them end with the `with` block."""

    def __init__(self, entry: str, settings: dict):
        self.entry, self.settings = entry, settings
        self.selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss_all(self.workers)
        self.selector.close()

    def employ(self) -> Worker:
        """Start a worker."""
        worker = Worker(self.entry, self.settings)
        self.workers.append(worker)
        self.selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def dismiss(self, worker: Worker) -> int:
        """End a worker; returns its exit code."""
        self.workers.remove(worker)
        self.selector.unregister(worker.answers)
        return worker.end()

    def _dismiss_all(self, workers: list[Worker]) -> None:
        """End these workers, all at the same time."""
        for worker in workers:
            worker.tell_to_end()
        for worker in list(workers):
            self.dismiss(worker)

    def do(
        self, jobs: Iterable[int], workers: int, tick: Callable[[], None], warn: Callable[[str], None]
    ) -> Generator[Answer, None, None]:
        """Have each job done by one of `workers` processes, which stay for the next ones, and yield (job, result) as they
        come, in any order.

        `tick` is called several times a second; what it raises stops the work. `warn` is told of every worker that died
        and is replaced. Raises `UserError` where a worker does, or where workers die again and again on the same job.
        """
        queue, deaths, ticked = deque(jobs), Counter(), 0.0
        self._dismiss_all([worker for worker in self.workers if worker.process.poll() is not None])
        idle, busy = self.workers[:workers], []
        for _ in range(min(workers, len(queue))):
            busy.append(idle.pop() if idle else self.employ())
            busy[-1].begin(queue.popleft())
        try:
            while busy:
                for worker in self.ready():
                    if worker not in busy:
                        # It has nothing to do, so that what it has to say is that it died.
                        self.dismiss(worker)
                        continue
                    job, message = worker.job, worker.answer()
                    if message is None:
                        deaths[job] += 1
                        busy.remove(worker)
                        _report_death(self, worker, deaths[job], warn)
                        busy.append(self.employ())
                        busy[-1].begin(job)
                    elif "error" in message:
                        raise UserError(message["error"])
                    else:
                        if queue:
                            worker.begin(queue.popleft())
                        else:
                            busy.remove(worker)
                        yield job, message["result"]
                if time.monotonic() - ticked > POLL_SECONDS:
                    ticked = time.monotonic()
                    tick()
        finally:
            # Where the work is stopped, what they are at is nobody's any more.
            self._dismiss_all(busy)

    def ready(self) -> list[Worker]:
        """Those who have answered or died, waited for no longer than `POLL_SECONDS`."""
        return [key.data for key, _ in self.selector.select(POLL_SECONDS)]


def run_jobs(
    entry: str,
    settings: dict,
    jobs: Iterable[int],
    workers: int,
    tick: Callable[[], None],
    warn: Callable[[str], None],
) -> Generator[Answer, None, None]:
    """`Team.do` by a team for these jobs alone.

    `entry` is "module:function" of a function that calls `serve`; `settings` is what its `prepare` gets.
    """
    with Team(entry, settings) as team:
        yield from team.do(jobs, workers, tick, warn)


def _report_death(team: Team, worker: Worker, deaths: int, warn: Callable[[str], None]) -> None:
    words = worker.last_words()
    message = f"worker (process {worker.process.pid}) died with exit code {team.dismiss(worker)} in job {worker.job}"
    message += f": {words}" if words else ""
    if deaths >= DEATHS_ALLOWED:
        raise UserError(
            f"{message}; job {worker.job} was tried {deaths} times and is given up; mend the cause, then go on"
        )
    warn(f"{message}; it is replaced and job {worker.job} done again")
