"""Scores in the actual environment: the last stage of a run, and `wm-jax evaluate`."""

from typing import Any

import numpy as np

from wm_jax.errors import UserError
from wm_jax.pipeline import machine
from wm_jax.pipeline.bundle import Bundle
from wm_jax.pipeline.context import Context
from wm_jax.pipeline.evolving import load_agent, load_controller
from wm_jax.pipeline.progress import Interrupt, Screen, Stopped
from wm_jax.rollouts import evaluate as scores
from wm_jax.rollouts.acting import Driver, Lanes, ScriptedDriver
from wm_jax.rollouts.agent import AgentDriver
from wm_jax.rollouts.config import EvaluateConfig, require_fresh
from wm_jax.run import StageDir, read_json, write_json


def evaluate(context: Context, round_number: int, stage: StageDir) -> dict[str, Any]:
    """Score the deployed controller and the baseline on the same fresh episodes; write evaluation.json."""
    config, task = context.experiment.evaluate, context.models.task
    agent, params = load_agent(context, round_number)
    weights, chosen = load_controller(context, round_number)
    drivers: dict[str, Driver] = {
        config.baseline: ScriptedDriver(task, config.baseline),
        "controller": AgentDriver(agent, params, weights[None]),
    }
    results = {}
    with Lanes(context.experiment.task, lanes_for(config), context.screen.warn) as lanes:
        for name, driver in drivers.items():
            results[name] = play(lanes, driver, config, context.screen, name, stage)
    results["controller"] |= {"selected_by": chosen["selected_by"], "generation": chosen["generation"],
                              "dream": chosen["dream"], "validation": chosen["actual"]}  # fmt: skip
    write_json(context.run.path / "evaluation.json", results)
    return {name: {key: score[key] for key in ("mean", "sd", "se", "n")} for name, score in results.items()}


def lanes_for(config: EvaluateConfig) -> int:
    """Environments to open: no more than there are episodes."""
    return min(config.environments, config.episodes)


def play(
    lanes: Lanes, driver: Driver, config: EvaluateConfig, screen: Screen, name: str, stage: StageDir | None
) -> dict[str, Any]:
    """One policy's score. With a stage's folder, finished blocks of episodes survive a kill."""
    seeds = list(range(config.seed, config.seed + config.episodes))
    path = stage.path / f"{name}.json" if stage else None
    done = read_json(path) if path and path.exists() else []
    counted = sum(len(block) for block in done)
    with Interrupt() as interrupt, screen.bar(f"score of {name}", "episodes", len(seeds), counted) as bar:

        def save(blocks: list[list[float]]) -> None:
            if path:
                write_json(path, blocks)
            count = sum(len(block) for block in blocks)
            bar.update(count, f"mean {np.mean([value for block in blocks for value in block]):.1f}")
            if interrupt.requested and count < len(seeds):
                rest = "the same command goes on from there" if path else "a score alone cannot be gone on with"
                raise Stopped(f"stopped after {count} of {len(seeds)} episodes of {name}; {rest}")

        returns = scores.returns(lanes, driver, [(seed, 0) for seed in seeds], done, save)
    return scores.score(returns, seeds, policy=name, device=machine.device(), versions=machine.versions())


def score_bundle(bundle: Bundle, episodes: int, seed: int, screen: Screen) -> dict[str, Any]:
    """The score of a run's or a bundle's controller on the episodes of seeds `seed` … Raises `UserError` for seeds that
    controllers are selected on."""
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1, found {episodes}")
    require_fresh("--seed", seed, episodes)
    config = EvaluateConfig(episodes=max(episodes, 2), seed=seed, environments=bundle.experiment.evaluate.environments)
    driver = AgentDriver(bundle.agent, bundle.params, np.asarray(bundle.weights)[None])
    with Lanes(bundle.experiment.task, lanes_for(config), screen.warn) as lanes:
        return play(lanes, driver, config, screen, "controller", None)
