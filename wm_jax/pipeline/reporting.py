"""`wm-jax report`: reads run folders and writes the report."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wm_jax.data.files import holds, read_json, real, write_atomically, write_json
from wm_jax.data.weights import load_weights
from wm_jax.errors import DamagedError, UserError
from wm_jax.experiment import Experiment
from wm_jax.pipeline.collecting import Collect
from wm_jax.pipeline.plan import plan, stages
from wm_jax.pipeline.scoring import EVOLUTIONS, SCORES
from wm_jax.pipeline.searching import EVALUATIONS, Explore
from wm_jax.pipeline.stages import Step
from wm_jax.pipeline.stored import Stored, of_run, require_used
from wm_jax.pipeline.training import RECONSTRUCTIONS, Train
from wm_jax.pipeline.weights import WEIGHTS
from wm_jax.report import contents, measured, page
from wm_jax.report.facts import MetricsLine, RunFacts, SearchFacts, StageFacts
from wm_jax.run import RECORD, RunDir, StageDir
from wm_jax.search.config import EvolveConfig
from wm_jax.types import HELD_OUT

FOLDER = "report"
"""Folder, inside a run's folder, of its own report."""
FILES = ("report.html", "report.md", "scores.json")
"""The files of a report, besides its pictures."""
REMEDY = "run the stage that writes it again with --stages NAME --redo"
SUMMARY = ("mean", "sd", "se", "n")
ORIGIN = ("seeds", "device", "versions")


def report(
    paths: Sequence[Path], folder: Path | None, task: Path | None = None, parts: Sequence[Path] = (),
    say: Callable[[str], None] = lambda message: None,
) -> list[Path]:  # fmt: skip
    """Write the report of the runs in `paths` as HTML and Markdown, and their measured scores as JSON. Returns the
    three files' paths.

    The report of one run goes to RUN/report unless a folder is given. `task` and `parts` are the current paths of the
    user's own files that the runs name; `say` reports older formats and changed files. Raises `UserError` if a path is
    not a run with a finished stage, if one of its files is damaged, or if several runs are given without a folder.
    """
    if not paths:
        raise UserError("wm-jax report needs at least one run's folder, for example runs/quickstart")
    if len(paths) > 1 and folder is None:
        raise UserError(f"the report of {len(paths)} runs needs its own folder: give it with --out DIR")
    if folder is not None:
        _require_free(folder)
    folder = folder or paths[0] / FOLDER
    stored = [of_run(RunDir.open(path), task, parts) for path in paths]
    require_used(stored, parts)
    for each in stored:
        for message in (*each.notes, *each.warnings):
            say(message)
    runs = [read(*run) for run in zip(paths, _labels(paths), stored, strict=True)]
    built = contents.page(runs)
    for picture in built.pictures:
        write_atomically(folder / page.PICTURES / picture.name, picture.data)
    html, markdown, scores = written = [folder / name for name in FILES]
    write_atomically(html, page.html(built).encode())
    write_atomically(markdown, page.markdown(built).encode())
    write_json(scores, measured.entries(runs))
    return written


