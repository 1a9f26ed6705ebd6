"""Files that are whole or not there: written under another name, forced to the disk, then renamed. JSON and checksums.

What the system refuses, as too many open files, is a `UserError` that says so: `told` and `reading`. Damage is something
else: a wrong digest or format.
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
    errno.EACCES: "have its owner allow it, or give another path",
    errno.EPERM: "have its owner allow it, or give another path",
    errno.EROFS: "give a path where writing is allowed",
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there",
    errno.EFBIG: "free space there or allow larger files (`ulimit -f`)",
    errno.EMFILE: "allow more open files (`ulimit -n 4096`)",
    errno.ENFILE: "close other programs: all of this machine's have too many files open",
    errno.EAGAIN: "close other programs: this machine has no more processes to give",
    errno.ENOMEM: "close other programs: this machine has no more memory to give",
    errno.EIO: "see to the disk or the network that it lies on",
    errno.ESTALE: "see to the disk or the network that it lies on",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "check the path: it is a folder",
}
"""What a user can do about what the system refuses, by its reason."""
WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
"""Reasons that a user's path can be, and a defect of ours."""
ELSE = "see to that"
LOOKED_AT = 4096
"""Bytes of a file by which it is known for one of ours."""


@contextmanager
def told(deed: str, path: Path) -> Iterator[None]:
    """Turn what the system refuses in the block (`OSError`) into a `UserError`: "cannot DEED PATH: why; what to do"."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise UserError(f"cannot {deed} {path}: {reason}; {remedy(error)}, then run the same command again") from error


def remedy(error: Exception) -> str:
    """What a user can do about what the system refused; some libraries tell its words alone."""
    reasons = (reason for reason in REMEDIES if os.strerror(reason) in str(error))
    return REMEDIES.get(getattr(error, "errno", None) or next(reasons, 0), ELSE)


@contextmanager
def reading(path: Path, absent: str = "check the path") -> Iterator[None]:
    """Turn an `OSError` of the block, which reads `path`, into a `UserError`; `absent`: what to do if it is not there."""
    with told("read", path):
        try:
            yield
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; {absent}") from None


def require_readable(path: Path, absent: str = "check the path") -> None:
    """Raise `UserError`, as `reading` does, unless the file can be opened: libraries tell this as something else."""
    with reading(path, absent):
        path.open("rb").close()


def require_writable(path: Path) -> None:
    """Make the folder of `path`, and raise `UserError` unless a file can be written there: now, not after the work."""
    with told("write", path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


def require_own(path: Path, mark: str, what: str) -> None:
    """Raise `UserError` where `path` is there, but not as `what` is to be written there: without `mark` near its
    beginning."""
    if path.exists() and not holds(path, mark):
        raise UserError(f"{path} is there and is no {what}: it is not written over; move it away, or give another name")


def holds(path: Path, mark: str) -> bool:
    """Whether a file is there that holds `mark` near its beginning."""
    with told("read", path), suppress(FileNotFoundError), path.open("rb") as file:
        return mark.encode() in file.read(LOOKED_AT)
    return False


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, which takes the place of `path` when the block ends.

    A block that fails leaves `path` as it was and nothing beside it. Raises `UserError` for an `OSError` in the block or
    after it.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        with told("write", path):
            yield unfinished
            _force(unfinished)
            unfinished.replace(path)
            # The new name is an entry of the folder, which a loss of power could undo on its own.
            _force(path.parent)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all; makes the folder. Raises `UserError` where the disk is full or the
    folder not writable."""
    with replacing(path) as unfinished:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. Raises `UserError` where the disk does not take it."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON value in `path`. Raises `UserError` where it is missing, refused or damaged."""
    with reading(path, "check the path, or run the stage that writes it"):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{path} is damaged: expected JSON, found {error}; restore it, or delete it and run the same command again"
        ) from None


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, if it is there. Raises `UserError` where it is refused."""
    with told("delete", path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def real(path: str | Path) -> Path:
    """The absolute path without links; of a link to itself the link's own, where `Path.resolve` raises on some Pythons."""
    return Path(os.path.realpath(path))


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises `UserError` where it cannot be read."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _force(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
