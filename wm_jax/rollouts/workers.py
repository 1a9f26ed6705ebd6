"""Worker processes without JAX and off the accelerator; parent and worker exchange messages, and a dead worker is
always noticed.

A worker is a Python process in its own session, started by a command, so that any script can use workers. It answers
each message of its parent with one message, over a socket. When the socket closes, because the parent finished or was
killed, the worker ends, together with the games it has started. A message is JSON plus arrays; nothing is pickled.
"""

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from _thread import interrupt_main
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

import numpy as np

from wm_jax.errors import ForeignError, UserError
from wm_jax.tasks import GameDied

ATTEMPTS = 3
"""Attempts at a job whose workers die, before it is given up."""
POLL_SECONDS = 0.25
"""Seconds between the caller's chances to stop, and the longest time a death stays unnoticed if the worker's children
hold its connection open."""
GRACE_SECONDS = 3.0
"""Seconds that a worker may take to close its game at the end."""
KEPT_PIECE = 32 << 20
"""Bytes: the worker keeps freed memory in smaller pieces for itself; glibc allows no more."""
LAST_WORDS = 8192, 30
"""Bytes and lines of a dead worker's standard error that are reported."""
CLOSED = (EOFError, BrokenPipeError, ConnectionResetError)
"""Errors that mean the other end of a connection is closed."""
LENGTH = 4
"""Bytes of the length of a message's JSON."""
ERRORS: dict[str, Callable[..., Exception]] = {"user": UserError, "foreign": ForeignError, "own": RuntimeError}
"""The exception that the parent raises for each kind of error in a worker."""

Answer = tuple[int, Any]
"""Job number and result."""


class WorkerDied(Exception):
    """Says which worker died, and how; `words`: the last lines of its standard error."""

    def __init__(self, message: str, words: str):
        super().__init__(message)
        self.words = words


def usable_cores() -> int:
    """Cores that this process may use; all of the machine's if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Keep freed memory in this process, if its C library can (glibc). Car Racing draws each step on a new surface of 3
    MB; otherwise the system would reclaim, clear and hand out its pages each time."""
    trim_threshold, mmap_threshold = -1, -3
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, KEPT_PIECE)
        mallopt(trim_threshold, 2**31 - 1)


def send(connection: Connection, kind: str, value: Any) -> None:
    """Send a message of some kind: JSON data, or a dict that may also contain arrays, whose bytes follow the JSON."""
    arrays = {name: each for name, each in value.items() if isinstance(each, np.ndarray)} if type(value) is dict else {}
    plain = {name: each for name, each in value.items() if name not in arrays} if arrays else value
    about = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    text = json.dumps([kind, plain, about]).encode()
    # Sent in one piece, so that the reader wakes once.
    connection.send_bytes(b"".join([len(text).to_bytes(LENGTH, "big"), text, *(a.tobytes() for a in arrays.values())]))


def receive(connection: Connection) -> tuple[str, Any]:
    """Wait for the next message, (kind, value). Raises one of `CLOSED` if the connection is closed."""
    data = connection.recv_bytes()
    place = LENGTH + int.from_bytes(data[:LENGTH], "big")
    kind, value, about = json.loads(data[LENGTH:place])
    for name, (dtype, shape) in about.items():
        array = np.frombuffer(data, dtype, math.prod(shape), place)
        value[name] = array.reshape(shape)
        place += array.nbytes
    return kind, value


def serve(prepare: Callable[[Any, Callable[[Any], None]], Callable[[Any], Any]]) -> None:
    """The worker's main loop: `prepare` turns the first message, the settings, into the function that answers the
    others.

    `prepare` also gets a function that reports progress to the parent. An error is sent to the parent and ends the
    process. If a game dies, the process ends as if it had died itself.
    """
    connection = Connection(int(sys.argv[1]))
    # Children must not inherit it: the parent would mistake a dead worker for a busy one.
    os.set_inheritable(connection.fileno(), False)
    keep_freed_memory()
    threading.Thread(target=_watch, args=(connection.fileno(),), daemon=True).start()

    def tell(kind: str, value: Any) -> None:
        send(connection, kind, value)

    with contextlib.suppress(KeyboardInterrupt, *CLOSED):
        try:
            answer = prepare(receive(connection)[1], lambda progress: tell("progress", progress))
            while True:
                tell("answer", answer(receive(connection)[1]))
        except (GameDied, *CLOSED):
            raise
        except UserError as error:
            tell("user", [str(error)])
        except ForeignError as error:
            tell("foreign", [str(error), error.trace])
        except Exception:
            tell("own", [f"in a worker process:\n{traceback.format_exc()}"])


def _watch(connection: int) -> None:
    """When the parent closes the connection, interrupt the main thread, and kill the session if it does not react."""
    poll = select.poll()
    # Only the end of the connection is an event, but macOS reports none if the mask is empty.
    poll.register(connection, select.POLLHUP)
    poll.poll()
    interrupt_main()
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """The parent's environment with this package importable, one thread per numerical library, and JAX, which a task
    may import, on the CPU: the accelerator belongs to the parent."""
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": path, **threads, "JAX_PLATFORMS": "cpu"}


