"""Runs an experiment: its stages in order, then its results. It can be stopped at any moment; the same command
continues."""

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from wm_jax import parallel
from wm_jax.data.files import read_json, remove, write_json
from wm_jax.experiment import Experiment
from wm_jax.models import Models
from wm_jax.pipeline import filming, machine, reporting, reusing, scoring
from wm_jax.pipeline.bundle import load_initial, load_initial_actor
from wm_jax.pipeline.checking import check, check_machine
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.plan import choose, plan
from wm_jax.pipeline.progress import Interrupt, Screen, Stopped
from wm_jax.pipeline.searching import Evolve
from wm_jax.pipeline.stages import Step
from wm_jax.pipeline.stored import note_on, to_store
from wm_jax.report import figures, published, seeds
from wm_jax.report.words import controller, measured, policy
from wm_jax.run import RunDir, StageDir


def run_experiment(
    experiment: Experiment, path: Path, stages: tuple[str, ...], redo: bool, reuse: Path | None, screen: Screen
) -> None:
    """Run the unfinished stages of an experiment in the folder `path`. Every process of a run calls it. Stages that the
    run in `reuse` has finished with the same settings are taken over instead.

    Raises `UserError` if a setting, a file or a number is wrong, and `Stopped` when the user asks to stop.
    """
    run, models = RunDir(path), Models(experiment)
    screen = screen if parallel.is_main() else Screen(Console(quiet=True))
    with parallel.together(), Interrupt() as interrupt:
        parallel.on_main(lambda: check(experiment, models))
        parallel.on_main(lambda: check_machine(experiment, models))
        with run.locked():
            context = Context(experiment, models, run, screen, interrupt)
            # Process 0 reads the folder and decides for all: other hosts may see it seconds late.
            chosen = parallel.on_main(lambda: _begin(context, stages, redo, reuse))
            context = _with_initial(context, chosen)
            for step in (step for step in plan(experiment) if [*step.key] in chosen):
                _run(context, step)
                if interrupt.agreed():
                    raise Stopped(f"stopped after {step}; the same command continues from there")
            parallel.on_main(lambda: _end(context))


def _begin(context: Context, stages: tuple[str, ...], redo: bool, reuse: Path | None) -> list[list[Any]]:
    """Prepare the folder. Returns the steps to run (`Step.key`)."""
    experiment, run = context.experiment, context.run
    note = note_on(run)
    taken = reusing.take_over(experiment, run, RunDir.open(reuse)) if reuse is not None else ""
    chosen = choose(experiment, run, stages, redo)
    if not plan(experiment)[-1].folder(run).finished:
        _forget_results(run)
    run.prepare(to_store(experiment), experiment.tensorboard)
    context.screen.say(f"{experiment.name}: {context.models.task.name} in {run.path}, on {machine.device()}")
    for message in filter(None, (note, taken)):
        context.screen.say(f"  {message}")
    return [[*step.key] for step in chosen]


def _with_initial(context: Context, chosen: list[list[Any]]) -> Context:
    """With the initial bundle's weights of the world model and of C, each if a stage is still to run that starts from
    them."""
    experiment = context.experiment
    if experiment.initial is None:
        return context
    path, first = Path(experiment.initial), [step for step in plan(experiment) if step.round_number == 0]

    def needed(*names: str) -> bool:
        begin = [step for step in first if step.stage.name in names and [*step.key] in chosen]
        return parallel.on_main(lambda: any(_missing(context, step) for step in begin))

    if needed(*context.models.world.learners):
        context = replace(context, initial=load_initial(path, experiment, context.screen.warn))
    if experiment.initial_actor and needed(Evolve.name):
        context = replace(context, initial_actor=load_initial_actor(path, experiment))
    return context


def _forget_results(run: RunDir) -> None:
    """Delete the final results of a finished run that will do more work: they would be out of date."""
    scores = run.path / scoring.SCORES
    if scores.exists():
        for shown in (*run.figures.glob("film*"), run.path / reporting.FOLDER, scores):
            remove(shown)


def _end(context: Context) -> None:
    """Make the scores, films and report of a run that has finished its last stage."""
    experiment, run = context.experiment, context.run
    if plan(experiment)[-1].folder(run).finished:
        last = experiment.rounds.count - 1
        write_json(run.path / scoring.SCORES, read_json(context.stage("evaluation", last).path / scoring.SCORES))
        where = f"scores: {run.path / scoring.SCORES}"
        try:
            if figures.can_draw():
                filming.make_films(context, last)
                where += f"   films: {run.figures}   report: {reporting.report([run.path], None)[0]}"
            else:
                extra = f'pip install "wm-jax[{figures.EXTRA}]"'
                where += f"   no films and no report: {extra}, then run the same command again"
        finally:
            _tell_scores(context)
        context.screen.say(where)


