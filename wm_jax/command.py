"""How a command ends: an exit code, and one sentence for an error the user can fix. A failed print never ends a
command."""

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
"""Accepted by every command: show the traceback of every error."""
STOPPED = 130
"""Exit code after Ctrl-C, as in shells."""


@contextmanager
def ending() -> Iterator[None]:
    """Turn errors of the block into exit codes: 1 for an error the user can fix, printed as one sentence; `STOPPED`
    after Ctrl-C. All other errors keep their traceback."""
    with _tolerant():
        try:
            yield
        except (Stopped, parallel.SharedError) as error:
            if parallel.is_main():
                _say(error)
            sys.exit(STOPPED if isinstance(error, Stopped) else 1)
        except KeyboardInterrupt:
            print("wm-jax: stopped at once; the same command continues from the last checkpoint", file=sys.stderr)
            parallel.leave(STOPPED)
        except (UserError, ForeignError) as error:
            _say(error)
            parallel.leave(1)
        except FloatingPointError as error:
            # These switches exist to find the place of a NaN: keep the traceback.
            _say(ForeignError(f"JAX_DEBUG_NANS or JAX_DEBUG_INFS stopped the program ({error}); searches use NaN "
                              "and infinity on purpose for unknown values: run only the earlier stages with "
                              "--stages, or unset these switches", traceback.format_exc()))  # fmt: skip
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
    """A sentence for an error from outside this package that the user can fix; empty if it may be a bug of this
    package."""
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, OSError) and error.errno in REMEDIES and error.errno not in WRONG_PATHS:
        place = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{place}; {remedy(error)}, then run the same command again to continue"
    if isinstance(error, ImportError) and "wm_jax" not in first:
        return f"a library is missing or incompatible: {first}; reinstall wm-jax with the extras that you need"
    if isinstance(error, jax.errors.JaxRuntimeError) and "Disallowed" in first and "transfer" in first:
        return f"JAX_TRANSFER_GUARD blocks a transfer that every command needs ({first}); unset it"
    if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in first:
        return (f"the device has too little memory ({first}); take smaller batches (batch_size of world.*), fewer "
                "candidates or dreams (sizes of search.*, evolve.evaluation_rollouts), or more devices")  # fmt: skip
    return ""


class _Stream:
    """An output stream that never raises. Text that cannot be written is lost; `failure` holds the error."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.failure: Exception | None = None
        if hasattr(stream, "reconfigure"):
            self._try(lambda: cast(Any, stream).reconfigure(errors="backslashreplace"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write `text`, as a text file does."""
        self._try(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, as a text file does."""
        self._try(self.stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        if self.failure is None:
            try:
                act()
            except (OSError, ValueError) as failure:
                self.failure = failure
                # Buffered text would fail again when Python exits.
                with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), self.stream.fileno())


@contextmanager
def _tolerant() -> Iterator[None]:
    """Keep failed prints in the block from ending the command. If a disk did not take the output, this is reported at
    the end and the exit code is 1. A reader that closed the pipe is no error."""
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
        streams[1].write(f"wm-jax: some output could not be printed: {failure.strerror}; {remedy(failure)}\n")
        sys.exit(1)


def _open_standard_streams() -> None:
    """Point standard streams that the shell has closed to os.devnull. Otherwise the next opened file would get their
    descriptor, and receive what libraries and workers print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
