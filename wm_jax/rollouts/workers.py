"""Worker processes: without JAX and off the accelerator, asked and answered by messages, never missed when they die.

A worker is a Python process in a session of its own, started by a command, so that any script may use them. It answers each
message of its parent with one of its own, over a socket. When that closes, because the parent has finished or was killed,
the worker ends, and takes the games it has started with it. A message is what JSON can hold, arrays among it: nothing is
pickled.
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
"""What workers died at so many times is given up."""
POLL_SECONDS = 0.25
"""How often the caller is given a chance to stop, and how long a dead worker may go unnoticed whose connection is held open
by what it has started."""
GRACE_SECONDS = 3.0
"""How long a worker may take to close its game when it is told to end."""
KEPT_PIECE = 32 << 20
"""Bytes: what a worker frees in smaller pieces it keeps for itself; glibc allows no more."""
LAST_WORDS = 8192, 30
"""Bytes and lines of a dead worker's standard error that are told."""
CLOSED = (EOFError, BrokenPipeError, ConnectionResetError)
"""What is raised where the other end of a connection is gone."""
LENGTH = 4
"""Bytes that say how long a message's JSON is."""
ERRORS: dict[str, Callable[..., Exception]] = {"user": UserError, "foreign": ForeignError, "own": RuntimeError}
"""What is raised in the parent for an error in a worker."""

Answer = tuple[int, Any]
"""Job number, what the worker made of it."""


class WorkerDied(Exception):
    """Says which worker died, and how; `words` are the last that it wrote on its standard error."""

    def __init__(self, message: str, words: str):
        super().__init__(message)
        self.words = words


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


def send(connection: Connection, kind: str, value: Any) -> None:
    """Send a message of some kind: what JSON can hold, or a dict that also has arrays, whose bytes follow the JSON."""
    arrays = {name: each for name, each in value.items() if isinstance(each, np.ndarray)} if type(value) is dict else {}
    plain = {name: each for name, each in value.items() if name not in arrays} if arrays else value
    about = {name: [array.dtype.str, array.shape] for name, array in arrays.items()}
    text = json.dumps([kind, plain, about]).encode()
    # In one piece, so that the reader is woken once.
    connection.send_bytes(b"".join([len(text).to_bytes(LENGTH, "big"), text, *(a.tobytes() for a in arrays.values())]))


def receive(connection: Connection) -> tuple[str, Any]:
    """Wait for the next message, (kind, value). Raises `CLOSED` where the connection is."""
    data = connection.recv_bytes()
    place = LENGTH + int.from_bytes(data[:LENGTH], "big")
    kind, value, about = json.loads(data[LENGTH:place])
    for name, (dtype, shape) in about.items():
        array = np.frombuffer(data, dtype, math.prod(shape), place)
        value[name] = array.reshape(shape)
        place += array.nbytes
    return kind, value


def serve(prepare: Callable[[Any, Callable[[Any], None]], Callable[[Any], Any]]) -> None:
    """The worker's main loop: `prepare` turns the first message, the settings, into the function that answers one.

    `prepare` is also given a function that tells the parent how far an answer is. An error is sent to the parent, and ends
    the process; where a game has died the process ends as if it had died itself.
    """
    connection = Connection(int(sys.argv[1]))
    # A game must not inherit it: the parent would take a dead worker for one that is at work.
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
    """When the parent has closed the connection interrupt the main thread, and end everything if it does not react."""
    poll = select.poll()
    # Only the end of the connection is an event. macOS reports none where none is asked for.
    poll.register(connection, select.POLLHUP)
    poll.poll()
    interrupt_main()
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """The parent's, with this package to be found, one thread for each worker's numerical libraries, and JAX, which a task
    may import, kept off the accelerator: it is the parent's."""
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, "PYTHONPATH": path, **threads, "JAX_PLATFORMS": "cpu"}


class Worker:
    """The parent's end of one worker process."""

    def __init__(self, entry: str, settings: Any):
        """`entry`: "module:function" of a function that calls `serve`; `settings`: what its `prepare` gets."""
        module, function = entry.split(":")
        self._stderr, path = tempfile.mkstemp()
        os.unlink(path)
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                # A worker that crashes says where.
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
        """What errors call it."""
        return f"worker process (pid {self.process.pid})"

    def send(self, message: Any) -> None:
        """Ask it something."""
        # A worker that has died is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            send(self.connection, "ask", message)

    def receive(self) -> tuple[str, Any]:
        """("answer" or "progress", what it says), waited for. Raises what it raised, and `WorkerDied` where it has died."""
        try:
            # What it has started may hold the connection open.
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
        """Its answer, waited for."""
        kind, value = self.receive()
        return value if kind == "answer" else self.answer()

    def _death(self) -> WorkerDied:
        """How it died; it may not be quite gone yet."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_SECONDS)
        count, lines = LAST_WORDS
        size = os.fstat(self._stderr).st_size
        words = os.pread(self._stderr, count, max(0, size - count)).decode(errors="replace")
        kept = [line.rstrip() for line in words.splitlines() if line.strip()][-lines:]
        return WorkerDied(f"{self.name} died with exit code {self.process.returncode}", "\n".join(kept))

    def end(self, at_once: bool) -> None:
        """Wait until it has ended, unless `at_once`, and kill what is left of its session."""
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
        # It ends when it finds its connection closed.
        worker.connection.close()
    for worker in workers:
        worker.end(at_once)


class Team:
    """Workers that do jobs, which are numbers; all of them end with the `with` block."""

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
        """Have each job done by one of `workers` processes, which stay for the next ones, and yield (job, result) as they
        come, in any order.

        `tick` is called several times a second with what workers last told of the jobs that they are at; what it raises
        stops the work. `warn` is told of every worker that died and is replaced. Raises what a worker raises, and
        `UserError` where workers die again and again on the same job.
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
            # Where the work is stopped, what they are at is nobody's any more.
            self._dismiss(list(busy))


def _ready(workers: Iterable[Worker]) -> list[Worker]:
    """Those who have said something or died, waited for no longer than `POLL_SECONDS`."""
    workers = list(workers)
    heard = wait([worker.connection for worker in workers], POLL_SECONDS)
    return [worker for worker in workers if worker.connection in heard or worker.process.poll() is not None]


def _report(death: WorkerDied, job: int, deaths: int, warn: Callable[[str], None]) -> None:
    message = f"{death} in job {job}"
    if deaths >= ATTEMPTS:
        raise given_up(f"{message}; job {job} was tried {deaths} times and is given up", death)
    warn(f"{message}; it is replaced and job {job} done again")


def given_up(message: str, death: WorkerDied) -> UserError:
    """Says what no worker has survived, and what the last one said."""
    words = f"; its last words:\n{death.words}" if death.words else ""
    return UserError(f"{message}; check memory and the installation of the environment's packages{words}")