def _require_free(folder: Path) -> None:
    """Raise `UserError` if the report's folder is a file, or has files of these names that are not from a report."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give a folder")
    there = [name for name in FILES if (folder / name).exists()]
    if there and not holds(folder / FILES[0], page.MARK):
        raise UserError(f"{folder / there[0]} exists and is not a wm-jax report: it is not overwritten; move it, "
                        "or give another folder with --out")  # fmt: skip


def read(path: Path, label: str, stored: Stored | None = None) -> RunFacts:
    """Read everything that a report shows of the run in `path`. Raises `UserError` unless it is a run with a finished
    stage."""
    run = RunDir.open(path)
    experiment = (stored or of_run(run)).experiment
    begun = tuple(_stage(step, step.folder(run)) for step in plan(experiment))
    _require_finished_stage(path, begun)
    metrics, damaged = _metrics(run)
    exploring = experiment.exploring if experiment.rounds.count > 1 else None
    scores = _scores(run, begun[-1])
    return RunFacts(
        label=label, folder=str(path), experiment=experiment, stages=begun, parameters=_parameters(run, experiment),
        metrics=metrics, damaged_lines=damaged,
        searches=tuple(_search(run, name, config, begun) for name, config in experiment.searches.items()),
        explorer=_search(run, Explore.name, exploring.evolve, begun) if exploring else None,
        evolutions=tuple(scores.pop(EVOLUTIONS, ())), scores=scores,
        reconstructions=_reconstructions(run, experiment, metrics), film_strips=_film_strips(run, begun[-1]),
    )  # fmt: skip


def _stage(step: Step, folder: StageDir) -> StageFacts:
    stage = step.stage
    found = StageFacts(stage.name, step.round_number, folder.record, folder.origin is not None, stage.folder)
    if found.finished:
        _require_told(folder.path / RECORD, found)
    return found


def _require_told(path: Path, stage: StageFacts) -> None:
    """Raise `UserError` unless a stage's summary holds numbers (apart from `selected_by` and scores), including those
    that the report computes with."""
    counted = {"seconds"} & stage.summary.keys() | ({"episodes", "frames"} if stage.stage == Collect.name else set())
    for name in sorted({*stage.summary, *counted} - {"selected_by"}):
        entry = stage.summary.get(name)
        number = isinstance(entry, int | float) and math.isfinite(entry)
        if not (number or (name not in counted and (entry is None or isinstance(entry, dict)))):
            raise DamagedError(f"{path} is damaged: expected a finite number as {name} of `summary`, found {entry!r:.60}; "
                               f"{REMEDY}")  # fmt: skip


def _labels(paths: Sequence[Path]) -> list[str]:
    """The folders' names; the whole paths if two names are equal."""
    names = [real(path).name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def _require_finished_stage(path: Path, stages: Sequence[StageFacts]) -> None:
    if not any(stage.finished for stage in stages):
        begun = ", ".join(str(stage) for stage in stages if stage.record is not None) or "none"
        raise UserError(
            f"{path} has nothing to report: expected a finished stage, found none (begun: {begun}); "
            "continue it with the command that started it"
        )


def _metrics(run: RunDir) -> tuple[tuple[MetricsLine, ...], int]:
    """(readable lines, number of unreadable lines)."""
    lines = tuple(run.metrics())
    return lines, len(run.metrics_lines()) - len(lines)


def _folder(run: RunDir, stage: StageFacts) -> Path:
    return run.stage(stage.folder, stage.round_number).path


def _search(run: RunDir, name: str, config: EvolveConfig, begun: Sequence[StageFacts]) -> SearchFacts:
    """The search done by the stages of this name."""
    mine = [stage for stage in begun if stage.stage == name]
    return SearchFacts(name, mine[0].folder, config, _evaluations(run, mine))


def _evaluations(run: RunDir, stages: Sequence[StageFacts]) -> dict[int, list[dict[str, Any]]]:
    """The evaluated candidates of the deployed evolution in each finished round."""
    found = {}
    for stage in stages:
        if stage.finished:
            path = _folder(run, stage) / EVALUATIONS
            evaluations = read_json(path)
            for evaluation in evaluations if isinstance(evaluations, list) else [evaluations]:
                _require_played(path, evaluation)
            deployed = stage.summary.get("evolution")
            found[stage.round_number] = [e for e in evaluations if e.get("evolution") == deployed]
    return found


def _scores(run: RunDir, stage: StageFacts) -> dict[str, Any]:
    """The scores by policy, with the evolutions among them; empty before the last stage is finished."""
    if not stage.finished:
        return {}
    path = _folder(run, stage) / SCORES
    scores = read_json(path)
    if not isinstance(scores, dict) or "controller" not in scores:
        raise UserError(f"{path} is damaged: expected scores by policy, found {str(scores)[:60]}; {REMEDY}")
    for name, score in scores.items():
        if name == EVOLUTIONS:
            for evolution in score:
                _require_played(path, evolution)
                _require_summary(path, evolution.get("actual"), ORIGIN)
        else:
            _require_summary(path, score, ("returns", *ORIGIN))
    _require_summary(path, scores["controller"], ("selected_by", "generation", "dream", "validation"))
    return scores


def _require_played(path: Path, entry: Any) -> None:
    """Raise `UserError` unless `entry` holds a candidate's score in the dream, or in the actual environment if it
    evolved there. The score has no numbers if one of its returns was not finite."""
    known = entry if isinstance(entry, dict) else {}
    played = known.get("dream") or known.get("actual") or entry
    if isinstance(played, dict) and all(played.get(name, 0) is None for name in SUMMARY[:-1]):
        played = {**played, **dict.fromkeys(SUMMARY[:-1], 0)}
    _require_summary(path, played)


def _require_summary(path: Path, summary: Any, also: tuple[str, ...] = ()) -> None:
    """Raise `UserError` unless `summary` is a score with finite numbers and these other entries."""
    known = summary if isinstance(summary, dict) else {}
    finite = all(isinstance(known.get(name), int | float) and math.isfinite(known[name]) for name in SUMMARY)
    if not finite or not known.keys() >= set(also):
        wanted = ", ".join((*SUMMARY, *also))
        raise UserError(f"{path} is damaged: expected a score with {wanted}, found {str(summary)[:60]}; {REMEDY}")


def _parameters(run: RunDir, experiment: Experiment) -> dict[str, int]:
    """Number of weights in the files of the last round that has them."""
    found = {}
    folders = [stage.folder for stage in stages(experiment) if isinstance(stage, Train)]
    for folder in (*folders, "controller"):
        for number in reversed(range(experiment.rounds.count)):
            path = run.stage(folder, number).path / WEIGHTS
            if path.is_file():
                found[folder] = sum(np.size(leaf) for leaf in jax.tree.leaves(load_weights(path)[0]))
                break
    return found


def _reconstructions(run: RunDir, experiment: Experiment, metrics: Sequence[MetricsLine]) -> dict[int, bytes]:
    """The picture of each round's last report on held-out frames."""
    found = {}
    learners = [stage.name for stage in stages(experiment) if isinstance(stage, Train)]
    for number in range(experiment.rounds.count):
        folders = [f"{name}/round-{number}" for name in learners]
        steps = {
            line["step"] for line in metrics
            if line["stage"] in folders and any(name.startswith(HELD_OUT) for name in line)
        }  # fmt: skip
        paths = (run.figures / RECONSTRUCTIONS.format(round=number, step=f"{step:07d}") for step in sorted(steps))
        drawn = [path for path in paths if path.is_file()]
        if drawn:
            found[number] = drawn[-1].read_bytes()
    return found


def _film_strips(run: RunDir, stage: StageFacts) -> dict[str, bytes]:
    """The film strips drawn when the run finished."""
    paths = {name: run.figures / f"{name}_strip.png" for name in contents.FILMS}
    return {name: path.read_bytes() for name, path in paths.items() if stage.finished and path.is_file()}
