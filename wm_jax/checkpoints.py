"""Checkpoints: the last states of a stage that is at work, each with a manifest of checksums."""

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
from wm_jax.data.files import read_json, remedy, remove, sha256, told, write_json
from wm_jax.data.weights import flatten, misfit
from wm_jax.errors import DamagedError, UserError

KEPT = 2
"""The last one, and the one before it in case the last is damaged."""
MANIFEST = "manifest.json"
PLAIN = re.compile(r"[\w/. +=@,~-]+")
"""Paths that Orbax takes as they are."""


@contextmanager
def _orbax(deed: str, path: Path) -> Iterator[tuple[Any, str]]:
    """Orbax, to DEED the checkpoint at `path`, and that path as Orbax takes it; all processes call it together.

    It is imported here, and silent meanwhile: it logs what it also raises, which is a `UserError` then.
    """
    from orbax.checkpoint import v1 as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with told(f"{deed} the checkpoint", path), _plain(path) as plain:
            yield ocp, str(plain)
    except jax.errors.JaxRuntimeError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"cannot {deed} the checkpoint {path}: Orbax says {reason!r}; {remedy(error)}, then run the same command again"
        ) from error
    finally:
        logger.setLevel(level)


def require_path(path: Path) -> None:
    """Raise `UserError` where what lies in `path` cannot have checkpoints: several processes need a plain name."""
    if jax.process_count() > 1 and not PLAIN.fullmatch(str(path.absolute())):
        raise UserError(
            f"{path.absolute()} has characters beside letters, digits and /._+=@,~- in its name, where Orbax cannot save "
            "what several processes do; give another --run-dir"
        )


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """`path` by a name that means only itself: Orbax looks for files by patterns in which `x[1]` is `x1`, and has a reading
    of its own of `\\` and `gs:`. Such a folder gets a link from one for temporary files."""
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
    """What a checkpoint holds, by name."""
    with _orbax("read", path) as (ocp, plain):
        return flatten(ocp.metadata(plain).metadata["state"])


def _read(path: Path, like: Any) -> Any:
    """The arrays of a checkpoint that is like `like`, on this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
    with _orbax("read", path) as (ocp, plain):
        return ocp.load(plain, {"state": abstract})["state"]


def _require_same(path: Path, written: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise `UserError` unless these arrays are the same, bit by bit."""
    for name, array in written.items():
        if np.asarray(array).tobytes() != found[name].tobytes():
            raise UserError(
                f"{name} in the checkpoint {path} is not read back as it was written; see to the disk, then run the same "
                "command again: it goes on from the checkpoint before"
            )


class Checkpoints:
    """A stage's last states, by step: Orbax trees, each with a manifest of checksums.

    Where several processes are one run, all of them call it and process 0 alone writes. Raises `UserError`, on all of
    them, where the system or Orbax does not write or read what it is to.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, state: Any) -> None:
        """Write `state`, of arrays without keys, as the checkpoint of `step`; once it has been read back, it counts, and
        those older than the last `KEPT` are dropped."""
        temporary = self.folder / f"writing-{step}"
        parallel.on_main(lambda: self._make_room(temporary))
        # On the host every process has the same, and Orbax has process 0 write it.
        arrays = jax.device_get(parallel.local(state))
        parallel.on_all(partial(_write, temporary, arrays))
        found = parallel.on_all(partial(_read, temporary, arrays))
        parallel.on_all(partial(_require_same, temporary, flatten(arrays), flatten(jax.device_get(found))))
        parallel.on_main(lambda: self._complete(temporary, step))

    def _make_room(self, temporary: Path) -> None:
        remove(temporary)
        with told("write", temporary):
            self.folder.mkdir(parents=True, exist_ok=True)

    def _complete(self, temporary: Path, step: int) -> None:
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        write_json(temporary / MANIFEST, {str(file.relative_to(temporary)): sha256(file) for file in files})
        final = self._path(step)
        remove(final)
        with told("write", final):
            os.replace(temporary, final)
        for old in self.steps()[:-KEPT]:
            remove(self._path(old))

    def _path(self, step: int) -> Path:
        return self.folder / f"{step:09d}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        with told("read", self.folder):
            names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def damage(self, step: int) -> str | None:
        """The first of a checkpoint's files that is missing or altered, in words; None where all are as they were written.
        Raises `UserError` where they cannot be read."""
        path = self._path(step)
        with told("read", path):
            if not (path / MANIFEST).exists():
                return f"the checkpoint {path} is not whole: it has no {MANIFEST}"
            try:
                sums = read_json(path / MANIFEST)
            except DamagedError as error:
                return str(error)
            if not isinstance(sums, dict):
                return f"{path / MANIFEST} is damaged: expected files and their SHA-256, found {str(sums)[:60]}"
            for name, expected in sums.items():
                file = path / name
                if not file.exists():
                    return f"the checkpoint {path} is not whole: its file {name} is missing"
                if (found := sha256(file)) != expected:
                    wanted = str(expected)[:12]
                    return f"the checkpoint's file {file} was altered: expected SHA-256 {wanted}…, found {found[:12]}…"
        return None

    def load(self, step: int, like: Any) -> Any:
        """The checkpoint of `step`, in the structure, shapes and types of `like`, on the devices where its arrays are.
        Raises `UserError` where it is damaged, does not fit or cannot be read."""
        damage = parallel.on_main(lambda: self.damage(step))
        if damage:
            raise parallel.SharedError(damage)
        return self._load(step, like)

    def _load(self, step: int, like: Any) -> Any:
        path = self._path(step)
        different = misfit(flatten(like), parallel.on_all(partial(_shapes, path)))
        if different:
            raise parallel.SharedError(f"the checkpoint {path} does not fit this experiment's models: {different}; use the "
                                       "settings it was made with, or begin again with --redo")  # fmt: skip
        loaded = parallel.on_all(partial(_read, path, like))
        return jax.tree.map(lambda leaf, array: parallel.place(array, leaf.sharding), like, loaded)

    def load_last(self, like: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """The newest checkpoint that is whole, or None where there is none; `warn(message)` names every damaged one. Raises
        `UserError` where none is, and where one that is whole does not fit or cannot be read."""
        steps = parallel.on_main(self.steps)
        for step in reversed(steps):
            damage = parallel.on_main(partial(self.damage, step))
            if damage is None:
                return step, self._load(step, like)
            if step == steps[0]:
                raise parallel.SharedError(
                    f"{damage}; no older checkpoint is whole: delete {self.folder} to begin this stage again"
                )
            warn(f"{damage}; going on from the checkpoint before it")
        return None
