"""The stages of an experiment in order; each can be stopped at any moment and goes on with the same command."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wm_jax.data.records import INDEX, episode_path
from wm_jax.errors import UserError, require_choice, require_range
from wm_jax.experiment import Experiment, to_dict
from wm_jax.pipeline import collecting, evolving, filming, machine, scoring, training
from wm_jax.pipeline.context import Context, Models
from wm_jax.pipeline.progress import Interrupt, Screen, Stopped
from wm_jax.pipeline.stages import Step, choose, plan
from wm_jax.run import RunDir, StageDir, read_json

RUNS: dict[str, Callable[[Context, int, StageDir], dict[str, Any]]] = {
    "collect": collecting.record,
    "vision": training.train_vision,
    "encode": training.encode,
    "memory": training.train_memory,
    "evolve": evolving.evolve,
    "evaluate": scoring.evaluate,
}


def run_experiment(experiment: Experiment, path: Path, stages: tuple[str, ...], redo: bool, screen: Screen) -> None:
    """Run the stages of an experiment that are not finished yet, in the folder `path`.

    Raises `UserError` where a setting, a file or a number is wrong, and `Stopped` when the user asks to stop.
    """
    run, models = RunDir(path), Models(experiment)
    check(experiment, models)
    with Interrupt() as interrupt, run.locked():
        chosen = choose(experiment, run, stages, redo)
        run.prepare(to_dict(experiment), experiment.tensorboard)
        context = Context(experiment, models, run, screen, interrupt)
        screen.say(f"{experiment.name}: {models.task.name} in {path}, on {machine.device()}")
        for step in chosen:
            _run(context, step)
            if interrupt.requested:
                raise Stopped(f"stopped after {step}; the same command goes on from there")
        if plan(experiment)[-1].folder(run).finished:
            last = experiment.rounds.count - 1
            shutil.copyfile(context.stage("evaluation", last).path / scoring.SCORES, path / scoring.SCORES)
            filming.draw_figures(context, last)
            report(context)


def check(experiment: Experiment, models: Models) -> None:
    """Raise `UserError` where settings do not go together, before hours of work find out."""
    task, memory, dream = models.task, experiment.memory, experiment.dream
    require_choice("collect.policy", experiment.collect.policy, list(task.policies))
    for name in experiment.evaluate.baselines:
        require_choice("evaluate.baselines", name, list(task.policies))
    longest = experiment.collect.max_steps or task.max_steps
    require_range("dream.burn_in", dream.burn_in, 0, longest - 1)
    if dream.reward == "predicted" and not memory.predict_reward:
        raise UserError("dream.reward is 'predicted' but memory.predict_reward is False: every dream would be without "
                        "reward; set memory.predict_reward to True, or dream.reward to 'survival'")  # fmt: skip
    if dream.reward == "survival" and not memory.predict_done:
        raise UserError("dream.reward is 'survival' but memory.predict_done is False: every dream would score the same; "
                        "set memory.predict_done to True, or dream.reward to 'predicted'")  # fmt: skip


def outputs(context: Context, step: Step) -> list[Path]:
    """The files that a finished stage has left."""
    folder = step.folder(context.run).path
    episodes = folder / "episodes"
    numbers = range(context.episodes_in(step.round_number))
    return {
        "collect": [episodes / INDEX, *(episode_path(episodes, number) for number in numbers)],
        "vision": [folder / training.WEIGHTS],
        "encode": [folder / training.LATENTS],
        "memory": [folder / training.WEIGHTS],
        "evolve": [folder / training.WEIGHTS, folder / evolving.EVALUATIONS],
        "evaluate": [folder / scoring.SCORES],
    }[step.stage]


def _run(context: Context, step: Step) -> None:
    """One stage, unless it is finished. Where a file of its result was deleted, it is made again: the same one."""
    stage = step.folder(context.run)
    if stage.finished:
        missing = [path for path in outputs(context, step) if not path.exists()]
        if not missing:
            stage.tidy()
            context.screen.say(f"  {step}: finished before")
            return
        context.screen.warn(f"{step}: {missing[0]} is missing; it is made again")
    elif stage.record is None:
        made_with = {"device": machine.device(), "versions": machine.versions()}
        stage.begin(step.settings(context.experiment), made_with)
    begun = time.monotonic()
    summary = RUNS[step.stage](context, step.round_number, stage)
    stage.finish({**summary, "seconds": round(time.monotonic() - begun, 1)})


def report(context: Context) -> None:
    """Print the table of scores and say where the figures lie."""
    scores = read_json(context.run.path / scoring.SCORES)
    screen = context.screen
    first = next(iter(scores.values()))
    screen.say(f"\nReturns in the actual environment ({context.models.task.name}, {first['n']} fresh episodes, seeds "
               f"{first['seeds'][0]} to {first['seeds'][-1]}, {first['device']})")  # fmt: skip
    screen.say(f"  {'policy':<46}{'mean ± sd':>18}{'standard error':>18}")
    for name, score in scores.items():
        what = "C, evolved in the dream" if name == "controller" else f"{name} policy"
        screen.say(f"  {what:<46}{score['mean']:>9.1f} ± {score['sd']:<6.1f}{score['se']:>18.1f}")
    controller = scores["controller"]
    dream, place = controller["dream"], "in the dream" if controller["selected_by"] == "dream" else (
        f"in {controller['validation']['n']} validation episodes of the actual environment")  # fmt: skip
    screen.say(f"  C is the mean of generation {controller['generation']}, chosen by its score {place}; "
               f"in its dream it scores {dream['mean']:.1f} ± {dream['sd']:.1f} (n = {dream['n']})")  # fmt: skip
    screen.say(f"scores: {context.run.path / scoring.SCORES}   figures and film: {context.run.figures}")
