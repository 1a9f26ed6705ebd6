"""Checkpoints: the last states of a running stage, each with a manifest of checksums."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wm_jax import parallel
from wm_jax.data.files import read_json, remedy, remove, sha256, system_errors, write_json
from wm_jax.data.weights import flatten, misfit
from wm_jax.errors import DamagedError, UserError

KEPT = 2
"""Checkpoints that are kept: the newest, and the previous one in case the newest is damaged."""
MANIFEST = "manifest.json"
PLAIN = re.compile(r"[\w/. +=@,~-]+")
"""Paths that Orbax accepts unchanged."""


@contextmanager
def _orbax(deed: str, path: Path) -> Iterator[tuple[Any, str]]:
    """Yield Orbax and the path to give it, for the operation `deed` on the checkpoint at `path`. All processes call it.

    Orbax is imported here. Its logging is switched off meanwhile: it raises what it logs, which becomes a `UserError`.
    """
    from orbax.checkpoint import v1 as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with system_errors(f"{deed} the checkpoint", path), _plain(path) as plain:
            yield ocp, str(plain)
    except jax.errors.JaxRuntimeError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"cannot {deed} the checkpoint {path}: Orbax: {reason!r}; {remedy(error)}, then run the same command again"
        ) from error
    finally:
        logger.setLevel(level)


def require_path(path: Path) -> None:
    """Raise `UserError` if checkpoints cannot be saved under `path`: several processes need a path without special
    characters."""
    if jax.process_count() > 1 and not PLAIN.fullmatch(str(path.absolute())):
        raise UserError(
            f"{path.absolute()} has characters other than letters, digits and /._+=@,~-; Orbax cannot save what "
            "several processes write there; give another --run-dir"
        )


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path that Orbax reads literally. Orbax searches with glob patterns, in which `x[1]` matches `x1`, and treats
    `\\` and `gs:` specially. For such a folder, this makes a link to it in a temporary folder."""
    if PLAIN.fullmatch(str(path.absolute())):
        yield path.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="wm-jax-") as place:
        link = Path(place) / "checkpoints"
        link.symlink_to(path.parent.absolute(), target_is_directory=True)
        yield link / path.name


def _write(path: Path, arrays: Any) -> None:
    with _orbax("write", path) as (ocp, plain):
        ocp.save(plain, {"state": arrays})


def _shapes(path: Path) -> dict[str, Any]:
    """The shapes and types of a checkpoint's arrays, by name."""
    with _orbax("read", path) as (ocp, plain):
        return flatten(ocp.metadata(plain).metadata["state"])


def _read(path: Path, like: Any) -> Any:
    """The arrays of a checkpoint with the structure of `like`, on this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
    with _orbax("read", path) as (ocp, plain):
        return ocp.load(plain, {"state": abstract})["state"]


def _require_same(path: Path, written: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise `UserError` unless the arrays are bitwise equal."""
    for name, array in written.items():
        if np.asarray(array).tobytes() != found[name].tobytes():
            raise UserError(
                f"{name} in the checkpoint {path} differs when read back; check the disk, then run the same "
                "command again: it continues from the previous checkpoint"
            )


class Checkpoints:
    """A stage's last states, by step: Orbax trees, each with a manifest of checksums.

    In a run of several processes, all of them call these methods and process 0 alone writes. Raises `UserError` on all
    processes if the system or Orbax fails to write or read.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, state: Any) -> None:
        """Write `state`, a pytree of arrays without random keys, as the checkpoint of `step`. The checkpoint is read
        back and compared before it counts. Older ones beyond the last `KEPT` are deleted."""
        temporary = self.folder / f"writing-{step}"
        parallel.on_main(lambda: self._make_room(temporary))
        # Every process has the same arrays on the host; Orbax lets process 0 write them.
        arrays = jax.device_get(parallel.local(state))
        parallel.on_all(partial(_write, temporary, arrays))
        found = parallel.on_all(partial(_read, temporary, arrays))
        parallel.on_all(partial(_require_same, temporary, flatten(arrays), flatten(jax.device_get(found))))
        parallel.on_main(lambda: self._complete(temporary, step))

    def _make_room(self, temporary: Path) -> None:
        remove(temporary)
        with system_errors("write", temporary):
            self.folder.mkdir(parents=True, exist_ok=True)

    def _complete(self, temporary: Path, step: int) -> None:
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        write_json(temporary / MANIFEST, {str(file.relative_to(temporary)): sha256(file) for file in files})
        final = self._path(step)
        remove(final)
        with system_errors("write", final):
            os.replace(temporary, final)
        for old in self.steps()[:-KEPT]:
            remove(self._path(old))

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:09d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        with system_errors("read", self.folder):
            names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def damage(self, step: int) -> str | None:
        """A description of the first missing or altered file of a checkpoint; None if all files are intact. Raises
        `UserError` if the files cannot be read."""
        path = self._path(step)
        with system_errors("read", path):
            if not (path / MANIFEST).exists():
                return f"the checkpoint {path} is incomplete: it has no {MANIFEST}"
            try:
                sums = read_json(path / MANIFEST)
            except DamagedError as error:
                return str(error)
            if not isinstance(sums, dict):
                return f"{path / MANIFEST} is damaged: expected files and their SHA-256, found {str(sums)[:60]}"
            for name, expected in sums.items():
                file = path / name
                if not file.exists():
                    return f"the checkpoint {path} is incomplete: its file {name} is missing"
                if (found := sha256(file)) != expected:
                    wanted = str(expected)[:12]
                    return f"the checkpoint's file {file} was altered: expected SHA-256 {wanted}…, found {found[:12]}…"
        return None

    def load(self, step: int, like: Any) -> Any:
        """Load the checkpoint of `step` with the structure, shapes, types and devices of `like`. Raises `UserError` if
        it is damaged, does not fit or cannot be read."""
        damage = parallel.on_main(lambda: self.damage(step))
        if damage:
            raise parallel.SharedError(damage)
        return self._load(step, like)

    def _load(self, step: int, like: Any) -> Any:
        path = self._path(step)
        different = misfit(flatten(like), parallel.on_all(partial(_shapes, path)))
        if different:
            raise parallel.SharedError(f"the checkpoint {path} does not fit this experiment's models: {different}; use the "
                                       "settings it was made with, or start again with --redo")  # fmt: skip
        loaded = parallel.on_all(partial(_read, path, like))
        return jax.tree.map(lambda leaf, array: parallel.place(array, leaf.sharding), like, loaded)

    def load_last(self, like: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """Load the newest intact checkpoint: (step, state), or None if there is no checkpoint. Calls `warn(message)`
        for every damaged one. Raises `UserError` if all are damaged, or if an intact one does not fit or cannot be
        read."""
        steps = parallel.on_main(self.steps)
        for step in reversed(steps):
            damage = parallel.on_main(partial(self.damage, step))
            if damage is None:
                return step, self._load(step, like)
            if step == steps[0]:
                raise parallel.SharedError(
                    f"{damage}; no older checkpoint is intact: delete {self.folder} to start this stage again"
                )
            warn(f"{damage}; continuing from the previous checkpoint")
        return None
