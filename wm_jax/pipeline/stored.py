"""Settings as run folders and bundles store them: with a format number, and digests of the files that they name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_jax import formats
from wm_jax.data.files import read_json, real, sha256
from wm_jax.errors import UserError
from wm_jax.experiment import Experiment, digests, from_dict, to_dict
from wm_jax.run import RunDir
from wm_jax.tasks import load_task

CONFIG, FILES, TASK_NAME = "config.json", "files", "task_name"


@dataclass(frozen=True)
class Stored:
    """A stored experiment."""

    experiment: Experiment
    format: int
    notes: tuple[str, ...] = ()
    """What has changed since its format."""
    warnings: tuple[str, ...] = ()
    """Files that it names and whose contents have changed."""


def to_store(experiment: Experiment) -> dict[str, Any]:
    """The contents of a run's config.json: the settings, the format, the SHA-256 of each file that they name, and the
    task's own name."""
    name = load_task(experiment.task).name
    return {"format": formats.FORMAT, FILES: digests(experiment), TASK_NAME: name, **to_dict(experiment)}


def of_run(run: RunDir, task: Path | None = None, parts: Sequence[Path] = ()) -> Stored:
    """Load the experiment of a run's folder. `task` and `parts` replace the paths of its files. Raises `UserError` if
    it is damaged, or names a file that is missing."""
    path = run.path / CONFIG
    return restored(_read(path), path, task, parts, folders=True)


def note_on(run: RunDir) -> str:
    """What has changed since the format of a run's folder; empty if nothing has, or if the folder is new. Raises
    `UserError` if this version cannot read it."""
    path = run.path / CONFIG
    return formats.note(path, format_of(_read(path), path)) if path.exists() else ""


def restored(
    values: dict[str, Any], source: Path, task: Path | None, parts: Sequence[Path], *, folders: bool
) -> Stored:
    """Restore the experiment stored as `values` in the file `source`. Its files are beside it or, with
    `folders`, at their recorded paths."""
    stored, found, known, warnings = values, format_of(values, source), _files(values, source), []
    values = {name: value for name, value in values.items() if name not in ("format", FILES, TASK_NAME)}

    def located(name: str, given: Path | None, flag: str) -> str:
        beside = source.parent / Path(name).name
        places = [given] if given else [source.parent / name, beside] if folders else [beside]
        path = next((place for place in places if place.is_file()), places[0])
        if not path.is_file():
            raise UserError(
                f"{source} needs the file {Path(name).name}, which is not at {path}; give its path with {flag}"
            )
        digest, now = known.get(Path(name).name), sha256(path)
        if digest not in (None, now):
            warnings.append(f"{path} differs from the file used for {source}: expected SHA-256 {digest[:12]}…, found "
                            f"{now[:12]}…; results may differ")  # fmt: skip
        return str(real(path))

    name = values.get("task", Experiment().task)
    if task is not None and not str(name).endswith(".py"):
        raise UserError(f"--task {task}: the task of {source} is {name}, which needs no file; leave --task out")
    if str(name).endswith(".py"):
        values["task"] = located(name, task, "--task")
        require_same_task(stored, source, values["task"], "give its own file with --task")
    given, named = {path.name: path for path in parts}, values.get("parts", ())
    if isinstance(named, list | tuple):
        values["parts"] = [
            located(part, given.get(Path(part).name), "--parts") if str(part).endswith(".py") else part
            for part in named
        ]
    experiment = from_dict(values, f"settings in {source}", found)
    note = formats.note(source, found)
    return Stored(experiment, found, (note,) if note else (), tuple(warnings))


def require_same_task(stored: dict[str, Any], source: Path, task: str, remedy: str) -> None:
    """Raise `UserError` unless the setting `task` names the task of the settings `stored` in the file `source`.

    A task is identified by its own name, regardless of its file's name and changes in it. If that was not stored, it is
    identified by its file's name or contents.
    """
    then, now = str(stored.get("task", Experiment().task)), load_task(task).name
    name = stored.get(TASK_NAME, None if then.endswith(".py") else then)
    if name is None:
        files, name = _files(stored, source), Path(then).name
        same = task.endswith(".py") and (name == Path(task).name or files.get(name) == sha256(Path(task)))
    else:
        same = name == now
    if not same:
        here = now if task == now else f"{now}, of {task}"
        raise UserError(f"{source} was made for the task {name}, but here it is {here}: frames and actions have another "
                        f"meaning there; {remedy}")  # fmt: skip


def redefined(stored: dict[str, Any], source: Path, task: str) -> str:
    """A warning if the task's definition has changed since the settings `stored` in the file `source` were written;
    empty if it has not, or if that is unknown."""
    then = str(stored.get("task", Experiment().task))
    before = _files(stored, source).get(Path(then).name) if then.endswith(".py") else then
    after = sha256(Path(task)) if task.endswith(".py") else task
    if before in (None, after):
        return ""
    return f"{task} defines its task differently than when {source} was made: the learned models may not fit it"


def require_used(stored: Sequence[Stored], parts: Sequence[Path]) -> None:
    """Raise `UserError` if a file given in `parts` is not named by these experiments."""
    named = {part for each in stored for part in each.experiment.parts}
    for path in parts:
        if str(real(path)) not in named:
            names = ", ".join(sorted({Path(part).name for part in named if part.endswith(".py")})) or "no files"
            raise UserError(f"--parts {path} is not needed: parts names {names} here; give a file by its name at the time "
                            "of the run, or leave it out")  # fmt: skip


def _files(stored: dict[str, Any], source: Path) -> dict[str, str]:
    """Digests of the files named by the settings `stored` in the file `source`; empty for format 1."""
    found = stored.get(FILES, {})
    if not isinstance(found, dict) or not all(isinstance(digest, str) for digest in found.values()):
        raise UserError(
            f"{source} is damaged: expected {FILES} with a SHA-256 each, found {str(found)[:60]}; restore it"
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    """Read a run's config.json."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: expected the settings, found {str(values)[:60]}; restore it")
    return values


def format_of(values: dict[str, Any], source: Path) -> int:
    """The format of `values`, read from the file `source`. Raises `UserError` if this version does not know it."""
    found = values.get("format", 1)
    if found not in (formats.FORMAT, *formats.CHANGES):
        raise UserError(f"{source} has format {found}, which this version cannot read (it knows {formats.FORMAT} and "
                        "older); install the version that wrote it, or a later one")  # fmt: skip
    return found
