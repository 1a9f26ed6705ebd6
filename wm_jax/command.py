"""How a command ends: with an exit code, and one sentence for what a user can mend. What is printed never ends it."""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

import jax

from wm_jax import parallel
from wm_jax.data.files import REMEDIES, WRONG_PATHS, remedy
from wm_jax.errors import ForeignError, UserError
from wm_jax.pipeline.progress import Stopped

DEBUG = "--debug"
"""With any command: the traceback of every error."""
STOPPED = 130
"""Exit code after Ctrl-C, as shells have it."""


@contextmanager
def ending() -> Iterator[None]:
    """Turn the errors of the block into exit codes: 1 for what a user can mend, which is said in one sentence, `STOPPED`
    after Ctrl-C. Others, which a user's mistake has not caused, keep their traceback."""
    with _tolerant():
        try:
            yield
        except (Stopped, parallel.SharedError) as error:
            if parallel.is_main():
                _say(error)
            sys.exit(STOPPED if isinstance(error, Stopped) else 1)
        except KeyboardInterrupt:
            print("wm-jax: stopped at once; the same command goes on from the last checkpoint", file=sys.stderr)
            parallel.leave(STOPPED)
        except (UserError, ForeignError) as error:
            _say(error)
            parallel.leave(1)
        except FloatingPointError as error:
            # These switches are set to find the place.
            _say(ForeignError(f"JAX stops where JAX_DEBUG_NANS or JAX_DEBUG_INFS has it stop ({error}); searches hold NaN "
                              "and infinity on purpose where they know nothing yet: run the stages before them alone, by "
                              "--stages, or leave these switches out", traceback.format_exc()))  # fmt: skip
            parallel.leave(1)
        except (jax.errors.JaxRuntimeError, OSError, ImportError) as error:
            sentence = _sentence(error)
            if not sentence:
                raise
            _say(error, sentence)
            parallel.leave(1)


def _say(error: Exception, sentence: str = "") -> None:
    if isinstance(error, ForeignError):
        print(error.trace.rstrip(), file=sys.stderr)
    if DEBUG in sys.argv:
        traceback.print_exception(error)
    print(f"wm-jax: {sentence or error}", file=sys.stderr)


def _sentence(error: Exception) -> str:
    """What can be said of an error that others than this package raise; empty where it may be a defect of ours."""
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, OSError) and error.errno in REMEDIES and error.errno not in WRONG_PATHS:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}; {remedy(error)}, then run the same command again: what was saved is used"
    if isinstance(error, ImportError) and "wm_jax" not in first:
        return f"a library is missing or does not fit: {first}; install wm-jax again, with its extras for what you run"
    if isinstance(error, jax.errors.JaxRuntimeError) and "Disallowed" in first and "transfer" in first:
        return f"JAX_TRANSFER_GUARD forbids what no command does without ({first}); leave it out"
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in first:
        return (f"the device has too little memory ({first}); take smaller batches (batch_size of world.*), fewer "
                "candidates or dreams (sizes of search.*, evolve.evaluation_rollouts), or more devices")  # fmt: skip
    return ""


class _Stream:
    """A stream to the user that never fails: what it does not take is lost, and `failure` says why."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.failure: Exception | None = None
        if hasattr(stream, "reconfigure"):
            self._try(lambda: cast(Any, stream).reconfigure(errors="backslashreplace"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """As a text file's."""
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """As a text file's."""
        self._try(self.stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.failure is None:
            try:
                act()
            except (OSError, ValueError) as failure:
                self.failure = failure
                # What it still holds would fail when Python ends.
                with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), self.stream.fileno())


@contextmanager
def _tolerant() -> Iterator[None]:
    """Have what is printed in the block never end it. Where a disk did not take it, and no reader went away, that is said
    at the end, and the exit code is 1."""
    if isinstance(sys.stdout, _Stream):
        yield
        return
    _open_standard_streams()
    before, streams = (sys.stdout, sys.stderr), (_Stream(sys.stdout), _Stream(sys.stderr))
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], streams)
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before
    failure = streams[0].failure
    if isinstance(failure, OSError) and failure.errno != errno.EPIPE:
        streams[1].write(f"wm-jax: not all could be printed: {failure.strerror}; {remedy(failure)}\n")
        sys.exit(1)


def _open_standard_streams() -> None:
    """Lead those nowhere that the shell has closed: the next file to be opened would have their number, and get what
    libraries and workers print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