def _missing(context: Context, step: Step) -> list[Path]:
    """The missing files of a stage's result; all of them if it is not finished."""
    finished = step.folder(context.run).finished
    return [path for path in step.outputs(context) if not (finished and path.exists())]


def _run(context: Context, step: Step) -> None:
    """Run one stage, unless it is finished."""
    stage = step.folder(context.run)
    if parallel.on_main(lambda: _is_done(context, step, stage)):
        return
    begun = time.monotonic()

    def seconds() -> float:
        return round(stage.spent + time.monotonic() - begun, 1)

    try:
        summary = step.stage.run(context, step.round_number, stage)
    except Stopped:
        parallel.on_main(lambda: stage.spend(seconds()))
        raise
    parallel.on_main(lambda: stage.finish({**summary, "seconds": seconds()}))


def _is_done(context: Context, step: Step, stage: StageDir) -> bool:
    """Whether the stage has its result. If not, mark it as started. If a file of its result was deleted, the same file
    is made again."""
    if stage.finished:
        missing = _missing(context, step)
        if not missing:
            stage.tidy()
            context.screen.say(
                f"  {step}: " + (f"taken over from {stage.origin}" if stage.origin else "finished before")
            )
            return True
        stage.require_own(f"{missing[0].name} is missing")
        context.screen.warn(f"{step}: {missing[0]} is missing; it is made again")
    elif stage.record is not None:
        stage.require_own("it is no longer finished there")
    else:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        made_with = {"command": command, "device": machine.device(), "versions": machine.versions()}
        stage.begin(step.settings(context.experiment), made_with)
    return False


def _tell_scores(context: Context) -> None:
    """Print the table of scores."""
    scores = read_json(context.run.path / scoring.SCORES)
    evolutions = scores.pop(scoring.EVOLUTIONS, [])
    screen = context.screen
    first = next(iter(scores.values()))
    screen.say(f"\nReturns in the actual environment ({context.models.task.name}, {first['n']} fresh episodes, seeds "
               f"{first['seeds'][0]} to {first['seeds'][-1]}, {first['device']})")  # fmt: skip
    screen.say(f"  {'policy':<56}{'mean ± sd':>18}{'standard error':>18}")
    for name, score in scores.items():
        what = controller(context.experiment) if name == "controller" else policy(name)
        screen.say(f"  {what:<56}{score['mean']:>9.1f} ± {score['sd']:<6.1f}{score['se']:>18.1f}{measured(score)}")
    for bound in published.STATE.get(context.experiment.task, ()):
        told = f"{bound.mean:>9.1f} ± {bound.sd:<6.1f}{bound.se:>18.1f}"
        screen.say(f"  {f'{bound.what} (stored, n = {bound.n})':<56}{told}")
    screen.say(f"  {_chosen(context.experiment, scores['controller'])}")
    if evolutions:
        screen.say(f"  {'searches side by side':<24}{'in the dream':>22}{'actual':>20}{'standard error':>20}")
    for each in evolutions:
        dream, actual = _spread(each["dream"]) if each["dream"] else "", _spread(each["actual"])
        what = (f"τ {each['temperature']:g}, " if each["dream"] else "") + f"seed {each['seed']}"
        screen.say(f"    {what:<22}{dream:>22}{actual:>20}{each['actual']['se']:>20.1f}")
    if len(evolutions) > 1 and not context.experiment.evolve.temperatures:
        screen.say(f"    {seeds.across([each['actual'] for each in evolutions])} (standard deviation over seeds)")


def _chosen(experiment: Experiment, score: dict[str, Any]) -> str:
    """How the deployed controller was chosen, and its score in its dream."""
    dream, validation = score["dream"], score["validation"]
    dreamt = f"in its dream it scores {_spread(dream)} (n = {dream['n']})" if dream else ""
    if not experiment.searched:
        return dreamt.capitalize()
    *_, (stage, search) = experiment.searches.items()
    chosen = "in the dream"
    if score["selected_by"] == "actual":
        chosen = f"in {validation['n']} validation episodes of {search.validated_in}"
    tuning = " of its tuning" if stage == "tune" else ""
    told = f"C is the candidate of generation {score['generation']}{tuning}, chosen by its score {chosen}"
    return f"{told}; {dreamt}" if dreamt else told


def _spread(score: dict[str, Any]) -> str:
    return f"{score['mean']:.1f} ± {score['sd']:<6.1f}"
