"""The stages of an experiment in order; each can be stopped at any moment and goes on with the same command."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wm_jax.experiment import Experiment, to_dict
from wm_jax.pipeline import collecting, evolving, filming, machine, scoring, training
from wm_jax.pipeline.context import Context, Models
from wm_jax.pipeline.progress import Screen
from wm_jax.pipeline.stages import Step, choose
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
    run = RunDir(path, experiment.tensorboard)
    models = Models(experiment)
    _ = models.task, models.dream
    chosen = choose(experiment, run, stages, redo)
    run.prepare(to_dict(experiment), {"device": machine.device(), "versions": machine.versions()})
    context = Context(experiment, models, run, screen)
    screen.say(f"{experiment.name}: {models.task.name} in {path}, on {machine.device()}")
    for step in chosen:
        _run(context, step)
    last = experiment.rounds.count - 1
    if (run.path / "evaluation.json").exists() and chosen and chosen[-1].stage == "evaluate":
        filming.draw_figures(context, last)
        report(context)


def _run(context: Context, step: Step) -> None:
    stage = step.folder(context.run)
    if stage.finished:
        context.screen.say(f"  {step}: finished before")
        return
    if stage.record is None:
        stage.begin(step.settings(context.experiment))
    begun = time.monotonic()
    summary = RUNS[step.stage](context, step.round_number, stage)
    stage.finish({**summary, "seconds": round(time.monotonic() - begun, 1)})


def report(context: Context) -> None:
    """Print the table of scores and say where the figures lie."""
    scores = read_json(context.run.path / "evaluation.json")
    screen = context.screen
    first = next(iter(scores.values()))
    screen.say(f"\nReturns in the actual environment ({context.models.task.name}, {first['n']} fresh episodes, seeds "
               f"{first['seeds'][0]} to {first['seeds'][-1]}, {first['device']})")  # fmt: skip
    screen.say(f"  {'policy':<44}{'mean ± sd':>20}{'standard error':>18}")
    for name, score in scores.items():
        what = f"{name} policy" if name != "controller" else (
            f"C, evolved in the dream (chosen by its {'dream' if score['selected_by'] == 'dream' else 'actual validation'}"
            " score)")  # fmt: skip
        screen.say(f"  {what:<44}{score['mean']:>11.1f} ± {score['sd']:<6.1f}{score['se']:>18.1f}")
    dream = scores["controller"]["dream"]
    screen.say(f"  in its dream C scores {dream['mean']:.1f} ± {dream['sd']:.1f} (n = {dream['n']})")
    screen.say(f"scores: {context.run.path / 'evaluation.json'}   figures and film: {context.run.figures}")
