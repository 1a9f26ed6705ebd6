"""The stages of a run in order: which settings each depends on, which are finished, which are stale."""

from dataclasses import dataclass
from typing import Any

from wm_jax.errors import UserError, require_choice
from wm_jax.experiment import Experiment, flatten
from wm_jax.run import RunDir, StageDir

STAGES = ("collect", "vision", "encode", "memory", "evolve", "evaluate")
"""As --stages names them."""

WINGS = {"collect": "rollouts", "vision": "vision", "encode": "latents", "memory": "memory", "evolve": "controller",
         "evaluate": "evaluation"}  # fmt: skip
"""The folder each writes to."""

FIRST_ROUND = {
    "collect": ("task", "seed", "collect."),
    "vision": ("held_out", "vision."),
    "encode": (),
    "memory": ("memory.",),
    "evolve": ("dream.", "controller.", "evolve."),
    "evaluate": ("evaluate.",),
}
"""Settings, by name or group, that a stage of the first round depends on, beside those of the stages before it."""

LATER_ROUNDS = {
    **FIRST_ROUND,
    "collect": ("rounds.episodes", "rounds.action_noise", "rounds.random_stretches", "rounds.stretch_length"),
    "vision": ("rounds.vision_steps", "rounds.new_share"),
    "memory": ("rounds.memory_steps", "rounds.new_share"),
}

WITHOUT_EFFECT = ("collect.workers",)
"""Settings that change how fast a stage is, not what comes of it."""


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
    steps = [Step(stage, r) for r in rounds for stage in STAGES[:-1]]
    return [*steps, Step(STAGES[-1], rounds[-1])]


def stale(experiment: Experiment, run: RunDir) -> list[tuple[Step, str]]:
    """The stages whose results do not belong to these settings, each with the reason."""
    found: list[tuple[Step, str]] = []
    for step in plan(experiment):
        record = step.folder(run).record
        if record is None:
            continue
        before, now = record["settings"], step.settings(experiment)
        changes = [
            f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if changes:
            found.append((step, "; ".join(changes)))
        elif found:
            found.append((step, f"depends on {found[0][0]}"))
    return found


def choose(experiment: Experiment, run: RunDir, names: tuple[str, ...], redo: bool) -> list[Step]:
    """The steps to run now. Clears what is to be done anew; raises `UserError` where stages are stale and nobody said
    what to do, or where a chosen stage lacks those before it."""
    for name in names:
        require_choice("--stages", name, STAGES)
    steps = plan(experiment)
    chosen = [step for step in steps if not names or step.stage in names]
    old = stale(experiment, run)
    if old and not redo:
        lines = "\n".join(f"  {step}: {reason}" for step, reason in old)
        raise UserError(
            f"the settings of {run.path} changed under stages that were begun with others:\n{lines}\n"
            "nothing was done; add --redo to do these stages again, give another --run-dir, or set the settings back"
        )
    if redo:
        again = {step for step, _ in old} | ({steps[steps.index(chosen[0])]} if names else set())
        first = min((steps.index(step) for step in again), default=len(steps))
        for step in steps[first:]:
            step.folder(run).clear()
    for step in chosen:
        missing = [s for s in steps[: steps.index(step)] if s not in chosen and not s.folder(run).finished]
        if missing:
            raise UserError(f"{step} needs the result of {missing[0]}, which is not finished in {run.path}; "
                            f"run that stage first, or leave out --stages")  # fmt: skip
    return chosen
