"""Worker processes for jobs that are numbered: fast to start, without JAX, and never missed when they die.

A worker is a Python process in a session of its own. It reads one job a line (JSON) from its standard input and answers
each with one line. When its input closes, because the parent has finished or was killed, it ends, and takes the games
it has started with it.
"""

import contextlib
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
from collections.abc import Callable, Iterable, Iterator
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

Answer = tuple[int, Any]
"""Job number, what the worker made of it."""


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
        self.stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {module} import {function}; {function}()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            start_new_session=True,
            env=_environment(),
        )
        self.job: int | None = None
        self._send(settings)

    def _send(self, message: Any) -> None:
        assert self.process.stdin is not None
        # A worker that has died is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def begin(self, job: int) -> None:
        """Hand it a job."""
        self.job = job
        self._send(job)

    def answer(self) -> dict | None:
        """Its answer, waited for; None where the process has died."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def last_words(self) -> str:
        """The last line it wrote on standard error."""
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def tell_to_end(self) -> None:
        """Close its input."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self) -> int:
        """Wait until it has ended, kill what is left of its session, and return its exit code."""
        self.tell_to_end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.stderr.close()
        return self.process.wait()


def run_jobs(
    entry: str,
    settings: dict,
    jobs: Iterable[int],
    workers: int,
    tick: Callable[[], None],
    warn: Callable[[str], None],
) -> Iterator[Answer]:
    """Have each job done by one of `workers` processes and yield (job, result) as they come, in any order.

    `entry` is "module:function" of a function that calls `serve`; `settings` is what its `prepare` gets. `tick` is
    called several times a second; what it raises stops the work. `warn` is told of every worker that died and is
    replaced. Raises `UserError` where a worker does, or where workers die again and again on the same job.
    """
    queue = deque(jobs)
    deaths: Counter[int] = Counter()
    team: list[Worker] = []
    with selectors.DefaultSelector() as selector:

        def employ() -> None:
            worker = Worker(entry, settings)
            team.append(worker)
            worker.begin(queue.popleft())
            selector.register(worker.process.stdout, selectors.EVENT_READ, worker)

        try:
            for _ in range(min(workers, len(queue))):
                employ()
            ticked = 0.0
            while any(worker.job is not None for worker in team):
                for key, _ in selector.select(POLL_SECONDS):
                    worker = key.data
                    job, worker_answer = worker.job, worker.answer()
                    if worker_answer is None:
                        selector.unregister(worker.process.stdout)
                        team.remove(worker)
                        deaths[job] += 1
                        queue.appendleft(job)
                        _report_death(worker, job, deaths[job], warn)
                        employ()
                        continue
                    if "error" in worker_answer:
                        raise UserError(worker_answer["error"])
                    worker.job = None
                    if queue:
                        worker.begin(queue.popleft())
                    yield job, worker_answer["result"]
                if time.monotonic() - ticked > POLL_SECONDS:
                    ticked = time.monotonic()
                    tick()
        finally:
            for worker in team:
                worker.tell_to_end()
            for worker in team:
                worker.end()


def _report_death(worker: Worker, job: int, deaths: int, warn: Callable[[str], None]) -> None:
    words = worker.last_words()
    message = f"worker (process {worker.process.pid}) died with exit code {worker.end()} in episode {job}"
    message += f": {words}" if words else ""
    if deaths >= DEATHS_ALLOWED:
        raise UserError(f"{message}; episode {job} was tried {deaths} times and is given up; mend the cause and go on")
    warn(f"{message}; it is replaced and the episode played again")
