"""Settings as run folders and bundles store them: with a format number, and what the files contained that they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_jax import formats
from wm_jax.data.files import read_json, sha256
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, digests, from_dict, to_dict
from wm_jax.run import RunDir

CONFIG, FILES = "config.json", "files"


@dataclass(frozen=True)
class Stored:
    """An experiment that was stored."""

    experiment: Experiment
    format: int
    notes: tuple[str, ...] = ()
    """What has changed since its format."""
    warnings: tuple[str, ...] = ()
    """Files that it names are no longer what they were."""


def to_store(experiment: Experiment) -> dict[str, Any]:
    """What a run's config.json holds: the settings, the format, and the SHA-256 of the files that the settings name."""
    return {"format": formats.FORMAT, FILES: digests(experiment), **to_dict(experiment)}


def of_run(run: RunDir, task: Path | None = None, parts: Sequence[Path] = ()) -> Stored:
    """The experiment of a run's folder. `task` and `parts` stand in for its files where they lie elsewhere now. Raises
    `UserError` where it is damaged, or names a file that is not there."""
    path = run.path / CONFIG
    return restored(_read(path), path, task, parts)


def note_on(run: RunDir) -> str:
    """What has changed since the format that a run's folder was last used in; empty where nothing has, and where it is new.
    Raises `UserError` where this version cannot read it."""
    path = run.path / CONFIG
    return formats.note(path, format_of(_read(path), path)) if path.exists() else ""


def restored(values: dict[str, Any], source: Path, task: Path | None, parts: Sequence[Path]) -> Stored:
    """The experiment stored as `values` in the file `source`; files that it names lie where it says, or beside it."""
    values, found = dict(values), format_of(values, source)
    values.pop("format", None)
    known, warnings = values.pop(FILES, {}), []

    def located(name: str, given: Path | None, flag: str) -> str:
        places = [given] if given else [source.parent / name, source.parent / Path(name).name]
        path = next((place for place in places if place.is_file()), places[0])
        if not path.is_file():
            raise UserError(
                f"{source} needs the file {Path(name).name}, which is not at {path}; give its path by {flag}"
            )
        digest, now = known.get(Path(name).name), sha256(path)
        if digest not in (None, now):
            warnings.append(f"{path} is not the file that {source} was made with: expected SHA-256 {digest[:12]}…, found "
                            f"{now[:12]}…; results may differ")  # fmt: skip
        return str(path.resolve())

    name = values.get("task", Experiment().task)
    if task is not None and not str(name).endswith(".py"):
        raise UserError(f"--task {task}: the task of {source} is {name}, which needs no file; leave --task out")
    if str(name).endswith(".py"):
        values["task"] = located(name, task, "--task")
    given = {path.name: path for path in parts}
    named = [str(part) for part in values.get("parts", ())]
    values["parts"] = [
        located(part, given.get(Path(part).name), "--parts") if part.endswith(".py") else part for part in named
    ]
    experiment = from_dict(values, f"settings in {source}", found)
    note = formats.note(source, found)
    return Stored(experiment, found, (note,) if note else (), tuple(warnings))


def _read(path: Path) -> dict[str, Any]:
    """What a run's config.json holds."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: expected the settings, found {str(values)[:60]}; restore it")
    return values


def format_of(values: dict[str, Any], source: Path) -> int:
    """The format of `values`, which stand in the file `source`. Raises `UserError` where this version does not know it."""
    found = values.get("format", 1)
    if found not in (formats.FORMAT, *formats.CHANGES):
        raise UserError(f"{source} has format {found}, which this version cannot read (it knows {formats.FORMAT} and "
                        "older); install the version that wrote it, or a later one")  # fmt: skip
    return found