class Worker:
    """The parent's end of one worker process."""

    def __init__(self, entry: str, settings: Any):
        """`entry`: "module:function" of a function that calls `serve`; `settings`: passed to its `prepare`."""
        module, function = entry.split(":")
        self._stderr, path = tempfile.mkstemp()
        os.unlink(path)
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                # The fault handler shows where a worker crashed.
                [sys.executable, "-X", "faulthandler", "-c", f"from {module} import {function}; {function}()",
                 str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr, start_new_session=True,
                pass_fds=[theirs.fileno()], env=_environment(),
            )  # fmt: skip
        self._heard = select.poll()
        self._heard.register(self.connection, select.POLLIN)
        self.send(settings)

    @property
    def name(self) -> str:
        """Its name in error messages."""
        return f"worker process (pid {self.process.pid})"

    def send(self, message: Any) -> None:
        """Send it a request."""
        # A dead worker is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(self.connection, "ask", message)

    def receive(self) -> tuple[str, Any]:
        """Wait for ("answer" or "progress", value). Re-raises an error of the worker, and raises `WorkerDied` if it
        died."""
        try:
            # The worker's children may hold the connection open.
            while not self._heard.poll(1000 * POLL_SECONDS):
                if self.process.poll() is not None:
                    raise EOFError
            kind, value = receive(self.connection)
        except (EOFError, OSError):
            raise self._death() from None
        if kind in ERRORS:
            raise ERRORS[kind](*value)
        return kind, value

    def answer(self) -> Any:
        """Wait for its answer."""
        kind, value = self.receive()
        return value if kind == "answer" else self.answer()

    def _death(self) -> WorkerDied:
        """The error that reports its death; waits for the process to exit."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        count, lines = LAST_WORDS
        size = os.fstat(self._stderr).st_size
        words = os.pread(self._stderr, count, max(0, size - count)).decode(errors="replace")
        kept = [line.rstrip() for line in words.splitlines() if line.strip()][-lines:]
        return WorkerDied(f"{self.name} died with exit code {self.process.returncode}", "\n".join(kept))

    def end(self, at_once: bool) -> None:
        """Wait until it has ended, unless `at_once`, then kill the rest of its session."""
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._stderr)


def end_all(workers: Iterable[Worker], at_once: bool = False) -> None:
    """End these workers, all at the same time."""
    workers = list(workers)
    for worker in workers:
        # A worker ends when its connection closes.
        worker.connection.close()
    for worker in workers:
        worker.end(at_once)


class Team:
    """Workers that do jobs, which are numbers; they end with the `with` block."""

    def __init__(self, entry: str, settings: Any):
        self.entry, self.settings = entry, settings
        self.workers: list[Worker] = []

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._dismiss(self.workers)

    def _employ(self) -> Worker:
        self.workers.append(Worker(self.entry, self.settings))
        return self.workers[-1]

    def _dismiss(self, workers: Sequence[Worker]) -> None:
        leaving = list(workers)
        self.workers = [worker for worker in self.workers if worker not in leaving]
        end_all(leaving)

    def do(
        self, jobs: Iterable[int], workers: int, tick: Callable[[Sequence[Any]], None], warn: Callable[[str], None]
    ) -> Generator[Answer, None, None]:
        """Do each job in one of `workers` processes, which stay for later jobs, and yield (job, result) as they finish,
        in any order.

        `tick` is called several times a second with the last progress of the running jobs; an exception from it stops
        the work. `warn` is called for every worker that died and was replaced. Re-raises an error of a worker, and
        raises `UserError` if workers die repeatedly on the same job.
        """
        queue, deaths, ticked = deque(jobs), Counter(), 0.0
        self._dismiss([worker for worker in self.workers if worker.process.poll() is not None])
        idle, busy = self.workers[:workers], dict[Worker, int]()
        told: dict[Worker, Any] = {}

        def begin(worker: Worker, job: int) -> None:
            busy[worker] = job
            worker.send(job)

        for _ in range(min(workers, len(queue))):
            begin(idle.pop() if idle else self._employ(), queue.popleft())
        try:
            while busy:
                for worker in _ready(busy):
                    job = busy[worker]
                    try:
                        kind, value = worker.receive()
                    except WorkerDied as death:
                        del busy[worker]
                        told.pop(worker, None)
                        self._dismiss([worker])
                        deaths[job] += 1
                        _report(death, job, deaths[job], warn)
                        begin(self._employ(), job)
                        continue
                    if kind == "progress":
                        told[worker] = value
                        continue
                    del busy[worker]
                    told.pop(worker, None)
                    if queue:
                        begin(worker, queue.popleft())
                    yield job, value
                if time.monotonic() - ticked > POLL_SECONDS:
                    ticked = time.monotonic()
                    tick(list(told.values()))
        finally:
            # If the work is stopped, nobody waits for the running jobs any more.
            self._dismiss(list(busy))


def _ready(workers: Iterable[Worker]) -> list[Worker]:
    """The workers with a message, or dead; waits at most `POLL_SECONDS`."""
    workers = list(workers)
    heard = wait([worker.connection for worker in workers], POLL_SECONDS)
    return [worker for worker in workers if worker.connection in heard or worker.process.poll() is not None]


def _report(death: WorkerDied, job: int, deaths: int, warn: Callable[[str], None]) -> None:
    message = f"{death} in job {job}"
    if deaths >= ATTEMPTS:
        raise given_up(f"{message}; gave up on job {job} after {deaths} attempts", death)
    warn(f"{message}; replaced it and restarted job {job}")


def given_up(message: str, death: WorkerDied) -> UserError:
    """The error for a job that no worker survived, with the last worker's final output."""
    words = f"; its last output:\n{death.words}" if death.words else ""
    return UserError(
        f"{message}; check this machine's free RAM and the installation of the environment's packages{words}"
    )
