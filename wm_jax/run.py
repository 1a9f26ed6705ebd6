"""RunDir: the one folder a run lives in, and everything that is read from or written to it.

Nothing here is ever half written under its final name: files are written beside it and renamed, checkpoints carry a
manifest of checksums, and a run that was killed at any moment leaves its last good state behind.

Where several processes are one run, process 0 alone writes; `Checkpoints` and `RunDir.locked` are for all of them to call.
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from wm_jax import parallel
from wm_jax.data.files import write_atomically
from wm_jax.errors import UserError

LOCK = ".lock"

CHECKPOINTS_KEPT = 2
"""The last one, and the one before it in case the last is damaged."""

SECONDS_TO_SEE = 30.0
"""How long a file that one host has written may take to be seen by the others."""

# Orbax logs what it also raises; the raised error is what the user is told.
logging.getLogger("absl").setLevel(logging.CRITICAL)


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


class Checkpoints:
    """A stage's last states, by step: Orbax trees, each with a manifest of checksums."""

    def __init__(self, folder: Path):
        self.folder = folder

    def save(self, step: int, state: Any) -> None:
        """Write `state`, of arrays without keys, as the checkpoint of `step` and drop those older than the last
        `CHECKPOINTS_KEPT`."""
        temporary = self.folder / f"writing-{step}"
        parallel.on_main(lambda: self._make_room(temporary))
        # On the host every process has the same, and Orbax has process 0 write it.
        arrays = jax.device_get(parallel.local(state))
        try:
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
        for old in self.steps()[:-CHECKPOINTS_KEPT]:
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


class StageDir:
    """One stage's folder: what it was run with, whether it is finished, its checkpoints and metrics."""

    def __init__(self, run: "RunDir", wing: str, round_number: int):
        self.run = run
        self.name = f"{wing}/round-{round_number}"
        self.path = run.path / wing / f"round-{round_number}"
        self.work = self.path / "work"
        self.checkpoints = Checkpoints(self.work / "checkpoints")

    @property
    def record(self) -> dict[str, Any] | None:
        """{"settings", "finished", …} as last written, or None before the stage began."""
        path = self.path / "stage.json"
        if not path.exists():
            return None
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("settings"), dict) or "finished" not in record:
            raise UserError(
                f"{path} is damaged: expected `settings` and `finished`, found {str(record)[:60]}; restore it, or delete "
                f"the folder {self.path} to do this stage again"
            )
        return record

    @property
    def finished(self) -> bool:
        """Whether the stage has its result."""
        record = self.record
        return record is not None and record["finished"]

    def begin(self, settings: dict[str, Any], made_with: dict[str, Any]) -> None:
        """Note the settings a stage is run with, the device and the versions, before it does anything."""
        write_json(self.path / "stage.json", {"settings": settings, "finished": False, **made_with})

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the stage finished: its results are whole, and what it needed on the way can go."""
        record = self.record
        assert record is not None, "begin() comes before finish()"
        write_json(self.path / "stage.json", {**record, "finished": True, "summary": summary})
        self.tidy()

    def tidy(self) -> None:
        """Delete what a stage needs only while it is at work."""
        if self.work.exists():
            shutil.rmtree(self.work)

    def clear(self) -> None:
        """Delete the stage's results and its metrics, so that it runs again from the beginning."""
        (self.path / "stage.json").unlink(missing_ok=True)
        if self.path.exists():
            shutil.rmtree(self.path)
        self.run.drop_metrics(self.name, after=-1)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line to the run's metrics."""
        self.run.log(self.name, step, metrics)


