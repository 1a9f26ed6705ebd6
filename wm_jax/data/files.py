"""Files that are either complete or absent: written under another name, forced to disk, then renamed. JSON and
checksums.

Errors from the system, such as too many open files, become a `UserError` through `told` and `reading`. Damage (a wrong
digest or format) is a different error.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wm_jax.errors import DamagedError, UserError

REMEDIES = {
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a writable path",
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there",
    errno.EFBIG: "free space there or allow larger files (`ulimit -f`)",
    errno.EMFILE: "allow more open files (`ulimit -n 4096`)",
    errno.ENFILE: "close other programs: too many files are open on this machine",
    errno.EAGAIN: "close other programs: this machine has reached its limit of processes",
    errno.ENOMEM: "close other programs: this machine is out of memory",
    errno.EIO: "check the disk or the network drive",
    errno.ESTALE: "check the disk or the network drive",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: part of it is a file",
    errno.EISDIR: "check the path: it is a folder",
}
"""What a user can do about a system error, by its errno."""
WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Errors that can come from a user's path, or from a bug of this package."""
ELSE = "fix the cause"
LOOKED_AT = 4096
"""Bytes at the start of a file that are searched for a mark."""


@contextmanager
def system_errors(deed: str, path: Path) -> Iterator[None]:
    """Turn a system error (`OSError`) in the block into a `UserError`: "cannot DEED PATH: why; what to do"."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(f"cannot {deed} {path}: {reason}; {remedy(error)}, then run the same command again") from error


def remedy(error: Exception) -> str:
    """What a user can do about a system error; some libraries only pass on its text."""
    reasons = (reason for reason in REMEDIES if os.strerror(reason) in str(error))
    return REMEDIES.get(getattr(error, "errno", None) or next(reasons, 0), ELSE)


@contextmanager
def reading(path: Path, absent: str = "check the path") -> Iterator[None]:
    """Turn an `OSError` of the block, which reads `path`, into a `UserError`. `absent`: what to do if the file is
    missing."""
    with system_errors("read", path):
        try:
            yield
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; {absent}") from None


def require_readable(path: Path, absent: str = "check the path") -> None:
    """Raise `UserError`, as `reading` does, unless the file can be opened: libraries report this as another error."""
    with reading(path, absent):
        path.open("rb").close()


def require_writable(path: Path) -> None:
    """Create the folder of `path`. Raises `UserError` unless a file can be written there: before the work, not after
    it."""
    with system_errors("write", path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def require_own(path: Path, mark: str, what: str) -> None:
    """Raise `UserError` if `path` exists but was not written as `what`: `mark` is missing near its beginning."""
    if path.exists() and not holds(path, mark):
        raise UserError(f"{path} exists and is not a {what}: it is not overwritten; move it, or give another name")


def holds(path: Path, mark: str) -> bool:
    """Whether the file exists and has `mark` near its beginning."""
    with system_errors("read", path), suppress(FileNotFoundError), path.open("rb") as file:
        return mark.encode() in file.read(LOOKED_AT)
    return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` to write to. The file replaces `path` when the block ends.

    If the block fails, `path` is unchanged and the temporary file is deleted. Raises `UserError` for an `OSError` in
    the block or after it.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with system_errors("write", path):
            yield unfinished
            _force(unfinished)
            unfinished.replace(path)
            # The renamed entry belongs to the folder, which must be forced to disk too.
            _force(path.parent)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all; creates the folder. Raises `UserError` if the disk is full or
    the folder is not writable."""
    with replacing(path) as unfinished:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, completely or not at all. Raises `UserError` if writing fails."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises `UserError` if it is missing, unreadable or damaged."""
    with reading(path, "check the path, or run the stage that writes it"):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{path} is damaged: expected JSON, found {error}; restore it, or delete it and run the same command again"
        ) from None


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with its contents, if it exists. Raises `UserError` if that fails."""
    with system_errors("delete", path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def real(path: str | Path) -> Path:
    """The absolute path without links. For a link to itself: the link's own path (`Path.resolve` raises on some
    Pythons)."""
    return Path(os.path.realpath(path))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises `UserError` if it cannot be read."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _force(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
