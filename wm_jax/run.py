"""RunDir: the folder of one run, and all reading and writing in it.

Files are written under a temporary name and renamed, so that no file is ever half written. A run that is killed at any
moment leaves its last good state behind.

In a run of several processes, process 0 alone writes. All processes call `RunDir.locked`.
"""

import fcntl
import json
import math
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from wm_jax import parallel
from wm_jax.checkpoints import Checkpoints, require_path
from wm_jax.data.files import read_json, real, remove, system_errors, write_atomically, write_json
from wm_jax.errors import DamagedError, UserError
from wm_jax.extras import need
from wm_jax.formats import FORMAT

LOCK = ".lock"
RECORD = "stage.json"
"""File in a stage's folder: its settings and its summary."""
REQUIRED = ("settings", "finished")
"""Fields that every record must have."""
FIELDS = {
    "settings": dict, "finished": bool, "format": int, "summary": dict, "command": str, "device": str, "versions": dict,
    "seconds": float,
}  # fmt: skip
"""Fields that a record may have, and their types."""

SECONDS_TO_SEE = 30.0
"""How long other hosts may take to see a file that one host has written."""


class StageDir:
    """One stage's folder: its settings, whether it is finished, its checkpoints and metrics.

    If the result was taken over from another run, the folder is a link to that run's folder, and nothing is written to
    it.
    """

    def __init__(self, run: "RunDir", folder: str, round_number: int):
        self.run = run
        self.name = f"{folder}/round-{round_number}"
        self.path = run.path / folder / f"round-{round_number}"
        self.work = self.path / "work"
        self.checkpoints = Checkpoints(self.work / "checkpoints")

    @property
    def origin(self) -> Path | None:
        """The other run's folder that this one links to; None if the stage belongs to this run."""
        return self.path.readlink() if self.path.is_symlink() else None

    @property
    def record(self) -> dict[str, Any] | None:
        """{"settings", "finished", …} as last written; None before the stage starts."""
        path = self.path / RECORD
        if not path.exists():
            self.require_own(f"its {path.name} is missing")
            return None
        record = read_json(path)
        if not isinstance(record, dict):
            self._damaged(record, "an object")
        for name, kind in FIELDS.items():
            if (name in record or name in REQUIRED) and not isinstance(record.get(name), kind):
                self._damaged(record.get(name), f"`{name}` of type {kind.__name__}")
        return record

    def _damaged(self, found: Any, expected: str) -> NoReturn:
        raise DamagedError(
            f"{self.path / RECORD} is damaged: expected {expected}, found {str(found)[:60]}; restore it, or delete the "
            f"folder {self.path} to run this stage again"
        )

    @property
    def finished(self) -> bool:
        """Whether the stage has finished."""
        record = self.record
        return record is not None and record["finished"]

    def require_own(self, reason: str) -> None:
        """Raise `UserError`, which gives the `reason`, if this folder belongs to another run: only that run may repair
        it."""
        if self.origin is not None:
            raise UserError(
                f"{self.path} was taken over from {self.origin}, and {reason}; run the command that "
                f"made it again, or delete the link {self.path} to run this stage here"
            )

    def take_over(self, other: "StageDir") -> None:
        """Take over another run's finished stage: link to its folder, and copy its metrics. This stage must not have
        begun."""
        self.clear()
        self.run.append(line for line in other.run.metrics() if line["stage"] == self.name)
        with system_errors("create the link", self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.symlink_to(real(other.path), target_is_directory=True)

    def begin(self, settings: dict[str, Any], made_with: dict[str, Any]) -> None:
        """Record the stage's settings, the device and the versions, before it starts."""
        write_json(self.path / RECORD, {"format": FORMAT, "settings": settings, "finished": False, **made_with})

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the stage finished: its results are complete, and its temporary files can be deleted."""
        record = self.record
        assert record is not None, "begin() comes before finish()"
        record.pop("seconds", None)
        write_json(self.path / RECORD, {**record, "finished": True, "summary": summary})
        self.tidy()

    def spend(self, seconds: float) -> None:
        """Record that an unfinished stage has taken these `seconds` so far, before it stops."""
        record = self.record
        assert record is not None, "begin() comes before spend()"
        write_json(self.path / RECORD, {**record, "seconds": seconds})

    @property
    def spent(self) -> float:
        """Seconds that the stage took in earlier processes that stopped; one that was killed does not count."""
        return (self.record or {}).get("seconds", 0.0)

    def tidy(self) -> None:
        """Delete the files that a stage needs only while it runs."""
        if self.origin is None:
            remove(self.work)

    def clear(self) -> None:
        """Delete the stage's results, or the link to another run's, and its metrics, so that the stage starts from the
        beginning."""
        if self.origin is None:
            remove(self.path / RECORD)
        remove(self.path)
        self.run.drop_metrics(self.name, after=-1)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append one line to the run's metrics."""
        self.run.log(self.name, step, metrics)


class RunDir:
    """runs/NAME: config.json, one folder for each stage, metrics.jsonl, evaluation.json, figures/."""

    def __init__(self, path: Path):
        self.path = path
        self.figures = path / "figures"
        self.writer: Any = None

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """Open an existing run. Raises `UserError` if `path` is not a run's folder."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is not a run folder: expected {path / 'config.json'}, found no such file")
        return cls(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if needed, and keep other runs out of it.

        Raises `UserError` if it holds something other than a run, if another run uses it, or if some process of this
        run cannot see it.
        """
        with ExitStack() as held:
            token = parallel.on_main(lambda: self._lock(held))
            self._require_seen(token)
            yield

    def _lock(self, held: ExitStack) -> str:
        """Lock the folder until `held` is closed. Returns the token written to the lock file."""
        if self.path.is_file():
            raise UserError(f"{self.path} is a file; give a folder with --run-dir")
        require_path(self.path)
        lock = self.path / LOCK
        with system_errors("write the run's folder", self.path):
            if self.path.exists() and any(self.path.iterdir()) and not lock.exists():
                raise UserError(f"{self.path} holds other files and is not a run folder; give another --run-dir")
            self.figures.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(lock.open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is using {self.path}; wait for it or stop it, or give another --run-dir"
                ) from None
            token = secrets.token_hex(8)
            file.truncate(0)
            file.write(token)
            file.flush()
        return token

    def _require_seen(self, token: str) -> None:
        """Raise `UserError` unless every process reads from the lock file the token that process 0 wrote."""
        lock, deadline, seen = self.path / LOCK, time.monotonic() + SECONDS_TO_SEE, False
        while not seen and time.monotonic() < deadline:
            # A file without read permission counts as not seen.
            with suppress(OSError):
                seen = lock.read_text() == token
            time.sleep(0 if seen else 0.1)
        blind = [process for process, sees in enumerate(parallel.gather(seen)) if not sees]
        if blind:
            raise parallel.SharedError(
                f"process {blind[0]} cannot read what process 0 wrote to {lock.absolute()}; give a --run-dir on a file "
                "system that all hosts share, under the same path"
            )

    def prepare(self, config: dict[str, Any], tensorboard: bool) -> None:
        """Write the experiment's settings, and open the metrics writer."""
        write_json(self.path / "config.json", config)
        self.writer = _tensorboard_writer(self.path) if tensorboard else None

    def stage(self, folder: str, round_number: int) -> StageDir:
        """The folder of a stage in a round."""
        return StageDir(self, folder, round_number)

    @property
    def metrics_path(self) -> Path:
        """The file of all logged numbers, one JSON object a line."""
        return self.path / "metrics.jsonl"

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The logged lines, oldest first. A line cut off by a kill is skipped. Raises `UserError` if the file is
        damaged."""
        for line in self.metrics_lines():
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(found, dict) and isinstance(found.get("stage"), str) and isinstance(found.get("step"), int):
                yield found

    def metrics_lines(self) -> list[str]:
        """The raw logged lines; empty if there is no file yet. Raises `UserError` if the file is damaged."""
        with system_errors("read", self.metrics_path):
            data = self.metrics_path.read_bytes() if self.metrics_path.exists() else b""
        try:
            return data.decode().splitlines()
        except UnicodeDecodeError as error:
            raise DamagedError(
                f"{self.metrics_path} is damaged: expected lines of JSON, found {error}; restore it, or delete it to run "
                "without curves"
            ) from None

    def log(self, stage: str, step: int, metrics: dict[str, Any]) -> None:
        """Append {"stage", "step", "time", …} with the metrics to metrics.jsonl, and to TensorBoard if requested."""
        values = {name: _plain(value) for name, value in metrics.items()}
        self.append([{"stage": stage, "step": step, "time": round(time.time(), 1), **values}])
        if self.writer is not None:
            for name, value in values.items():
                several = enumerate(value) if isinstance(value, list) else []
                for label, number in [(name, value), *((f"{name}/{i}", each) for i, each in several)]:
                    if isinstance(number, int | float):
                        self.writer.add_scalar(f"{stage}/{label}", number, step)

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        """Append lines to metrics.jsonl."""
        with system_errors("write", self.metrics_path), self.metrics_path.open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def drop_metrics(self, stage: str, after: int) -> None:
        """Drop a stage's lines after step `after`. They are logged again when the stage continues from that step."""
        kept = [line for line in self.metrics() if line["stage"] != stage or line["step"] <= after]
        if self.metrics_path.exists():
            write_atomically(self.metrics_path, "".join(json.dumps(line) + "\n" for line in kept).encode())


def _plain(value: Any) -> Any:
    """A metric as a JSON value; null if a number is not finite."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = np.asarray(value).tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _tensorboard_writer(path: Path) -> Any:
    """A writer of TensorBoard events."""
    return need("tensorboardX", "tensorboard").SummaryWriter(str(path / "tensorboard"))
