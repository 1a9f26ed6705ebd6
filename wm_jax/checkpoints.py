"""Checkpoints: the last states of a stage that is at work, each with a manifest of checksums."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from wm_jax import parallel
from wm_jax.data.files import read_json, sha256, write_json
from wm_jax.errors import UserError

KEPT = 2
"""The last one, and the one before it in case the last is damaged."""


@contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax, which is imported where something is saved or read, and silent meanwhile: it logs what it also raises, and the
    raised error is what the user is told."""
    from orbax.checkpoint import v1 as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield ocp
    finally:
        logger.setLevel(level)


class Checkpoints:
    """A stage's last states, by step: Orbax trees, each with a manifest of checksums.

    Where several processes are one run, all of them call it and process 0 alone writes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, state: Any) -> None:
        """Write `state`, of arrays without keys, as the checkpoint of `step` and drop those older than the last
        `KEPT`."""
        temporary = self.folder / f"writing-{step}"
        parallel.on_main(lambda: self._make_room(temporary))
        # On the host every process has the same, and Orbax has process 0 write it.
        arrays = jax.device_get(parallel.local(state))
        try:
            with _orbax() as ocp:
                ocp.save(str(temporary.absolute()), {"state": arrays})
        except (ValueError, OSError) as error:
            raise UserError(
                f"cannot write the checkpoint {temporary}: {str(error).splitlines()[0]}; free space or allow writing, "
                "then run the same command again: it goes on from the checkpoint before"
            ) from error
        parallel.on_main(lambda: self._complete(temporary, step))

    def _make_room(self, temporary: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)

    def _complete(self, temporary: Path, step: int) -> None:
        sums = {
            str(file.relative_to(temporary)): sha256(file) for file in sorted(temporary.rglob("*")) if file.is_file()
        }
        write_json(temporary / "manifest.json", sums)
        final = self.folder / f"{step:09d}"
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for old in self.steps()[:-KEPT]:
            shutil.rmtree(self.folder / f"{old:09d}")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def verify(self, step: int) -> None:
        """Raise `UserError` that names the first file of this checkpoint that is missing or altered."""
        path = self.folder / f"{step:09d}"
        for name, expected in read_json(path / "manifest.json").items():
            file = path / name
            found = sha256(file) if file.is_file() else "no file"
            if found != expected:
                raise UserError(
                    f"checkpoint file {file} is damaged: expected SHA-256 {expected[:12]}…, found {found[:12]}"
                )

    def load(self, step: int, like: Any) -> Any:
        """The checkpoint of `step`, in the structure, shapes and types of `like`, on the devices where its arrays are.
        Raises `UserError` where it is damaged or does not fit."""
        parallel.on_main(lambda: self.verify(step))
        path = self.folder / f"{step:09d}"
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
        loaded, reason = None, None
        try:
            with _orbax() as ocp:
                loaded = ocp.load(str(path.absolute()), {"state": abstract})["state"]
        except (ValueError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
        reason = next(filter(None, parallel.gather(reason)), None)
        if reason:
            raise parallel.SharedError(
                f"checkpoint {path} does not fit this experiment's models: {reason}; "
                "use the settings it was made with, or begin again with --redo"
            )
        return jax.tree.map(lambda leaf, array: parallel.place(array, leaf.sharding), like, loaded)

    def load_last(self, like: Any, warn: Callable[[str], None]) -> tuple[int, Any] | None:
        """The newest checkpoint that is whole, or None where there is none; `warn(message)` names every damaged one."""
        steps = parallel.on_main(self.steps)
        for step in reversed(steps):
            try:
                return step, self.load(step, like)
            except UserError as error:
                if step == steps[0]:
                    raise parallel.SharedError(
                        f"{error}; no older checkpoint is whole: delete {self.folder} to begin this stage again"
                    ) from None
                warn(f"{error}; going on from the checkpoint before it")
        return None
