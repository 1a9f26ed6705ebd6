"""Scores in the actual environment: the last stage of a run, and `wm-jax evaluate`."""

from dataclasses import dataclass
from typing import Any

import jax

from wm_jax import parallel
from wm_jax.data.files import read_json, write_json
from wm_jax.errors import require_range
from wm_jax.pipeline import machine
from wm_jax.pipeline.bundle import Bundle
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.progress import Barrier, Interrupt, Screen, Stopped, expected_steps
from wm_jax.pipeline.stages import Stage
from wm_jax.pipeline.weights import load_controller, load_controllers, load_deployed, load_world
from wm_jax.report.words import EARLIER, policy
from wm_jax.rollouts import evaluate as scores
from wm_jax.rollouts.acting import Driver, Lanes, scripted_driver
from wm_jax.rollouts.agent import Agent, driver_of
from wm_jax.rollouts.config import require_fresh
from wm_jax.run import StageDir
from wm_jax.types import Params

SCORES = "evaluation.json"
EVOLUTIONS = "evolutions"
"""The entry of the scores' file that is not a policy: the evolutions that ran side by side."""


@dataclass(frozen=True)
class Evaluate(Stage):
    """Scores, on the same fresh episodes: the deployed controller, controllers of earlier rounds if requested, the
    baselines and, if searches ran side by side, the final controller of each."""

    name = "evaluate"
    folder = "evaluation"

    def due(self, round_number: int, last: int) -> bool:
        """In the last round."""
        return round_number == last

    def depends(self, later: bool) -> tuple[str, ...]:
        """Its own settings, and whether C was tuned: then the scored controller depends on the stage `tune`."""
        return "evaluate.", "tune.generations"

    def outputs(self, context: Context, round_number: int) -> list[str]:
        """The scores."""
        return [SCORES]

    def run(self, context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
        """Play all episodes, split over the processes."""
        config, task, models = context.experiment.evaluate, context.models.task, context.models
        agent, params = Agent(models.world, models.actor), load_world(context, round_number)
        weights, chosen = load_controller(context, round_number)
        drivers: dict[str, Driver] = {
            name: scripted_driver(task, name, context.experiment.collect, config.backend) for name in config.baselines
        }
        for number in config.rounds:
            earlier = load_deployed(context, context.stage("controller", number))[0]
            drivers[f"{EARLIER}{number}"] = driver_of(agent, load_world(context, number), earlier)
        drivers["controller"] = driver_of(agent, params, weights)
        seeds = range(config.seed, config.seed + config.episodes)
        results: dict[str, Any] = {}
        count = config.lanes(config.episodes)
        with Lanes(context.experiment.task, count, context.screen.warn, backend=config.backend) as lanes:
            for name, driver in drivers.items():
                results[name] = play(lanes, driver, seeds, context.screen, context.interrupt, name, stage)
            deployed = {chosen["evolution"]: results["controller"]}
            evolutions = _evolutions(context, round_number, stage, lanes, agent, params, seeds, deployed)
        how = {"selected_by": chosen["selected_by"], "generation": chosen["generation"], "dream": chosen["dream"],
               "validation": chosen["actual"]}  # fmt: skip
        results["controller"] = {**results["controller"], **how}
        told = {name: {key: score[key] for key in ("mean", "sd", "se", "n")} for name, score in results.items()}
        if evolutions:
            results[EVOLUTIONS] = evolutions
        parallel.on_main(lambda: write_json(stage.path / SCORES, results))
        return told


def _evolutions(
    context: Context, round_number: int, stage: StageDir, lanes: Lanes, agent: Agent, params: Params, seeds: range,
    known: dict[int, dict[str, Any]],
) -> list[dict[str, Any]]:  # fmt: skip
    """For each search: its temperature and seed, its score in the dream, and its actual score. `known` holds the actual
    scores already measured, by number. Empty if there was only one search."""
    controllers, chosen = load_controllers(context, round_number)
    found = []
    for number, about in enumerate(chosen):
        score = known.get(number)
        if score is None:
            weights = jax.tree.map(lambda array, number=number: array[number], controllers)
            driver, name = driver_of(agent, params, weights), f"evolution-{number}"
            score = play(lanes, driver, seeds, context.screen, context.interrupt, name, stage)
        found.append({**about, "validation": about["actual"], "actual": score})
    return found if len(found) > 1 else []


def play(
    lanes: Lanes, driver: Driver, seeds: range, screen: Screen, interrupt: Interrupt, name: str, stage: StageDir | None
) -> dict[str, Any]:
    """Score one policy on the episodes of `seeds`. With a stage's folder, finished blocks of episodes survive a
    kill."""
    path = stage.path / f"{name}.json" if stage else None
    done = parallel.on_main(lambda: read_json(path) if path and path.exists() else [])
    before = sum(len(block) for block in done)
    with screen.bar(f"score of {'C' if name == 'controller' else policy(name)}", "steps", 0) as bar:

        def save(blocks: list[list[scores.Outcome]]) -> None:
            if path and parallel.is_main():
                write_json(path, blocks)

        def show(counts: list[float], stop: bool) -> None:
            finished, steps = before + int(counts[0]), int(counts[1] + counts[2])
            bar.begin(steps, expected_steps(len(seeds) - before, lanes.typical_length, *counts))
            bar.update(steps, f"episode {finished}/{len(seeds)}")
            if stop and finished < len(seeds):
                rest = "the same command continues from the last block" if path else "this score cannot be continued"
                raise Stopped(f"stopped after {finished} of {len(seeds)} episodes of {name}; {rest}")

        barrier, episodes = Barrier(interrupt, show), [(seed, 0) for seed in seeds]
        found = scores.outcomes(lanes, driver, episodes, done, save, barrier.count, barrier.finish_count)
    returns = [outcome[scores.RETURN] for outcome in found]
    about = {"policy": name, "device": machine.device(), "versions": machine.versions()}
    if lanes.backend is not None:
        about["backend"] = lanes.backend
    return scores.score(returns, seeds, measures=scores.measures(found), **about)


def score_bundle(bundle: Bundle, episodes: int, seed: int, screen: Screen) -> dict[str, Any]:
    """Score a run's or a bundle's controller on `episodes` episodes, with seeds from `seed` on. Raises `UserError`
    for fewer than two episodes, and for seeds that are reserved for validation, evolution or collection."""
    require_range("--episodes", episodes, 2)
    require_fresh("--seed", seed, episodes)
    seeds = range(seed, seed + episodes)
    driver = driver_of(bundle.agent, bundle.params, bundle.weights)
    count = bundle.experiment.evaluate.environments
    with Interrupt() as interrupt, Lanes(bundle.experiment.task, count, screen.warn) as lanes:
        return play(lanes, driver, seeds, screen, interrupt, "controller", None)
