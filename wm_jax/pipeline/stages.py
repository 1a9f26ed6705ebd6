"""The stages of a run in order: which settings each depends on, which are finished, which are stale."""

from dataclasses import dataclass
from typing import Any

from wm_jax.errors import UserError, require_choice
from wm_jax.experiment import Experiment, flatten
from wm_jax.run import RunDir, StageDir

STAGES = ("collect", "vision", "encode", "memory", "evolve", "tune", "evaluate")
"""As --stages names them."""

WINGS = {"collect": "rollouts", "vision": "vision", "encode": "latents", "memory": "memory", "evolve": "controller",
         "tune": "tuned", "evaluate": "evaluation"}  # fmt: skip
"""The folder each writes to."""

FIRST_ROUND = {
    "collect": ("task", "seed", "collect."),
    "vision": ("held_out", "mirror", "initial", "vision."),
    "encode": (),
    "memory": ("initial", "memory."),
    # How many lanes act side by side changes the last bits of what C does.
    "evolve": ("dream.", "controller.", "evolve.", "gradient.", "evaluate.environments"),
    "tune": ("tune.", "evaluate.environments"),
    # Whether C was tuned: if so, what was scored hangs on the stage `tune`.
    "evaluate": ("evaluate.", "tune.generations"),
}
"""Settings, by name or group, that a stage of the first round depends on, beside those of the stages before it."""

LATER_ROUNDS = {
    **FIRST_ROUND,
    "collect": (
        *("rounds.episodes", "rounds.drivers", "rounds.patience", "collect.backend"),
        *("rounds.action_noise", "rounds.random_stretches", "rounds.stretch_length"),
        "evaluate.environments",
    ),
    "vision": ("rounds.vision_steps", "rounds.new_share"),
    "memory": ("rounds.memory_steps", "rounds.new_share"),
    "evolve": (*FIRST_ROUND["evolve"], "rounds.generations"),
}

WITHOUT_EFFECT = ("collect.workers", "devices")
"""Settings that change how fast a stage is, not what comes of it; of `devices`, the last bits."""


@dataclass(frozen=True)
class Step:
    """One stage of one round."""

    stage: str
    round_number: int

    def folder(self, run: RunDir) -> StageDir:
        """Where its results are."""
        return run.stage(WINGS[self.stage], self.round_number)

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """The settings that this stage, itself, depends on."""
        groups = (FIRST_ROUND if self.round_number == 0 else LATER_ROUNDS)[self.stage]
        return {
            name: value
            for name, value in flatten(experiment).items()
            if name not in WITHOUT_EFFECT and any(name == g or (g.endswith(".") and name.startswith(g)) for g in groups)
        }

    def __str__(self) -> str:
        return f"{self.stage} (round {self.round_number})"


def plan(experiment: Experiment) -> list[Step]:
    """All stages of the run, in order."""
    rounds = range(experiment.rounds.count)
    steps = [Step(stage, r) for r in rounds for stage in STAGES[: STAGES.index("tune")]]
    ends = ("tune", "evaluate") if "tune" in experiment.searches else ("evaluate",)
    return [*steps, *(Step(stage, rounds[-1]) for stage in ends)]


def changes(experiment: Experiment, step: Step, record: dict[str, Any]) -> str:
    """The settings that a stage's record and the experiment do not share, in words; empty where there are none."""
    # A setting that a record does not know yet was as its default is.
    before, now = step.settings(Experiment()) | record["settings"], step.settings(experiment)
    differing = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    return "; ".join(f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in differing)


def stale(experiment: Experiment, run: RunDir) -> list[tuple[Step, str]]:
    """The stages that were begun with other settings than these, or on results that are gone, each with the reason."""
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
            found.append((step, f"depends on {unfinished}, whose result is not there"))
        if not record["finished"]:
            unfinished = unfinished or step
    return found


def choose(experiment: Experiment, run: RunDir, names: tuple[str, ...], redo: bool) -> list[Step]:
    """The steps to run now; with `redo`, clears what is to be done anew, once it is sure that the rest can be done.

    Raises `UserError` where stages are stale and nobody said what to do, or where a named stage lacks those before it.
    """
    for name in names:
        require_choice("--stages", name, STAGES)
    if "tune" in names and "tune" not in experiment.searches:
        raise UserError(
            "--stages names tune but tune.generations is 0; set it to the generations that C is to go on for"
        )
    old = stale(experiment, run)
    if old and not redo:
        lines = "\n".join(f"  {step}: {reason}" for step, reason in old)
        raise UserError(
            f"the settings of {run.path} changed under stages that were begun with others:\n{lines}\n"
            "nothing was done; add --redo to do these stages again, give another --run-dir, or set the settings back"
        )
    again = _again(experiment, run, names, [step for step, _ in old]) if redo else []
    chosen = _possible(experiment, run, names, again)
    # The last first: a kill in between leaves no result behind whose origin is gone.
    for step in reversed(again):
        step.folder(run).clear()
    return chosen


def _again(experiment: Experiment, run: RunDir, names: tuple[str, ...], old: list[Step]) -> list[Step]:
    """The first stage that is stale, or named and finished, and all after it."""
    steps = plan(experiment)
    first = [step for step in steps if step in old or (step.stage in names and step.folder(run).finished)]
    return steps[steps.index(first[0]) :] if first else []


def _possible(experiment: Experiment, run: RunDir, names: tuple[str, ...], again: list[Step]) -> list[Step]:
    """The named steps (all, unless any are named) whose predecessors are finished or run before them. A stage of a later
    round is left out where they are not; in its first round that is an error."""
    steps, chosen, met = plan(experiment), [], set()
    for index, step in enumerate(steps):
        if names and step.stage not in names:
            continue
        done = [s in chosen or (s not in again and s.folder(run).finished) for s in steps[:index]]
        if all(done):
            chosen.append(step)
        elif step.stage not in met:
            missing = steps[done.index(False)]
            raise UserError(
                f"{step} needs the result of {missing}, which is not finished in {run.path}; run that stage first, "
                "or leave out --stages"
            )
        met.add(step.stage)
    return chosen
