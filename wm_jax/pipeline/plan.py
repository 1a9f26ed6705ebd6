"""The stages of a run in order: which exist, which are finished, which are stale."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from wm_jax import formats
from wm_jax.errors import UserError, require_choice
from wm_jax.experiment import CONTENTS, GONE, Experiment, flatten, kinds, with_kinds
from wm_jax.models import Models
from wm_jax.pipeline.collecting import Collect
from wm_jax.pipeline.scoring import Evaluate
from wm_jax.pipeline.searching import Evolve, Explore, Tune
from wm_jax.pipeline.stages import Stage, Step
from wm_jax.pipeline.training import Encode, Train
from wm_jax.run import RunDir

OTHERS = (Collect, Encode, Evolve, Explore, Tune, Evaluate)
TAKEN = {"figures", "report", "tensorboard"} | {name for stage in OTHERS for name in (stage.name, stage.folder)}
"""Names that a learner must not have."""


@lru_cache(maxsize=16)
def stages(experiment: Experiment) -> tuple[Stage, ...]:
    """The stages of a round, in order: collect, learners that read frames, encode, learners that read encoded frames,
    evolve, explore and tune if they are set, evaluate."""
    learners = sorted(Models(experiment).world.learners.items(), key=lambda item: item[1].reads == "observations")
    for name, _ in learners:
        if name in TAKEN:
            raise UserError(f"a learner of the world model {experiment.world.kind} is called {name!r}, like a stage or "
                            "folder of every run; give it another name")  # fmt: skip
    owned = tuple(learner.settings for _, learner in learners)
    rest = [name for name in flatten(experiment) if name.startswith("world.") and not name.startswith(owned)]
    shared = tuple(dict.fromkeys(("held_out", "mirror", "initial", "initial_learners", "world.kind", *rest)))
    frames = sum(learner.reads == "frames" for _, learner in learners)
    train = [
        Train(name, name, learner.settings, shared if frames and not number else ())
        for number, (name, learner) in enumerate(learners)
    ]
    encode = Encode() if frames else Encode((*shared, "world."))
    explore = [Explore()] if experiment.exploring else []
    tune = [Tune()] if "tune" in experiment.searches else []
    return Collect(), *train[:frames], encode, *train[frames:], Evolve(), *explore, *tune, Evaluate()


def plan(experiment: Experiment) -> list[Step]:
    """All stages of the run, in order."""
    last = experiment.rounds.count - 1
    return [
        Step(stage, number)
        for number in range(experiment.rounds.count)
        for stage in stages(experiment)
        if stage.due(number, last)
    ]


def changes(experiment: Experiment, step: Step, record: dict[str, Any]) -> str:
    """The settings that differ between a stage's record and the experiment, as text; empty if none do."""
    now, recorded = step.settings(experiment), record["settings"]
    unknown = {name for name, value in now.items() if value == GONE}
    if record.get("format", 1) == 1:
        # Format 1 identified files by path: their contents are unknown, so a task is compared by its file's name. M's
        # training also recorded `initial`.
        recorded = {name: value for name, value in recorded.items() if name != "initial" or name in now}
        files = {name: Path(str(recorded.get(name) or "")) for name in ("task", "initial")}
        unknown |= {
            name for name, file in files.items()
            if file.suffix and str(now.get(name)).startswith(CONTENTS)
            and (name != "task" or file.name == Path(experiment.task).name)
        }  # fmt: skip
        recorded = formats.upgrade_settings(recorded)
    # A setting that the record lacks had its default value.
    before = step.settings(with_kinds(Experiment(), kinds(experiment))) | recorded
    names = sorted((before.keys() | now.keys()) - unknown)
    differing = [name for name in names if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in differing)


def stale(experiment: Experiment, run: RunDir) -> list[tuple[Step, str]]:
    """Stages that were started with other settings, or whose inputs are missing, each with the reason."""
    found: list[tuple[Step, str]] = []
    unfinished: Step | None = None
    for step in plan(experiment):
        record = step.folder(run).record
        if record is None:
            unfinished = unfinished or step
            continue
        changed = changes(experiment, step, record)
        if changed:
            found.append((step, changed))
        elif found:
            found.append((step, f"depends on {found[0][0]}"))
        elif unfinished:
            found.append((step, f"depends on {unfinished}, whose result is missing"))
        elif not record["finished"] and record.get("format", 1) == 1 and step.folder(run).checkpoints.steps():
            found.append((step, "was stopped in format 1, whose checkpoints cannot be continued"))
        if not record["finished"]:
            unfinished = unfinished or step
    return found


def choose(experiment: Experiment, run: RunDir, names: tuple[str, ...], redo: bool) -> list[Step]:
    """The steps to run now. With `redo`, clears the results of steps that run again, once it is certain that they can
    run.

    Raises `UserError` if stages are stale and `redo` is not given, or if a named stage lacks the results of earlier
    stages.
    """
    for name in names:
        if name == Tune.name and "tune" not in experiment.searches:
            raise UserError(
                "--stages names tune but tune.generations is 0; set it to the number of generations to tune C"
            )
        require_choice("--stages", name, [stage.name for stage in stages(experiment)])
    old = stale(experiment, run)
    if old and not redo:
        lines = "\n".join(f"  {step}: {reason}" for step, reason in old)
        raise UserError(
            f"the settings of {run.path} changed after these stages were started:\n{lines}\n"
            "nothing was run; add --redo to run these stages again, give another --run-dir, or restore the settings"
        )
    again = _again(experiment, run, names, [step for step, _ in old]) if redo else []
    chosen = _possible(experiment, run, names, again)
    # Last first: if killed in between, no result remains whose inputs are gone.
    for step in reversed(again):
        step.folder(run).clear()
    return chosen


def _again(experiment: Experiment, run: RunDir, names: tuple[str, ...], old: list[Step]) -> list[Step]:
    """The first stage that is stale, or named and finished, and all stages after it."""
    steps = plan(experiment)
    first = [step for step in steps if step in old or (step.stage.name in names and step.folder(run).finished)]
    return steps[steps.index(first[0]) :] if first else []


def _possible(experiment: Experiment, run: RunDir, names: tuple[str, ...], again: list[Step]) -> list[Step]:
    """The named steps (default: all) whose earlier stages are finished or run before them. In later rounds, other steps
    are left out; in a step's first round, a missing earlier stage is an error."""
    chosen, met, missing, anew = [], set[str](), None, set(again)
    for step in plan(experiment):
        named = not names or step.stage.name in names
        if named and missing is None:
            chosen.append(step)
        elif named and step.stage.name not in met:
            raise UserError(
                f"{step} needs the result of {missing}, which is not finished in {run.path}; run that stage first, "
                "or leave out --stages"
            )
        met.add(step.stage.name)
        if missing is None and step not in chosen[-1:] and (step in anew or not step.folder(run).finished):
            missing = step
    return chosen
