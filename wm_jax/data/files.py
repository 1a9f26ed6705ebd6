"""Files that are whole or not there: written under another name, forced to the disk, then renamed. JSON and checksums."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wm_jax.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, which takes the place of `path` when the block ends.

    A block that fails leaves `path` as it was and nothing beside it. Raises `UserError` for an `OSError` in the block or
    after it.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        _force(unfinished)
        unfinished.replace(path)
        # The new name is an entry of the folder, which a loss of power could undo on its own.
        _force(path.parent)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space there or allow writing, then run the same "
            "command again"
        ) from error
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
    """The JSON value in `path`. Raises `UserError` where it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; check the path, or run the stage that writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged: expected JSON, found {error}; restore it, or delete it and run the same command again"
        ) from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _force(path: Path) -> None:
    """Wait until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