class RunDir:
    """runs/NAME: config.json, one folder a wing, metrics.jsonl, evaluation.json, figures/."""

    def __init__(self, path: Path):
        self.path = path
        self.figures = path / "figures"
        self.writer: Any = None

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """An existing run. Raises `UserError` where `path` is not one."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is not a run folder: expected {path / 'config.json'}, found no such file")
        return cls(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, unless it is there, and keep other runs out of it.

        Raises `UserError` where it holds something else than a run, where another run is at work in it, or where not all
        processes of this one see it.
        """
        with ExitStack() as held:
            token = parallel.on_main(lambda: self._lock(held))
            self._require_seen(token)
            yield

    def _lock(self, held: ExitStack) -> str:
        """Take the folder until `held` is closed; returns what its lock file then says."""
        if self.path.is_file():
            raise UserError(f"{self.path} is a file; give a folder by --run-dir")
        lock = self.path / LOCK
        if self.path.exists() and any(self.path.iterdir()) and not lock.exists():
            raise UserError(f"{self.path} holds other files and is no run folder; give another one by --run-dir")
        self.figures.mkdir(parents=True, exist_ok=True)
        file = held.enter_context(lock.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is at work in {self.path}; wait for it or stop it, or give another --run-dir"
            ) from None
        token = secrets.token_hex(8)
        file.truncate(0)
        file.write(token)
        file.flush()
        return token

    def _require_seen(self, token: str) -> None:
        """Raise `UserError` unless every process reads in the lock file what process 0 has written there."""
        lock, deadline = self.path / LOCK, time.monotonic() + SECONDS_TO_SEE
        while not (seen := lock.is_file() and lock.read_text() == token) and time.monotonic() < deadline:
            time.sleep(0.1)
        blind = [process for process, sees in enumerate(parallel.gather(seen)) if not sees]
        if blind:
            raise parallel.SharedError(
                f"process {blind[0]} does not see what process 0 wrote to {lock.absolute()}; give a --run-dir on a file "
                "system that all hosts share, under the same path"
            )

    def prepare(self, config: dict[str, Any], tensorboard: bool) -> None:
        """Note the experiment's settings, and open what metrics are written to."""
        write_json(self.path / "config.json", config)
        self.writer = _tensorboard_writer(self.path) if tensorboard else None

    def stage(self, wing: str, round_number: int) -> StageDir:
        """The folder of a wing's stage in a round."""
        return StageDir(self, wing, round_number)

    @property
    def metrics_path(self) -> Path:
        """Where every logged number stands, a JSON object a line."""
        return self.path / "metrics.jsonl"

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The logged lines, oldest first; a line torn by a kill is passed over."""
        if not self.metrics_path.exists():
            return
        for line in self.metrics_path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    def log(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Append {"stage", "step", "time", **metrics} to metrics.jsonl, and to TensorBoard if asked for."""
        values = {name: _plain(value) for name, value in metrics.items()}
        with self.metrics_path.open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step, "time": round(time.time(), 1), **values}) + "\n")
        if self.writer is not None:
            for name, value in values.items():
                several = enumerate(value) if isinstance(value, list) else []
                for label, number in [(name, value), *((f"{name}/{i}", each) for i, each in several)]:
                    if isinstance(number, int | float):
                        self.writer.add_scalar(f"{stage}/{label}", number, step)

    def drop_metrics(self, stage: str, after: int) -> None:
        """Drop a stage's lines after step `after`: they are logged again when the stage goes on from there."""
        kept = [line for line in self.metrics() if line["stage"] != stage or line["step"] <= after]
        if self.metrics_path.exists():
            write_atomically(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def _plain(value: Any) -> Any:
    """A metric as JSON holds it."""
    return np.asarray(value).tolist() if isinstance(value, jax.Array | np.ndarray | np.generic) else value


def _tensorboard_writer(path: Path) -> Any:
    """A writer of TensorBoard events; the package is an extra because nothing else needs it."""
    try:
        writer = import_module("tensorboardX").SummaryWriter
    except ImportError:
        raise UserError('tensorboard needs the package tensorboardX: pip install "wm-jax[tensorboard]"') from None
    return writer(str(path / "tensorboard"))
